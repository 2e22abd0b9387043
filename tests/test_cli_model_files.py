"""A model's directory as input: missing, cut, damaged or absurd files each end in one line that names the file."""

import json
import struct

import pytest
from conftest import fails, flip_bit, truncate


def generate(pointsman, model, *more):
    return pointsman("generate", "--model", model, "--prompt", "template <", "--max-tokens", "4", *more)


def test_the_whole_model_generates(pointsman, model):
    document = pointsman.json("generate", "--model", model, "--prompt", "-", "--max-tokens", "5", stdin="namespace std",
                              schema="generate")
    assert 1 <= len(document["tokens"]) <= 5
    assert "explain" not in document


def test_a_seed_repeats_and_another_one_differs(pointsman, model):
    def sample(seed):
        return pointsman.json("generate", "--model", model, "--prompt", "namespace", "--max-tokens", "12",
                              "--temperature", "1.5", "--seed", seed)["tokens"]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_an_empty_prompt_is_wrong_use(pointsman, model):
    fails(pointsman("generate", "--model", model, "--prompt", "-", stdin=""), 2, "--prompt")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(pointsman, model_copy, name):
    (model_copy / name).unlink()
    fails(generate(pointsman, model_copy), 1, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(pointsman, model_copy, name, keep):
    truncate(model_copy / name, keep)
    fails(generate(pointsman, model_copy), 1, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_flipped_bit_in_the_structure_is_named(pointsman, model_copy, name):
    flip_bit(model_copy / name, 8 if name == "model.safetensors" else 0)  # the opening brace
    fails(generate(pointsman, model_copy), 1, name)


@pytest.mark.parametrize("kind", ["embed_tokens", "q_proj", "down_proj", "mlp.gate", "norm"])
def test_a_weight_that_is_not_a_number_is_named(pointsman, model_copy, kind):
    path = model_copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if kind in name)
    assert header[name]["dtype"] == "F32"
    at = 8 + length + header[name]["data_offsets"][0]
    content[at : at + 4] = struct.pack("<f", float("nan"))
    path.write_bytes(content)
    assert name in fails(generate(pointsman, model_copy), 1)


@pytest.mark.parametrize("field, value", [("num_experts", 1 << 40), ("hidden_size", -1), ("num_hidden_layers", 0),
                                          ("num_experts_per_tok", 9), ("vocab_size", 1 << 50)])
def test_absurd_sizes_in_the_configuration_are_refused(pointsman, model_copy, field, value):
    path = model_copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    line = fails(generate(pointsman, model_copy), 1)
    assert "config.json" in line or "model.safetensors" in line


def test_another_architecture_is_refused_by_name(pointsman, model_copy):
    path = model_copy / "config.json"
    path.write_text(path.read_text().replace("OlmoeForCausalLM", "LlamaForCausalLM").replace('"olmoe"', '"llama"'))
    fails(generate(pointsman, model_copy), 1, "config.json", "llama")


@pytest.mark.parametrize("change", ["length", "shape", "offsets"])
def test_a_safetensors_header_that_claims_too_much_is_refused(pointsman, model_copy, change):
    path = model_copy / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    tensor = next(name for name in header if name != "__metadata__")
    if change == "length":
        path.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    else:
        if change == "shape":
            header[tensor]["shape"] = [1 << 40, 1 << 40]
        else:
            header[tensor]["data_offsets"][1] = 1 << 50
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])
    fails(generate(pointsman, model_copy), 1, "model.safetensors")


def test_a_directory_that_is_not_there_is_named(pointsman, tmp_path):
    fails(generate(pointsman, tmp_path / "nowhere"), 1, "nowhere")
