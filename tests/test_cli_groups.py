"""A memory of several domains: a group of documents for each, and a context gate that opens for any of them."""

import json
import pathlib
import random
import shutil

import pytest
from conftest import SMALL_BUILD, fails
from generation_reader import GenerationReader
from test_cli_docs import documents_of, manifest_of

GROUPS = ("headers", "stories")


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """120 rows of words that headers do not have."""
    draw = random.Random(5)
    words = ["".join(draw.choices("aeioulnrst", k=draw.randint(2, 7))) for _ in range(300)]
    path = tmp_path_factory.mktemp("stories") / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(draw.choices(words, k=120))}) + "\n" for _ in range(120)))
    return path


@pytest.fixture(scope="module")
def groups(corpus, stories):
    return ("--group", f"headers={corpus}", "--group", f"stories={stories}")


@pytest.fixture(scope="module")
def built(pointsman, model, groups, off_domain, tmp_path_factory):
    out = tmp_path_factory.mktemp("grouped") / "memory"
    pointsman.json("build", "--model", model, *groups, "--off-domain", off_domain, "--out", out, "--kind", "entries", *SMALL_BUILD,
                   schema="build")
    return out


@pytest.fixture
def grouped(built, tmp_path):
    return shutil.copytree(built, tmp_path / "memory")


def gate_of(pointsman, memory):
    return pointsman.json("inspect", memory, schema="inspect")["gate"]


def test_each_group_has_its_documents_and_a_ramp(pointsman, built):
    gate = gate_of(pointsman, built)
    assert [group["name"] for group in gate["groups"]] == list(GROUPS) and all(g["lo"] < g["hi"] for g in gate["groups"])
    documents = documents_of(pointsman, built)
    assert {tuple(d["tags"]) for d in documents} == {("headers",), ("stories",)}
    assert all(d["source"].endswith(".h") == (d["tags"] == ["headers"]) for d in documents)
    tokens = [sum(d["tokens"] for d in documents if d["role"] == "reference" and d["tags"] == [name]) for name in GROUPS]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.3), "an equal part of the budget each"
    text = pointsman.ok("inspect", built).stdout
    assert "  headers: shut below" in text and "  stories: shut below" in text
    assert pointsman.json("verify", built)["sound"]


def test_the_gate_of_every_host_opens_for_the_most_open_group(pointsman, built, model, stories):
    """The core, the torch twin and transformers' text, against the formula; the tables as docs/formats.md has them."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer

    import pointsman as package
    from pointsman.torch_routing import TorchGate, TorchRouter
    from pointsman.transformers.text_so_far import TextSoFar

    memory = package.Memory.open(str(built))
    gate, reader = memory.gate, GenerationReader(built)
    assert gate["groups"] == reader.gate["groups"]
    for name in ("pairs", "is_common", "pair_groups"):
        assert (gate[name] == reader.gate[name]).all()
    known = {int(pair): (int(common), int(mark)) for pair, common, mark in zip(gate["pairs"], gate["is_common"], gate["pair_groups"])}
    assert {mark for _, mark in known.values()} == {1, 2, 3}

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    read = lambda text: tokenizer.encode(text, add_special_tokens=False).ids[:80]
    row = json.loads(stories.read_text().splitlines()[0])["text"]
    headers = [d for d in documents_of(pointsman, built, "reference") if d["tags"] == ["headers"]]
    header = pathlib.Path(max(headers, key=lambda d: d["tokens"])["source"]).read_text()
    ids = read(row) + read(header[1500:]) + read(header[3000:]) + read(row[200:])  # a header begins with its licence
    expected, own = [], []
    for group, ramp in enumerate(gate["groups"]):
        evidence = [ramp["prior"]]
        for pair in zip(ids, ids[1:]):
            common, mark = known.get(pair[0] << 32 | pair[1], (0, 0))
            evidence.append((gate["common"] if common else 1.0) if mark >> group & 1 else 0.0)
        last = [evidence[max(0, end - gate["window"]):end] for end in range(1, len(ids) + 1)]
        means = [(gate["n0"] * ramp["prior"] + sum(values)) / (gate["n0"] + len(values)) for values in last]
        own.append([min(1.0, max(0.0, (m - ramp["lo"]) / (ramp["hi"] - ramp["lo"]))) for m in means])
    expected = [max(values) for values in zip(*own)]
    assert any(a > b for a, b in zip(*own)) and any(b > a for a, b in zip(*own)), "each group leads somewhere"

    router = package.Router()
    core = router.begin_step([router.add_slot(memory)] * len(ids), range(len(ids)), ids).gate
    twin = TorchRouter(max_slots=2, max_positions=512)
    on_tensors = twin.begin_step([twin.add_slot(memory)] * len(ids), range(len(ids)), ids).gate
    text = TextSoFar(1, torch.device("cpu"))
    text.extend(torch.tensor([ids]), torch.ones(1, len(ids)).bool(), None)
    hosted = text.gate(TorchGate.from_tables(gate), len(ids))[0]
    for values in (core, on_tensors, hosted):
        assert values.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_new_document_joins_the_group_that_its_tag_names_or_that_is_most_like_it(pointsman, model, grouped, off_domain, tmp_path):
    draw = random.Random(9)
    words = ["".join(draw.choices("bcdfgk", k=5)) for _ in range(40)]
    new = tmp_path / "unlike.txt"
    new.write_text(" ".join(draw.choices(words, k=150)))
    before = gate_of(pointsman, grouped)
    add = lambda *arguments: pointsman.json("docs", "add", grouped, "--model", model, "--off-domain", off_domain, "--threads", "1",
                                            *arguments, schema="docs_add")
    tagged = add("--corpus", new, "--tag", "stories")
    assert tagged["documents"][0]["tags"] == ["stories"] and not any("joined" in note for note in tagged["notes"])
    assert tagged["pairs"] > 0 and gate_of(pointsman, grouped)["groups"] == before["groups"], "ramps stay"

    like = tmp_path / "like.h"
    header = max(documents_of(pointsman, grouped, "reference"), key=lambda d: (d["tags"] == ["headers"], d["tokens"]))
    lines = pathlib.Path(header["source"]).read_text().splitlines()
    draw.shuffle(lines)
    like.write_text("\n".join(line for line in lines[:60] if line.strip()) + "\nstruct mine { int only_here; };\n")
    joined = add("--corpus", like, "--tag", "mine")
    assert joined["documents"][0]["tags"] == ["mine", "headers"], joined
    assert any("1 document " in note and "joined headers" in note and "--tag" in note for note in joined["notes"])

    reader = GenerationReader(grouped)
    assert len(reader.gate["pair_groups"]) == len(reader.gate["pairs"])
    removed = pointsman.json("docs", "remove", grouped, "--tag", "mine", schema="docs_remove")
    assert removed["pairs"] == joined["pairs"]
    again = pointsman.json("docs", "remove", grouped, "--source", str(new), schema="docs_remove")
    assert again["pairs"] == tagged["pairs"], "what an addition brought, a removal takes"
    assert gate_of(pointsman, grouped)["token_pairs"] == before["token_pairs"]


def test_eval_wants_the_groups_again(pointsman, model, grouped, groups, corpus, off_domain, tmp_path):
    run = ("eval", "--model", model, "--memory", grouped, "--off-domain", off_domain, "--threads", "1", "--variants", "frozen,memory")
    report = pointsman.json(*run, *groups, schema="eval")
    assert report["documents"] == manifest_of(grouped)["test_documents"]
    kinds = {row["name"]: row["tokens"] for row in report["breakdown"]["kinds"] if row["by"] == "group"}
    assert set(kinds) == set(GROUPS) and sum(kinds.values()) == report["tokens"]
    again = pointsman.json(*run, *groups[2:], *groups[:2], "--report", tmp_path / "report.html", schema="eval")
    assert (again["documents"], again["tokens"]) == (report["documents"], report["tokens"]), "whatever their order"
    assert "By group of the memory" in (tmp_path / "report.html").read_text()
    pointsman.json(*run, "--test-corpus", corpus, "--report", tmp_path / "other.html", schema="eval")
    fails(pointsman(*run, "--corpus", corpus), 2, "--group", "headers, stories")
    fails(pointsman(*run, "--group", f"headers={corpus}"), 2, "--group", "headers, stories")


def test_a_group_too_small_to_learn_a_ramp_from_is_named(pointsman, model, corpus, off_domain, tmp_path):
    one = tmp_path / "one.txt"
    one.write_text(" ".join(f"word{i}" for i in range(200)))
    done = pointsman("build", "--model", model, "--off-domain", off_domain, "--out", tmp_path / "memory", "--group", f"headers={corpus}",
                     "--group", f"tiny={one}", *SMALL_BUILD)
    fails(done, 2, "group tiny", "split", "dozens")


def test_a_group_on_the_command_line_wins_over_a_corpus_from_elsewhere(pointsman, model, off_domain, tmp_path):
    run = ("build", "--model", model, "--off-domain", off_domain, "--out", tmp_path / "memory")
    done = pointsman(*run, "--group", "a=absent", env={"POINTSMAN_CORPUS": "elsewhere"})
    fails(done, 1, "absent")
    done = pointsman(*run, "--corpus", "absent", env={"POINTSMAN_GROUP": "a=elsewhere"})
    fails(done, 1, "absent")


def test_eval_without_a_memory_takes_groups_too(pointsman, model, groups, off_domain):
    report = pointsman.json("eval", "--model", model, *groups, "--off-domain", off_domain, "--variants", "frozen,knn+gate", "--max-tokens",
                            "3000", "--max-test-tokens", "2000", "--threads", "1", schema="eval")
    assert {variant["name"] for variant in report["variants"]} == {"frozen", "knn+gate"}


@pytest.mark.parametrize("arguments, parts", [
    (("--group", "headers"), ("--group headers", "NAME=PATH")),
    (("--group", "=x"), ("--group =x", "NAME=PATH")),
    (("--group", "a\nb=x"), ("--group a?b=x", "printable")),
    (("--group", "x" * 81 + "=x"), ("1 to 80",)),
    (("--group", "a=x", "--corpus", "x"), ("--corpus and --group",)),
    (tuple(part for i in range(17) for part in ("--group", f"g{i}=/dev/null")), ("17 groups", "16")),
    ((), ("--corpus", "--group")),
])
def test_wrong_groups_are_named(pointsman, model, off_domain, tmp_path, arguments, parts):
    done = pointsman("build", "--model", model, "--off-domain", off_domain, "--out", tmp_path / "memory", *arguments)
    fails(done, 2, *parts)
