"""A memory as input: what is in it, damage of each file, a memory of another model."""

import json
import pathlib

import jsonschema
import pytest
from conftest import SMALL_BUILD, ROOT, fails, flip_bit, truncate


def manifest_of(memory):
    return json.loads((memory / "MANIFEST.json").read_text())


def derived_files(memory):
    return sorted(p for p in (memory / "derived").rglob("*") if p.is_file())


def test_the_manifest_is_valid_by_its_schema(built_memory):
    jsonschema.validate(manifest_of(built_memory), json.loads((ROOT / "schemas/manifest.schema.json").read_text()))


def test_inspect_shows_the_memory_its_layers_and_its_documents(pointsman, built_memory):
    whole = pointsman.json("inspect", built_memory, schema="inspect")
    assert whole["kind"] == "entries" and whole["reference_tokens"] > 0
    assert pointsman.ok("inspect", built_memory, "--digest").stdout.strip() == whole["digest"]
    layer = pointsman.json("inspect", built_memory, "--layer", whole["layers"][0]["layer"], schema="inspect")
    assert len(layer["mean_values"]) == layer["experts"] == 8
    documents = pointsman.json("docs", "list", built_memory, schema="docs_list")["documents"]
    reference = [d for d in documents if d["role"] == "reference"]
    assert len(reference) == whole["reference_documents"]
    one = pointsman.json("inspect", built_memory, "--document", reference[0]["source"], schema="inspect")
    assert one == pointsman.json("inspect", built_memory, "--document", reference[0]["document"])
    assert sum(layer["references"] for layer in one["layers"]) > 0
    fails(pointsman("inspect", built_memory, "--document", "nobody.h"), 1, "nobody.h", "docs list")
    fails(pointsman("inspect", built_memory, "--layer", "99"), 2, "--layer", "99")


def test_generate_explains_which_documents_moved_which_experts(pointsman, model, built_memory):
    documents = pointsman.json("docs", "list", built_memory)["documents"]
    known = max((d for d in documents if d["role"] == "reference"), key=lambda d: d["tokens"])
    prompt = pathlib.Path(known["source"]).read_text()[600:720]  # text of the memory: its gate is open
    arguments = ("generate", "--model", model, "--memory", built_memory, "--prompt", prompt, "--max-tokens", "3", "--explain")
    document = pointsman.json(*arguments, schema="generate")
    assert [step["token"] for step in document["explain"]] == document["tokens"]
    assert document["explain"][0]["position"] == len(document["prompt_tokens"])
    sources = {d["source"] for d in documents}
    neighbours = [n for step in document["explain"] for layer in step["layers"] for n in layer["neighbours"]]
    assert document["explain"][0]["gate"] > 0
    assert neighbours and {n["document"] for n in neighbours} <= sources
    assert all(n["excerpt"] for n in neighbours)
    assert "gate" in pointsman.ok(*arguments).stdout


def test_strength_0_is_the_frozen_model(pointsman, model, built_memory):
    base = ("generate", "--model", model, "--prompt", "namespace std {", "--max-tokens", "8")
    frozen = pointsman.json(*base)
    assert pointsman.json(*base, "--memory", built_memory, "--strength", "0")["tokens"] == frozen["tokens"]


def test_a_memory_of_another_model_is_refused_with_both_values(pointsman, other_model, memory):
    done = pointsman("generate", "--model", other_model, "--memory", memory, "--prompt", "x")
    line = fails(done, 1, "router")
    assert manifest_of(memory)["fingerprint"]["router_sha256"][:8] in line


def test_a_flipped_router_weight_is_refused(pointsman, model_copy, memory):
    import safetensors.torch

    path = model_copy / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    gate = next(name for name in tensors if name.endswith("mlp.gate.weight"))
    tensors[gate][0, 0] += 1
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    fails(pointsman("generate", "--model", model_copy, "--memory", memory, "--prompt", "x"), 1, "router")


def test_a_directory_that_is_no_memory_is_named(pointsman, tmp_path):
    fails(pointsman("inspect", tmp_path), 1, str(tmp_path))
    fails(pointsman("docs", "list", tmp_path / "nowhere"), 1, "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "field"])
def test_a_damaged_manifest_is_named(pointsman, memory, damage):
    path = memory / "MANIFEST.json"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        truncate(path)
    elif damage == "flipped":
        flip_bit(path, 0)
    else:
        path.write_text(json.dumps(manifest_of(memory) | {"generation": -1}))
    fails(pointsman("inspect", memory), 1, "MANIFEST.json" if damage != "missing" else str(memory))


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_damaged_derived_files_are_found_and_repaired_from_the_truth(pointsman, model, memory, damage):
    digest = pointsman.ok("inspect", memory, "--digest").stdout
    path = max(derived_files(memory), key=lambda p: p.stat().st_size)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        truncate(path)
    else:
        flip_bit(path, path.stat().st_size // 2)
    fails(pointsman("generate", "--model", model, "--memory", memory, "--prompt", "x"), 1, path.name, "verify --repair")
    found = pointsman("verify", memory, "--json")
    assert found.returncode == 1
    report = json.loads(found.stdout)
    jsonschema.validate(report, json.loads((ROOT / "schemas/verify.schema.json").read_text()))
    assert any(path.name in finding["problem"] for finding in report["findings"])
    repaired = pointsman.json("verify", memory, "--repair", schema="verify")
    assert repaired == {"sound": True, "repaired": True, "findings": []}
    assert pointsman.ok("inspect", memory, "--digest").stdout == digest


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_truth_is_found_and_reading_goes_on(pointsman, model, memory, damage):
    tables = sorted((memory / "truth").glob("*.sst")) or sorted((memory / "truth").glob("*.log"))
    path = max(tables, key=lambda p: p.stat().st_size)
    truncate(path) if damage == "truncated" else flip_bit(path, path.stat().st_size // 2)
    found = pointsman("verify", memory, "--json")
    assert found.returncode == 1
    assert any("truth" in finding["file"] for finding in json.loads(found.stdout)["findings"])
    # Readers never open the truth: generation still works.
    pointsman.ok("generate", "--model", model, "--memory", memory, "--prompt", "x", "--max-tokens", "2")


def test_eval_scores_the_memory_and_counts_the_look(pointsman, model, memory, off_domain, corpus, tmp_path):
    looks = manifest_of(memory)["test_looks"]
    html = tmp_path / "report.html"
    report = pointsman.json("eval", "--model", model, "--memory", memory, "--corpus", corpus, "--off-domain", off_domain,
                            "--variants", "frozen,bias,memory", "--report", html, "--threads", "1", schema="eval")
    assert [v["name"] for v in report["variants"]] == ["frozen", "bias", "memory"]
    assert manifest_of(memory)["test_looks"] == looks + 1
    assert html.read_text().lstrip().lower().startswith("<!doctype html>")


def test_an_output_memory_is_built_shown_scored_and_generates(pointsman, model, off_domain, corpus, tmp_path):
    out = tmp_path / "memory"
    pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", out,
                   "--kind", "prototypes", "--output-memory", *SMALL_BUILD, schema="build")
    shown = pointsman.json("inspect", out, schema="inspect")
    assert shown["settings"]["output-memory"] == "on"
    assert shown["output"]["rows"] == shown["reference_tokens"]
    assert 0 < shown["output"]["lambda"] < 1
    assert "next tokens" in pointsman.ok("inspect", out).stdout
    assert "sound" in pointsman.ok("verify", out).stdout
    report = pointsman.json("eval", "--model", model, "--memory", out, "--off-domain", off_domain, "--corpus", corpus,
                            "--variants", "memory,memory+output,knn_lm", "--generations", "3", "--threads", "1",
                            schema="eval")
    scores = {variant["name"]: variant for variant in report["variants"]}
    assert scores["memory+output"]["gain"] == scores["memory"]["gain"] < 0
    assert scores["knn_lm"]["untouched_tokens"] == 0
    texts = [(g["variant"], g["temperature"]) for g in report["generation"]]
    assert texts == [(name, temperature) for temperature in (0, 0.8)
                     for name in ("frozen", "memory", "knn_lm", "memory+output")] + [("truth", None)]
    generate = ("generate", "--model", model, "--prompt", "#include <", "--max-tokens", "12", "--threads", "1")
    frozen = pointsman.ok(*generate).stdout
    assert pointsman.ok(*generate, "--memory", out, "--strength", "0").stdout == frozen


def test_require_not_met_is_exit_status_3(pointsman, model, memory, off_domain, corpus):
    done = pointsman("eval", "--model", model, "--memory", memory, "--corpus", corpus, "--off-domain", off_domain,
                     "--variants", "frozen,memory", "--min-gain", "50", "--require", "adopt", "--threads", "1", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["verdict"] in ("reject", "inconclusive")


def test_eval_scores_rewiring_on_second_halves_beside_frozen(pointsman, model, memory, off_domain, corpus):
    report = pointsman.json("eval", "--model", model, "--memory", memory, "--corpus", corpus, "--off-domain",
                            off_domain, "--variants", "memory,rewiring,memory+rewiring,warm_rewiring", "--threads", "1", schema="eval")
    scores = {v["name"]: v for v in report["variants"]}
    assert list(scores) == ["frozen", "memory", "frozen_second_half", "rewiring", "memory+rewiring", "warm_rewiring"]
    assert scores["rewiring"]["ci95"] and scores["rewiring"]["vs_memory"] is None  # other tokens than memory's
    halves = scores["frozen_second_half"]["nll"]
    assert scores["frozen_second_half"]["worst_sequence"] is None
    for name in ("rewiring", "memory+rewiring", "warm_rewiring"):
        assert scores[name]["worst_sequence"]["change"] >= scores[name]["gain"]
        assert scores[name]["worst_unrelated_sequence"]["tokens"] >= 32
        assert abs(scores[name]["nll"] - halves - scores[name]["gain"]) < 1e-6
    still = pointsman.json("eval", "--model", model, "--memory", memory, "--corpus", corpus, "--off-domain",
                           off_domain, "--variants", "rewiring", "--rewire-steps", "0", "--threads", "1")
    assert [v["gain"] for v in still["variants"] if v["name"] == "rewiring"] == [0]


def test_one_test_document_gives_a_verdict_without_intervals(pointsman, model, corpus, off_domain, tmp_path):
    report = pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", tmp_path / "memory",
                            "--preset", "knn", "--max-tokens", "3000", "--max-test-tokens", "300", "--threads", "1", schema="build")
    assert report["verdict"]["documents"] == 1
    assert report["verdict"]["verdict"] == "inconclusive" and report["verdict"]["ci95"] is None
    manifest = manifest_of(tmp_path / "memory")
    jsonschema.validate(manifest, json.loads((ROOT / "schemas/manifest.schema.json").read_text()))
    assert manifest["verdict"]["gain_low"] is None
    assert "fewer than two documents" in pointsman.ok("inspect", tmp_path / "memory").stdout


def test_study_rewire_beside_a_memory_leaves_its_own_text_out(pointsman, long_model, corpus, off_domain, tmp_path):
    model = long_model
    pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", tmp_path / "memory",
                   "--preset", "knn", "--max-tokens", "6000", "--max-test-tokens", "6000", "--threads", "1")
    base = ("study", "rewire", "--model", model, "--text", f"headers={corpus}", "--windows", "500", "--threads", "1")
    groups = ("--groups", "beside a memory,next window")
    report = pointsman.json(*base, "--memory", tmp_path / "memory", *groups, schema="study_rewire")
    labels = [row["label"] for row in report["rows"]]
    assert labels[:4] == ["rerouting", "memory", "memory + rerouting", "  minus memory"]
    assert labels[7:] == ["carried", "memory", "memory + carried", "written back", "minus memory: memory + carried",
                          "minus memory: written back"]
    gains = [row["cells"][0]["gain"] for row in report["rows"]]
    assert abs(gains[2] - gains[1] - gains[3]) < 1e-6 and abs(gains[5] - gains[0] - gains[6]) < 1e-6
    everything = pointsman.json(*base, "--groups", "default", schema="study_rewire")
    assert report["texts"][0]["windows"] < everything["texts"][0]["windows"]


def test_generate_rewires(pointsman, model, built_memory):
    prompt = "namespace std { template <typename T> class vector; template <typename T> class list;"
    base = ("generate", "--model", model, "--prompt", prompt, "--max-tokens", "12")
    plain = pointsman.json(*base)["tokens"]
    assert pointsman.json(*base, "--rewire", "--rewire-steps", "0")["tokens"] == plain
    rewired = pointsman.json(*base, "--rewire", "--rewire-lr", "3", "--rewire-interval", "4", schema="generate")["tokens"]
    assert rewired != plain
    assert rewired == pointsman.json(*base, "--rewire", "--rewire-lr", "3", "--rewire-interval", "4")["tokens"]
    recomputed = pointsman.json(*base, "--rewire", "--rewire-lr", "3", "--rewire-interval", "4", "--rewire-kv", "recompute")
    assert recomputed["tokens"][:4] == rewired[:4]
    both = (*base, "--memory", built_memory, "--rewire", "--rewire-guard", "0")
    assert pointsman.json(*both)["tokens"]
    assert pointsman.json("generate", "--model", model, "--prompt", "x", "--max-tokens", "3", "--rewire")["tokens"]


def test_a_session_goes_on_in_the_next_request(pointsman, model, tmp_path):
    session = tmp_path / "session.json"
    prompt = "namespace std { template <typename T> class vector; template <typename T> class list;"
    base = ("generate", "--model", model, "--prompt", prompt, "--max-tokens", "12", "--rewire", "--session", session)
    first = pointsman.json(*base, "--rewire-lr", "1")["tokens"]
    learned = json.loads(session.read_text())
    assert learned["layers"] and all(map(any, (layer["vector"] for layer in learned["layers"])))
    still = pointsman.json(*base, "--rewire-steps", "0")["tokens"]
    assert still == first  # the vectors of the first request, from the first token on
    assert json.loads(session.read_text()) == learned
    learned["fingerprint"]["router_sha256"] = "0" * 64
    session.write_text(json.dumps(learned))
    fails(pointsman(*base), 1, str(session), "router_sha256", "(session)", "(model)")
    fails(pointsman(*base[:-3], "--session", session), 2, "--session", "--rewire")
