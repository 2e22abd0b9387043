"""tools/study/hosts_table: cells that are measured, no work twice, and an exit status that tells."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from small_models import FAMILIES


def hosts_table(pointsman, *arguments, timeout=280):
    return subprocess.run([sys.executable, str(ROOT / "tools/study/hosts_table"), *map(str, arguments)], capture_output=True,
                          text=True, env=pointsman.environment(), timeout=timeout)


@pytest.fixture(scope="module")
def work(pointsman, tmp_path_factory):
    """Of one family, in the two hosts that are always here."""
    folder = tmp_path_factory.mktemp("hosts_table")
    done = hosts_table(pointsman, "--families", "olmoe", "--hosts", "runtime,transformers", "--work", folder, "--json")
    assert done.returncode == 0, done.stderr
    (folder / "table.json").write_text(done.stdout)
    return folder


def test_cells_are_measured(work):
    found = json.loads((work / "table.json").read_text())
    assert list(found["versions"]) == ["runtime", "transformers"] and found["lost"] == []
    reference = json.loads((work / "olmoe/build.json").read_text())["verdict"]["gain"]
    assert found["cells"]["olmoe"]["runtime"]["reference"] == reference < -0.02
    for cell in found["cells"]["olmoe"].values():
        assert cell["state"] == "holds" and cell["bits"] is True
        assert cell["gain"] == pytest.approx(cell["reference"], abs=1e-5)


def test_markdown_comes_from_what_is_there(pointsman, work):
    done = hosts_table(pointsman, "--families", "olmoe", "--hosts", "runtime,transformers", "--work", work)
    assert done.returncode == 0 and "olmoe in" not in done.stderr
    head, _, row = done.stdout.splitlines()
    assert head.startswith("| family | our runtime 0.1.0 | transformers ")
    assert row.count("| yes: -.") == 2 and row.count("; bits kept ") == 2


def test_another_version_of_a_host_is_measured_anew(pointsman, work):
    cell = work / "olmoe/runtime.json"
    cell.write_text(json.dumps(json.loads(cell.read_text()) | {"version": "0.0.9"}))
    done = hosts_table(pointsman, "--families", "olmoe", "--hosts", "runtime", "--work", work)
    assert done.returncode == 0 and "olmoe in our runtime" in done.stderr
    assert json.loads(cell.read_text())["version"] == "0.1.0"


def test_a_cell_that_does_not_hold_ends_with_1(pointsman, work):
    build, cell = work / "olmoe/build.json", work / "olmoe/runtime.json"
    kept, report = build.read_text(), json.loads(build.read_text())
    report["verdict"]["gain"] -= 0.0021
    build.write_text(json.dumps(report))
    cell.unlink()
    done = hosts_table(pointsman, "--families", "olmoe", "--hosts", "runtime", "--work", work)
    build.write_text(kept)
    assert done.returncode == 1 and "| NO: -." in done.stdout and "olmoe in our runtime should hold" in done.stderr
    done = hosts_table(pointsman, "--families", "olmoe", "--hosts", "runtime", "--work", work)
    assert done.returncode == 0 and "olmoe in our runtime" in done.stderr, "what did not hold is measured again"


def test_a_host_that_is_not_here_is_said_to_be(pointsman, work, tmp_path):
    done = hosts_table(pointsman, "--families", "olmoe", "--hosts", "vllm", "--vllm-python", tmp_path / "python", "--work", work)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "| family | vLLM |"
    assert done.stdout.splitlines()[2] == "| olmoe | not installed |"


def test_unknown_names_are_refused_with_the_known_ones(pointsman, tmp_path):
    done = hosts_table(pointsman, "--families", "olmoe,llama", "--work", tmp_path)
    assert done.returncode == 2 and "--families llama: use olmoe, qwen2_moe" in done.stderr
    done = hosts_table(pointsman, "--hosts", "sglang", "--work", tmp_path)
    assert done.returncode == 2 and "--hosts sglang: use runtime, transformers, vllm, llama.cpp" in done.stderr


@pytest.mark.skipif(not os.environ.get("POINTSMAN_VLLM_LONG"), reason="ten minutes: POINTSMAN_VLLM_LONG=1 runs it")
def test_the_table_of_the_documentation_is_what_is_measured(pointsman, tmp_path):
    """Word by word but for numbers, which are those of the machine's headers; hosts that are not here are left out."""
    done = hosts_table(pointsman, "--work", tmp_path, timeout=3000)
    assert done.returncode == 0, done.stderr
    rows = lambda text: [[cell.strip().split(":")[0] for cell in line.split("|")[1:-1]] for line in text.splitlines()
                         if line.startswith("| ") and line.split("|")[1].strip() in FAMILIES]
    stated, found = rows((ROOT / "docs/hosts.md").read_text()), rows(done.stdout)
    assert len(found) == len(stated) == len(FAMILIES)
    for mine, other in zip(stated, found):
        assert all(cell in (word, "not installed") for word, cell in zip(mine, other, strict=True)), (mine, other)
