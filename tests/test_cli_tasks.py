"""Task metrics and self-consistency through the real command: what is right counts, what is wrong does not, and nothing
that a test command starts outlives it."""

import collections
import json
import pathlib
import re
import time

import pytest
from conftest import fails

FROZEN = ("--variants", "frozen", "--max-test-tokens", "20000")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def ask(pointsman, model, corpus, off_domain):
    """Runs eval on rows; without a memory only frozen is asked."""

    def run(rows, *arguments, threads="1"):
        return pointsman.json("eval", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--test-corpus",
                              rows, *FROZEN, "--threads", threads, *arguments, schema="eval")

    return run


def accuracy(report, metric, variant="frozen"):
    task = next(task for task in report["tasks"] if task["metric"] == metric)
    return next(v for v in task["variants"] if v["name"] == variant)["accuracy"]


def sentences(count):
    """Prompts that no near-duplicate check takes for one another."""
    words = "amber birch copper delta ember falcon garnet harbor indigo juniper kestrel lagoon".split()
    return [" ".join(words[(i * 7 + j * (i + 1)) % len(words)] for j in range(9)) + f" {i * 37}." for i in range(count)]


# Choice. A random model gives every token about the same probability: one byte is likelier than forty.

def choice_rows(path, gold_is_short):
    rows = []
    for i, text in enumerate(sentences(12)):
        choices = [f"{i} " + "zebra quilt " * 4, f"{i + 1} " + "vortex jumper " * 4, f"{i + 2} " + "quartz wizard " * 4]
        choices.insert(i % 4, "a")
        rows.append({"prompt": text, "choices": choices, "answer": i % 4 if gold_is_short else (i + 1) % 4})
    return write_rows(path, rows)


def test_the_likeliest_choice_is_taken(ask, tmp_path):
    right = ask(choice_rows(tmp_path / "right.jsonl", True), "--task", "choice")
    assert accuracy(right, "likeliest choice") == 1
    assert [(t["items"], t["chance"], t["kind"]) for t in right["tasks"]] == [(12, 0.25, "choice")] * 2
    wrong = ask(choice_rows(tmp_path / "wrong.jsonl", False), "--task", "auto")
    assert accuracy(wrong, "likeliest choice") == 0
    assert accuracy(wrong, "likeliest choice per byte") > 0, "divided by its length a long choice can win"


def test_a_report_without_a_task_has_none(ask, tmp_path):
    assert "tasks" not in ask(choice_rows(tmp_path / "rows.jsonl", True))


# Exact. What the model says is known from generate; a row whose reference answer is just that must count.

PATTERN = r"([a-z]+)"


def generated(pointsman, model, prompt, *arguments):
    """As eval asks: end-of-text first, the prompt joined to its answer by a newline."""
    return pointsman.json("generate", "--model", model, "--prompt", "<|endoftext|>" + prompt + "\n", "--max-tokens", "24",
                          "--threads", "1", *arguments, schema="generate")


def final(text):
    match = re.search(PATTERN, text)
    return match and match.group(1)


@pytest.fixture(scope="module")
def exact_rows(pointsman, model, tmp_path_factory):
    known = [(p, final(generated(pointsman, model, p)["text"])) for p in sentences(14)]
    known = [(prompt, answer) for prompt, answer in known if answer]
    assert len(known) >= 6
    # "#1" is no answer by the pattern, and every third reference is another one than the model's.
    rows = [{"question": prompt, "answer": f"#1\n{'wrong' if i % 3 == 0 else answer}"}
            for i, (prompt, answer) in enumerate(known)]
    return write_rows(tmp_path_factory.mktemp("exact") / "rows.jsonl", rows), len(known)


EXACT = ("--task", "exact", "--answer-pattern", PATTERN, "--task-tokens", "24")


def test_an_answer_counts_if_it_is_the_references(ask, exact_rows):
    path, count = exact_rows
    report = ask(path, *EXACT)
    wrong = len(range(0, count, 3))
    assert report["tasks"][0]["items"] == count
    assert accuracy(report, "exact match") == pytest.approx((count - wrong) / count)


def test_answers_do_not_depend_on_threads(ask, exact_rows):
    path, _ = exact_rows
    sampled = (*EXACT, "--temperature", "1", "--self-consistency", "3")
    one, two = (ask(path, *sampled, threads=n)["tasks"] for n in ("1", "2"))
    assert one == two


def test_items_are_limited_and_bad_rows_are_named(ask, pointsman, model, corpus, off_domain, exact_rows, tmp_path):
    path, _ = exact_rows
    assert ask(path, *EXACT, "--task-items", "2")["tasks"][0]["items"] == 2
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(path.read_text() + json.dumps({"question": "An unanswered question about nothing at all?"}) + "\n")
    done = pointsman.ok("eval", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--test-corpus", mixed,
                        *FROZEN, *EXACT)
    assert "1 test rows are no items of it and were left out" in done.stdout and "mixed.jsonl#" in done.stdout
    assert re.search(r"^  frozen +\d+\.\d ", done.stdout, re.MULTILINE)


def test_rows_that_are_not_scored_are_counted(pointsman, model, corpus, off_domain, tmp_path):
    """A template makes rows near-duplicates of one another, of which two are scored; a row of a few tokens is none."""
    template = "The clerk asks the visitor to write the name, the town and the reason of the call into the book, and says: "
    rows = [{"prompt": template + text, "answer": "#### 1"} for text in ("come in", "sit down", "go on", "wait here", "read it")]
    arguments = ("eval", "--model", model, "--corpus", corpus, "--off-domain", off_domain, *FROZEN, "--test-corpus")
    done = pointsman.ok(*arguments, write_rows(tmp_path / "alike.jsonl", [*rows, {"prompt": "2 + 2 =", "answer": "4"}]))
    assert "4 of 6 documents of the test corpus were not scored" in done.stdout
    assert "not scored" not in pointsman.ok(*arguments, write_rows(tmp_path / "two.jsonl", rows[:2])).stdout
    short = write_rows(tmp_path / "short.jsonl", [{"prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(3)])
    fails(pointsman(*arguments, short), 2, "--test-corpus: nothing to score", "16 tokens")


def test_rows_that_are_no_task_are_refused(pointsman, model, corpus, off_domain, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in sentences(3)])
    arguments = ("eval", "--model", model, "--corpus", corpus, "--off-domain", off_domain, *FROZEN, "--test-corpus")
    fails(pointsman(*arguments, rows, "--task", "auto"), 2, "--task auto", "--task-fields")
    fails(pointsman(*arguments, rows, "--task", "exact"), 2, "--task exact", "rows.jsonl#", "no prompt")
    fails(pointsman(*arguments, off_domain, "--task", "exact"), 2, "--task exact", ".jsonl", "--test-corpus")


def test_every_variant_is_compared_with_frozen(pointsman, model, memory, corpus, off_domain, exact_rows, tmp_path):
    rows = choice_rows(tmp_path / "rows.jsonl", True)
    for path, task in ((rows, ("--task", "choice")), (exact_rows[0], EXACT)):
        report = pointsman.json("eval", "--model", model, "--memory", memory, "--off-domain", off_domain, "--test-corpus",
                                path, "--variants", "frozen,bias,full_finetune,entries,memory,shuffled_values,rewiring",
                                "--threads", "1", "--task-strengths", "0,0.5", *task, schema="eval")
        for task in report["tasks"]:
            variants = {v["name"]: v for v in task["variants"]}
            # entries and memory are the same tables; controls cannot decode and are not asked.
            assert list(variants) == ["frozen", "bias", "full_finetune", "entries", "memory", "memory@0", "memory@0.5",
                                      "rewiring"]
            assert variants["memory@0"]["accuracy"] == variants["frozen"]["accuracy"]
            assert variants["memory@0"]["wins"] == variants["memory@0"]["losses"] == 0
            assert variants["entries"] | {"name": ""} == variants["memory"] | {"name": ""}
            for v in task["variants"][1:]:
                assert v["difference"] == pytest.approx((v["wins"] - v["losses"]) / task["items"])
                assert v["difference"] == pytest.approx(v["accuracy"] - variants["frozen"]["accuracy"])


# Self-consistency.

def test_generate_takes_the_majority(pointsman, model):
    sampling = ("--temperature", "1", "--seed", "5")
    voted = generated(pointsman, model, "amber birch", *sampling, "--self-consistency", "6", "--answer-pattern", "([a-z])")
    votes, first = collections.Counter(), {}
    for seed in range(5, 11):
        text = generated(pointsman, model, "amber birch", "--temperature", "1", "--seed", seed)["text"]
        match = re.search("([a-z])", text)
        if match:
            votes[match.group(1)] += 1
            first.setdefault(match.group(1), text)
    assert {v["answer"]: v["votes"] for v in voted["self_consistency"]["votes"]} == dict(votes)
    best = max(votes, key=votes.get)  # the first seen of equal ones
    assert voted["self_consistency"]["answer"] == best
    assert voted["text"] == first[best]


def test_generate_says_when_no_sample_answers(pointsman, model):
    options = ("--temperature", "1", "--self-consistency", "2", "--answer-pattern", "####### (x)")
    assert generated(pointsman, model, "amber", *options)["self_consistency"] == {"samples": 2, "answer": None, "votes": []}
    text = pointsman.ok("generate", "--model", model, "--prompt", "amber", "--max-tokens", "4", "--threads", "1", *options)
    assert text.stdout.endswith("\n\nno sample has an answer\n")


def test_generate_votes_with_a_memory_and_with_rewiring(pointsman, model, memory):
    options = ("--temperature", "1", "--self-consistency", "3", "--answer-pattern", "(.)", "--memory", memory)
    plain = generated(pointsman, model, "template <typename", *options)
    assert sum(v["votes"] for v in plain["self_consistency"]["votes"]) == 3
    rewired = generated(pointsman, model, "template <typename", *options, "--rewire")
    assert sum(v["votes"] for v in rewired["self_consistency"]["votes"]) == 3


# Code. Each row's test decides by itself; the completion only has to arrive.

def processes_with(word):
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(f"{path.parent.name}: {line}")
    return found


def code_rows(path, tests):
    return write_rows(path, [{"prompt": text, "test": test} for text, test in zip(sentences(len(tests)), tests)])


@pytest.fixture
def isolated(pointsman, model, corpus, off_domain, tmp_path):
    rows = code_rows(tmp_path / "probe.jsonl", ["exit 0"])
    done = pointsman("eval", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--test-corpus", rows, *FROZEN,
                     "--task", "code", "--task-tokens", "1", "--test-command", "true")
    if done.returncode != 0:
        fails(done, 1, "isolate", "--test-unsafe")
        pytest.skip("no user namespaces here")


CODE = ("--task", "code", "--task-tokens", "4", "--test-command")


def test_exit_status_decides_and_the_files_are_there(ask, isolated, tmp_path):
    rows = code_rows(tmp_path / "rows.jsonl", ["exit 0", "exit 1", "exit 0", "kill -9 $$"])
    assert accuracy(ask(rows, *CODE, "sh test"), "pass@1") == 0.5
    program = "(cat prompt completion; echo; cat test) >whole; cmp whole program && test -s completion"
    assert accuracy(ask(rows, *CODE, program), "pass@1") == 1


def test_hostile_programs_fail_and_leave_nothing(pointsman, model, corpus, off_domain, isolated, tmp_path):
    word = f"hostile_{time.time_ns()}"
    escaped = pathlib.Path(f"/tmp/{word}")
    tests = [
        f"while :; do : {word}; done",
        f"(sleep 71; : {word}) & setsid sh -c '(sleep 72; : {word}) &' & exit 0",  # passes, but its children must go
        f"b() {{ b {word} | b {word} & }}; b; sleep 73",
        "head -c 100000000 /dev/zero >big",
        "python3 -c \"import socket; socket.create_connection(('192.0.2.1', 80), 3)\"",
        f"kill -9 $PPID; kill -9 -1; exit 1",
        f"echo x >{escaped} && exit 1",
        "touch /usr/share/x || exit 1",
        "exit 0",
    ]
    rows = code_rows(tmp_path / "rows.jsonl", tests)
    began = time.monotonic()
    done = pointsman.ok("eval", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--test-corpus", rows,
                        *FROZEN, *CODE, "sh test", "--test-timeout", "2", "--json")
    report = json.loads(done.stdout)
    assert report["tasks"][0]["items"] == len(tests)
    assert accuracy(report, "pass@1") == pytest.approx(2 / len(tests)), done.stderr
    counts = re.search(r"frozen: 2 passed, (\d+) failed, (\d+) killed, (\d+) out of time", done.stderr)
    assert counts and int(counts[3]) >= 1 and sum(map(int, counts.groups())) == len(tests) - 2, done.stderr
    assert processes_with(word) == [] and not escaped.exists()
    assert time.monotonic() - began < 120


def test_nothing_is_run_without_being_asked(pointsman, model, corpus, off_domain, tmp_path):
    rows = code_rows(tmp_path / "rows.jsonl", ["exit 0"])
    arguments = ("eval", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--test-corpus", rows, *FROZEN)
    fails(pointsman(*arguments, "--task", "code"), 2, "--task code", "--test-command")
    fails(pointsman(*arguments, "--test-command", "true"), 2, "--test-command", "--task")
    fails(pointsman(*arguments, *CODE, "true", "--temperature", "1", "--self-consistency", "2"), 2, "--self-consistency",
          "code")


def test_unsafe_runs_in_the_open_and_still_cleans_up(ask, tmp_path):
    word = f"unsafe_{time.time_ns()}"
    seen = tmp_path / "seen"
    rows = code_rows(tmp_path / "rows.jsonl", [
        f"echo x >{seen}; exit 0",
        f"(setsid sh -c 'sleep 74; : {word}' &) ; exit 0",
        f"(setsid sh -c 'sleep 75; : {word}' &) ; sleep 76",
    ])
    report = ask(rows, *CODE, "sh test", "--test-unsafe", "--test-timeout", "2")
    assert accuracy(report, "pass@1") == pytest.approx(2 / 3)
    assert seen.exists(), "with the caller's rights"
    assert processes_with(word) == []
