"""Snapshots, restores and rollbacks through the network, while the memory is in use."""

import concurrent.futures
import fcntl
import hashlib
import http.client
import io
import json
import pathlib
import shutil
import signal
import tarfile
import threading

import pytest

from conftest import SMALL_BUILD
from serving import PROMPT, Server

SNAPSHOTS = "/v1/memories/headers/snapshots"


@pytest.fixture(scope="module")
def two_generations(pointsman, model, built_memory, tmp_path_factory):
    """The memory, then with a document more: what rollback goes back to, and from."""
    folder = tmp_path_factory.mktemp("two")
    memory = shutil.copytree(built_memory, folder / "memory")
    (folder / "new").mkdir()
    (folder / "new" / "added.h").write_text("// Added later.\n" + "int later = 1;\n" * 40)
    pointsman.ok("docs", "add", memory, "--model", model, "--corpus", folder / "new", "--threads", "1")
    return memory


@pytest.fixture
def place(pointsman, model, two_generations, tmp_path):
    """A server of its own on a memory of its own, with room for snapshots."""
    memory = shutil.copytree(two_generations, tmp_path / "memory")
    running = Server(pointsman, "--model", model, "--memory", f"headers={memory}", "--threads", "1", "--allow-rejected",
                     "--snapshots", tmp_path / "snapshots", "--audit-log", tmp_path / "audit")
    running.memory, running.folder, running.audit = memory, tmp_path / "snapshots", tmp_path / "audit"
    yield running
    running.stop(signal.SIGKILL)


def audited(server):
    return [(line["event"], line["outcome"]) for line in map(json.loads, server.audit.read_text().splitlines())]


def text_of(server):
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    return server.ok("POST", "/v1/completions", body)["choices"][0]["text"]


class Load:
    """Completions from several clients until it is left; every answer is kept."""

    def __init__(self, server, clients=3):
        self.server, self.clients, self.stop, self.texts = server, clients, threading.Event(), []

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(self.clients)
        self.running = [self.pool.submit(self.ask) for _ in range(self.clients)]
        return self

    def ask(self):
        while not self.stop.is_set():
            self.texts.append(text_of(self.server))

    def __exit__(self, *error):
        self.stop.set()
        for one in self.running:
            one.result()  # raises if a request failed


def test_a_snapshot_is_taken_listed_and_removed(place):
    assert place.ok("GET", SNAPSHOTS) == {"object": "list", "data": []}
    taken = place.ok("POST", SNAPSHOTS, {"name": "monday"}, status=201)
    manifest = json.loads((place.memory / "MANIFEST.json").read_text())
    assert taken["object"] == "snapshot" and taken["generation"] == manifest["generation"]
    assert place.ok("GET", f"{SNAPSHOTS}/monday") == taken
    unnamed = place.ok("POST", SNAPSHOTS, status=201)
    again = place.ok("POST", SNAPSHOTS, {}, status=201)
    assert len({taken["name"], unnamed["name"], again["name"]}) == 3
    assert {s["name"] for s in place.ok("GET", SNAPSHOTS)["data"]} == {"monday", unnamed["name"], again["name"]}
    place.refused("POST", SNAPSHOTS, {"name": "monday"}, 409, "conflict")
    assert place.ok("DELETE", f"{SNAPSHOTS}/monday")["deleted"]
    place.refused("GET", f"{SNAPSHOTS}/monday", None, 404, "not_found")
    place.refused("DELETE", f"{SNAPSHOTS}/monday", None, 404, "not_found")
    assert audited(place) == [("snapshot.create", "ok")] * 3 + [("snapshot.delete", "ok")]
    assert {p.name for p in (place.folder / "headers").iterdir()} == {unnamed["name"], again["name"]}


def test_snapshots_and_restores_while_completions_run(place, pointsman):
    before = text_of(place)
    with Load(place) as load:
        place.ok("POST", SNAPSHOTS, {"name": "busy"}, status=201)
        place.ok("POST", "/v1/memories/headers/rollback")
        for _ in range(3):
            restored = place.ok("POST", f"{SNAPSHOTS}/busy/restore")
    assert place.ok("GET", "/v1/memories/headers")["generation"] == restored["generation"]
    assert text_of(place) == before and len(load.texts) > 3
    assert "sound" in pointsman.ok("verify", place.memory).stdout
    assert "sound" in pointsman.ok("verify", place.folder / "headers" / "busy").stdout
    assert [a for a in audited(place) if a[0] == "snapshot.restore"] == [("snapshot.restore", "ok")] * 3


def test_rollback_goes_back_and_forth_without_a_failed_request(place, pointsman):
    now = json.loads((place.memory / "MANIFEST.json").read_text())["generation"]
    after = text_of(place)
    before = place.ok("POST", "/v1/memories/headers/rollback", {})["generation"]
    assert before < now and place.ok("GET", "/v1/memories/headers")["generation"] == before
    earlier = text_of(place)
    with Load(place) as load:
        for _ in range(4):
            assert place.ok("POST", "/v1/memories/headers/rollback", {"generation": now})["generation"] == now
            assert place.ok("POST", "/v1/memories/headers/rollback")["generation"] == before
    assert set(load.texts) <= {earlier, after}
    assert "kept" in place.refused("POST", "/v1/memories/headers/rollback", {"generation": 99}, 409, "conflict")["message"]
    place.refused("POST", "/v1/memories/headers/rollback", {"generation": 0}, 400, "invalid_value")
    assert audited(place)[0] == ("memory.rollback", "ok") and audited(place)[-1] == ("memory.rollback", "refused")
    assert "sound" in pointsman.ok("verify", place.memory).stdout


def test_a_download_is_the_snapshot_and_restores_elsewhere(place, pointsman, tmp_path):
    taken = place.ok("POST", SNAPSHOTS, {"name": "away"}, status=201)
    status, headers, raw = place.ask("GET", f"{SNAPSHOTS}/away/file")
    assert status == 200 and headers["Content-Type"] == "application/x-tar" and "away.tar" in headers["Content-Disposition"]
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        members = archive.getmembers()
        assert all(m.isfile() and m.name.startswith("away/") and ".." not in m.name for m in members)
        archive.extractall(tmp_path / "elsewhere", filter="data")
    folder = tmp_path / "elsewhere" / "away"
    stored = place.folder / "headers" / "away"
    names = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert names == {p.relative_to(stored) for p in stored.rglob("*") if p.is_file()}
    assert all((folder / n).read_bytes() == (stored / n).read_bytes() for n in names)
    record = json.loads((folder / "SNAPSHOT.json").read_text())
    digest = record.pop("sha256")
    assert hashlib.sha256(json.dumps(record, indent=2, sort_keys=True).encode()).hexdigest() == digest == taken["sha256"]
    pointsman.ok("restore", folder, "--out", tmp_path / "memory2")
    assert "sound" in pointsman.ok("verify", tmp_path / "memory2").stdout


def test_a_download_of_changed_bytes_breaks_off(place):
    place.ok("POST", SNAPSHOTS, {"name": "cut"}, status=201)
    stored = place.folder / "headers" / "cut"
    largest = max((p for p in stored.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    connection.request("GET", f"{SNAPSHOTS}/cut/file")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        connection.getresponse().read()
    assert place.ok("GET", "/healthz")["status"] == "ok"


def test_a_slow_or_leaving_client_holds_nothing_up(place):
    place.ok("POST", SNAPSHOTS, {"name": "slow"}, status=201)
    connections = [http.client.HTTPConnection("127.0.0.1", place.port, timeout=60) for _ in range(6)]
    for connection in connections:
        connection.request("GET", f"{SNAPSHOTS}/slow/file")
        assert connection.getresponse().read(1000)
    assert text_of(place)
    for connection in connections:
        connection.close()
    assert place.ok("DELETE", f"{SNAPSHOTS}/slow")["deleted"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "record"])
def test_a_damaged_snapshot_is_refused_and_the_memory_stays(place, pointsman, damage):
    place.ok("POST", SNAPSHOTS, {"name": "bad"}, status=201)
    place.ok("POST", "/v1/memories/headers/rollback")
    manifest, text = (place.memory / "MANIFEST.json").read_bytes(), text_of(place)
    stored = place.folder / "headers" / "bad"
    path = max((p for p in stored.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == "record":
        path = stored / "SNAPSHOT.json"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    else:
        path.write_bytes(data[:len(data) // 2])
    error = place.refused("POST", f"{SNAPSHOTS}/bad/restore", None, 422, "unprocessable")
    assert "damaged" in error["message"] and str(place.folder) not in error["message"]
    assert (place.memory / "MANIFEST.json").read_bytes() == manifest and text_of(place) == text
    assert "sound" in pointsman.ok("verify", place.memory).stdout
    assert audited(place)[-1] == ("snapshot.restore", "failed")
    assert not list(place.memory.parent.glob("*.restoring.tmp"))


def test_what_the_server_would_not_load_does_not_replace_its_memory(place, pointsman, other_model, corpus, off_domain, tmp_path):
    foreign = tmp_path / "foreign"
    pointsman.json("build", "--model", other_model, "--corpus", corpus, "--off-domain", off_domain, "--out", foreign,
                   "--kind", "entries", *SMALL_BUILD)
    pointsman.ok("snapshot", foreign, "--out", place.folder / "headers" / "foreign")
    manifest = (place.memory / "MANIFEST.json").read_bytes()
    place.refused("POST", f"{SNAPSHOTS}/foreign/restore", None, 409, "fingerprint_mismatch")
    assert (place.memory / "MANIFEST.json").read_bytes() == manifest and text_of(place)


def test_a_memory_that_is_being_written_is_not_replaced_but_copied(place, pointsman):
    place.ok("POST", SNAPSHOTS, {"name": "first"}, status=201)
    manifest = (place.memory / "MANIFEST.json").read_bytes()
    with open(place.memory / "LOCK", "r+") as lock:  # what a writer of another process holds
        fcntl.flock(lock, fcntl.LOCK_EX)
        place.refused("POST", f"{SNAPSHOTS}/first/restore", None, 409, "conflict")
        place.refused("POST", "/v1/memories/headers/rollback", None, 409, "conflict")
        place.ok("POST", SNAPSHOTS, {"name": "beside"}, status=201)
    assert (place.memory / "MANIFEST.json").read_bytes() == manifest
    assert "sound" in pointsman.ok("verify", place.folder / "headers" / "beside").stdout
    place.ok("POST", f"{SNAPSHOTS}/beside/restore")
    assert "sound" in pointsman.ok("verify", place.memory).stdout


def test_a_deleted_document_names_the_snapshots_that_still_hold_it(place):
    document = place.ok("GET", "/v1/memories/headers/documents")["data"][0]["id"]
    for name in ("old", "unreadable"):
        place.ok("POST", SNAPSHOTS, {"name": name}, status=201)
    (place.folder / "headers" / "unreadable" / "truth" / "CURRENT").unlink()
    assert place.ok("DELETE", f"/v1/memories/headers/documents/{document}")["snapshots"] == ["old", "unreadable"]
    place.ok("POST", SNAPSHOTS, {"name": "new"}, status=201)
    place.refused("POST", "/v1/memories/headers/rollback", None, 409, "conflict")  # it would bring the document back
    other = place.ok("GET", "/v1/memories/headers/documents")["data"][0]["id"]
    assert place.ok("DELETE", f"/v1/memories/headers/documents/{other}")["snapshots"] == ["new", "old", "unreadable"]


HOSTILE = ["..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc", "..%2f..%2fsecret", "%2fetc%2fpasswd", "a%00b", "%00", ".hidden", "Upper",
           "a b".replace(" ", "%20"), "x.tmp", "a" * 65, "%c3%bc", "a%0ab"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_the_path_reach_nothing(place, name):
    secret = place.folder.parent / "secret"
    shutil.copytree(place.memory, secret)
    (secret / "SNAPSHOT.json").write_text("{}")
    for method, tail in (("GET", ""), ("GET", "/file"), ("POST", "/restore"), ("DELETE", "")):
        status, _, answer = place.ask(method, f"{SNAPSHOTS}/{name}{tail}")
        assert status in (400, 404, 405), (method, tail, status, answer)
    assert (secret / "SNAPSHOT.json").exists() and not (place.audit.exists() and audited(place))


@pytest.mark.parametrize("name", ["..", "../x", "/etc/x", "a/b", "a\u0000b", "", ".x", "X", "x.tmp", "a" * 65, "ü", 7, ["a"]])
def test_hostile_names_in_the_body_are_refused(place, name):
    place.refused("POST", SNAPSHOTS, {"name": name}, 400, "invalid_value")
    assert not place.folder.exists()


def test_without_a_directory_it_says_which_flag_is_missing(pointsman, model, built_memory):
    server = Server(pointsman, "--model", model, "--memory", f"headers={built_memory}", "--threads", "1", "--allow-rejected")
    try:
        for method, path in (("GET", ""), ("POST", ""), ("GET", "/x"), ("GET", "/x/file"), ("POST", "/x/restore"), ("DELETE", "/x")):
            error = server.refused(method, SNAPSHOTS + path, None, 403, "insufficient_permissions")
            assert "--snapshots" in error["message"]
        server.refused("GET", "/v1/memories/nobody/snapshots", None, 404, "not_found")
        server.refused("POST", "/v1/memories/headers/rollback", None, 409, "conflict")
    finally:
        server.stop(signal.SIGKILL)


def test_keys_see_their_own_memories_snapshots_and_do_what_they_may(pointsman, model, built_memory, tmp_path):
    keys = tmp_path / "keys"

    def key(name, access, *more):
        return {"Authorization": "Bearer " + pointsman.json("keys", "new", "--keys", keys, "--name", name,
                                                            "--access", access, *more)["key"]}

    reader, writer, admin = (key(a, a) for a in ("read-only", "read-write", "admin"))
    confined = key("confined", "admin", "--memories", "theirs")
    ours, theirs = (shutil.copytree(built_memory, tmp_path / n) for n in ("ours", "theirs"))
    server = Server(pointsman, "--model", model, "--memory", f"headers={ours}", "--memory", f"theirs={theirs}", "--threads", "1",
                    "--allow-rejected", "--keys", keys, "--snapshots", tmp_path / "snapshots")
    try:
        server.refused("POST", SNAPSHOTS, {"name": "a"}, 403, "insufficient_permissions", reader)
        server.ok("POST", SNAPSHOTS, {"name": "a"}, status=201, headers=writer)
        assert server.ok("GET", f"{SNAPSHOTS}/a", headers=reader)["name"] == "a"
        server.refused("POST", f"{SNAPSHOTS}/a/restore", None, 403, "insufficient_permissions", writer)
        server.refused("POST", "/v1/memories/headers/rollback", None, 403, "insufficient_permissions", writer)
        server.refused("DELETE", f"{SNAPSHOTS}/a", None, 403, "insufficient_permissions", reader)
        for method, path in (("GET", ""), ("POST", ""), ("GET", "/a"), ("GET", "/a/file"), ("POST", "/a/restore"), ("DELETE", "/a")):
            server.refused(method, SNAPSHOTS + path, None, 404, "not_found", confined)
        server.refused("POST", "/v1/memories/headers/rollback", None, 404, "not_found", confined)
        assert server.ok("GET", "/v1/memories/theirs/snapshots", headers=confined)["data"] == []
        server.ok("POST", "/v1/memories/theirs/snapshots", {"name": "b"}, status=201, headers=confined)
        server.ok("POST", "/v1/memories/theirs/snapshots/b/restore", headers=confined)
        server.refused("GET", "/v1/memories/theirs/snapshots/a", None, 404, "not_found", confined)
        server.ok("POST", f"{SNAPSHOTS}/a/restore", headers=admin)
        assert pathlib.Path(ours / "MANIFEST.json").exists()
    finally:
        server.stop(signal.SIGKILL)
