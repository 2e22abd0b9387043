"""bench route and bench build on small sizes: what they print, and that both sides really did the same work."""

import importlib.util
import os
import pathlib
import sys

import pytest
from conftest import ROOT, fails

SMALL_ROUTE = ("--shape", "small", "--prototypes", "256", "--context", "16", "--rounds", "3")


def test_bench_route_times_entries_and_prototypes_beside_a_step(pointsman):
    document = pointsman.json("bench", "route", *SMALL_ROUTE, "--entries", "3000", schema="bench_route")
    exact, prototypes = document["runs"]
    assert (document["layers"], document["entries_per_layer"]) == (3, 3000)
    assert (exact["index"], exact["rows"]) == ("exact", 3000)
    assert (prototypes["index"], prototypes["rows"]) == ("prototypes", 256)
    for run in document["runs"]:
        assert run["recall"] == 1.0
        assert run["ratio"] == pytest.approx(run["route_s_per_token"] / run["decode_s_per_token"])
        assert run["route_s_per_token"] < run["step_s_per_token"]
    assert exact["bytes"] > prototypes["bytes"] / 4


def test_bench_route_costs_more_with_more_entries(pointsman):
    few, many = (pointsman.json("bench", "route", *SMALL_ROUTE, "--layers", "2", "--entries", n, schema="bench_route")
                 for n in ("100", "200000"))
    assert few["layers"] == many["layers"] == 2
    assert many["runs"][0]["route_s_per_token"] > 5 * few["runs"][0]["route_s_per_token"]


def test_bench_route_refuses_a_context_that_does_not_fit(pointsman):
    fails(pointsman("bench", "route", "--shape", "small", "--context", "256"), 2, "--context 256", "256 positions")


def small_build(model, corpus, *more):
    return ("bench", "build", "--model", model, "--corpus", corpus, "--max-tokens", "1200", "--prototypes", "32",
            "--rounds", "1", "--python", sys.executable, "--scripts", ROOT / "tools" / "bench", *more)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss-cpu is not installed: tools/setup bench")
@pytest.mark.parametrize("values", ["prototypes", "knn"])
def test_bench_build_compares_the_same_work(pointsman, model, corpus, values):
    document = pointsman.json(*small_build(model, corpus, "--values", values), schema="bench_build")
    assert document["values"] == values
    assert 512 < document["tokens"] <= 1200
    assert [side["name"] for side in document["baselines"]] == ["plain", "pytorch"]
    for side in document["baselines"]:
        assert side["ratio"] == pytest.approx(document["ours_tokens_per_s"] / side["tokens_per_s"])
        assert side["nll"] == pytest.approx(document["ours_nll"], abs=0.05 if values == "prototypes" else 0.002)


def test_bench_build_names_the_set_up_where_python_is_missing(pointsman, model, corpus):
    missing = pathlib.Path("/nowhere/python")
    arguments = [missing if a == sys.executable else a for a in small_build(model, corpus)]
    fails(pointsman(*arguments), 1, str(missing), "tools/setup bench")


def test_bench_build_refuses_values_of_other_work(pointsman, model, corpus, tmp_path):
    for script in ("build_plain.py", "build_pytorch.py"):
        (tmp_path / script).write_text('print(\'{"seconds": 1, "cpu_seconds": 1, "nll": 99.0}\')')
    arguments = [tmp_path if a == ROOT / "tools" / "bench" else a for a in small_build(model, corpus, "--values", "knn")]
    fails(pointsman(*arguments), 1, "build_plain.py", "99.0", "not the same work")


SMALL_DAEMON = ("--entries", "2000", "--seconds", "0.5", "--rounds", "1", "--slow-connections", "20", "--max-tokens", "8")


def test_bench_daemon_loads_a_real_server(pointsman, model):
    document = pointsman.json("bench", "daemon", "--model", model, "--parts", "overload,loris,generate", *SMALL_DAEMON,
                              schema="bench_daemon")
    overload = document["overload"]
    assert overload["offered_per_s"] == pytest.approx(5 * overload["holds_per_s"])
    assert 0 < overload["sent_per_s"] <= overload["offered_per_s"] * 1.01
    assert overload["refused_per_s"] > 0 and overload["failed"] == 0
    assert overload["resident_bytes_before"] > 1e6
    assert document["loris"]["beside_p99_ms"] > 0
    generate = document["generate"]
    assert generate["overhead"] == pytest.approx(generate["generate_tokens_per_s"] / generate["http_tokens_per_s"] - 1)
    assert "ours" not in document


@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in ("faiss", "fastapi", "uvloop")),
                    reason="faiss-cpu and FastAPI are not installed: tools/setup bench")
def test_bench_daemon_compares_the_same_answers(pointsman, model):
    document = pointsman.json("bench", "daemon", "--model", model, "--parts", "route", *SMALL_DAEMON, "--python",
                              sys.executable, "--scripts", ROOT / "tools" / "bench", schema="bench_daemon")
    assert document["ratio"] == pytest.approx(document["ours"]["requests_per_s"] / document["baseline"]["requests_per_s"])
    assert document["largest_difference"] < 0.02


def test_bench_daemon_refuses_a_part_that_is_not_there(pointsman, model):
    fails(pointsman("bench", "daemon", "--model", model, "--parts", "speed", *SMALL_DAEMON), 2, "--parts speed", "overload")


VLLM = ROOT / ".venv-vllm/bin/python"
SMALL_HOSTS = ("bench", "hosts", "--shape", "small", "--entries", "500", "--rounds", "1")


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed: tools/setup bench")
def test_bench_hosts_measures_each_host_with_and_without(pointsman):
    document = pointsman.json(*SMALL_HOSTS, "--batch", "1,2", "--prompt-tokens", "8",
                              "--python", sys.executable, "--scripts", ROOT / "tools" / "bench", schema="bench_hosts")
    runs = {(run["host"], run["phase"], run["batch"]): run for run in document["runs"]}
    assert set(runs) == {("runtime", "decode", 1)} | {("transformers", phase, batch) for phase in ("decode", "prefill") for batch in (1, 2)}
    for run in runs.values():
        assert run["overhead"] == pytest.approx(run["frozen_tokens_per_s"] / run["memory_tokens_per_s"] - 1)
        assert run["routing"] > 0
    ours, theirs = (runs[host, "decode", 1]["frozen_tokens_per_s"] for host in ("runtime", "transformers"))
    assert document["runtime_over_transformers"] == pytest.approx(ours / theirs)


@pytest.mark.skipif(not os.environ.get("POINTSMAN_VLLM_LONG") or not VLLM.exists(),
                    reason="a minute in vLLM: tools/setup vllm, then POINTSMAN_VLLM_LONG=1 runs it")
def test_bench_hosts_measures_vllm_with_fewer_layers_and_without_what_does_not_fit(pointsman):
    document = pointsman.json(*SMALL_HOSTS, "--hosts", "vllm", "--batch", "1,3,4096", "--prompt-tokens", "200", "--vllm-python", VLLM,
                              "--scripts", ROOT / "tools" / "bench", schema="bench_hosts")
    about, runs = document["vllm"], {(run["host"], run["phase"], run["batch"]): run for run in document["runs"]}
    assert document["layers"] == 3 and about["layers"] == 2 and about["skipped_batches"] == [4096]
    assert set(runs) == {("vllm", phase, batch) for phase in ("decode", "prefill") for batch in (1, 3)}
    for run in runs.values():
        assert run["overhead"] == pytest.approx(run["frozen_tokens_per_s"] / run["memory_tokens_per_s"] - 1)
        assert run["routing"] > 0
    assert document["runtime_over_transformers"] is None


def test_bench_hosts_names_what_is_missing(pointsman):
    fails(pointsman(*SMALL_HOSTS, "--hosts", "vllm", "--vllm-python", "/nowhere/python"), 1, "/nowhere/python", "tools/setup vllm", "--vllm-python")
    fails(pointsman(*SMALL_HOSTS, "--hosts", "mlx"), 2, "--hosts mlx", "llama.cpp")
    fails(pointsman(*SMALL_HOSTS, "--hosts", "llama.cpp"), 2, "--gguf", "gguf_from_hf.py")
    fails(pointsman(*SMALL_HOSTS, "--hosts", "transformers", "--python", "/nowhere/python"), 1, "/nowhere/python", "tools/setup bench")
    fails(pointsman(*SMALL_HOSTS, "--prompt-tokens", "256"), 2, "--prompt-tokens 256", "256 positions")
    fails(pointsman(*SMALL_HOSTS, "--batch", "none"), 2, "--batch none")
