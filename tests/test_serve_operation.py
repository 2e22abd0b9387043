"""pointsman serve as an operator runs it: start and end, keys, switches, memories, metrics."""

import concurrent.futures
import http.client
import json
import pathlib
import signal
import socket
import time

from conftest import SMALL_BUILD, fails
from serving import PROMPT, Server, server  # noqa: F401


def test_without_keys_only_this_machines_names_are_answered(server):
    for host in ("localhost", "127.0.0.1:80", "[::1]:80"):
        assert server.ask("GET", "/v1/models", headers={"Host": host})[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1"):
        server.refused("GET", "/v1/models", None, 401, "invalid_api_key", {"Host": host})


def test_the_kill_switch_and_shadow_mode_change_nothing_but_the_routing(server):
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    frozen = server.ok("POST", "/v1/completions", body | {"memory": None})["choices"][0]["text"]
    try:
        assert server.ok("PATCH", "/v1/routing", {"disabled": True})["disabled"]
        off = server.ok("POST", "/v1/completions", body)
        assert off["choices"][0]["text"] == frozen and off["pointsman"]["memory"] is None
    finally:
        server.ok("PATCH", "/v1/routing", {"disabled": False})
    shadow = server.ok("POST", "/v1/completions", body | {"shadow": True})
    assert shadow["choices"][0]["text"] == frozen and shadow["pointsman"]["memory"] == "headers"
    server.ok("PATCH", "/v1/memories/headers", {"disabled": True})
    assert server.ok("POST", "/v1/completions", body)["pointsman"]["memory"] is None
    server.ok("PATCH", "/v1/memories/headers", {"disabled": False})


def test_metrics_count_what_happened(server):
    server.ok("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "temperature": 0})
    text = server.ask("GET", "/metrics")[2].decode()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")}
    assert values['pointsman_http_requests_total{route="/v1/completions",status="200"}'] >= 1
    assert values['pointsman_memory_tokens_total{memory="headers"}'] >= 4
    assert values["pointsman_engine_generated_tokens_total"] >= 4
    assert values["process_resident_memory_bytes"] > 1e6
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))


def test_memories_are_loaded_and_unloaded_below_the_root_only(server, built_memory):
    name = pathlib.Path(built_memory).name
    body = {"id": "second", "path": name, "allow_rejected": True}
    assert server.ok("POST", "/v1/memories", body, status=201)["id"] == "second"
    server.refused("POST", "/v1/memories", body, 409, "conflict")
    assert server.ok("POST", "/v1/memories/second/reload")["generation"] >= 1
    assert server.ok("POST", "/v1/completions", {"prompt": "x", "max_tokens": 2, "memory": "second"})["pointsman"]["memory"] == "second"
    server.ok("DELETE", "/v1/memories/second")
    server.refused("POST", "/v1/completions", {"prompt": "x", "memory": "second"}, 404, "not_found")
    for path in ("../x", "/etc", "a/../../b", ""):
        server.refused("POST", "/v1/memories", {"id": "x", "path": path}, 400, "invalid_value")
    server.refused("POST", "/v1/memories", {"id": "x", "path": "absent"}, 404, "not_found")
    server.refused("POST", "/v1/memories", {"id": "No Id", "path": name}, 400, "invalid_value")


def test_another_memory_takes_over_without_a_failed_or_mixed_request(pointsman, model, corpus, off_domain, memory, tmp_path):
    running = Server(pointsman, "--model", model, "--memory", f"headers={memory}", "--threads", "1", "--allow-rejected")
    body = {"prompt": sorted(corpus.rglob("*.h"))[3].read_text()[:150], "max_tokens": 24, "temperature": 0}
    try:
        before = running.ok("POST", "/v1/completions", body)["choices"][0]["text"]
        pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", tmp_path / "new",
                       "--kind", "prototypes", *SMALL_BUILD)
        memory.rename(tmp_path / "old")
        (tmp_path / "new").rename(memory)
        assert running.ok("POST", "/v1/completions", body)["choices"][0]["text"] == before  # until it is told
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(running.ok, "POST", "/v1/completions", body) for _ in range(40)]
            time.sleep(0.05)
            running.ok("POST", "/v1/memories/headers/reload")
            answers = [a.result()["choices"][0]["text"] for a in asked]
        after = running.ok("POST", "/v1/completions", body)["choices"][0]["text"]
        assert running.ok("GET", "/v1/memories/headers")["kind"] == "prototypes"
        assert sum(answer in (before, after) for answer in answers) >= 39  # a tie may fall otherwise in a batch
    finally:
        running.stop()


def test_a_page_of_another_site_reaches_nothing(server):
    here = f"127.0.0.1:{server.port}"
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": f"http://evil.{here}"},
                    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site", "Origin": f"http://{here}"}):
        server.refused("POST", "/v1/memories/headers/reload", None, 401, "invalid_api_key", headers=headers)
    for headers in ({"Origin": f"http://{here}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}):
        server.ok("POST", "/v1/memories/headers/reload", headers=headers)


def test_keys_tenants_and_rotation(pointsman, model, built_memory, tmp_path):
    keys = tmp_path / "keys"

    def new(name, *flags):
        return {"Authorization": "Bearer " + pointsman.json("keys", "new", "--keys", keys, "--name", name, *flags)["key"]}

    reader, writer = new("reader"), new("writer", "--access", "read-write", "--memories", "other")
    admin = new("admin", "--access", "admin")
    running = Server(pointsman, "--model", model, "--memory", f"headers={built_memory}", "--threads", "1",
                     "--allow-rejected", "--keys", keys)
    try:
        running.refused("GET", "/v1/models", None, 401, "invalid_api_key")
        running.refused("GET", "/metrics", None, 401, "invalid_api_key", {"X-Api-Key": "pm-wrong"})
        assert running.ok("GET", "/healthz")
        assert running.ok("GET", "/v1/models", headers=reader)["data"]
        running.refused("POST", "/v1/sessions", {}, 403, "insufficient_permissions", reader)
        running.refused("PATCH", "/v1/routing", {"disabled": True}, 403, "insufficient_permissions", writer)
        running.ok("PATCH", "/v1/routing", {"disabled": False}, headers=admin)
        # A key that is confined to other memories cannot tell whether this one exists.
        hidden = running.refused("GET", "/v1/memories/headers", None, 404, "not_found", writer)
        absent = running.refused("GET", "/v1/memories/nothing", None, 404, "not_found", writer)
        assert hidden["message"].replace("headers", "nothing") == absent["message"]
        assert running.ok("GET", "/v1/memories", headers=writer)["data"] == []
        answer = running.ok("POST", "/v1/completions", {"prompt": "x", "max_tokens": 2}, headers=writer)
        assert answer["pointsman"]["memory"] is None
        samples = running.ok("GET", "/metrics", headers=writer).decode()
        assert "pointsman_engine_steps_total" in samples and "headers" not in samples
        assert 'pointsman_memory_requests_total{memory="headers"} 0' in running.ok("GET", "/metrics", headers=reader).decode()
        session = running.ok("POST", "/v1/sessions", {}, status=201, headers=writer)
        running.refused("GET", f"/v1/sessions/{session['id']}", None, 404, "not_found", admin)
        # Rotation: a second line of the same name, then the first goes.
        fresh = new("reader")
        lines = keys.read_text().splitlines(keepends=True)
        keys.write_text("".join(line for line in lines if not line.startswith("reader")) + lines[-1])
        deadline = time.monotonic() + 20
        while running.ask("GET", "/v1/models", headers=reader)[0] == 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert running.ask("GET", "/v1/models", headers=reader)[0] == 401
        assert running.ask("GET", "/v1/models", headers=fresh)[0] == 200
    finally:
        running.stop()


def test_keys_are_listed_and_revoked(pointsman, tmp_path):
    keys = tmp_path / "keys"
    made = pointsman.json("keys", "new", "--keys", keys, "--name", "alice", "--memories", "a,b", schema="keys_new")
    pointsman.json("keys", "new", "--keys", keys, "--name", "bob", "--access", "admin", schema="keys_new")
    listed = pointsman.json("keys", "list", "--keys", keys, schema="keys_list")["keys"]
    assert [(k["name"], k["access"], k["memories"]) for k in listed] == [("alice", "read-only", ["a", "b"]), ("bob", "admin", None)]
    assert made["key"] not in keys.read_text()
    revoked = pointsman.json("keys", "revoke", "--keys", keys, "--key", listed[0]["id"], schema="keys_revoke")["revoked"]
    assert [k["name"] for k in revoked] == ["alice"]
    fails(pointsman("keys", "revoke", "--keys", keys, "--key", "bob"), 2, "add another first")
    fails(pointsman("keys", "revoke", "--keys", keys, "--key", "carol"), 1, "carol", "keys list")


def test_it_drains_at_the_first_signal_and_ends_at_the_second(pointsman, model):
    running = Server(pointsman, "--model", model, "--threads", "1")
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=120)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 120, "n": 4, "stream": True}),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.readline()  # it is answering
    running.process.send_signal(signal.SIGTERM)
    rest = answer.read()
    assert rest.count(b'"finish_reason":"') == 4 and b"[DONE]" in rest
    connection.close()
    _, log = running.process.communicate(timeout=60)  # no second signal
    assert running.process.returncode == 0 and "draining" in log and "stopped" in log
    again = Server(pointsman, "--model", model, "--threads", "1", "--drain-timeout", "60")
    with socket.create_connection(("127.0.0.1", again.port)) as held:
        held.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n"
                     b"Expect: 100-continue\r\n\r\n")
        assert held.recv(100).startswith(b"HTTP/1.1 100")
        again.process.send_signal(signal.SIGTERM)
        while "draining" not in again.process.stderr.readline():
            assert again.process.poll() is None
        assert again.stop()[0] == 130


def test_a_second_signal_is_not_needed_on_an_idle_server(pointsman, model):
    running = Server(pointsman, "--model", model, "--threads", "1", "--log-format", "json")
    began = time.monotonic()
    status, log = running.stop()
    assert status == 0 and time.monotonic() - began < 5
    assert all(json.loads(line)["event"] for line in log.splitlines())


def test_it_says_why_it_does_not_start(pointsman, model, other_model, built_memory, tmp_path):
    serve = ("serve", "--model", model, "--port", "0")
    fails(pointsman(*serve, "--address", "0.0.0.0"), 2, "public address needs keys", "keys new")
    fails(pointsman(*serve, "--memory", tmp_path / "absent"), 1, "not a memory")
    fails(pointsman("serve", "--model", other_model, "--port", "0", "--memory", built_memory, "--allow-rejected"), 1, "router_sha256")
    fails(pointsman(*serve, "--default-memory", "x"), 2, "no --memory has this id")
    fails(pointsman(*serve, "--tls-key", "x"), 2, "certificate")
    (tmp_path / "keys").write_text("a admin x\n")
    fails(pointsman(*serve, "--keys", tmp_path / "keys"), 2, "chmod 600")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fails(pointsman("serve", "--model", model, "--port", taken.getsockname()[1]), 1, "--port")
