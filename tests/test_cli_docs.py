"""Documents of a memory: listed with their tags, added without a rebuild, deleted with their bytes, expired."""

import json
import pathlib
import shutil
import time

import pytest
from conftest import SMALL_BUILD, fails


def manifest_of(memory):
    return json.loads((memory / "MANIFEST.json").read_text())


def documents_of(pointsman, memory, role=None):
    documents = pointsman.json("docs", "list", memory, schema="docs_list")["documents"]
    return [d for d in documents if role in (None, d["role"])]


def files_with(directory, needle):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file() and needle in p.read_bytes())


def name_of(document):
    """What of a document's source no other one has: its file name."""
    return pathlib.Path(document["source"]).name.encode()


@pytest.fixture
def removed(pointsman, memory):
    """A memory without its first reference document."""
    document = documents_of(pointsman, memory, "reference")[0]
    before = pointsman.json("inspect", memory), files_with(memory, name_of(document))
    report = pointsman.json("docs", "remove", memory, "--document", document["document"], schema="docs_remove")
    return document, before, report


def test_list_shows_times_and_tags(pointsman, built_memory):
    documents = documents_of(pointsman, built_memory)
    assert all(d["expires_unix_s"] is None and d["tags"] == [] and d["added_unix_s"] > 1.6e9 for d in documents)
    text = pointsman.ok("docs", "list", built_memory).stdout
    assert text.splitlines()[0].split() == ["document", "role", "tokens", "added", "expires", "source", "[tags]"]
    assert text.count(" never ") == len(documents)
    assert pointsman.json("docs", "list", built_memory, "--tag", "nothing")["documents"] == []


def test_remove_takes_the_document_its_entries_and_its_bytes(pointsman, memory, removed):
    document, (inspected, held), report = removed
    assert any(path.startswith("derived/") for path in held) and any(path.startswith("truth/") for path in held)
    assert files_with(memory, name_of(document)) == []
    assert [d["document"] for d in report["documents"]] == [document["document"]] and report["removed"] == 1
    assert report["rows"] == document["tokens"] * len(inspected["layers"])
    assert report["pairs"] > 0 and report["pairs_known"] and not report["dry_run"]
    after = pointsman.json("inspect", memory, schema="inspect")
    assert after["rows"] == inspected["rows"] - report["rows"]
    assert after["reference_tokens"] == inspected["reference_tokens"] - document["tokens"]
    assert after["generation"] == report["generation"] == inspected["generation"] + 1
    assert after["gate"]["token_pairs"] == inspected["gate"]["token_pairs"] - report["pairs"]
    assert after["verdict"]["stale"] and after["verdict"]["verdict"] == inspected["verdict"]["verdict"]
    assert document["document"] not in [d["document"] for d in documents_of(pointsman, memory)]
    assert [p.name for p in (memory / "derived").iterdir()] == [f"gen-{after['generation']:03}"]
    fails(pointsman("inspect", memory, "--document", document["document"]), 1, document["document"])


def test_a_memory_with_a_document_removed_still_works(pointsman, model, memory, removed, off_domain, corpus):
    document, _, _ = removed
    assert pointsman.json("verify", memory)["sound"]
    other = max(documents_of(pointsman, memory, "reference"), key=lambda d: d["tokens"])
    prompt = pathlib.Path(other["source"]).read_text()[600:720]
    explained = pointsman.json("generate", "--model", model, "--memory", memory, "--prompt", prompt, "--max-tokens", "3",
                               "--explain", schema="generate")["explain"]
    neighbours = [n for step in explained for layer in step["layers"] for n in layer["neighbours"]]
    assert neighbours and document["source"] not in {n["document"] for n in neighbours}
    # eval scores what is published, trains its rivals on what is left, and takes the staleness away.
    report = pointsman.json("eval", "--model", model, "--memory", memory, "--off-domain", off_domain, "--corpus", corpus,
                            "--variants", "frozen,bias,memory", "--threads", "1", schema="eval")
    assert not report["stale"] and not manifest_of(memory)["verdict"]["stale"]


def test_a_test_document_is_removed_from_the_split(pointsman, memory):
    document = documents_of(pointsman, memory, "test")[0]
    before = manifest_of(memory)
    assert document["sha256"] in before["test_sha256"]
    report = pointsman.json("docs", "remove", memory, "--source", document["source"], schema="docs_remove")
    assert report["rows"] == report["pairs"] == 0 and report["removed"] == 1
    after = manifest_of(memory)
    assert set(before["test_sha256"]) - set(after["test_sha256"]) == {document["sha256"]}
    assert after["test_documents"] == before["test_documents"] - 1 and after["digest"] == before["digest"]


def test_several_at_once_and_what_is_said(pointsman, memory):
    first, second = documents_of(pointsman, memory, "reference")[:2]
    dry = pointsman.json("docs", "remove", memory, "--source", first["source"], "--dry-run", schema="docs_remove")
    assert dry["dry_run"] and dry["removed"] == 0 and [d["source"] for d in dry["documents"]] == [first["source"]]
    assert len(documents_of(pointsman, memory)) == manifest_of(memory)["reference_documents"] + sum(
        manifest_of(memory)[f"{role}_documents"] for role in ("calibration", "test"))
    text = pointsman.ok("docs", "remove", memory, "--source", first["source"], "--source", second["source"]).stdout
    assert first["source"] in text and second["source"] in text and "not influence" in text and "stale" in text


@pytest.fixture(scope="module")
def built_prototypes(pointsman, model, corpus, off_domain, tmp_path_factory):
    out = tmp_path_factory.mktemp("prototypes") / "memory"
    pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", out, "--kind",
                   "prototypes", "--output-memory", *SMALL_BUILD)
    return out


def test_snapshots_that_still_hold_a_removed_document_are_listed(pointsman, memory, tmp_path):
    document = documents_of(pointsman, memory, "reference")[0]
    pointsman.ok("snapshot", memory, "--out", tmp_path / "snapshots" / "monday")
    remove = ("docs", "remove", memory, "--document", document["document"], "--snapshots", tmp_path / "snapshots")
    held = [{"document": document["document"], "snapshot": "monday", "problem": None}]
    assert pointsman.json(*remove, "--dry-run", schema="docs_remove")["snapshots"] == held
    text = pointsman.ok(*remove).stdout
    assert "snapshot monday still holds" in text
    other = documents_of(pointsman, memory, "reference")[0]
    assert pointsman.json("docs", "remove", memory, "--document", other["document"], "--snapshots", tmp_path / "nowhere",
                          schema="docs_remove")["snapshots"] == []


def test_prototypes_of_a_removed_document_are_masked(pointsman, built_prototypes, tmp_path):
    memory = tmp_path / "memory"
    shutil.copytree(built_prototypes, memory)
    document = max(documents_of(pointsman, memory, "reference"), key=lambda d: d["tokens"])
    rows = pointsman.json("inspect", memory)["rows"]
    mentions = pointsman.json("inspect", memory, "--document", document["document"])["layers"]
    report = pointsman.json("docs", "remove", memory, "--document", document["document"], schema="docs_remove")
    assert 0 < report["rows"] < rows and pointsman.json("inspect", memory)["rows"] == rows - report["rows"]
    assert 0 < report["references"] < sum(layer["references"] for layer in mentions)
    assert files_with(memory, name_of(document)) == []
    assert pointsman.json("verify", memory)["sound"]


@pytest.mark.parametrize("arguments, code, parts", [
    ((), 2, ("--document", "--source", "--tag", "--expired")),
    (("--tag", "a", "--expired"), 2, ("several ways",)),
    (("--document", "12"), 2, ("--document 12", "16 hex digits")),
    (("--document", "0123456789abcdef"), 1, ("0123456789abcdef", "docs list", "nothing was removed")),
    (("--source", "nobody.h"), 1, ("nobody.h", "docs list")),
    (("--tag", "nothing"), 1, ("nothing", "tag")),
])
def test_wrong_use_changes_nothing(pointsman, memory, arguments, code, parts):
    before = manifest_of(memory)
    fails(pointsman("docs", "remove", memory, *arguments), code, *parts)
    assert manifest_of(memory) == before


def test_nothing_expired_is_nothing_done(pointsman, memory):
    before = manifest_of(memory)
    report = pointsman.json("docs", "remove", memory, "--expired", schema="docs_remove")
    assert report["removed"] == 0 and report["documents"] == [] and manifest_of(memory) == before
    assert "nothing to do" in pointsman.ok("docs", "remove", memory, "--expired").stdout


@pytest.fixture(scope="module")
def new_text(tmp_path_factory):
    """Headers of the corpus's kind that are not in it."""
    root = sorted(pathlib.Path("/usr/include/c++").iterdir())[-1]
    folder = tmp_path_factory.mktemp("new_text")
    for path in [p for p in sorted(root.glob("bits/*.h")) if 1500 < p.stat().st_size < 12_000][48:52]:
        shutil.copy(path, folder / path.name)
    return folder


def add(pointsman, model, memory, *arguments, **options):
    return pointsman.json("docs", "add", memory, "--model", model, "--threads", "1", "--corpus", *arguments, schema="docs_add",
                          **options)


def test_added_documents_route_at_once(pointsman, model, memory, new_text):
    before = pointsman.json("inspect", memory)
    report = add(pointsman, model, memory, new_text, "--tag", "new", "--tag", "headers", "--ttl", "3600")
    assert len(report["documents"]) == 4 and report["refused"] == [] and report["notes"] == []
    assert report["tokens"] == sum(d["tokens"] for d in report["documents"])
    assert report["rows"] == report["tokens"] * len(before["layers"]) and report["pairs"] > 0
    for document in report["documents"]:
        assert document["tags"] == ["new", "headers"] and document["role"] == "reference"
        assert document["expires_unix_s"] == document["added_unix_s"] + 3600
    listed = pointsman.json("docs", "list", memory, "--tag", "new", schema="docs_list")["documents"]
    assert {d["document"] for d in listed} == {d["document"] for d in report["documents"]}
    after = pointsman.json("inspect", memory, schema="inspect")
    assert after["verdict"]["stale"] and after["rows"] == before["rows"] + report["rows"]
    assert after["reference_tokens"] == before["reference_tokens"] + report["tokens"]
    assert after["added_share"] == pytest.approx(report["tokens"] / after["reference_tokens"])
    assert not before["rebuild_recommended"] and before["added_share"] == 0
    assert after["rebuild_recommended"] == (after["added_share"] > 0.25)
    assert pointsman.json("verify", memory)["sound"]
    largest = max(report["documents"], key=lambda d: d["tokens"])
    prompt = pathlib.Path(largest["source"]).read_text()[2200:2320]  # behind the licence, which is in many
    steps = pointsman.json("generate", "--model", model, "--memory", memory, "--prompt", prompt, "--max-tokens", "3",
                           "--explain")["explain"]
    neighbours = [n for step in steps for layer in step["layers"] for n in layer["neighbours"]]
    assert largest["source"] in {n["document"] for n in neighbours}


def test_progress_of_an_addition_for_programs(pointsman, model, memory, new_text):
    done = pointsman.ok("docs", "add", memory, "--model", model, "--threads", "1", "--corpus", new_text, "--progress", "json", "--json")
    trained = [u for u in map(json.loads, (line for line in done.stderr.splitlines() if line.startswith("{"))) if u["stage"] == "train"]
    assert trained[0]["done"] == 0 and trained[-1]["done"] == trained[-1]["total"] > json.loads(done.stdout)["tokens"]
    assert 0 < trained[-1]["loss"] < 20


def test_threads_do_not_change_what_is_added(pointsman, model, memory, new_text, tmp_path):
    twin = shutil.copytree(memory, tmp_path / "twin")
    add(pointsman, model, memory, new_text)
    pointsman.ok("docs", "add", twin, "--model", model, "--corpus", new_text, "--threads", "2")
    assert pointsman.ok("inspect", twin, "--digest").stdout == pointsman.ok("inspect", memory, "--digest").stdout


def test_what_was_added_and_removed_leaves_the_memory_bit_for_bit(pointsman, model, memory, new_text):
    before = manifest_of(memory)
    add(pointsman, model, memory, new_text, "--tag", "passing")
    assert manifest_of(memory)["digest"] != before["digest"]
    assert pointsman.json("docs", "remove", memory, "--tag", "passing", schema="docs_remove")["removed"] == 4
    after = manifest_of(memory)
    assert {key: after[key] for key in ("digest", "entries", "reference_tokens", "reference_documents")} == {
        key: before[key] for key in ("digest", "entries", "reference_tokens", "reference_documents")}


def test_a_single_document_expires(pointsman, model, memory, new_text, off_domain):
    one = sorted(new_text.iterdir())[0]
    report = add(pointsman, model, memory, one, "--ttl", "1", "--name", "chat/1")
    assert [d["source"] for d in report["documents"]] == ["chat/1"] and report["rows"] > 0
    other = sorted(off_domain.iterdir())[0]
    fails(pointsman("docs", "add", memory, "--model", model, "--corpus", other, "--name", "chat/1"), 2, "chat/1", "docs remove")
    time.sleep(2)
    gone = pointsman.json("docs", "remove", memory, "--expired", schema="docs_remove")
    assert [d["source"] for d in gone["documents"]] == ["chat/1"] and gone["removed"] == 1
    assert files_with(memory, b"chat/1") == []


def test_added_prototypes_and_output_rows(pointsman, model, built_prototypes, new_text, tmp_path):
    memory = shutil.copytree(built_prototypes, tmp_path / "memory")
    before = pointsman.json("inspect", memory)
    report = add(pointsman, model, memory, new_text)
    layers = len(before["layers"])
    density = before["rows"] / layers / before["reference_tokens"]
    assert report["rows"] == layers * max(1, round(density * report["tokens"]))
    assert report["output_rows"] == report["tokens"]
    after = pointsman.json("inspect", memory, schema="inspect")
    assert after["rows"] == before["rows"] + report["rows"]
    assert after["output"]["rows"] == before["output"]["rows"] + report["output_rows"]
    assert pointsman.json("verify", memory)["sound"]


def copy_of(document, folder, changed):
    """A document's file under another name, with a line more."""
    path = folder / "copy.h"
    path.write_text(pathlib.Path(document["source"]).read_text() + ("// a line more\n" if changed else ""))
    return path


@pytest.mark.parametrize("role", ["reference", "calibration", "test"])
@pytest.mark.parametrize("changed", [False, True])
def test_copies_of_what_is_there_or_of_the_test_split_are_refused(pointsman, model, memory, tmp_path, role, changed):
    document = documents_of(pointsman, memory, role)[0]
    before = manifest_of(memory)
    path = copy_of(document, tmp_path, changed)
    fails(pointsman("docs", "add", memory, "--model", model, "--corpus", path), 2, str(path), document["source"], role,
          "near-duplicate" if changed else "has the content of", "nothing was added")
    assert manifest_of(memory) == before


def test_one_copy_does_not_keep_the_others_out(pointsman, model, memory, new_text, tmp_path):
    document = documents_of(pointsman, memory, "test")[0]
    folder = shutil.copytree(new_text, tmp_path / "mixed")
    path = copy_of(document, folder, changed=True)
    report = add(pointsman, model, memory, folder)
    assert len(report["documents"]) == 4
    assert [r["source"] for r in report["refused"]] == [str(path)] and document["source"] in report["refused"][0]["reason"]
    (folder / "copy.h").unlink()
    changed = sorted(folder.iterdir())[0]
    changed.write_text(changed.read_text()[::-1])
    fails(pointsman("docs", "add", memory, "--model", model, "--corpus", changed), 2, str(changed), "docs remove")


def test_documents_are_added_for_the_memorys_model_only(pointsman, other_model, model, memory, new_text, tmp_path):
    fails(pointsman("docs", "add", memory, "--model", other_model, "--corpus", new_text), 1, "router")
    fails(pointsman("docs", "add", memory, "--model", model, "--corpus", tmp_path / "nowhere"), 1, "nowhere")
    (tmp_path / "short.txt").write_text("too short")
    fails(pointsman("docs", "add", memory, "--model", model, "--corpus", tmp_path / "short.txt"), 2, "16 tokens")
