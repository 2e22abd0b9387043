"""Documents of a memory: listed with their tags, deleted with their bytes, expired."""

import json
import pathlib

import pytest
from conftest import fails


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


def test_a_memory_with_a_document_removed_still_works(pointsman, model, memory, removed, off_domain):
    document, _, _ = removed
    assert pointsman.json("verify", memory)["sound"]
    other = max(documents_of(pointsman, memory, "reference"), key=lambda d: d["tokens"])
    prompt = pathlib.Path(other["source"]).read_text()[600:720]
    explained = pointsman.json("generate", "--model", model, "--memory", memory, "--prompt", prompt, "--max-tokens", "3",
                               "--explain", schema="generate")["explain"]
    neighbours = [n for step in explained for layer in step["layers"] for n in layer["neighbours"]]
    assert neighbours and document["source"] not in {n["document"] for n in neighbours}
    # eval scores what is published, trains its rivals on what is left, and takes the staleness away.
    report = pointsman.json("eval", "--model", model, "--memory", memory, "--off-domain", off_domain, "--corpus",
                            pathlib.Path(document["source"]).parent, "--variants", "frozen,bias,memory", "--threads", "1",
                            schema="eval")
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


def test_prototypes_of_a_removed_document_are_masked(pointsman, model, corpus, off_domain, tmp_path):
    memory = tmp_path / "memory"
    pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", memory, "--kind",
                   "prototypes", "--max-tokens", "4000", "--max-test-tokens", "2000", "--preset", "fast", "--threads", "1")
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
