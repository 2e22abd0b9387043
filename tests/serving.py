"""A running `pointsman serve`, for the tests that ask one."""

import http.client
import json
import pathlib
import signal
import subprocess

import pytest

from conftest import BINARY

PROMPT = "template <typename T>\nclass vector"


class Server:
    """A running `pointsman serve` on a port of its own."""

    def __init__(self, pointsman, *arguments, env=None):
        self.process = subprocess.Popen([str(BINARY), "serve", "--port", "0", "--json", *map(str, arguments)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=pointsman.environment(env))
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.port = json.loads(line)["port"]

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body as JSON or text)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        content = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        sent = {"Content-Type": "application/json"} if isinstance(body, (dict, list)) else {}
        connection.request(method, path, content, sent | (headers or {}))
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        kind = answer.getheader("Content-Type", "")
        return answer.status, dict(answer.getheaders()), json.loads(raw) if "json" in kind else raw

    def ok(self, method, path, body=None, status=200, headers=None):
        found, _, answer = self.ask(method, path, body, headers)
        assert found == status, (found, answer)
        return answer

    def refused(self, method, path, body, status, code, headers=None):
        found, _, answer = self.ask(method, path, body, headers)
        assert (found, answer["error"]["code"]) == (status, code), answer
        return answer["error"]

    def stop(self, sign=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sign)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def server(pointsman, model, built_memory, tmp_path_factory):
    running = Server(pointsman, "--model", model, "--memory", f"headers={built_memory}", "--threads", "1", "--allow-rejected",
                     "--memory-root", pathlib.Path(built_memory).parent, "--audit-log", tmp_path_factory.mktemp("audit") / "audit")
    yield running
    running.stop(signal.SIGKILL)
