"""A built memory inside transformers: the model's fingerprint, and the same gain as our own runtime."""

import json
import math
import pathlib
import shutil
import sys

import pytest
import torch
import transformers

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))

from generation_reader import GenerationReader  # noqa: E402
from pointsman import fingerprint  # noqa: E402
from pointsman.errors import MismatchError  # noqa: E402
from pointsman.transformers import attach  # noqa: E402


def load(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager").eval()


@pytest.fixture(scope="module")
def hosted(model):
    return load(model)


@pytest.fixture(scope="module")
def opened(built_memory):
    return GenerationReader(built_memory)


def test_fingerprint_equals_the_runtimes(hosted, model, opened):
    wanted = opened.manifest["fingerprint"]
    assert fingerprint.of_model(hosted).items() <= (wanted | {"dtype": "float32"}).items()
    assert fingerprint.tokenizer_sha256(model / "tokenizer.json") == wanted["tokenizer_sha256"]
    fingerprint.check(hosted, opened)


def test_weights_rounded_in_loading_are_recognised(model, opened, tmp_path):
    rounded = load(model, torch.bfloat16)
    fingerprint.check(rounded, opened)  # by the checkpoint that name_or_path tells
    rounded.config._name_or_path = rounded.name_or_path = ""
    with pytest.raises(MismatchError, match="router_sha256 is"):
        fingerprint.check(rounded, opened)
    fingerprint.check(rounded, opened, checkpoint=model)
    with torch.no_grad():
        rounded.model.layers[1].mlp.gate.weight[0, 0] += 1
    with pytest.raises(MismatchError, match="router_sha256 is"):
        fingerprint.check(rounded, opened, checkpoint=model)


def test_another_model_is_refused_with_both_values(other_model, opened):
    other, wanted = load(other_model), opened.manifest["fingerprint"]
    with pytest.raises(MismatchError) as refusal:
        attach(other, opened)
    mine = fingerprint.of_model(other)["router_sha256"]
    assert f"router_sha256 is {mine}, the memory has {wanted['router_sha256']}" in str(refusal.value)
    assert "config_sha256" not in str(refusal.value) and type(other.model.layers[0].mlp.gate).__name__ == "OlmoeTopKRouter"


def test_another_configuration_is_refused(model_copy, opened):
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps(config | {"norm_topk_prob": not config.get("norm_topk_prob", False)}))
    with pytest.raises(MismatchError, match="config_sha256 is .*, the memory has"):
        attach(load(model_copy), opened)


def test_another_tokenizer_is_refused(model_copy, opened):
    tokenizer = json.loads((model_copy / "tokenizer.json").read_text())
    tokenizer["model"]["merges"][:2] = reversed(tokenizer["model"]["merges"][:2])
    (model_copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(MismatchError, match="tokenizer_sha256 is .*, the memory has"):
        attach(load(model_copy), opened)
