"""A memory inside transformers models: every family, padding, caches, generation, gradients, threads, compiled graphs."""

import copy
import pathlib
import sys
import threading

import pytest
import torch
import transformers

torch.set_num_threads(1)  # tiny tensors: a second thread would only wait
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build/release/python"))

from host_memories import TableMemory, open_gate  # noqa: E402
from pointsman.errors import Error, UnsupportedError  # noqa: E402
from pointsman.transformers import Binding, Session, attach  # noqa: E402
from pointsman.transformers.online import Rerouter, ReroutingOptions  # noqa: E402

VOCABULARY, HIDDEN, EXPERTS = 96, 32, 8
COMMON = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
              num_experts_per_tok=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=None, bos_token_id=None)
FAMILIES = {
    "olmoe": lambda: transformers.OlmoeConfig(**COMMON, intermediate_size=16, num_experts=EXPERTS),
    "olmoe_renormalised": lambda: transformers.OlmoeConfig(**COMMON, intermediate_size=16, num_experts=EXPERTS, norm_topk_prob=True),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(**COMMON, moe_intermediate_size=16, shared_expert_intermediate_size=16,
                                                     num_experts=EXPERTS, mlp_only_layers=[1], intermediate_size=32),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**COMMON, moe_intermediate_size=16, num_experts=EXPERTS, head_dim=16,
                                                     norm_topk_prob=True),
    "mixtral": lambda: transformers.MixtralConfig(**COMMON, intermediate_size=16, num_local_experts=EXPERTS),
    "gpt_oss": lambda: transformers.GptOssConfig(**COMMON, intermediate_size=16, num_local_experts=EXPERTS, head_dim=16),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **COMMON, intermediate_size=32, moe_intermediate_size=16, n_routed_experts=EXPERTS, n_shared_experts=1, first_k_dense_replace=1,
        kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, routed_scaling_factor=1.5),
    "deepseek_v2_groups": lambda: transformers.DeepseekV2Config(
        **COMMON, intermediate_size=32, moe_intermediate_size=16, n_routed_experts=EXPERTS, n_shared_experts=1, first_k_dense_replace=0,
        kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_group=4, topk_group=2,
        topk_method="group_limited_greedy"),
}
MOE_LAYERS = {"qwen2_moe": [0, 2], "deepseek_v2": [1, 2]}


def random_model(family="olmoe", seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(seed)
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    return model.to(dtype)


@pytest.fixture(scope="module")
def model():
    return random_model()


PAIRS = [(a, b) for a in range(1, VOCABULARY) for b in range(1, VOCABULARY) if (a * 7 + b) % 2 == 0]  # about half of random text


def make_memory(layers=(0, 1, 2), seed=0, **options):
    options = {"vocabulary": VOCABULARY, "gate": open_gate(PAIRS), "size": 4.0} | options
    return TableMemory(layers, HIDDEN, EXPERTS, seed=seed, **options)


@pytest.fixture(scope="module")
def memory():
    return make_memory()


def adapted(model, memory, **options):
    return attach(model, memory, check_fingerprint=False, **options)


def text(batch=1, length=24, seed=0):
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model, ids, **options):
    return model(input_ids=ids, **options).logits


# -- families ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, dtype):
    """Silent: bit for bit the model. Acting: other logits, the routers' own outputs in their types. Detached: as before."""
    model, ids = random_model(family, dtype=dtype), text(2)
    before, classes = logits_of(model, ids), [type(module) for module in model.modules()]
    layers = MOE_LAYERS.get(family, [0, 1, 2])
    memory = make_memory(layers, gate=None)
    with adapted(model, memory, strength=0.0) as silent:
        assert torch.equal(logits_of(model, ids), before)
        assert silent.counters() == {"rows": 48 * len(layers), "touched": 0, "written": 0, "gate_shut": 0, "non_finite": 0}
        assert sorted(layer.layer for layer in silent.layers) == layers
    with adapted(model, memory) as acting:
        after = logits_of(model, ids)
        assert not torch.equal(after, before) and after.dtype == before.dtype and after.isfinite().all()
        assert acting.counters()["written"] == 48 * len(layers)
    with adapted(model, memory, shadow=True) as shadow:
        assert torch.equal(logits_of(model, ids), before)
        assert shadow.counters()["touched"] == 48 * len(layers) and shadow.counters()["written"] == 0
    assert torch.equal(logits_of(model, ids), before)
    assert [type(module) for module in model.modules()] == classes
    assert not any("_pointsman" in name for module in model.modules() for name in vars(module))


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "deepseek_v2", "gpt_oss"])
def test_what_is_selected_is_the_changed_logits(family):
    """A vector that lifts two experts far above all others: exactly they are chosen, at every token."""
    model, ids = random_model(family), text()
    layers = MOE_LAYERS.get(family, [0, 1, 2])
    lifted = torch.zeros(EXPERTS).index_fill(0, torch.tensor([2, 5]), 1000.0)
    chosen = []
    with adapted(model, None, session=Session({layer: lifted for layer in layers})) as attached:
        for layer in attached.layers:
            layer.router.register_forward_hook(lambda module, args, output: chosen.append(output[2]))
        logits_of(model, ids)
    assert len(chosen) == len(layers) and all(set(indices.flatten().tolist()) == {2, 5} for indices in chosen)


def test_router_logits_that_transformers_reports_are_the_changed_ones(model, memory):
    ids = text()
    with adapted(model, make_memory(gate=None)):
        changed = model(input_ids=ids, output_router_logits=True).router_logits
    frozen = model(input_ids=ids, output_router_logits=True).router_logits
    assert len(changed) == len(frozen) == 3 and all(a.shape == b.shape and not torch.equal(a, b) for a, b in zip(changed, frozen))


def test_unknown_routers_are_refused_by_name():
    dense = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                                                   num_attention_heads=2))
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM: no MoE layer was found"):
        adapted(dense, None)
    other = transformers.GraniteMoeForCausalLM(transformers.GraniteMoeConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        num_local_experts=4))
    with pytest.raises(UnsupportedError, match="GraniteMoe"):
        adapted(other, None)
    model = random_model()
    model.model.layers[1].mlp.gate = torch.nn.Identity()
    with pytest.raises(UnsupportedError, match=r"model.layers.1.mlp.gate is a Identity, OlmoeTopKRouter is known .*qwen3_moe"):
        adapted(model, None)


def test_a_router_that_selects_otherwise_is_refused():
    model = random_model()
    model.model.layers[2].mlp.gate.__class__ = type("OlmoeTopKRouter", (type(model.model.layers[2].mlp.gate),), {
        "forward": lambda self, hidden: (lambda z, w, i: (z, 2 * w, i))(*super(type(self), self).forward(hidden))})
    with pytest.raises(UnsupportedError, match="model.layers.2.mlp.gate: transformers .* routes a olmoe in a way that is not known"):
        adapted(model, None)


def test_mxfp4_is_refused_with_the_remedy():
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts, Mxfp4GptOssMLP

    model = random_model("gpt_oss")
    for layer in model.model.layers:
        with torch.device("meta"):
            layer.mlp = Mxfp4GptOssMLP(layer.mlp.router, Mxfp4GptOssExperts(model.config))
    with pytest.raises(UnsupportedError, match=r"keeps its experts in MXFP4 .*Mxfp4Config\(dequantize=True\)"):
        adapted(model, None)


def test_a_layer_that_was_not_called_is_an_error(memory):
    model, ids = random_model(), text()
    frozen = logits_of(model, ids)
    block = model.model.layers[1].mlp
    with adapted(model, memory):
        block.forward = lambda hidden: hidden  # what a fused kernel does
        with pytest.raises(Error, match="1 MoE layers were not called in a pass: model.layers.1.mlp.gate"):
            model(input_ids=ids)
        del block.forward
        model(input_ids=ids)
        with pytest.raises(Error, match="layer 0: the router was called outside of a pass"):
            model.model.layers[0].mlp(torch.randn(1, 3, HIDDEN))
    assert torch.equal(logits_of(model, ids), frozen)


def test_a_memory_of_another_shape_is_refused(model):
    with pytest.raises(Error, match="layer 0: OlmoeForCausalLM has hidden size 32 and 8 experts, the memory 16 and 8"):
        adapted(model, TableMemory([0], 16, EXPERTS))
    with pytest.raises(Error, match="OlmoeForCausalLM has no MoE layer 7"):
        adapted(model, TableMemory([0, 7], HIDDEN, EXPERTS))
    with pytest.raises(Error, match="the session's vector of layer 1 has 3 experts, OlmoeForCausalLM has 8"):
        adapted(model, None, session=Session({1: [0.0, 1.0, 2.0]}))
    with adapted(model, None), pytest.raises(UnsupportedError, match="a memory is attached already"):
        adapted(model, None)
    adapted(model, None).detach()


# -- batches, padding, caches --------------------------------------------------------------------------------------------

CLOSE = dict(atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, memory, side):
    lengths, ids = (24, 9, 1), text(3)
    padded, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(24 - length, 24) if side == "left" else slice(0, length)
        padded[row, place], mask[row, place] = ids[row, :length], 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with adapted(model, memory) as attached:
        together = logits_of(model, padded, attention_mask=mask, position_ids=positions)
        assert attached.counters()["rows"] == 3 * sum(lengths)  # padding is nobody's
        for row, length in enumerate(lengths):
            alone = logits_of(model, ids[row:row + 1, :length])
            torch.testing.assert_close(together[row][mask[row].bool()], alone[0], **CLOSE)


def test_prefill_and_decode_agree_with_and_without_mask(model, memory):
    ids = text(2, 20)
    ids[1, :5] = 0
    mask = (ids != 0).long()
    with adapted(model, memory) as attached:
        whole = logits_of(model, ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0))
        cache = None
        for begin, end in ((0, 7), (7, 8), (8, 15), (15, 16), (16, 20)):
            with torch.no_grad():
                output = model(input_ids=ids[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True,
                               position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, begin:end])
            cache = output.past_key_values
            torch.testing.assert_close(output.logits[mask[:, begin:end].bool()], whole[:, begin:end][mask[:, begin:end].bool()], **CLOSE)
        counters = attached.counters()
        assert 0 < counters["gate_shut"] < counters["rows"]  # the gate opens and shuts on this text


def test_a_cropped_reordered_or_copied_cache_takes_its_text_along(model, memory):
    ids, other = text(2, 16), text(2, 6, seed=5)
    with adapted(model, memory), torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
        kept = copy.deepcopy(cache)
        assert isinstance(kept, transformers.DynamicCache)
        cache.crop(-4)
        cropped = model(input_ids=other, past_key_values=cache).logits
        torch.testing.assert_close(cropped, logits_of(model, torch.cat((ids[:, :12], other), 1))[:, 12:], **CLOSE)
        kept.reorder_cache(torch.tensor([1, 1]))
        swapped = model(input_ids=other, past_key_values=kept).logits
        torch.testing.assert_close(swapped, logits_of(model, torch.cat((ids[[1, 1]], other), 1))[:, 16:], **CLOSE)
        kept.batch_repeat_interleave(2)
        kept.batch_select_indices(torch.tensor([0, 3]))
        more = model(input_ids=other, past_key_values=kept).logits
        torch.testing.assert_close(more, logits_of(model, torch.cat((ids[[1, 1]], other, other), 1))[:, 22:], **CLOSE)
        with pytest.raises(Error, match="the KV cache holds 2 sequences, this pass has 1"):
            model(input_ids=ids[:1], past_key_values=kept)


def test_text_that_the_adapter_has_not_seen_is_unknown(model, memory):
    ids = text(1, 16)
    with torch.no_grad():
        cache = model(input_ids=ids[:, :8], use_cache=True).past_key_values
        with adapted(model, memory) as attached:
            model(input_ids=ids[:, 8:], past_key_values=cache)
            embedded = logits_of(model, None, inputs_embeds=model.get_input_embeddings()(ids))
            assert attached.counters()["rows"] == 3 * (8 + 16)
    assert torch.equal(embedded, logits_of(model, ids))  # without tokens the gate stays shut


def test_packed_documents_do_not_open_each_others_gate(model, memory):
    first, second = text(1, 12), text(1, 9, seed=3)
    positions = torch.cat((torch.arange(12), torch.arange(9)))[None]
    from pointsman.transformers.text_so_far import TextSoFar
    from pointsman.torch_routing import TorchGate

    gate = TorchGate.from_tables(memory.gate)

    def gates(ids, places=None):
        far = TextSoFar(1, torch.device("cpu"))
        far.extend(ids, torch.ones_like(ids).bool(), places)
        return far.gate(gate, ids.shape[1])

    packed = gates(torch.cat((first, second), 1), positions)
    torch.testing.assert_close(packed, torch.cat((gates(first), gates(second)), 1), atol=1e-6, rtol=0)
    assert not torch.equal(gates(torch.cat((first, second), 1))[:, 12:], gates(second))


def test_rows_have_bindings_of_their_own(model):
    one, two = make_memory(seed=1), make_memory(seed=2)
    ids = text(4)
    session = Session({0: torch.linspace(-2, 2, EXPERTS), 2: torch.linspace(1, -1, EXPERTS)})
    frozen = logits_of(model, ids)
    with adapted(model, one) as attached:
        routed = []
        with (attached.bind(one, None, Binding(two, strength=0.5), Binding(one, session)),
              attached.observed(lambda layer, before, after: routed.append((before, after)))):
            mixed = logits_of(model, ids)
        expected = [logits_of(model, ids[:1])]
        for row, binding in ((2, Binding(two, strength=0.5)), (3, Binding(one, session))):
            with attached.bind(binding):
                expected.append(logits_of(model, ids[row:row + 1]))
        # Nothing is written of the frozen row; the last bits of experts' products may depend on the rows beside it.
        columns = ids.shape[1]
        assert all(torch.equal(before[columns:2 * columns], after[columns:2 * columns]) for before, after in routed)
        torch.testing.assert_close(mixed[1], frozen[1], **CLOSE)
        for row, alone in zip((0, 2, 3), expected):
            torch.testing.assert_close(mixed[row:row + 1], alone, **CLOSE)
            assert not torch.allclose(mixed[row], frozen[row])
        with attached.bind(one, None), pytest.raises(Error, match="2 bindings for a batch of 3 sequences"):
            model(input_ids=ids[:3])


# -- generation ------------------------------------------------------------------------------------------------------------


def teacher_forced(model, prompt, generated):
    """The greedy token after each prefix, by whole passes."""
    return logits_of(model, generated)[:, prompt.shape[1] - 1:-1].argmax(-1)


def test_greedy_generation_follows_the_memory(model, memory):
    prompt = text(2, 8)
    frozen = model.generate(prompt, max_new_tokens=24, do_sample=False)
    with adapted(model, memory) as attached:
        generated = model.generate(prompt, max_new_tokens=24, do_sample=False)
        assert torch.equal(teacher_forced(model, prompt, generated), generated[:, 8:])
        assert torch.equal(generated, model.generate(prompt, max_new_tokens=24, do_sample=False, use_cache=False))
        assert torch.equal(generated, model.generate(prompt, max_new_tokens=24, do_sample=False, cache_implementation="static"))
        assert attached.counters()["written"] > 0
    assert not torch.equal(generated, frozen)
    assert torch.equal(model.generate(prompt, max_new_tokens=24, do_sample=False), frozen)


def test_left_padded_batch_generates_as_alone(model, memory):
    long, short = text(1, 12), text(1, 5, seed=9)
    batch = torch.cat((long, torch.cat((torch.zeros(1, 7, dtype=torch.long), short), 1)))
    mask = torch.cat((torch.ones(1, 12), torch.cat((torch.zeros(1, 7), torch.ones(1, 5)), 1))).long()
    options = dict(max_new_tokens=16, do_sample=False)
    with adapted(model, memory):
        together = model.generate(batch, attention_mask=mask, **options)[:, 12:]
        assert torch.equal(together[0], model.generate(long, **options)[0, 12:])
        assert torch.equal(together[1], model.generate(short, **options)[0, 5:])


def score_by_whole_passes(model, sequence, start):
    logits = logits_of(model, sequence[None])[0, start - 1:-1].log_softmax(-1)
    return logits.gather(1, sequence[start:, None]).sum().item()


def test_beam_search_keeps_every_beams_own_gate(model, memory):
    prompt = text(2, 8)
    with adapted(model, memory):
        beams = model.generate(prompt, max_new_tokens=16, num_beams=4, num_return_sequences=4, do_sample=False, length_penalty=0.0,
                               return_dict_in_generate=True, output_scores=True)
        for sequence, score in zip(beams.sequences, beams.sequences_scores):
            assert score_by_whole_passes(model, sequence, 8) == pytest.approx(score.item(), abs=1e-3)


@pytest.mark.parametrize("how", ["assistant", "prompt_lookup"])
def test_assisted_decoding_is_greedy_decoding(model, memory, how):
    prompt, assistant = text(1, 12), random_model(seed=0)  # the same weights without the memory: some drafts are refused
    extra = {"assistant_model": assistant} if how == "assistant" else {"prompt_lookup_num_tokens": 3}
    with adapted(model, memory):
        plain = model.generate(prompt, max_new_tokens=24, do_sample=False)
        drafted = model.generate(prompt, max_new_tokens=24, do_sample=False, **extra)
    assert torch.equal(plain, drafted)


# -- training, graphs, threads -----------------------------------------------------------------------------------------------


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


# -- online rerouting ------------------------------------------------------------------------------------------------------


def test_a_session_learns_from_its_text_and_acts_for_its_rows_only(model, memory):
    ids, other = text(1, 32), text(1, 32, seed=4)
    frozen = logits_of(model, torch.cat((ids, other)))
    with adapted(model, memory) as attached:
        session, rerouter = Session(), Rerouter(attached, ReroutingOptions(rule="evidence", steps=3, rate=0.2))
        fed = rerouter.feed(session, ids)
        assert fed.kept and fed.loss_after < fed.loss_before - 0.01
        assert sorted(session.vectors) == [0, 1, 2] and all(vector.shape == (EXPERTS,) for vector in session.vectors.values())
        routed = []
        with attached.bind(Binding(memory, session), None), attached.observed(lambda layer, before, after: routed.append((before, after))):
            rows = logits_of(model, torch.cat((ids, other)))
        loss = torch.nn.functional.cross_entropy(rows[0, :-1], ids[0, 1:]).item()
        assert loss == pytest.approx(fed.loss_after, abs=1e-5)
        # Of the other row nothing is written. Its experts' products are taken together with the first row's, so that their
        # last bits may be others on some processors.
        assert len(routed) == 3 and all(torch.equal(before[32:], after[32:]) for before, after in routed)
        assert all(not torch.equal(before[:32], after[:32]) for before, after in routed)
        assert torch.allclose(rows[1], frozen[1], atol=1e-5)
        again = rerouter.feed(session, ids)  # goes on from what it has learned
        assert again.loss_before == pytest.approx(fed.loss_after, abs=1e-5)
    assert torch.equal(logits_of(model, torch.cat((ids, other))), frozen)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_guard_keeps_the_start_when_the_tail_gets_worse(model):
    ids = text(1, 32)
    start = {layer: torch.full((EXPERTS,), 0.25) for layer in range(3)}
    with adapted(model, None) as attached:
        session = Session(start)
        fed = Rerouter(attached, ReroutingOptions(rule="adam", steps=4, rate=3.0, guard=True, guard_margin=10.0)).feed(session, ids)
        assert not fed.kept and all(torch.equal(session.vectors[layer], vector) for layer, vector in start.items())
        learned = Rerouter(attached, ReroutingOptions(rule="adam", steps=4, rate=3.0)).feed(Session(start), ids)
        assert learned.kept and learned.loss_before == pytest.approx(fed.loss_before)


def test_contexts_of_a_batch_learn_alone(model, memory):
    ids = text(3, 20)
    targets, weights = ids.roll(-1, 1), torch.ones(3, 20).index_fill_(1, torch.tensor([19]), 0.0)
    with adapted(model, memory) as attached:
        for layers in ("all", "most-confident:1", "soft-least", "last:2"):
            rerouter = Rerouter(attached, ReroutingOptions(rule="agreement", steps=2, layers=layers, stop_early=True))
            together = rerouter.learn(ids, targets, weights)
            for row in range(3):
                alone = rerouter.learn(ids[row:row + 1], targets[row:row + 1], weights[row:row + 1])
                assert alone.before[0] == pytest.approx(together.before[row], abs=1e-5)
                for layer in range(3):
                    torch.testing.assert_close(together.vectors[layer][row], alone.vectors[layer][0], atol=2e-4, rtol=0)
        moved = [layer for layer, vector in together.vectors.items() if vector.abs().max() > 0]
        assert moved == [1, 2]  # last:2
        warm = Rerouter(attached).mean_retrieved(ids, weights)
        assert all(vector.abs().max() > 0.01 for vector in warm.values())


@pytest.mark.parametrize("wrong, message", [({"rule": "sgd"}, "rule 'sgd'; it is one of adam"), ({"layers": "first:2"}, "layers 'first:2'; it is")])
def test_rerouting_options_are_checked(wrong, message):
    with pytest.raises(Error, match=message):
        ReroutingOptions(**wrong)


def test_a_session_needs_a_text(model):
    with adapted(model, None) as attached, pytest.raises(Error, match=r"shape \(1, 1\); a session learns from one text of two tokens"):
        Rerouter(attached).feed(Session(), text(1, 1))
