"""A built memory inside transformers: the model's fingerprint, and the same gain as our own runtime."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch
import transformers

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build/release/python"))

import numpy as np  # noqa: E402
from conftest import carries_exactly  # noqa: E402
from generation_reader import GenerationReader  # noqa: E402
from pointsman import Memory, fingerprint  # noqa: E402
from pointsman.errors import MismatchError  # noqa: E402
from pointsman.transformers import Binding, Session, attach  # noqa: E402
from pointsman.transformers.engines import make_engine  # noqa: E402


def load(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager").eval()


@pytest.fixture(scope="module")
def hosted(model):
    return load(model)


@pytest.fixture(scope="module")
def opened(built_memory):
    return Memory.open(built_memory, allow_rejected=True)


def test_tables_are_what_the_format_says(opened, built_memory):
    """Memory against a reader that knows docs/formats.md only."""
    reader = GenerationReader(built_memory)
    assert (opened.layers, opened.hidden_size, opened.experts, opened.top_k, opened.value_kind, opened.kind) == (
        reader.layers, reader.hidden_size, reader.experts, reader.top_k, reader.value_kind, reader.kind)
    for layer in reader.layers:
        tables, wanted = opened.tables(layer), reader.tables(layer)
        assert all(np.array_equal(tables[name], wanted[name]) for name in wanted if name != "references")
        assert np.array_equal(tables["references"].reshape(len(tables["codes"]), -1), wanted["references"].reshape(len(tables["codes"]), -1)
                              .view(np.uint32))
    assert all(np.array_equal(opened.gate[name], value) for name, value in reader.gate.items())


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


def ends_of_files(corpus, target, count):
    """The ends of real files: their beginnings are all the same licence."""
    target.mkdir()
    for path in sorted(corpus.rglob("*.h"))[::3]:
        (target / path.name).write_text(path.read_text()[-count:])
    return target


@pytest.mark.parametrize("engine", ["core", "torch"])
def test_both_engines_route_a_real_text_alike(engine, hosted, model, opened, corpus):
    """Row by row at each layer, the same inputs: torch within 1e-4 of the core, where neighbours do not part at a near-tie."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = torch.tensor([[0, *tokenizer.encode(path.read_text()[-1200:]).ids[:120]] for path in sorted(corpus.rglob("*.h"))[:4]])
    inputs, outputs = [], []
    with attach(hosted, opened, engine="core") as adapted:
        route = adapted.engine.route

        def record(step, layer, hidden, logits):
            inputs.append((step, layer, hidden.clone(), logits.clone()))
            outputs.append(route(step, layer, hidden, logits))
            return outputs[-1]

        adapted.engine.route = record
        with torch.no_grad():
            hosted(input_ids=ids)
    other = make_engine(engine, hosted, opened)
    apart = rows = 0
    for (step, layer, hidden, logits), wanted in zip(inputs, outputs):
        got = other.route(dataclasses.replace(step, prepared=None), layer, hidden, logits)
        assert torch.equal((got == logits).all(-1), (wanted == logits).all(-1))  # the same rows are written
        difference = (got - wanted).abs().amax(-1)
        apart, rows = apart + (difference > 1e-4).sum().item(), rows + len(difference)
    assert rows == 2 * ids.numel() and apart <= (0 if engine == "core" else rows // 100)
    assert 0 < adapted.counters()["written"] < rows


def test_gain_equals_the_runtimes(pointsman, hosted, model, opened, built_memory, corpus, tmp_path):
    """The same documents, windows and tokens: frozen and with the memory, transformers against `pointsman eval`."""
    import tokenizers

    from pointsman.transformers.score import compare, read_documents

    texts = ends_of_files(corpus, tmp_path / "texts", 900)
    report = pointsman.json("eval", "--model", model, "--memory", built_memory, "--test-corpus", texts, "--variants", "frozen,memory",
                            "--threads", "1")
    ours = {variant["name"]: variant for variant in report["variants"]}
    documents = read_documents([texts], tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")))
    theirs = compare(hosted, documents, lambda: attach(hosted, built_memory), end_of_text=0, context=128)
    assert theirs["tokens"] == report["tokens"] and theirs["counters"]["written"] > 0
    assert theirs["frozen_nll"] == pytest.approx(ours["frozen"]["nll"], abs=1e-4)
    assert theirs["gain"] == pytest.approx(ours["memory"]["gain"], abs=1e-5)  # the issue asks for 0.002
    print(f"gain {theirs['gain']:+.5f}, the runtime's {ours['memory']['gain']:+.5f}, of {theirs['tokens']} tokens")
    assert abs(ours["memory"]["gain"]) > 0.001  # else equality would say little


def rewired_gain(rerouter, plain, windows):
    """Against `plain` without vectors. Learned from the first half of each window, scored on the second, as the variants
    `rewiring` and `memory+rewiring`."""
    totals, count, kept = [0.0, 0.0], 0, 0
    for inputs, targets in windows:
        half = len(inputs) // 2
        if half == 0:
            continue
        ids, wanted = torch.tensor([inputs]), torch.tensor([targets])
        learned = rerouter.learn(ids[:, :half], wanted[:, :half], torch.ones(1, half))
        tail = torch.ones(1, len(inputs)).index_fill_(1, torch.arange(half), 0.0)
        for i, (reader, vectors) in enumerate(((plain, {}), (rerouter, learned.vectors))):
            with torch.no_grad():
                totals[i] += reader.losses(vectors, ids, wanted, tail).item() * (len(inputs) - half)
        count += len(inputs) - half
        kept += learned.kept[0]
    return (totals[1] - totals[0]) / count, kept


@pytest.mark.parametrize("options", [{}, {"rule": "adam", "steps": 5, "rate": 0.05, "layers": "last:1", "guard": True},
                                     {"rule": "evidence", "steps": 3, "layers": "soft-least"}],
                         ids=lambda options: options.get("rule", "default"))
def test_online_rerouting_gains_what_the_runtime_gains(options, pointsman, hosted, model, opened, built_memory, corpus,
                                                       off_domain, tmp_path):
    import tokenizers

    from pointsman.transformers.bindings import FROZEN
    from pointsman.transformers.online import Rerouter, ReroutingOptions
    from pointsman.transformers.score import read_documents, windows

    texts = ends_of_files(corpus, tmp_path / "texts", 250)
    flags = {"rule": "rule", "steps": "steps", "rate": "lr", "layers": "layers"}
    arguments = [text for name, flag in flags.items() if name in options for text in (f"--rewire-{flag}", options[name])]
    report = pointsman.json("eval", "--model", model, "--memory", built_memory, "--test-corpus", texts,
                            "--off-domain", off_domain, "--threads",
                            "1", "--variants", "frozen,rewiring,memory+rewiring", *arguments,
                            *(["--rewire-guard", "0"] if "guard" in options else []))
    ours = {variant["name"]: variant["gain"] for variant in report["variants"]}
    documents = read_documents([texts], tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")))
    cut = [window for tokens in documents for window in windows(tokens, 0, 128)]
    assert sum(len(inputs) for inputs, _ in cut) == report["tokens"]
    with attach(hosted, opened) as adapted:
        alone, beside = (Rerouter(adapted, ReroutingOptions(**options), memory) for memory in (FROZEN, None))
        gain, kept = rewired_gain(alone, alone, cut)
        assert gain == pytest.approx(ours["rewiring"], abs=1e-4) and abs(gain) > 1e-3
        assert not options.get("guard") or 0 < kept < len(cut)
        if "guard" not in options:
            gain, _ = rewired_gain(beside, alone, cut)
            assert gain == pytest.approx(ours["memory+rewiring"], abs=1e-4)
    assert all(parameter.grad is None for parameter in hosted.parameters())


def test_engines_agree_on_padding_bindings_sessions_and_gradients(model, opened, corpus):
    """What a pass can have, all at once: bf16, left padding, four bindings, two passes before their backward passes."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = [tokenizer.encode(path.read_text()[-1200:]).ids[:length] for path, length in zip(sorted(corpus.rglob("*.h")), (60, 33, 60, 47))]
    ids = torch.tensor([[0] * (60 - len(tokens)) + tokens for tokens in texts])
    mask = torch.tensor([[0] * (60 - len(tokens)) + [1] * len(tokens) for tokens in texts])
    session = Session({0: torch.linspace(-1, 1, 8), 1: torch.linspace(1, -1, 8)})
    rows = (Binding(opened), Binding(opened, session), Binding(None, session), Binding(opened, session, strength=0.5, shadow=True))
    seen = {}
    for engine in ("core", "torch"):
        for dtype in (torch.float32, torch.bfloat16):
            hosted = load(model, dtype).train()
            hosted.activation_checkpointing_enable({"use_reentrant": False})
            with attach(hosted, opened, engine=engine, checkpoint=model) as adapted, adapted.bind(*rows):
                passes = [hosted(input_ids=part, attention_mask=mask, use_cache=False).logits for part in (ids, ids.flip(0))]
                sum(logits.float().square().mean() for logits in passes).backward()
            gradient = hosted.get_input_embeddings().weight.grad.float()
            seen[engine, dtype] = (passes[0].detach().float()[mask.bool()], gradient, adapted.counters())
    for dtype, close in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        core, other = seen["core", dtype], seen["torch", dtype]
        assert (core[0] - other[0]).abs().max() < close and (core[1] - other[1]).abs().max() < close
        assert {name: core[2][name] for name in other[2]} == other[2] and core[2]["written"] > 0


def test_the_example_runs(model, built_memory, corpus):
    """examples/transformers_host.py, as a user starts it."""
    text = sorted(corpus.rglob("*.h"))[0]
    done = subprocess.run([sys.executable, ROOT / "examples/transformers_host.py", model, built_memory, text],
                          capture_output=True, text=True,
                          timeout=280, env=os.environ | {"PYTHONPATH": str(ROOT / "build/release/python"), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    values = {line[:15].strip(): float(line[16:22]) for line in done.stdout.splitlines() if not line.startswith("{")}
    assert values["frozen"] == values["detached"] != values["with the memory"]


def test_verify_compares_the_users_transformers_with_the_runtime(pointsman, model, built_memory):
    host = pointsman.json("verify", built_memory, "--host", "transformers", "--model", model, "--python", sys.executable, "--max-tokens",
                          "600", schema="verify")
    assert host["version"] == transformers.__version__
    carries_exactly(host)


def test_verify_sees_weights_of_another_precision(pointsman, model, built_memory):
    host = pointsman("verify", built_memory, "--host", "transformers", "--model", model, "--python", sys.executable, "--max-tokens",
                     "600", "--dtype", "bfloat16", "--json")
    layers = json.loads(host.stdout)["layers"]
    assert max(layer["logits_max"] for layer in layers) > 1e-3
    assert max(layer["experts_changed"] for layer in layers) > 0


def test_verify_of_a_host_names_what_is_missing(pointsman, model, other_model, built_memory):
    def says(words, *arguments):
        run = pointsman("verify", built_memory, "--host", "transformers", *arguments)
        assert run.returncode != 0 and all(word in run.stderr for word in words), run.stderr

    says(["--host", "--model DIR"])
    says(["router_sha256"], "--model", other_model)
    says(["/nowhere/python", "pip install transformers"], "--model", model, "--python", "/nowhere/python")
