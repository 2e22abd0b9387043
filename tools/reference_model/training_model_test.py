"""The training model: its autograd functions against plain indexing, and its export against transformers."""

import dataclasses
import json

import pytest
import safetensors.torch
import tokenizers
import torch
import transformers

import export
from model import BLOCK, Config, Experts, Gather, Olmoe, Repeat, Scatter

TINY = Config(vocab_size=64, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
              num_experts=8, num_experts_per_tok=2, max_position_embeddings=64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def gradients(function, *inputs):
    """Outputs and the gradients of a random weighted sum of them, the same weights in every call."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(5))
    (output * weights).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def assert_same(ours, plain):
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_scatter_is_assignment_to_distinct_rows():
    x, slots = torch.randn(5, 3), torch.tensor([6, 0, 3, 7, 2])

    def plain(x):
        return torch.zeros(9, 3).index_put((slots,), x)

    assert_same(gradients(lambda x: Scatter.apply(x, slots, 9), x), gradients(plain, x))


def test_gather_is_indexing_by_distinct_rows():
    x, slots = torch.randn(9, 3), torch.tensor([6, 0, 3, 7, 2])
    assert_same(gradients(lambda x: Gather.apply(x, slots), x), gradients(lambda x: x[slots], x))


def test_repeat_sums_the_gradient_over_an_experts_blocks():
    weight, owner = torch.randn(4, 3, 2), torch.tensor([0, 2, 2, 3, 2, 0])  # expert 1 has no block
    ours = gradients(lambda w: Repeat.apply(w, owner), weight)
    assert_same(ours, gradients(lambda w: w[owner], weight))
    assert ours[1][1].abs().max() == 0


@pytest.mark.parametrize("chosen", ["even", "all_to_one", "ends_on_a_block"])
def test_blocks_hold_every_row_once_beside_its_own_expert(chosen):
    experts = {
        "even": torch.randint(0, 8, (3 * BLOCK,)),
        "all_to_one": torch.full((2 * BLOCK + 1,), 5),
        "ends_on_a_block": torch.tensor([0] * BLOCK + [7] * (2 * BLOCK)),
    }[chosen]
    slots, owner = Experts(TINY).blocks(experts, torch.bincount(experts, minlength=8))
    assert len(owner) == -(-len(experts) // BLOCK) + 8  # the shape depends on the number of rows alone
    assert len(set(slots.tolist())) == len(experts)
    assert torch.equal(owner[slots // BLOCK], experts)


@pytest.fixture
def exported(tmp_path):
    """A random training model whose router has clear favourites, and transformers' reading of its export."""
    model = Olmoe(TINY).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("mlp.gate"):
                parameter.mul_(50)  # near-ties would go to other experts under another rounding
            if name.endswith("_proj"):
                parameter.mul_(6)  # an expert's share of the output is above rounding
            parameter.copy_(parameter.to(torch.bfloat16))  # export stores bf16: then it loses nothing
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.add_special_tokens([export.END_OF_TEXT])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    out = tmp_path / "model"
    export.write_model(model.state_dict(), TINY, tmp_path / "tokenizer.json", out)
    return model, out


def training_logits(model, ids):
    """Forward without the loss: cross entropy at each of the classes would give the same up to a constant."""
    x = torch.nn.functional.embedding(ids, model.embed_tokens)
    for layer in model.layers:
        x = layer(x, model.cos, model.sin)
    return torch.nn.functional.linear(model.norm(x), model.embed_tokens)


@torch.no_grad()
def test_export_computes_what_the_training_model_computes(exported):
    model, out = exported
    hub, info = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.randint(1, TINY.vocab_size, (2, TINY.max_position_embeddings))
    theirs, ours = hub(ids).logits, training_logits(model, ids)
    # The training model multiplies in bf16, so a token near a tie may take another expert: the mean bears that.
    error = (ours - theirs).square().mean().sqrt() / theirs.std()
    assert error < 0.03, error
    loss = torch.nn.functional.cross_entropy(theirs[:, :-1].reshape(-1, TINY.vocab_size), ids[:, 1:].reshape(-1))
    assert abs(model(ids[:, :-1], ids[:, 1:]).item() - loss.item()) < export.LOSS_TOLERANCE


def test_export_splits_the_fused_weights_in_order(exported):
    model, out = exported
    tensors = safetensors.torch.load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    layer, rows = model.layers[1], TINY.intermediate_size
    fused = layer.mlp.gate_up_proj[3]
    for name, part in (("gate_proj", fused[:rows]), ("up_proj", fused[rows:]), ("down_proj", layer.mlp.down_proj[3])):
        assert torch.equal(tensors[f"model.layers.1.mlp.experts.3.{name}.weight"].float(), part), name
    key = layer.qkv[TINY.hidden_size : 2 * TINY.hidden_size]
    assert torch.equal(tensors["model.layers.1.self_attn.k_proj.weight"].float(), key)


def test_exported_config_has_the_shape_of_the_training_model(exported):
    config = json.loads((exported[1] / "config.json").read_text())
    assert {name: config[name] for name in dataclasses.asdict(TINY)} == dataclasses.asdict(TINY)
    assert config["norm_topk_prob"] is False and config["tie_word_embeddings"] is True
