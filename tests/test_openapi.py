"""schemas/openapi.yaml against the server: every route is described, and what is described is what it does."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from conftest import ROOT
from serving import Server

SPEC = ROOT / "schemas" / "openapi.yaml"
METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def spec():
    return yaml.safe_load(SPEC.read_text())


@pytest.fixture
def server(pointsman, model, memory, tmp_path):
    """One that may be mistreated: its own copy of the memory."""
    keys = tmp_path / "keys"
    key = pointsman.json("keys", "new", "--keys", keys, "--name", "tester", "--access", "admin")["key"]
    running = Server(pointsman, "--model", model, "--memory", f"headers={memory}", "--threads", "1", "--allow-rejected",
                     "--memory-root", pathlib.Path(memory).parent, "--keys", keys, "--jobs", tmp_path / "jobs",
                     "--snapshots", tmp_path / "snapshots")
    running.key = key
    yield running
    code, err = running.stop()
    assert code == 0, err
    assert "a handler failed" not in err


def described(spec):
    return {(method.upper(), path) for path, item in spec["paths"].items() for method in item if method in METHODS}


def registered():
    """Method and pattern of every route, from the sources that register them."""
    found = set()
    for source in sorted((ROOT / "daemon" / "api").glob("*.cc")):
        text = source.read_text()
        found |= set(re.findall(r'"(GET|POST|PUT|PATCH|DELETE)",\s*"(/[^"]*)"', text))
        found |= set(re.findall(r'\.method = "(\w+)",\s*\.pattern = "(/[^"]*)"', text))
        # Tables of paths that share a method.
        for helper, method in ((r'add\("(/v1/(?:chat/)?completions)", (?:true|false)\)', "POST"),
                               (r'add\("(/v1/memories/\{id\}/d[a-z]+)", ', "GET")):
            found |= {(method, path) for path in re.findall(helper, text)}
    jobs = (ROOT / "daemon" / "api" / "jobs.cc").read_text()
    for resource in re.findall(r'\{"(/v1/\w+)", "\w*"\}', jobs):
        found |= {("GET", resource), ("GET", resource + "/{job}"), ("GET", resource + "/{job}/events"), ("DELETE", resource + "/{job}")}
    return found | {("POST", path) for path in re.findall(r'creates\("(/v1/\w+)"', jobs)}


def test_every_route_is_described_and_every_description_served(spec):
    page = {("GET", "/"), ("GET", "/web/{file}")}  # for people
    assert described(spec) == registered() - page


def test_no_key_is_there_twice():
    """A YAML reader takes the last of them, or none at all."""
    def check(node, path):
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert sorted(set(keys)) == sorted(keys), path
            for key, value in node.value:
                check(value, f"{path}/{key.value}")
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                check(item, path)

    check(yaml.compose(SPEC.read_text(), Loader=yaml.SafeLoader), "")


def test_the_server_hands_out_its_description(server):
    status, headers, text = server.ask("GET", "/openapi.yaml")
    assert (status, headers["Content-Type"], text) == (200, "application/yaml", SPEC.read_bytes())


def test_the_error_codes_are_those_of_the_table(spec):
    table = re.findall(r'ApiErrorRow\{ApiCode::\w+, \d+, \S+, "(\w+)"', (ROOT / "daemon" / "api_error.cc").read_text())
    schema = spec["components"]["schemas"]["Error"]["properties"]["error"]["properties"]
    assert schema["code"]["enum"] == table


@pytest.mark.parametrize("method, path", sorted(described(yaml.safe_load(SPEC.read_text()))))
def test_what_is_described_is_there(server, method, path):
    status, headers, answer = server.ask(method, path.replace("{", "").replace("}", ""), headers={"Authorization": f"Bearer {server.key}"})
    assert status not in (405, 500, 501), answer
    if status == 404:
        assert "no such resource" not in answer["error"]["message"]


def run_schemathesis(server, folder, *options):
    # Not unsupported_method: it sends GET with a body, which the HTTP layer refuses before it looks at the path.
    checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
              "negative_data_rejection", "ignored_auth", "allow_header_conformance")
    done = subprocess.run([sys.executable, "-m", "schemathesis.cli", "run", str(SPEC), "--url", f"http://127.0.0.1:{server.port}",
                           "--header", f"Authorization: Bearer {server.key}", "--seed", "20260101", "--no-color",
                           "--checks", ",".join(checks), *options], capture_output=True, text=True, timeout=600, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("part", ["inference", "rest"])
def test_schemathesis_finds_no_answer_that_is_not_described(server, part, tmp_path):
    generation = ("--include-path-regex", "completions")
    chosen = generation if part == "inference" else ("--exclude-path-regex", "completions")
    code, report = run_schemathesis(server, tmp_path, *chosen, "--max-examples", "25", "--phases", "examples,coverage,fuzzing")
    assert code == 0, report[-6000:]
    assert server.process.poll() is None
