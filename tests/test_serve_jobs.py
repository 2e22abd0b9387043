"""Builds and evaluations that clients ask a running server for: submitted, watched, cancelled, resumed, killed."""

import contextlib
import http.client
import json
import os
import pathlib
import random
import signal
import time

import jsonschema
import pytest

from conftest import ROOT
from serving import Server

SMALL = {"kind": "entries", "preset": "fast", "max_tokens": 4000, "max_test_tokens": 2000, "threads": 1}
LONG = {"kind": "auto", "preset": "default", "max_tokens": 60_000, "threads": 1}  # longer than any test waits


@contextlib.contextmanager
def serving(pointsman, model, *arguments):
    running = Server(pointsman, "--model", model, "--threads", "1", *arguments)
    try:
        yield running
    finally:
        running.stop(signal.SIGKILL)


@pytest.fixture
def places(tmp_path, corpus):
    """--jobs, --memory-root and --corpus-root; the corpus fixtures lie below the last."""
    (tmp_path / "memories").mkdir()
    return ("--jobs", tmp_path / "jobs", "--memory-root", tmp_path / "memories", "--corpus-root", corpus.parent)


def events(server, job, headers=None):
    """Everything that the job's event stream sends, until it ends."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=280)
    connection.request("GET", f"/v1/jobs/{job}/events", headers=headers or {})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.getheader("Content-Type").startswith("text/event-stream")
    lines = [line[6:] for line in answer.read().decode().split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def wait(server, job, until, seconds=280):
    deadline = time.monotonic() + seconds
    while not until(found := server.ok("GET", f"/v1/jobs/{job}")):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def ended(server, job):
    return wait(server, job, lambda j: j["status"] in ("succeeded", "failed", "cancelled"))


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def child_of(places, job):
    return json.loads((places[1] / job / "job.json").read_text())["pid"]


def texts(folder):
    return [{"name": str(path.relative_to(folder)), "text": path.read_text()} for path in sorted(folder.rglob("*.h"))]


def metric(server, name):
    text = server.ask("GET", "/metrics")[2].decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def test_a_build_over_http_is_the_commands_own(pointsman, model, corpus, off_domain, built_memory, places, tmp_path):
    with serving(pointsman, model, *places, "--audit-log", tmp_path / "audit") as server:
        job = server.ok("POST", "/v1/builds", {"out": "made", "paths": [corpus.name], "off_domain": [off_domain.name], **SMALL}, 202)
        assert (job["kind"], job["object"], job["result"], job["memory"]) == ("build", "job", None, "made")
        *updates, last = events(server, job["id"])
        assert {"capture", "entries"} <= {u["stage"] for u in updates}
        assert any(u["total"] and u["done"] == u["total"] for u in updates)
        assert last == ended(server, job["id"]) and last["status"] == "succeeded", last
        assert last["started"] >= last["created"] and last["finished"] >= last["started"]
        jsonschema.validate(last["result"], json.loads((ROOT / "schemas/build.schema.json").read_text()))
        assert last["result"]["digest"] == json.loads((built_memory / "MANIFEST.json").read_text())["digest"]
        assert server.ok("GET", "/v1/memories")["data"] == []  # nothing is loaded by itself
        loaded = server.ok("POST", "/v1/memories", last["load"] | {"allow_rejected": True}, 201)
        assert loaded["id"] == "made"
        assert [j["id"] for j in server.ok("GET", "/v1/builds")["data"]] == [job["id"]]
        assert server.ok("GET", "/v1/evals")["data"] == []
        server.refused("GET", f"/v1/evals/{job['id']}", None, 404, "not_found")
        assert metric(server, 'pointsman_jobs{status="succeeded"}') == 1
        assert metric(server, 'pointsman_job_duration_seconds_count{kind="build"}') == 1

        evaluated = server.ok("POST", "/v1/evals", {
            "memory": "made", "paths": [corpus.name], "off_domain": [off_domain.name], "variants": ["frozen", "memory"], "seed": 1,
            "seeds": 1, "generations": 1, "generation_temperature": 0.5, "min_gain": 0.01, "damage_bound": 0.002, "no_text": True,
            "require": "adopt", "max_test_tokens": 2000, "jsonl_fields": ["text"]}, 202)
        done = ended(server, evaluated["id"])
        jsonschema.validate(done["result"], json.loads((ROOT / "schemas/eval.schema.json").read_text()))
        adopted = done["result"]["verdict"] == "adopt"
        assert done["status"] == ("succeeded" if adopted else "failed") and ("requirement" in (done["error"] or "")) != adopted
        assert server.ok("DELETE", f"/v1/evals/{evaluated['id']}")["id"] == evaluated["id"]  # ended: forgotten
        server.refused("GET", f"/v1/jobs/{evaluated['id']}", None, 404, "not_found")
        assert not (places[1] / evaluated["id"]).exists()
    actions = [json.loads(line)["event"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert actions == ["job.submit", "memory.load", "job.submit", "job.forget"]


def test_a_memory_of_several_domains_over_http(pointsman, model, corpus, off_domain, places):
    """One that lies on the server, one of texts that come along."""
    draw = random.Random(3)
    notes = [{"name": f"{i}.txt", "text": " ".join("".join(draw.choices("aeioulnrst", k=5)) for _ in range(90))} for i in range(120)]
    groups = [{"name": "headers", "paths": [corpus.name]}, {"name": "notes", "corpus": notes}]
    with serving(pointsman, model, *places) as server:
        job = server.ok("POST", "/v1/builds", {"out": "both", "groups": groups, "off_domain": [off_domain.name], **SMALL}, 202)
        done = ended(server, job["id"])
        assert done["status"] == "succeeded", done["error"]
        server.ok("POST", "/v1/memories", done["load"] | {"allow_rejected": True}, 201)
        gate = pointsman.json("inspect", places[3] / "both", schema="inspect")["gate"]
        assert [group["name"] for group in gate["groups"]] == ["headers", "notes"]
        evaluate = {"memory": "both", "off_domain": [off_domain.name], "variants": ["frozen", "memory"]}
        wrong = ended(server, server.ok("POST", "/v1/evals", evaluate | {"paths": [corpus.name]}, 202)["id"])
        assert wrong["status"] == "failed" and "headers, notes" in wrong["error"]
        scored = ended(server, server.ok("POST", "/v1/evals", evaluate | {"groups": groups[::-1]}, 202)["id"])
        assert scored["status"] == "succeeded", scored["error"]
        kinds = {row["name"] for row in scored["result"]["breakdown"]["kinds"] if row["by"] == "group"}
        assert kinds == {"headers", "notes"}


def test_texts_come_along_and_every_option_is_the_commands(pointsman, model, corpus, off_domain, places):
    with serving(pointsman, model, *places) as server:
        body = {"out": "a/b/mine", "corpus": texts(corpus) + [{"name": "../../../etc/../x y.txt", "text": "plain " * 50}],
                "off_domain": [off_domain.name], **SMALL, "blend": "delta", "layers": "0,1", "jsonl_fields": ["text", "title"],
                "seed": 3, "min_gain": 0.5, "damage_bound": 0.001, "split_by_library": False, "output_memory": True, "no_text": True}
        job = server.ok("POST", "/v1/builds", body, 202)
        uploads = places[1] / job["id"] / "uploads"
        if uploads.exists():  # the job has not ended yet
            names = sorted(path.name for path in uploads.rglob("*"))
            assert len(names) == 49 and names[-1] == "000049-x_y.txt"
        done = ended(server, job["id"])
        assert done["status"] == "succeeded", done["error"]
        assert done["load"] == {"id": "mine", "path": "a/b/mine"}
        assert not uploads.exists()
        manifest = json.loads((places[3] / "a/b/mine/MANIFEST.json").read_text())
        assert manifest["settings"]["output-memory"] == "on" and manifest["seed"] == 3 and not manifest["has_text"]


@pytest.mark.parametrize("body, status, code, part", [
    ({"paths": ["x"]}, 400, "invalid_value", "out"),
    ({"out": "m"}, 400, "invalid_value", "one of corpus"),
    ({"out": "m", "paths": ["absent"]}, 400, "invalid_value", "not there"),
    ({"out": "m", "paths": ["../x"]}, 400, "invalid_value", "corpus root"),
    ({"out": "m", "paths": ["/etc"]}, 400, "invalid_value", "corpus root"),
    ({"out": "m", "groups": []}, 400, "invalid_value", "groups"),
    ({"out": "m", "groups": [{"name": "a", "paths": ["absent"]}]}, 400, "invalid_value", "not there"),
    ({"out": "m", "groups": [{"name": "a", "paths": []}]}, 400, "invalid_value", "groups[0].paths"),
    ({"out": "m", "groups": [{"name": "a=b", "paths": ["x"]}]}, 400, "invalid_value", "groups[0].name"),
    ({"out": "m", "groups": [{"paths": ["x"]}]}, 400, "invalid_value", "groups[0].name"),
    ({"out": "m", "groups": [{"name": "a", "paths": ["../x"]}]}, 400, "invalid_value", "corpus root"),
    ({"out": "m", "groups": [{"name": "a", "paths": ["x"]}], "paths": ["x"]}, 400, "invalid_value", "one of corpus"),
    ({"out": "../m", "corpus": [{"text": "x"}]}, 400, "invalid_value", "memory root"),
    ({"out": "/m", "corpus": [{"text": "x"}]}, 400, "invalid_value", "memory root"),
    ({"out": "m", "corpus": []}, 400, "invalid_value", "corpus"),
    ({"out": "m", "corpus": ["text"]}, 400, "invalid_value", "corpus[0]"),
    ({"out": "m", "corpus": [{"name": "x"}]}, 400, "invalid_value", "corpus[0].text"),
    ({"out": "m", "corpus": [{"text": "x", "path": "/etc"}]}, 400, "invalid_value", "corpus[0].path"),
    ({"out": "m", "corpus": [{"text": "x"}], "kind": "both"}, 400, "invalid_value", "kind"),
    ({"out": "m", "corpus": [{"text": "x"}], "layers": "0 --resume"}, 400, "invalid_value", "layers"),
    ({"out": "m", "corpus": [{"text": "x"}], "jsonl_fields": ["a,b"]}, 400, "invalid_value", "jsonl_fields"),
    ({"out": "m", "corpus": [{"text": "x"}], "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ({"out": "m", "corpus": [{"text": "x"}], "test_command": "id"}, 400, "invalid_value", "test_command"),
    ({"out": "m", "corpus": [{"text": "x"}], "model": "/etc"}, 400, "invalid_value", "model"),
])
def test_what_no_command_may_be_made_of_is_refused(refusing, body, status, code, part):
    assert part in refusing.refused("POST", "/v1/builds", body, status, code)["message"]


@pytest.fixture(scope="module")
def refusing(pointsman, model, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusing")
    (folder / "memories").mkdir()
    with serving(pointsman, model, "--jobs", folder / "jobs", "--memory-root", folder / "memories", "--corpus-root", corpus) as server:
        yield server
        assert server.ok("GET", "/v1/jobs")["data"] == []
        assert os.listdir(folder / "jobs") == ["LOCK"] and os.listdir(folder / "memories") == []


def test_without_the_directories_the_answer_names_the_flags(pointsman, model, tmp_path):
    body = {"out": "m", "corpus": [{"text": "x"}]}
    with serving(pointsman, model) as server:
        for path in ("/v1/builds", "/v1/evals"):
            assert "--jobs" in server.refused("POST", path, body, 403, "insufficient_permissions")["message"]
        assert server.ok("GET", "/v1/jobs")["data"] == []
        server.refused("DELETE", "/v1/jobs/job-0123456789abcdef", None, 404, "not_found")
    with serving(pointsman, model, "--jobs", tmp_path / "jobs") as server:
        assert "--memory-root" in server.refused("POST", "/v1/builds", body, 403, "insufficient_permissions")["message"]
        body = {"memory": "m", "test_corpus": ["x"]}
        server.refused("POST", "/v1/evals", body, 404, "not_found")


def test_a_build_that_fails_says_why_without_the_servers_paths(pointsman, model, places):
    with serving(pointsman, model, *places) as server:
        job = server.ok("POST", "/v1/builds", {"out": "m", "corpus": [{"text": " "}], **SMALL}, 202)
        done = ended(server, job["id"])
        assert done["status"] == "failed" and done["result"] is None
        assert "uploads" in done["error"] and str(places[1]) not in done["error"]


def test_cancelling_the_bounded_queue_and_a_reader_that_leaves(pointsman, model, corpus, off_domain, places):
    body = {"paths": [corpus.name], "off_domain": [off_domain.name], **LONG}
    with serving(pointsman, model, *places, "--jobs-queued", "1") as server:
        first = server.ok("POST", "/v1/builds", {"out": "a", **body}, 202)["id"]
        server.refused("POST", "/v1/builds", {"out": "a", **body}, 409, "conflict")
        second = server.ok("POST", "/v1/builds", {"out": "b", **body}, 202)["id"]
        status, headers, answer = server.ask("POST", "/v1/builds", {"out": "c", **body})
        assert status == 429 and int(headers["Retry-After"]) > 1 and "2 jobs" in answer["error"]["message"]
        assert server.ok("GET", f"/v1/jobs/{second}")["status"] == "queued"
        assert server.ok("DELETE", f"/v1/builds/{second}")["status"] == "cancelled"
        assert [j["id"] for j in server.ok("GET", "/v1/jobs")["data"]] == [second, first]

        wait(server, first, lambda j: j["status"] == "running" and j["progress"])
        pid = child_of(places, first)
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert command[1:2] == [b"build"] and os.getpgid(pid) == pid
        assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, server.process.pid)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", f"/v1/jobs/{first}/events")
        assert connection.getresponse().readline().startswith(b"data: {") and metric(server, "pointsman_http_connections") >= 2
        connection.close()
        deadline = time.monotonic() + 10
        while metric(server, "pointsman_http_connections") > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert metric(server, "pointsman_http_connections") == 1  # the one that asks

        server.ok("DELETE", f"/v1/jobs/{first}")
        assert ended(server, first)["status"] == "cancelled" and not alive(pid)
        assert events(server, first)[-1]["status"] == "cancelled"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_build_goes_on_after_the_servers_end(pointsman, model, corpus, off_domain, built_memory, places, sign):
    body = {"out": "made", "paths": [corpus.name], "off_domain": [off_domain.name], **SMALL}
    with serving(pointsman, model, *places) as server:
        job = server.ok("POST", "/v1/builds", body, 202)["id"]
        wait(server, job, lambda j: j["status"] == "running" and j["progress"] and j["progress"]["stage"] == "entries")
        pid = child_of(places, job)
        assert alive(pid)
        began = time.monotonic()
        assert server.stop(sign)[0] == (-9 if sign == signal.SIGKILL else 0) and time.monotonic() - began < 20
        deadline = time.monotonic() + 10
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(pid)
        assert json.loads((places[1] / job / "job.json").read_text())["status"] == (
            "running" if sign == signal.SIGKILL else "interrupted")
    with serving(pointsman, model, *places) as server:
        done = ended(server, job)
        assert done["status"] == "succeeded", done["error"]
        assert done["result"]["digest"] == json.loads((built_memory / "MANIFEST.json").read_text())["digest"]


def test_a_build_without_memory_fails_alone(pointsman, model, corpus, off_domain, places):
    with serving(pointsman, model, *places, "--job-memory-gb", "0.4") as server:
        job = server.ok("POST", "/v1/builds", {"out": "m", "paths": [corpus.name], "off_domain": [off_domain.name], **LONG}, 202)
        done = ended(server, job["id"])
        assert done["status"] == "failed" and "--job-memory-gb" in done["error"], done
        assert server.ok("POST", "/v1/completions", {"prompt": "int", "max_tokens": 2})["choices"]
    with serving(pointsman, model, *places) as server:
        job = server.ok("POST", "/v1/builds", {"out": "m", "paths": [corpus.name], "off_domain": [off_domain.name], **LONG}, 202)
        wait(server, job["id"], lambda j: j["status"] == "running" and j["progress"])
        assert pathlib.Path(f"/proc/{child_of(places, job['id'])}/oom_score_adj").read_text().strip() == "500"
        os.kill(child_of(places, job["id"]), signal.SIGKILL)  # as the kernel does
        done = ended(server, job["id"])
        assert done["status"] == "failed" and "out of memory?" in done["error"]
        assert server.ok("POST", "/v1/completions", {"prompt": "int", "max_tokens": 2})["choices"]


def test_a_key_confined_to_memories_sees_their_jobs_only(pointsman, model, built_memory, places, tmp_path):
    keys = tmp_path / "keys"

    def new(name, *flags):
        return {"X-Api-Key": pointsman.json("keys", "new", "--keys", keys, "--name", name, *flags)["key"]}

    own, all_of_them = new("own", "--access", "read-write", "--memories", "own"), new("all", "--access", "read-write")
    reader = new("reader")
    with serving(pointsman, model, *places, "--memory", f"headers={built_memory}", "--allow-rejected", "--keys", keys) as server:
        body = {"corpus": [{"text": "x"}]}
        server.refused("POST", "/v1/builds", {"out": "m", **body}, 403, "insufficient_permissions", reader)
        server.refused("POST", "/v1/builds", {"out": "theirs", **body}, 403, "insufficient_permissions", own)
        server.refused("POST", "/v1/evals", {"memory": "headers", "test_corpus": [{"text": "x"}]}, 404, "not_found", own)
        mine = server.ok("POST", "/v1/builds", {"out": "own", **body}, 202, own)["id"]
        theirs = server.ok("POST", "/v1/evals", {"memory": "headers", "test_corpus": [{"text": "x"}]}, 202, all_of_them)
        assert theirs["principal"] == "all"
        assert [j["id"] for j in server.ok("GET", "/v1/jobs", headers=own)["data"]] == [mine]
        assert {j["id"] for j in server.ok("GET", "/v1/jobs", headers=reader)["data"]} == {mine, theirs["id"]}
        for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
            server.refused(method, f"/v1/jobs/{theirs['id']}{path}", None, 404, "not_found", own)
        server.refused("DELETE", f"/v1/jobs/{mine}", None, 403, "insufficient_permissions", reader)
        server.ok("DELETE", f"/v1/jobs/{mine}", headers=own)


def test_a_document_joins_a_memory_over_http_and_leaves_when_its_time_is_up(pointsman, model, memory, corpus, places):
    with serving(pointsman, model, *places, "--memory", f"headers={memory}", "--allow-rejected", "--expiry-interval", "1") as server:
        before = server.ok("GET", "/v1/memories/headers")
        text = "struct points_man {\n  int lever;\n  void throw_lever(int track) { lever = track; }\n};\n" * 12
        job = server.ok("POST", "/v1/memories/headers/documents", {"text": text, "name": "signal.h", "tags": ["new"], "ttl_s": 86_400}, 202)
        assert job["kind"] == "documents" and job["memory"] == "headers"
        done = ended(server, job["id"])
        assert done["status"] == "succeeded", done
        assert done["progress"]["stage"] == "train" and done["progress"]["done"] == done["progress"]["total"] > 0
        (added,) = done["result"]["documents"]
        after = server.ok("GET", "/v1/memories/headers")
        assert after["generation"] > before["generation"] and after["verdict"]["stale"]
        (listed,) = server.ok("GET", "/v1/memories/headers/documents?tag=new")["data"]
        assert listed["source"] == "signal.h" and listed["id"] == added["document"]
        assert listed["expires"] == pytest.approx(time.time() + 86_400, abs=600)
        found = server.ok("POST", "/v1/memories/headers/search", {"text": text[:120], "k": 5})["neighbours"]
        assert found[0]["document"] == "signal.h"

        # The text itself as the body, gone a second after it came.
        short = server.ok("POST", "/v1/memories/headers/documents?name=short.h&tag=brief&ttl_s=1",
                          text.replace("lever", "signal_arm").encode(), 202,
                          headers={"Content-Type": "text/plain"})
        assert ended(server, short["id"])["status"] == "succeeded"
        deadline = time.monotonic() + 60
        while server.ok("GET", "/v1/memories/headers/documents?tag=brief")["data"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.ok("GET", "/v1/memories/headers/documents?tag=new")["data"] == [listed]

        for body, code in (({"text": ""}, 400), ({"text": "x", "ttl_s": -1}, 400),
                           ({"text": "x", "name": "a\nb"}, 400), ({"txt": "x"}, 400)):
            assert server.ask("POST", "/v1/memories/headers/documents", body)[0] == code, body
        server.refused("POST", "/v1/memories/other/documents", {"text": "x"}, 404, "not_found")
    assert pointsman.json("verify", memory, schema="verify")["findings"] == []
