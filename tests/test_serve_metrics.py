"""What pointsman serve says of its own work: /metrics, and the routing of a stream."""

import re

from serving import PROMPT, server  # noqa: F401
from test_serve import events


def test_a_stream_ends_with_what_the_whole_answer_says_of_its_routing(server):
    body = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "seed": 3}
    last = events(server, "/v1/completions", body | {"stream_options": {"include_usage": True}})[-1]
    whole = server.ok("POST", "/v1/completions", body)
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    times = {"queued_ms", "prefill_ms", "decode_ms", "adapt_ms"}
    assert set(last["pointsman"]) == set(whole["pointsman"]) > times
    assert all(last["pointsman"][key] == whole["pointsman"][key] for key in set(whole["pointsman"]) - times)


def test_metrics_keep_prometheus_conventions(server):
    server.ok("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 2})
    metrics = server.ask("GET", "/metrics")[2].decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics, re.M))
    for name, kind in kinds.items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith(("_sum", "_count", "_bucket", "_ms", "_percent")), name
    for stage in ("queue", "prefill", "decode"):
        assert float(re.search(rf'^pointsman_completion_stage_seconds_count\{{stage="{stage}"\}} (\S+)$', metrics, re.M).group(1)) >= 1
    assert float(re.search(r'^pointsman_memory_bytes\{memory="headers"\} (\S+)$', metrics, re.M).group(1)) == server.ok("GET", "/v1/memories/headers")["derived_bytes"]
