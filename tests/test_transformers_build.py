"""`pointsman build --capture transformers`: the memory that our own runtime builds, and memories of models that it does not have."""

import json
import os
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
import torch
import transformers
from conftest import SMALL_BUILD, carries_exactly, fails
from pointsman import Memory, attach, fingerprint
from pointsman.errors import MismatchError
from pointsman.transformers.score import compare
from small_models import CONTEXT, FAMILIES, WHOLE_TEST, config_of, held_out, save_model

torch.set_num_threads(1)
HOSTED = ("--capture", "transformers", "--python", sys.executable)

MOE_LAYERS = {"qwen2_moe": [0, 2], "deepseek_v2": [1, 2]}


def build(pointsman, model, corpus, off_domain, out, kind, *more, size=SMALL_BUILD):
    return pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", out, "--kind", kind,
                          *size, *more, schema="build")


@pytest.fixture(scope="module", params=[name for name in FAMILIES if name != "olmoe"])  # what our runtime refuses
def family(request, pointsman, model, corpus, off_domain, tmp_path_factory):
    """A random model, and the memory that was built for it through transformers."""
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    folder, memory = tmp_path_factory.mktemp(request.param), tmp_path_factory.mktemp("of") / "memory"
    save_model(config_of(request.param, vocab_size=vocabulary), folder, model / "tokenizer.json")
    report = build(pointsman, folder, corpus, off_domain, memory, "prototypes", *HOSTED, size=(*WHOLE_TEST, "--preset", "fast"))
    return types.SimpleNamespace(name=request.param, model=folder, memory=memory, report=report)


def gains(report):
    return {name: report["verdict"][name] for name in ("verdict", "gain", "damage")}


def keys_of(memory):
    """fp32 keys by layer, [rows, dim]."""
    return {layer: memory.tables(layer)["codes"] * memory.tables(layer)["code_scales"][:, None] for layer in memory.layers}


@pytest.mark.parametrize("kind", ["entries", "prototypes"])
def test_the_memory_is_the_one_that_our_runtime_builds(kind, pointsman, model, corpus, off_domain, tmp_path):
    """Same corpus, same seed: the same documents, keys within a step of int8, the same verdict, gains 0.002 nats apart at most."""
    ours = build(pointsman, model, corpus, off_domain, tmp_path / "ours", kind)
    theirs = build(pointsman, model, corpus, off_domain, tmp_path / "theirs", kind, *HOSTED)
    print(kind, gains(ours), gains(theirs))
    assert theirs["verdict"]["verdict"] == ours["verdict"]["verdict"] and abs(ours["verdict"]["gain"]) > 0.001
    assert theirs["verdict"]["gain"] == pytest.approx(ours["verdict"]["gain"], abs=0.002)
    assert theirs["reference_tokens"] == ours["reference_tokens"] and theirs["rows"] == ours["rows"]
    mine, other = (Memory.open(tmp_path / name, allow_rejected=True) for name in ("ours", "theirs"))
    assert other.manifest["fingerprint"] == mine.manifest["fingerprint"]
    assert other.manifest["settings"]["capture"] == "transformers, float32" and "capture" not in mine.manifest["settings"]
    assert np.array_equal(other.gate["pairs"], mine.gate["pairs"])
    if kind == "entries":  # prototypes' keys are trained, so that only their effect can be compared
        for layer, keys in keys_of(mine).items():
            step = mine.tables(layer)["code_scales"].max()
            assert np.abs(keys_of(other)[layer] - keys).max() <= 1.01 * step


def test_a_memory_of_every_family_acts_in_its_model(family, pointsman, corpus, tmp_path):
    fails(pointsman("build", "--model", family.model, "--corpus", corpus, "--out", tmp_path / "no"), 1, f"'model_type' is {family.name}",
          "'olmoe' is", "--capture transformers")
    memory = Memory.open(family.memory, allow_rejected=True)
    stored = memory.manifest["fingerprint"]
    assert stored["architecture"] == family.name and fingerprint.of_files(family.model).items() <= stored.items()
    assert list(memory.layers) == MOE_LAYERS.get(family.name, [0, 1, 2])
    hosted = transformers.AutoModelForCausalLM.from_pretrained(family.model, dtype=torch.float32).eval()
    documents = held_out(memory, corpus, family.model / "tokenizer.json")
    found = compare(hosted, documents, lambda: attach(hosted, memory), end_of_text=0, context=CONTEXT)
    print(family.name, gains(family.report), f"attached: {found['gain']:+.5f} on {found['tokens']} tokens")
    assert found["counters"]["written"] > 0
    assert found["gain"] == pytest.approx(family.report["verdict"]["gain"], abs=1e-4) and found["gain"] < -0.001
    hosted.config.rms_norm_eps *= 2
    with pytest.raises(MismatchError, match="config_sha256 is .*, the memory has"):
        fingerprint.check(hosted, memory)


def test_eval_scores_a_memory_of_every_family_as_its_build_did(family, pointsman, corpus, off_domain, tmp_path):
    memory = shutil.copytree(family.memory, tmp_path / "memory")
    arguments = ("eval", "--model", family.model, "--memory", memory, "--corpus", corpus, "--off-domain", off_domain, "--threads", "1")
    fails(pointsman(*arguments), 1, f"'model_type' is {family.name}", "--capture transformers")
    report = pointsman.json(*arguments, *HOSTED, "--variants", "memory,bias+gate,shuffled_values,random_neighbours", schema="eval", timeout=600)
    found = {variant["name"]: variant for variant in report["variants"]}
    print(family.name, {name: (variant["gain"], variant["untouched_tokens"]) for name, variant in found.items()})
    assert found["memory"]["gain"] == pytest.approx(family.report["verdict"]["gain"], abs=1e-6)
    assert json.loads((memory / "MANIFEST.json").read_text())["test_looks"] == 2
    for name in ("bias+gate", "shuffled_values", "random_neighbours"):  # each acts, at layers that a memory knows by other numbers, too
        assert found[name]["gain"] != 0 and found["memory"]["gain"] < found[name]["gain"], name
    assert [layer["layer"] for layer in report["breakdown"]["layers"]] == MOE_LAYERS.get(family.name, [0, 1, 2])


def test_verify_compares_a_memory_of_every_family_with_transformers(family, pointsman):
    """The host is the user's transformers with the memory attached; the reference its eager kernels, routed by our router."""
    verify = ("verify", family.memory, "--host", "transformers", "--model", family.model, "--python", sys.executable, "--max-tokens", "600")
    host = pointsman.json(*verify, schema="verify")
    carries_exactly(host, other_kernels=False)
    assert host["reference"] == f"transformers {transformers.__version__}, eager, fp32"
    assert [layer["layer"] for layer in host["layers"]] == MOE_LAYERS.get(family.name, [0, 1, 2])
    assert "in transformers " in pointsman.ok(*verify).stdout


def test_layers_and_settings_that_do_not_go_together_are_named(pointsman, model, corpus, off_domain, tmp_path):
    arguments = ("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", tmp_path / "memory", *HOSTED)
    fails(pointsman(*arguments, "--preset", "knn"), 2, "--preset knn", "default or fast")
    fails(pointsman(*arguments, "--output-memory"), 2, "--output-memory", "transformers")
    fails(pointsman(*arguments[:-len(HOSTED)], "--dtype", "bfloat16"), 2, "--dtype: of --capture transformers only")
    fails(pointsman(*arguments, "--layers", "0,2"), 2, "--layers 0,2", "0,1")
    fails(pointsman(*arguments, "--device", "cuda:7"), 1, "transformers", str(model))


def test_what_eval_cannot_ask_a_host_is_named(pointsman, model, built_memory, corpus):
    arguments = ("eval", "--model", model, "--memory", built_memory, "--corpus", corpus)
    fails(pointsman(*arguments, "--dtype", "bfloat16"), 2, "--dtype: of --capture transformers only")
    fails(pointsman(*arguments, *HOSTED, "--generations", "2"), 2, "--generations", "--capture")
    fails(pointsman(*arguments, *HOSTED, "--task", "exact"), 2, "--task exact", "--capture")
    fails(pointsman(*arguments, *HOSTED, "--variants", "memory,knn"), 2, "--variants: 'knn'", "--capture transformers", "frozen, bias")


def test_eval_through_transformers_says_what_the_runtime_says(pointsman, model, memory, corpus, off_domain):
    arguments = ("eval", "--model", model, "--memory", memory, "--corpus", corpus, "--off-domain", off_domain, "--threads", "1")
    ours = pointsman.json(*arguments, "--variants", "frozen,bias,router_finetune,memory", schema="eval")
    theirs = pointsman.json(*arguments, *HOSTED, schema="eval")  # of the variants that nobody has chosen, those that it can make
    assert [v["name"] for v in theirs["variants"]] == [v["name"] for v in ours["variants"]]
    for mine, other in zip(ours["variants"], theirs["variants"]):
        assert other["nll"] == pytest.approx(mine["nll"], abs=1e-4), mine["name"]
        assert other["untouched_tokens"] == mine["untouched_tokens"] or mine["name"] != "memory"


def test_what_the_host_lacks_is_named_with_the_remedy(pointsman, model, corpus, tmp_path):
    def run(python=sys.executable, folder=model, **options):
        return pointsman("build", "--model", folder, "--corpus", corpus, "--out", tmp_path / "memory", "--capture", "transformers",
                         "--python", python, **options)

    fails(run("/nowhere/python"), 1, "/nowhere/python", "pip install 'pointsman[transformers]'", "--python")
    (tmp_path / "without").mkdir()
    (tmp_path / "without/transformers.py").write_text("raise ImportError(\"No module named 'transformers'\")\n")
    without = run(env={"PYTHONPATH": str(tmp_path / "without")})
    fails(without, 1, "ended with exit status 1", "pip install 'pointsman[transformers]'")
    assert "No module named 'transformers'" in without.stderr
    ends = tmp_path / "ends"
    ends.write_text("#!/bin/sh\nexit 3\n")
    ends.chmod(0o755)
    fails(run(ends), 1, "exit status 3", "pip install 'pointsman[transformers]'")
    granite = save_model(transformers.GraniteMoeConfig(vocab_size=512, hidden_size=32, intermediate_size=16, num_hidden_layers=1,
                                                       num_attention_heads=2, num_key_value_heads=2, num_local_experts=4),
                         tmp_path / "granite", model / "tokenizer.json")
    fails(run(folder=granite), 1, "GraniteMoe", "known families: olmoe, qwen2_moe")
    assert not (tmp_path / "memory/MANIFEST.json").exists()


def test_a_host_that_dies_ends_the_build_without_a_memory(pointsman, model, corpus, off_domain, tmp_path):
    """After the capture, in the first step that is differentiated."""
    package = pathlib.Path(os.path.dirname(fingerprint.__file__))
    wrapper = tmp_path / "python"
    wrapper.write_text(f"#!{sys.executable}\n"
                       "import os, sys\n"
                       f"sys.path.insert(0, {str(package.parent)!r})\n"
                       "import torch\n"
                       "torch.autograd.backward = lambda *a, **k: os._exit(9)\n"
                       "from pointsman.transformers.host import main\n"
                       "sys.exit(main(sys.argv[3:]))\n")
    wrapper.chmod(0o755)
    done = pointsman("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", tmp_path / "memory", "--kind",
                     "entries", *SMALL_BUILD, "--capture", "transformers", "--python", wrapper)
    fails(done, 1, "ended with exit status 9")
    assert not (tmp_path / "memory/MANIFEST.json").exists()
