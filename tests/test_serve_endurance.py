"""A server that is killed while it writes, and one that runs for long. Short here; the long runs are one command each:

    POINTSMAN_CRASHES=50 .venv/bin/python -m pytest tests/test_serve_endurance.py -k killed -s
    POINTSMAN_SOAK_SECONDS=600 .venv/bin/python -m pytest tests/test_serve_endurance.py -k hours -s
"""

import concurrent.futures
import contextlib
import http.client
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import statistics
import threading
import time

import pytest

from serving import Server

CRASHES = int(os.environ.get("POINTSMAN_CRASHES", 4))
SOAK_SECONDS = float(os.environ.get("POINTSMAN_SOAK_SECONDS", 20))
GONE = (ConnectionError, http.client.HTTPException, OSError, AssertionError)  # AssertionError: an answer cut short


@pytest.fixture(scope="module")
def many_documents(pointsman, model, corpus, off_domain, tmp_path_factory):
    out = tmp_path_factory.mktemp("many") / "memory"
    pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", out, "--kind", "entries",
                   "--preset", "fast", "--threads", "1", "--max-tokens", "24000", "--max-test-tokens", "2000", schema="build")
    return out


class Writers:
    """Clients that delete documents of a server until it dies, and remember what it acknowledged."""

    def __init__(self, server, documents, seed):
        self.server, self.random = server, random.Random(seed)
        self.left, self.acknowledged, self.asked = list(documents), [], []
        self.random.shuffle(self.left)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while self.left:
            document = self.left.pop()
            self.asked.append(document)
            try:
                self.server.ok("DELETE", f"/v1/memories/headers/documents/{document}")
            except GONE:
                return
            self.acknowledged.append(document)


def ids(server):
    return [d["id"] for d in server.ok("GET", "/v1/memories/headers/documents?limit=1000")["data"]]


def test_what_was_acknowledged_survives_being_killed(pointsman, model, many_documents, tmp_path):
    memory, jobs = tmp_path / "memory", tmp_path / "jobs"

    def start():
        begun = time.monotonic()
        server = Server(pointsman, "--model", model, "--memory", f"headers={memory}", "--allow-rejected", "--threads", "1", "--jobs", jobs)
        assert server.ok("GET", "/readyz")["status"] == "ready"
        return server, time.monotonic() - begun

    shutil.copytree(many_documents, memory)
    normal = []
    for _ in range(3):
        server, seconds = start()
        normal.append(seconds)
        server.stop()
    deleted, starts, pending, acknowledged = set(), [], [], 0
    known, asked = None, set()
    for crash in range(CRASHES):
        server, seconds = start()
        if crash > 0:
            starts.append(seconds)
        present = ids(server)
        if known is not None:
            assert not deleted & set(present), "a deletion was acknowledged and is undone"
            # What was never asked to go is there. A deletion that a crash interrupted is finished by the next one.
            lost = known - asked - set(present)
            assert not lost, f"lost {lost}; asked for {asked}, acknowledged {writers.acknowledged}"
        for job in pending:
            assert server.ok("GET", f"/v1/jobs/{job}")["id"] == job, "an accepted job is lost"
        if len(present) < 8:
            server.stop()
            shutil.rmtree(memory)
            shutil.copytree(many_documents, memory)
            deleted, known, asked = set(), None, set()
            server, _ = start()
            present = ids(server)
        known = set(present)
        if crash % 4 == 3:
            pending.append(server.ok("POST", "/v1/memories/headers/documents",
                                     {"text": f"int crash_{crash}(int lever);\n" * 20, "name": f"crash{crash}.h"}, 202)["id"])
        writers = Writers(server, present, crash)
        enough = writers.random.randint(0, 3)  # and dies somewhere in the next one
        while len(writers.acknowledged) < enough and writers.thread.is_alive():
            time.sleep(0.005)
        time.sleep(writers.random.uniform(0.0, 0.3))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        writers.thread.join()
        deleted |= set(writers.acknowledged)
        acknowledged += len(writers.acknowledged)
        asked |= set(writers.asked)
    server, seconds = start()
    starts.append(seconds)
    try:
        assert not deleted & set(ids(server))
        deadline = time.monotonic() + 120
        for job in pending:
            while server.ok("GET", f"/v1/jobs/{job}")["status"] in ("queued", "running"):
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        server.stop()
    assert pointsman.json("verify", memory, schema="verify")["findings"] == []
    assert acknowledged >= CRASHES / 2
    print(f"\n{CRASHES} crashes, {acknowledged} acknowledged deletions; start {statistics.median(normal):.2f} s normally, "
          f"{statistics.median(starts):.2f} s (at most {max(starts):.2f} s) after a crash")
    assert statistics.median(starts) <= 2 * statistics.median(normal) + 0.2  # of a start that takes a third of a second


def resources(pid):
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE"), len(os.listdir(f"/proc/{pid}/fd"))


class Soak:
    """One of everything that clients do, again and again."""

    def __init__(self, server, sessions):
        self.server, self.sessions, self.stop, self.done = server, sessions, False, 0

    def completion(self, r):
        self.server.ok("POST", "/v1/completions", {"prompt": "template <", "max_tokens": r.randint(1, 24), "n": r.randint(1, 3),
                                                   "memory": r.choice(["headers", None]), "explain": r.random() < 0.3})

    def chat(self, r):
        self.server.ok("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "class"}], "max_tokens": r.randint(1, 12)})

    def stream(self, r):
        status, _, body = self.server.ask("POST", "/v1/completions", {"prompt": "int main", "max_tokens": 12, "stream": True})
        assert status == 200 and body.rstrip().endswith(b"[DONE]")

    def gone_in_the_middle(self, r):
        with socket.create_connection(("127.0.0.1", self.server.port)) as raw:
            body = b'{"prompt": "for (", "max_tokens": 90, "stream": true}'
            raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
                        + str(len(body)).encode() + b"\r\n\r\n" + body[:r.randint(0, len(body))])

    def session(self, r):
        session = self.server.ok("POST", "/v1/sessions", {"memory": "headers"}, 201)["id"]
        self.server.ok("POST", f"/v1/sessions/{session}/context", {"text": "template <typename T> struct vector {"})
        self.server.ok("POST", "/v1/completions", {"prompt": "struct", "max_tokens": 4, "session": session, "rewire": True})
        self.server.ok("DELETE", f"/v1/sessions/{session}")

    def route(self, r):
        body = b"PMR1" + struct.pack("<IIIIIfI", 0, 2, 64, 8, 0, 1.0, 0) + struct.pack("<144f", *[r.gauss(0, 1) for _ in range(144)])
        assert self.server.ask("POST", "/v1/route", body, {"Content-Type": "application/octet-stream"})[0] == 200

    def search(self, r):
        self.server.ok("POST", "/v1/memories/headers/search", {"text": "operator new", "k": r.randint(1, 20)})

    def look(self, r):
        for path in ("/metrics", "/v1/memories/headers", "/v1/memories/headers/documents",
                     "/v1/memories/headers/diagnosis", "/v1/sessions"):
            assert self.server.ask("GET", path)[0] == 200

    def reload(self, r):
        self.server.ok("POST", "/v1/memories/headers/reload")

    def nonsense(self, r):
        status, _, _ = self.server.ask("POST", "/v1/completions", bytes(r.randrange(256) for _ in range(200)))
        assert 400 <= status < 500

    def run(self, seed):
        r = random.Random(seed)
        kinds = [self.completion, self.chat, self.stream, self.gone_in_the_middle, self.session, self.route, self.search, self.look,
                 self.reload, self.nonsense]
        if not self.sessions:
            kinds.remove(self.session)
        while not self.stop:
            r.choice(kinds)(r)
            self.done += 1


@pytest.mark.parametrize("sessions", [False, True])
def test_nothing_grows_in_hours_of_use(pointsman, model, memory, tmp_path, sessions):
    server = Server(pointsman, "--model", model, "--memory", f"headers={memory}", "--allow-rejected", "--threads", "1",
                    "--log-file", tmp_path / "log", "--audit-log", tmp_path / "audit")  # nobody reads our pipe meanwhile
    soak = Soak(server, sessions)
    server.ok("GET", "/readyz")
    descriptors_before = resources(server.process.pid)[1]
    samples = []
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(soak.run, seed) for seed in range(4)]
            begun = time.monotonic()
            while time.monotonic() - begun < SOAK_SECONDS:
                time.sleep(SOAK_SECONDS / 100)
                samples.append((time.monotonic() - begun, *resources(server.process.pid)))
                if any(client.done() for client in clients):
                    break
            soak.stop = True
            for client in clients:
                try:
                    client.result()
                except GONE as error:
                    raise AssertionError(f"the server's status: {server.process.poll()}") from error
        time.sleep(1)
        resident, descriptors = resources(server.process.pid)
        assert server.ok("GET", "/readyz")["status"] == "ready"
    finally:
        server.stop()
    half, last = samples[len(samples) // 4:len(samples) // 2], samples[3 * len(samples) // 4:]
    early, late = (statistics.median(s[1] for s in part) for part in (half, last))
    # The most that was open at once is chance: a reload opens a memory's files a second time, and several may meet.
    fds_early, fds_late = (statistics.median(s[2] for s in part) for part in (half, last))
    print(f"\n{soak.done} rounds in {SOAK_SECONDS:.0f} s; resident {early / 1e6:.1f} -> {late / 1e6:.1f} MB, descriptors "
          f"{fds_early:.0f} -> {fds_late:.0f}, at most {max(s[2] for s in samples)}; {descriptors_before} before, {descriptors} at the end")
    assert soak.done > SOAK_SECONDS
    assert late < 1.05 * early + 8e6
    assert fds_late <= fds_early + 4
    assert descriptors <= descriptors_before + 4
