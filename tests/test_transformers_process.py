"""A memory inside transformers models: gradients, compiled graphs, several models and threads in one process, the environment."""

import copy
import threading

import pytest
import torch

from tiny_moe import CLOSE, VOCABULARY, adapted, logits_of, make_memory, memory, model, random_model, text  # noqa: F401


def gradients(model, batches):
    model.zero_grad()
    losses = [model(input_ids=ids, labels=ids, use_cache=False).loss for ids in batches]  # all forward, then all backward
    sum(losses).backward()
    return [losses[0].item()] + [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_meets_the_same_routing_again(memory, reentrant):
    model = random_model().train()
    batches = [text(2, 12, seed) for seed in (0, 1)]
    with adapted(model, memory):
        plain = gradients(model, batches)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # as Trainer does
        model.enable_input_require_grads()
        functions = [layer._gradient_checkpointing_func for layer in model.model.layers]
        checkpointed = gradients(model, batches)
        assert all(torch.allclose(torch.as_tensor(a), torch.as_tensor(b), atol=1e-6) for a, b in zip(plain, checkpointed))
    assert [layer._gradient_checkpointing_func for layer in model.model.layers] == functions
    assert not torch.allclose(torch.as_tensor(gradients(model, batches)[0]), torch.as_tensor(plain[0]))


@pytest.mark.parametrize("what", ["model", "forward"])
def test_compiled_model_routes_alike(memory, what):
    torch._dynamo.reset()
    model, ids = random_model(), text(2, 16)
    with adapted(model, memory) as attached:
        expected = logits_of(model, ids)
        if what == "model":
            compiled = torch.compile(model, backend="aot_eager")
        else:
            compiled = copy.copy(model)
            compiled.forward = torch.compile(model.forward, backend="aot_eager")
        before = attached.counters()["written"]
        with torch.no_grad():
            torch.testing.assert_close(compiled(input_ids=ids).logits, expected, **CLOSE)
            assert attached.counters()["written"] > before
            with attached.bind(None):  # without compiling again
                frozen = compiled(input_ids=ids).logits
    torch.testing.assert_close(frozen, logits_of(model, ids), **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids=ids).logits, frozen, **CLOSE)  # detached: the graph is made anew
    torch._dynamo.reset()


def test_two_models_and_two_memories_in_one_process():
    models = [random_model(seed=1), random_model("qwen3_moe", seed=2)]
    memories = [make_memory(seed=3), make_memory(seed=4)]
    ids = text(2)
    frozen = [logits_of(model, ids) for model in models]
    alone = []
    for model, memory in zip(models, memories):
        with adapted(model, memory):
            alone.append(logits_of(model, ids))
    with adapted(models[0], memories[0]) as first, adapted(models[1], memories[1]):
        for model, expected in zip(models, alone):
            assert torch.equal(logits_of(model, ids), expected)
        first.detach()
        assert torch.equal(logits_of(models[0], ids), frozen[0]) and torch.equal(logits_of(models[1], ids), alone[1])


def test_threads_do_not_see_each_others_bindings(model):
    memories = [make_memory(seed=seed) for seed in range(3)]
    texts = [text(2, 10 + seed, seed) for seed in range(3)]
    wrong = []
    with adapted(model, None) as attached:
        expected = []
        for memory, ids in zip(memories, texts):
            with attached.bind(memory):
                expected.append(logits_of(model, ids))

        def work(index):
            for _ in range(8):
                with attached.bind(memories[index]):
                    got = logits_of(model, texts[index])
                if not torch.allclose(got, expected[index], atol=1e-4):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert not wrong


def test_environment_switches(model, memory, monkeypatch):
    ids = text()
    frozen = logits_of(model, ids)
    with adapted(model, memory) as attached:
        changed = logits_of(model, ids)
        monkeypatch.setenv("POINTSMAN_DISABLE", "1")
        counted = attached.counters()
        assert torch.equal(logits_of(model, ids), frozen) and attached.counters() == counted
        monkeypatch.setenv("POINTSMAN_DISABLE", "0")
        monkeypatch.setenv("POINTSMAN_SHADOW", "1")
        assert torch.equal(logits_of(model, ids), frozen) and attached.counters()["touched"] > counted["touched"]
        monkeypatch.delenv("POINTSMAN_SHADOW")
        assert torch.equal(logits_of(model, ids), changed)
    monkeypatch.setenv("POINTSMAN_STRENGTH", "0")
    with adapted(model, memory):
        assert torch.equal(logits_of(model, ids), frozen)


def test_a_failed_pass_leaves_nothing_behind(model, memory):
    ids = text()
    with adapted(model, memory):
        expected = logits_of(model, ids)
        with pytest.raises(IndexError):
            model(input_ids=ids + VOCABULARY)
        assert torch.equal(logits_of(model, ids), expected)
    with pytest.raises(RuntimeError), adapted(model, memory):
        raise RuntimeError("of the user")
    assert type(model.model.layers[0].mlp.gate).__name__ == "OlmoeTopKRouter"
