"""TLS on the port and requests over the Unix socket."""

import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import time

import pytest

from conftest import fails
from serving import Server


def certificate(folder, name):
    folder.mkdir(exist_ok=True)
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", pem],
                   check=True, capture_output=True)
    return pem, key


def ask(port, context, path="/healthz", body=None):
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None,
                       {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    peer = connection.sock.getpeercert() if connection.sock else None
    return answer.status, json.loads(answer.read()), peer


@pytest.fixture
def secure(pointsman, model, tmp_path):
    pem, key = certificate(tmp_path / "tls", "first")
    server = Server(pointsman, "--model", model, "--threads", "1", "--tls-certificate", pem, "--tls-key", key)
    server.pem, server.key = pem, key
    yield server
    server.stop(signal.SIGKILL)


def test_a_client_that_trusts_the_certificate_is_served(secure):
    context = ssl.create_default_context(cafile=secure.pem)
    assert ask(secure.port, context)[:2] == (200, ask(secure.port, context)[1])
    status, answer, _ = ask(secure.port, context, "/v1/completions", {"prompt": "int", "max_tokens": 4, "temperature": 0})
    assert status == 200 and answer["usage"]["completion_tokens"] > 0
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(secure.port, ssl.create_default_context())


def test_old_protocols_and_plain_http_are_not_spoken(secure):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(secure.port, old)
    with socket.create_connection(("127.0.0.1", secure.port), timeout=30) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" not in raw.recv(4096)
    assert ask(secure.port, ssl.create_default_context(cafile=secure.pem))[0] == 200


def test_a_connection_that_never_shakes_hands_keeps_nobody_waiting(secure):
    idle = [socket.create_connection(("127.0.0.1", secure.port)) for _ in range(50)]
    begun = time.monotonic()
    assert ask(secure.port, ssl.create_default_context(cafile=secure.pem))[0] == 200
    assert time.monotonic() - begun < 5
    for connection in idle:
        connection.close()


def test_a_new_certificate_is_taken_on_sighup_and_a_broken_one_is_not(secure, tmp_path):
    pem, key = certificate(tmp_path / "tls", "second")
    secure.pem.write_bytes(pem.read_bytes())
    secure.key.write_bytes(key.read_bytes())
    secure.process.send_signal(signal.SIGHUP)
    context = ssl.create_default_context(cafile=pem)
    deadline = time.monotonic() + 20
    while True:
        try:
            assert ask(secure.port, context)[0] == 200
            break
        except ssl.SSLCertVerificationError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    secure.pem.write_text("not a certificate")
    secure.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert ask(secure.port, context)[0] == 200
    code, err = secure.stop()
    assert code == 0 and "not read again" in err


def test_a_certificate_without_its_key_is_refused_at_start(pointsman, model, tmp_path):
    pem, key = certificate(tmp_path / "tls", "one")
    other, other_key = certificate(tmp_path / "tls", "other")
    serve = ("serve", "--model", model, "--port", "0")
    assert pointsman(*serve, "--tls-certificate", pem).returncode == 2
    assert pointsman(*serve, "--tls-certificate", pem, "--tls-key", other_key).returncode in (1, 2)
    assert pointsman(*serve, "--tls-certificate", tmp_path / "none.pem", "--tls-key", key).returncode in (1, 2)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def test_the_unix_socket_serves_without_a_port(pointsman, model, tmp_path):
    path = tmp_path / "socket"
    server = Server(pointsman, "--model", model, "--threads", "1", "--address", "none", "--unix-socket", path)
    try:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        connection = UnixConnection(path)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
    finally:
        assert server.stop()[0] == 0
    assert not path.exists()
