"""pointsman serve and the documents of a memory: listed, searched, deleted, and held against live text."""

import pathlib

from serving import Server, server  # noqa: F401


def test_documents_are_listed_page_by_page_and_shown_with_their_text(server, corpus):
    everything = server.ok("GET", "/v1/memories/headers/documents")
    assert not everything["has_more"] and len(everything["data"]) > 7
    pages, after = [], ""
    while True:
        page = server.ok("GET", f"/v1/memories/headers/documents?limit=3{after}")
        pages += page["data"]
        if not page["has_more"]:
            break
        assert len(page["data"]) == 3
        after = f"&after={page['data'][-1]['id']}"
    assert pages == everything["data"]
    reference = next(d for d in pages if d["role"] == "reference")
    shown = server.ok("GET", f"/v1/memories/headers/documents/{reference['id']}")
    assert shown["text"].strip()[:200] in "".join(p.read_text() for p in corpus.rglob("*.h"))
    held_out = next(d for d in pages if d["role"] == "test")
    assert server.ok("GET", f"/v1/memories/headers/documents/{held_out['id']}")["text"] is None
    server.refused("GET", "/v1/memories/headers/documents/0123456789abcdef", None, 404, "not_found")
    server.refused("GET", "/v1/memories/headers/documents/..", None, 400, "invalid_request")
    server.refused("GET", "/v1/memories/headers/documents?limit=0", None, 400, "invalid_value")
    server.refused("GET", "/v1/memories/headers/documents?after=x", None, 400, "invalid_value")
    server.refused("GET", "/v1/memories/headers/documents?page=2", None, 400, "invalid_value")
    assert server.ok("GET", "/v1/memories/headers/documents?tag=nothing")["data"] == []


def test_search_finds_the_place_that_a_text_was_taken_from(server):
    documents = server.ok("GET", "/v1/memories/headers/documents?limit=1000")["data"]
    reference = [d for d in documents if d["role"] == "reference"]
    text = server.ok("GET", f"/v1/memories/headers/documents/{reference[0]['id']}")["text"]
    found = server.ok("POST", "/v1/memories/headers/search", {"text": text[:200], "k": 5})
    assert len(found["neighbours"]) == 5 and found["memory"] == "headers"
    similarities = [n["similarity"] for n in found["neighbours"]]
    assert similarities == sorted(similarities, reverse=True)
    # The same tokens in the same context: the same router inputs, up to the rounding of stored keys.
    assert similarities[0] > 0.98
    assert found["neighbours"][0]["document"] == reference[0]["source"]
    # An entry stands at the token that it learned to predict: the one after what was read.
    assert found["neighbours"][0]["position"] == found["neighbours"][0]["token_position"] + 1
    assert " | " in found["neighbours"][0]["excerpt"]
    assert 0 < found["confidence"] <= 1 and 0 <= found["gate"] <= 1


def test_search_by_vector_needs_a_layer_and_the_models_width(server):
    layer = server.ok("POST", "/v1/memories/headers/search", {"text": "class"})["layer"]
    found = server.ok("POST", "/v1/memories/headers/search", {"vector": [0.5] * 63 + [-1], "layer": layer, "k": 3})
    assert len(found["neighbours"]) == 3 and found["gate"] is None and "token_position" not in found["neighbours"][0]
    search = "/v1/memories/headers/search"
    server.refused("POST", search, {"vector": [0.5] * 64}, 400, "invalid_value")
    server.refused("POST", search, {"vector": [0.5] * 63, "layer": layer}, 400, "invalid_value")
    server.refused("POST", search, {"vector": [0.5] * 64, "layer": 77}, 400, "invalid_value")
    server.refused("POST", search, {"vector": [0.5] * 64, "layer": layer, "text": "both"}, 400, "invalid_value")
    assert "or a vector" in server.refused("POST", search, {"k": 3}, 400, "invalid_value")["message"]
    server.refused("POST", search, {"text": ""}, 422, "context_length_exceeded")
    server.refused("POST", search, {"text": "x " * 5000}, 422, "context_length_exceeded")
    server.refused("POST", search, {"text": "x", "k": 101}, 400, "invalid_value")
    server.refused("POST", "/v1/memories/other/search", {"text": "x"}, 404, "not_found")


def test_drift_is_told_from_live_text(pointsman, model, built_memory, off_domain):
    running = Server(pointsman, "--model", model, "--memory", f"headers={built_memory}", "--allow-rejected", "--threads", "1")
    try:
        def complete(prompt, tokens):
            return running.ok("POST", "/v1/completions", {"prompt": prompt, "max_tokens": tokens, "n": 8, "ignore_eos": True})

        fresh = running.ok("GET", "/v1/memories/headers/drift")
        assert fresh["window_tokens"] == 0 and not fresh["alarm"] and "tokens so far" in fresh["reason"]
        assert fresh["calibration"]["tokens"] > 0 and fresh["calibration"]["open_share"] > 0
        assert any(f["what"] == "requests" for f in running.ok("GET", "/v1/memories/headers/diagnosis")["findings"])
        # Noise of a random model after a licence: nothing that the headers have.
        licence = sorted(off_domain.iterdir())[0].read_text()[:60]
        for _ in range(6):
            complete(licence, 90)
        live = running.ok("GET", "/v1/memories/headers/drift")
        assert live["window_tokens"] >= 512
        expected = live["live"]["open_share"] < 0.5 * live["calibration"]["open_share"]
        where_open = lambda s: s["confidence_mean"] / s["gate_mean"] if s["gate_mean"] else 0
        expected = expected or where_open(live["live"]) < 0.5 * where_open(live["calibration"])
        assert live["alarm"] == expected
        assert expected, live  # or the text above is not off the domain
        metrics = running.ask("GET", "/metrics")[2].decode()
        assert 'pointsman_memory_drift_alarm{memory="headers"} 1' in metrics
        diagnosis = running.ok("GET", "/v1/memories/headers/diagnosis")
        assert "drift" in [f["what"] for f in diagnosis["findings"]]
        running.ok("PATCH", "/v1/routing", {"shadow": True})
        assert "shadow" in [f["what"] for f in running.ok("GET", "/v1/memories/headers/diagnosis")["findings"]]
    finally:
        running.stop()


def test_a_deleted_document_is_gone_at_once_and_for_good(pointsman, model, memory):
    running = Server(pointsman, "--model", model, "--memory", f"headers={memory}", "--allow-rejected", "--threads", "1")
    try:
        documents = running.ok("GET", "/v1/memories/headers/documents?limit=1000")["data"]
        gone = next(d for d in documents if d["role"] == "reference")
        text = running.ok("GET", f"/v1/memories/headers/documents/{gone['id']}")["text"]
        found = lambda: {n["document"] for n in running.ok("POST", "/v1/memories/headers/search",
                                                           {"text": text[:200], "k": 20})["neighbours"]}
        assert gone["source"] in found()
        answer = running.ok("DELETE", f"/v1/memories/headers/documents/{gone['id']}")
        assert answer["deleted"] and answer["rows"] > 0
        assert running.ok("GET", "/v1/memories/headers")["generation"] == answer["generation"]
        assert running.ok("GET", "/v1/memories/headers")["verdict"]["stale"]
        assert gone["source"] not in found()
        left = running.ok("GET", "/v1/memories/headers/documents?limit=1000")["data"]
        assert [d["id"] for d in left] == [d["id"] for d in documents if d["id"] != gone["id"]]
        running.refused("DELETE", f"/v1/memories/headers/documents/{gone['id']}", None, 404, "not_found")
        running.refused("GET", f"/v1/memories/headers/documents/{gone['id']}", None, 404, "not_found")
    finally:
        running.stop()
    assert pointsman.json("verify", memory, schema="verify")["findings"] == []
    assert not any(gone["source"].encode() in p.read_bytes() for p in pathlib.Path(memory).rglob("*") if p.is_file())


def test_a_writer_elsewhere_makes_a_deletion_wait(pointsman, model, memory):
    import fcntl

    running = Server(pointsman, "--model", model, "--memory", f"headers={memory}", "--allow-rejected", "--threads", "1")
    try:
        document = running.ok("GET", "/v1/memories/headers/documents")["data"][0]["id"]
        with open(memory / "LOCK", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            running.refused("DELETE", f"/v1/memories/headers/documents/{document}", None, 409, "conflict")
        running.ok("DELETE", f"/v1/memories/headers/documents/{document}")
    finally:
        running.stop()
