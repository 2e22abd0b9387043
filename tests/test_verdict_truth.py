"""The verdict tells the truth where it is known (the short form of tools/study/verdict_truth), and what is told beside it."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
STUDY = ROOT / "tools/study/verdict_truth"


@pytest.fixture(scope="module")
def runs(pointsman, tmp_path_factory):
    work = tmp_path_factory.mktemp("study") / "work"
    done = subprocess.run([sys.executable, str(STUDY), "--seeds", "1", "--off-domain-pieces", "90",
                           "--work", str(work)], capture_output=True, text=True,
                          env=pointsman.environment())
    assert (work / "runs.json").exists(), done.stdout + done.stderr
    return {run["case"]: run for run in json.loads((work / "runs.json").read_text())}


def test_a_shifted_domain_is_adopted(runs):
    assert runs["shifted"]["verdict"] == "adopt", runs["shifted"]
    assert runs["shifted"]["ci95"][1] < -0.01


@pytest.mark.parametrize("case", ["unrelated", "shuffled", "equal"])
def test_what_cannot_help_is_not_adopted(runs, case):
    assert runs[case]["verdict"] in ("reject", "inconclusive"), runs[case]


def test_the_study_says_which_case_it_does_not_know():
    done = subprocess.run([sys.executable, str(STUDY), "--cases", "shifted,luck"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "luck" in done.stderr
