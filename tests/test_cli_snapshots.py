"""Going back: snapshots taken while somebody writes, restores, rollbacks; and compacting."""

import hashlib
import json
import time

import pytest
from conftest import fails, flip_bit, truncate


def manifest_of(memory):
    return json.loads((memory / "MANIFEST.json").read_text())


def record_of(snapshot):
    return json.loads((snapshot / "SNAPSHOT.json").read_text())


def bytes_of(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != "LOCK"}


@pytest.fixture
def snapshot(pointsman, memory, tmp_path):
    pointsman.json("snapshot", memory, "--out", tmp_path / "backups" / "monday", schema="snapshot")
    return tmp_path / "backups" / "monday"


def republish(pointsman, memory):
    """Another generation, the way users get one: a document goes."""
    document = pointsman.json("docs", "list", memory)["documents"][0]
    pointsman.ok("docs", "remove", memory, "--document", document["document"])
    return document


def test_a_snapshot_is_what_it_says_and_the_memory_stays_as_it_was(pointsman, memory, tmp_path):
    before = bytes_of(memory)
    out = tmp_path / "backups" / "monday"
    report = pointsman.json("snapshot", memory, "--out", out, schema="snapshot")
    assert bytes_of(memory) == before
    assert report["digest"] == manifest_of(memory)["digest"] and report["name"] == "monday"
    record = record_of(out)
    assert {f["path"] for f in record["files"]} | {"SNAPSHOT.json"} == set(bytes_of(out))
    for file in record["files"]:
        data = (out / file["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
    assert report["bytes"] == sum(f["bytes"] for f in record["files"]) and report["files"] == len(record["files"])
    digest = record.pop("sha256")
    assert hashlib.sha256(json.dumps(record, indent=2, sort_keys=True).encode()).hexdigest() == digest == report["sha256"]
    assert "sound" in pointsman.ok("verify", out).stdout  # a snapshot is a memory as well
    assert sorted(p.name for p in (tmp_path / "backups").iterdir()) == ["monday"]


def test_a_restored_memory_generates_the_same(pointsman, model, memory, snapshot, tmp_path):
    generate = ("generate", "--model", model, "--prompt", "#include <", "--max-tokens", "8", "--threads", "1", "--memory")
    expected = pointsman.ok(*generate, memory).stdout
    report = pointsman.json("restore", snapshot, "--out", tmp_path / "new", schema="restore")
    assert report["digest"] == manifest_of(memory)["digest"]
    assert pointsman.ok(*generate, tmp_path / "new").stdout == expected
    assert "sound" in pointsman.ok("verify", tmp_path / "new").stdout
    assert pointsman.json("docs", "list", tmp_path / "new") == pointsman.json("docs", "list", memory)


def test_restoring_over_a_changed_memory_brings_all_back(pointsman, memory, snapshot):
    listed = pointsman.json("docs", "list", memory)
    gone = republish(pointsman, memory)
    assert gone["document"] not in [d["document"] for d in pointsman.json("docs", "list", memory)["documents"]]
    highest = manifest_of(memory)["generation"]
    pointsman.json("restore", snapshot, "--out", memory, schema="restore")
    assert pointsman.json("docs", "list", memory) == listed
    assert "sound" in pointsman.ok("verify", memory).stdout
    republish(pointsman, memory)
    assert manifest_of(memory)["generation"] > highest


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "record"])
def test_a_damaged_snapshot_restores_nothing(pointsman, memory, snapshot, damage):
    before = bytes_of(memory)
    path = max((snapshot / f["path"] for f in record_of(snapshot)["files"]), key=lambda p: p.stat().st_size)
    if damage == "flipped":
        flip_bit(path, path.stat().st_size // 2)
    elif damage == "truncated":
        truncate(path)
    elif damage == "missing":
        path.unlink()
    else:
        path = snapshot / "SNAPSHOT.json"
        truncate(path)
    fails(pointsman("restore", snapshot, "--out", memory), 1, path.name, "use another snapshot")
    assert bytes_of(memory) == before


def test_a_snapshot_beside_a_running_build_is_a_sound_memory(pointsman, model, corpus, off_domain, tmp_path):
    memory = tmp_path / "memory"  # published, then scored for its verdict: the build is its writer all the time
    build = pointsman.start("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", memory,
                            "--kind", "entries", "--preset", "fast", "--max-tokens", "4000", "--max-test-tokens", "40000",
                            "--threads", "1")
    try:
        until = time.monotonic() + 200
        while not (memory / "MANIFEST.json").exists() and time.monotonic() < until:
            assert build.poll() is None, "the build failed"
            time.sleep(0.02)
        out = tmp_path / "backups" / "during"
        pointsman.json("snapshot", memory, "--out", out, schema="snapshot")
        assert build.poll() is None, "the build was over before the snapshot"
        assert "sound" in pointsman.ok("verify", out).stdout
        pointsman.ok("restore", out, "--out", tmp_path / "restored")
        assert "sound" in pointsman.ok("verify", tmp_path / "restored").stdout
    finally:
        build.kill()
        build.wait()


def test_wrong_use_is_named(pointsman, memory, snapshot, tmp_path):
    fails(pointsman("snapshot", memory), 2, "--out DIR is missing")
    fails(pointsman("snapshot", memory, "--out", snapshot), 2, "monday", "is there already")
    fails(pointsman("snapshot", memory, "--out", tmp_path / "Monday Morning"), 2, "a snapshot's name")
    fails(pointsman("snapshot", tmp_path / "nowhere", "--out", tmp_path / "x"), 1, "nowhere")
    fails(pointsman("restore", memory, "--out", tmp_path / "x"), 1, "not a snapshot")
    (memory / "notes.txt").write_text("the user's")
    fails(pointsman("restore", snapshot, "--out", memory), 2, "notes.txt")
    assert not (tmp_path / "x").exists() and (memory / "notes.txt").exists()


def test_rollback_goes_to_the_generation_before_and_back(pointsman, model, memory, tmp_path):
    first = manifest_of(memory)
    fails(pointsman("rollback", memory), 1, "no other is kept")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "added.h").write_text("// Added later.\n" + "int later = 1;\n" * 40)
    pointsman.ok("docs", "add", memory, "--model", model, "--corpus", tmp_path / "new", "--threads", "1")
    second = manifest_of(memory)
    assert second["digest"] != first["digest"]
    generations = {m["generation"]: m for m in (first, second)}
    for target in (first, second, first):
        report = pointsman.json("rollback", memory, schema="rollback")
        assert report["generation"] == target["generation"] and report["digest"] == target["digest"]
        now = manifest_of(memory)
        assert now == generations[report["generation"]] | {"truth_sequence": now["truth_sequence"]}
        assert "sound" in pointsman.ok("verify", memory).stdout
        assert pointsman.ok("inspect", memory, "--digest").stdout.strip() == target["digest"]
    assert pointsman.json("rollback", memory, "--generation", second["generation"])["before"] == first["generation"]
    fails(pointsman("rollback", memory, "--generation", "99"), 1, "only", "is kept")


def test_rollback_brings_no_deleted_document_back(pointsman, memory):
    republish(pointsman, memory)
    fails(pointsman("rollback", memory), 1, "no other is kept")


def test_compact_says_what_it_freed(pointsman, memory):
    listed = pointsman.json("docs", "list", memory)
    (memory / "derived" / "gen-099.tmp").mkdir()
    (memory / "derived" / "gen-099.tmp" / "gate.bin").write_bytes(bytes(100_000))
    report = pointsman.json("compact", memory, schema="compact")
    assert report["bytes_after"] <= report["bytes_before"] - 95_000  # what RocksDB writes anew may be some hundred bytes longer
    assert report["bytes_after"] == sum(p.stat().st_size for p in memory.rglob("*") if p.is_file())
    assert pointsman.json("docs", "list", memory) == listed
    assert "sound" in pointsman.ok("verify", memory).stdout


def test_a_snapshot_from_elsewhere_is_only_data(pointsman, snapshot, tmp_path):
    record = record_of(snapshot)
    record.pop("sha256")
    record["files"][0]["path"] = "../../secret"
    digest = hashlib.sha256(json.dumps(record, indent=2, sort_keys=True).encode()).hexdigest()
    (snapshot / "SNAPSHOT.json").write_text(json.dumps(record | {"sha256": digest}))
    fails(pointsman("restore", snapshot, "--out", tmp_path / "out"), 1, "a file that no memory has")
    assert not (tmp_path / "out").exists()
