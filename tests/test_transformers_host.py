"""A memory inside transformers models: every family, padding, caches, generation."""

import copy

import pytest
import torch
import transformers

from host_memories import TableMemory
from pointsman.errors import Error, UnsupportedError
from pointsman.transformers import Binding, Session
from tiny_moe import CLOSE, EXPERTS, FAMILIES, HIDDEN, MOE_LAYERS, adapted, logits_of, make_memory, random_model, text
from tiny_moe import memory, model  # noqa: F401


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
