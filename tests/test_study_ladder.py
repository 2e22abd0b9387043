"""pointsman_study and tools/study/ladder: one setting at a time, no work twice, a gate for each group of documents."""

import json
import pathlib
import random
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STUDY = ROOT / "build/release/pointsman_study"


def lines(*arguments):
    done = subprocess.run([str(STUDY), *map(str, arguments)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ladder(*arguments):
    return subprocess.run([sys.executable, str(ROOT / "tools/study/ladder"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=280)


def test_ladder_shows_what_each_setting_changes_and_goes_on_where_it_stopped(model, corpus, off_domain, tmp_path):
    arguments = ("--model", model, "--domain", f"headers={corpus}", "--off-domain", off_domain, "--seeds", "3", "--max-tokens", 3000,
                 "--max-test-tokens", 3000, "--work", tmp_path / "work")
    first = ladder(*arguments, "--configs", "base;neighbours=8")
    assert first.returncode == 0, first.stderr
    kept = (tmp_path / "work/headers-3.jsonl").read_text()
    base, near = map(json.loads, kept.splitlines())
    assert near["train_s"] == base["train_s"] and near["best_epoch"] == base["best_epoch"], "trained once"
    assert near["ungated"]["gain"]["mean"] != base["ungated"]["gain"]["mean"], "but searched with another k"

    second = ladder(*arguments, "--configs", "base;neighbours=8;epochs=6")
    assert second.returncode == 0, second.stderr
    assert "--configs epochs=6" in second.stdout, "only what is missing runs"
    assert (tmp_path / "work/headers-3.jsonl").read_text().startswith(kept)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in second.stdout.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["the default", "k = 8 neighbours (default 32)", "at most 6 epochs (default about 300 steps)"]
    difference = near["gated"]["gain"]["mean"] - base["gated"]["gain"]["mean"]
    assert float(rows[2][1]) == round(base["gated"]["gain"]["mean"], 3) and abs(float(rows[3][1]) - difference) <= 0.0005

    shown = ladder(*arguments, "--table")
    assert shown.returncode == 0 and "$" not in shown.stdout and shown.stdout in second.stdout

    other = ladder(*arguments, "--also", "count=300", "--configs", "base")
    assert other.returncode == 0 and "count=300,base" in other.stdout, other.stderr
    (row,) = [line for line in other.stdout.splitlines() if line.startswith("| the default")]
    assert row not in shown.stdout, "one with other prototypes is another default"
    assert ladder(*arguments, "--table").stdout == shown.stdout


def test_ladder_names_a_setting_that_has_no_label(off_domain):
    done = ladder("--domain", "headers=x", "--off-domain", off_domain, "--configs", "base;colour=1")
    assert done.returncode == 2 and "colour=1" in done.stderr and "SETTINGS" in done.stderr


def test_ladder_says_what_a_domain_looks_like(off_domain):
    done = ladder("--domain", "headers", "--off-domain", off_domain)
    assert done.returncode == 2 and "NAME=PATH" in done.stderr


def test_a_gate_opens_for_any_group_for_all_as_one_or_for_one_alone(model, corpus, off_domain, tmp_path):
    draw = random.Random(5)
    words = ["".join(draw.choices("aeioulnrst", k=draw.randint(2, 7))) for _ in range(300)]
    stories = tmp_path / "stories.jsonl"
    stories.write_text("".join(json.dumps({"text": " ".join(draw.choices(words, k=120))}) + "\n" for _ in range(60)))
    (line,) = lines("--model", model, "--group", f"headers={corpus}", "--group", f"stories={stories}", "--off-domain", off_domain,
                    "--max-tokens", 6000, "--max-test-tokens", 6000, "--threads", 1, "--configs", "epochs=6")
    assert set(line["groups"]) == {"headers", "stories"}
    for group in line["groups"].values():
        assert group["ungated"]["untouched"] == 0 and group["ungated"]["gain"]["mean"] < 0
        assert group["any"]["untouched"] == line["gated"]["untouched"], "the same gate on the same unrelated text"
        assert group["shared"]["untouched"] == line["shared"]["untouched"]
        assert 0 < group["own"]["untouched"] <= 1
    assert [ramp["name"] for ramp in line["gate"]] == ["headers", "stories"]
    owns = [group["own"]["gain"]["mean"] for group in line["groups"].values()]
    assert owns[0] != owns[1]


def test_what_a_group_lacks_is_named(model):
    for arguments, said in ((("--group", "headers"), "NAME=PATH"), ((), "--corpus: name at least one")):
        done = subprocess.run([str(STUDY), "--model", str(model), *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and said in done.stderr, done.stderr
