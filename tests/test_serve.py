"""pointsman serve through its network, as clients call it, OpenAI's own among them."""

import concurrent.futures
import http.client
import json
import pathlib
import socket
import struct
import time

import pytest

from serving import PROMPT, server  # noqa: F401


def test_a_method_that_a_path_does_not_have_is_405_and_one_that_nobody_knows_501(server):
    for method in ("OPTIONS", "TRACE", "QUERY", "PUT"):
        status, headers, answer = server.ask(method, "/v1/route")
        assert (status, headers["Allow"], answer["error"]["code"]) == (405, "POST", "method_not_allowed")
    server.refused("BREW", "/v1/route", None, 501, "not_implemented")


def test_it_says_what_it_serves(server, model, built_memory):
    assert server.ok("GET", "/healthz")["status"] == "ok"
    assert server.ok("GET", "/readyz") == {"status": "ready"}
    listed = server.ok("GET", "/v1/models")["data"]
    assert [m["id"] for m in listed] == [pathlib.Path(model).name]
    assert listed[0]["meta"]["experts"] == 8
    (one,) = server.ok("GET", "/v1/memories")["data"]
    assert one["id"] == "headers" and one["default"] and one["generation"] >= 1
    assert server.ok("GET", "/v1/memories/headers")["manifest"]["digest"] == json.loads(
        (pathlib.Path(built_memory) / "MANIFEST.json").read_text())["digest"]


def test_completions_are_what_generate_says(server, pointsman, model, built_memory):
    for extra, flags in ((None, ("--memory", built_memory)), (True, ())):
        body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0}
        answer = server.ok("POST", "/v1/completions", body | ({"memory": None} if extra else {}))
        expected = pointsman.json("generate", "--model", model, *flags, "--prompt", PROMPT, "--max-tokens", "24", "--threads", "1")
        assert answer["choices"][0]["text"] == expected["text"]
        assert answer["usage"]["prompt_tokens"] == len(expected["prompt_tokens"])
        assert answer["usage"]["completion_tokens"] == len(expected["tokens"])
        assert answer["choices"][0]["finish_reason"] == expected["finish_reason"]
        assert answer["pointsman"]["memory"] == (None if extra else "headers")


def test_tokens_are_the_tokenizers(server, model):
    import tokenizers

    oracle = tokenizers.Tokenizer.from_file(str(pathlib.Path(model) / "tokenizer.json"))
    answer = server.ok("POST", "/v1/tokenize", {"text": PROMPT, "pieces": True})
    assert answer["tokens"] == oracle.encode(PROMPT).ids
    assert "".join(answer["pieces"]) == PROMPT


def test_sampling_follows_the_seed_and_choices_differ(server):
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 1, "seed": 5, "n": 3}
    first, again = (server.ok("POST", "/v1/completions", body)["choices"] for _ in range(2))
    assert [c["text"] for c in first] == [c["text"] for c in again]
    assert len({c["text"] for c in first}) == 3


def test_logprobs_stop_and_echo(server):
    plain = server.ok("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "logprobs": 3})
    choice = plain["choices"][0]
    shown = [t for t in choice["logprobs"]["tokens"] if not t.startswith("bytes:")]
    assert len(shown) > 4 and all(t in choice["text"] for t in shown)
    for chosen, top in zip(choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]):
        assert len(top) == 3 and max(top.values()) == pytest.approx(chosen, abs=1e-5) and chosen < 0
    stop = max(shown, key=len)
    stopped = server.ok("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stop": stop, "echo": True})
    assert stopped["choices"][0]["text"] == PROMPT + choice["text"][:choice["text"].index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"


def events(server, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", path, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.getheader("Content-Type").startswith("text/event-stream")
    lines = [line[6:] for line in answer.read().decode().split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_stream_adds_up_to_the_whole(server):
    body = {"prompt": [PROMPT, "int main"], "max_tokens": 16, "temperature": 0}
    whole = server.ok("POST", "/v1/completions", body)
    chunks = events(server, "/v1/completions", body | {"stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        own = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == index]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]


def test_many_at_once_get_what_they_get_alone(server):
    bodies = [{"prompt": PROMPT[:8 + i], "max_tokens": 12, "temperature": 0, "memory": [None, "headers"][i % 2]} for i in range(12)]
    alone = [server.ok("POST", "/v1/completions", body)["choices"][0]["text"] for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: server.ok("POST", "/v1/completions", body)["choices"][0]["text"], bodies))
    assert sum(a == b for a, b in zip(alone, together)) >= 11  # a tie may fall otherwise in another batch


def test_openais_client_works_unchanged(server, model):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="any", max_retries=0)
    name = client.models.list().data[0].id
    assert name == pathlib.Path(model).name
    whole = client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0)
    parts = client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0, stream=True)
    assert "".join(p.choices[0].text for p in parts) == whole.choices[0].text
    messages = [{"role": "system", "content": "C++ only."}, {"role": "user", "content": "Write a class."}]
    chat = client.chat.completions.create(model=name, messages=messages, max_tokens=8, temperature=0, logprobs=True,
                                          top_logprobs=2, extra_body={"memory": None})
    assert chat.choices[0].message.role == "assistant" and len(chat.choices[0].logprobs.content) == chat.usage.completion_tokens
    stream = client.chat.completions.create(model=name, messages=messages, max_tokens=8, temperature=0, stream=True,
                                            extra_body={"memory": None})
    assert "".join(c.choices[0].delta.content or "" for c in stream) == chat.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="this server has"):
        client.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model=name, prompt="x", temperature=3)


def test_an_explanation_names_documents_and_experts(server, corpus):
    prompt = sorted(corpus.rglob("*.h"))[3].read_text()[:150]
    answer = server.ok("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 3, "temperature": 0, "explain": True})
    explained = answer["choices"][0]["explain"]
    assert len(explained) == answer["usage"]["completion_tokens"]
    assert {layer["layer"] for layer in explained[0]["layers"]} == {0, 1}
    assert all(len(layer["experts_before"]) == 2 for layer in explained[0]["layers"])
    for token in explained:
        for layer in token["layers"]:
            assert bool(layer["neighbours"]) == (token["gate"] > 0)
            assert all(n["document"].endswith(".h") and -1 <= n["similarity"] <= 1.001 for n in layer["neighbours"])


@pytest.mark.parametrize("body, status, code, part", [
    ({"prompt": "x", "temprature": 1}, 400, "invalid_value", "did you mean"),
    ({"prompt": "x", "temperature": -1}, 400, "invalid_value", "temperature"),
    ({"prompt": ""}, 400, "invalid_value", "no text"),
    ({"prompt": [[512]]}, 400, "invalid_value", "0..511"),
    ({"prompt": "x " * 500}, 422, "context_length_exceeded", "context"),
    ({"prompt": "x", "n": 17}, 400, "invalid_value", "n"),
    ({"prompt": ["x"] * 9, "n": 2}, 400, "invalid_value", "choices"),
    ({"prompt": "x", "tools": [{}]}, 422, "unprocessable", "tools"),
    ({"prompt": "x", "presence_penalty": 1}, 422, "unprocessable", "presence_penalty"),
    ({"prompt": "x", "memory": "nobody"}, 404, "not_found", "nobody"),
    ({"prompt": "x", "session": "sess_x"}, 404, "not_found", "sess_x"),
    ({"prompt": "x", "rewire": {"steps": 51}}, 400, "invalid_value", "rewire.steps: 51"),
    ({"prompt": "x", "strength": 2}, 400, "invalid_value", "strength"),
    ([1], 400, "invalid_value", "object"),
])
def test_wrong_requests_are_told_what_is_wrong(server, body, status, code, part):
    assert part in server.refused("POST", "/v1/completions", body, status, code)["message"]


def test_a_field_of_rewire_is_named_once(server):
    for rewire, param in (({"steps": 51}, "rewire.steps"), ({"layers": "first"}, "rewire.layers")):
        error = server.refused("POST", "/v1/completions", {"prompt": "x", "rewire": rewire}, 400, "invalid_value")
        assert error["param"] == param and error["message"].count(param) == 1 and error["message"].startswith(param)


def test_what_is_no_json_is_refused(server):
    headers = {"Content-Type": "application/json"}
    assert server.refused("POST", "/v1/completions", b"{", 400, "invalid_request", headers)
    assert server.refused("POST", "/v1/completions", b"[" * 100, 413, "payload_too_large", headers)
    assert server.refused("POST", "/v1/completions", b"{}", 415, "unsupported_media_type", {"Content-Type": "text/plain"})


def test_a_session_learns_goes_on_and_moves(server, corpus):
    session = server.ok("POST", "/v1/sessions", {"memory": "headers"}, status=201)
    path = f"/v1/sessions/{session['id']}"
    event = server.ok("POST", f"{path}/context", {"text": "int a = 1; int b = 2; int c = 3; int d = 4;", "rewire": {"lr": 0.2}})
    assert event["tokens"] > 10 and event["loss_before"] > 0
    norms = [layer["norm"] for layer in server.ok("GET", path)["layers"]]
    assert len(norms) == 2 and max(norms) > 0
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "session": session["id"]}
    assert server.ok("POST", "/v1/completions", body)["pointsman"]["session"] == session["id"]
    server.ok("POST", "/v1/completions", body | {"rewire": True})
    shown = server.ok("GET", path)
    assert len(shown["events"]) == 2 and shown["tokens"] > event["tokens"]
    exported = server.ok("GET", f"{path}/vectors")
    copy = server.ok("POST", "/v1/sessions", {"vectors": exported}, status=201)
    assert server.ok("GET", f"/v1/sessions/{copy['id']}/vectors") == exported
    exported["fingerprint"]["router_sha256"] = "0" * 64
    server.refused("PUT", f"/v1/sessions/{copy['id']}/vectors", exported, 409, "fingerprint_mismatch")
    server.ok("PUT", f"/v1/sessions/{copy['id']}/vectors", server.ok("GET", f"{path}/vectors"))
    (imported,) = server.ok("GET", f"/v1/sessions/{copy['id']}")["events"]
    assert imported["loss_before"] is None and imported["loss_after"] is None  # an import measures nothing
    context = {"text": sorted(corpus.rglob("*.h"))[3].read_text()[:200]}
    warm = server.ok("POST", "/v1/sessions", {"memory": "headers", "warm_start": context}, status=201)
    assert min(layer["norm"] for layer in warm["layers"]) > 0
    server.refused("POST", "/v1/sessions", {"memory": "headers", "warm_start": context, "vectors": exported}, 400, "invalid_value")
    assert {s["id"] for s in server.ok("GET", "/v1/sessions")["data"]} >= {session["id"], copy["id"]}
    for one in (session, copy, warm):
        assert server.ok("DELETE", f"/v1/sessions/{one['id']}")["deleted"]
    server.refused("GET", path, None, 404, "not_found")


def test_route_is_the_same_in_json_and_in_binary_and_a_shut_gate_writes_nothing(server):
    import random

    rng = random.Random(3)
    hidden = [[rng.gauss(0, 1) for _ in range(64)] for _ in range(4)]
    logits = [[rng.gauss(0, 1) for _ in range(8)] for _ in range(4)]
    logits = [[struct.unpack("<f", struct.pack("<f", x))[0] for x in row] for row in logits]
    gate = [1.0, 1.0, 0.0, 0.0]
    answer = server.ok("POST", "/v1/route", {"memory": "headers", "layer": 0, "hidden": hidden, "logits": logits, "gate": gate})
    assert answer["written"] == [True, True, False, False]
    assert answer["logits"][2] == pytest.approx(logits[2], abs=0) and answer["logits"][0] != pytest.approx(logits[0])
    flat = [x for row in hidden for x in row] + [x for row in logits for x in row] + gate
    packed = b"PMR1" + struct.pack("<5IfI", 0, 4, 64, 8, 1, 1.0, 0) + struct.pack(f"<{len(flat)}f", *flat)
    binary = {"Content-Type": "application/octet-stream"}
    status, _, raw = server.ask("POST", "/v1/route?memory=headers", packed, binary)
    assert status == 200 and len(raw) == 16 + 4 * 8 * 4 + 4
    rows, experts = struct.unpack("<2I", raw[:8])
    assert (rows, experts) == (4, 8)
    values = struct.unpack("<32f", raw[16:16 + 128])
    assert list(values) == pytest.approx([x for row in answer["logits"] for x in row], abs=1e-6)
    assert list(raw[-4:]) == [1, 1, 0, 0]
    for wrong, part in ((packed[:-1], "announces"), (b"PMR0" + packed[4:], "PMR1"), (packed[:20], "header")):
        assert part in server.refused("POST", "/v1/route", wrong, 400, "invalid_value", binary)["message"]
    assert "layer" in server.refused("POST", "/v1/route", {"layer": 9, "hidden": hidden, "logits": logits}, 400, "invalid_value")["message"]


def test_a_client_that_goes_away_frees_its_place(server):
    def running():
        text = server.ask("GET", "/metrics")[2].decode()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("pointsman_engine_running "))

    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        body = json.dumps({"prompt": "x", "max_tokens": 120, "n": 8}).encode()
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body)
    deadline = time.monotonic() + 20
    while running() > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running() == 0
