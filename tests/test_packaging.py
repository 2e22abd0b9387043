"""What the Debian package brings: the configuration with every key explained, the unit, and readiness told to systemd."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tomllib
import urllib.request

import pytest

from conftest import BINARY, ROOT

PACKAGING = ROOT / "daemon" / "packaging"
CONFIG = PACKAGING / "pointsman.toml"


def serve_options(pointsman, *arguments):
    return {s["name"]: s for s in pointsman.json("config", *arguments, schema="config")["settings"] if s["command"] == "serve"}


def test_every_key_is_explained_with_its_default(pointsman):
    text = CONFIG.read_text()
    options = serve_options(pointsman)
    blocks = {}
    comment = []
    for line in text.splitlines():
        if key := re.fullmatch(r"(?:# )?([a-z][a-z-]+) = (.*)", line):
            blocks[key[1]] = (" ".join(comment), key[2])
        elif line.startswith("#"):
            comment.append(line.lstrip("# "))
        else:
            comment = []
    assert set(blocks) == set(options)
    for name, (explanation, _) in blocks.items():
        assert len(explanation) > 20, name
        (default,) = options[name]["value"] or [None]
        if default and default not in ("", "false"):
            assert default in explanation, f"{name}: the default {default} is not told"


def test_the_shipped_configuration_is_in_force(pointsman):
    set_here = tomllib.loads(CONFIG.read_text())["serve"]
    options = serve_options(pointsman, "--config", CONFIG)
    for name, value in set_here.items():
        assert options[name]["value"] == [str(value)] and options[name]["source"].startswith("file"), name


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / "pointsman.service"
    unit.write_text((PACKAGING / "pointsman.service").read_text().replace("/usr/bin/pointsman", str(BINARY)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "pointsman" in line]
    assert lines == [], lines


def test_readiness_reload_and_stop_are_told_to_systemd(pointsman, model, tmp_path):
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        server = subprocess.Popen([BINARY, "serve", "--port", "0", "--model", model, "--threads", "1"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, env=pointsman.environment({"NOTIFY_SOCKET": str(address)}))
        try:
            said = lambda: manager.recv(4096).decode().splitlines()
            ready = said()
            assert ready[0] == "READY=1" and re.fullmatch(r"STATUS=serving .+ on port \d+", ready[1])
            server.send_signal(signal.SIGHUP)
            assert said()[0] == "RELOADING=1"
            assert said()[0] == "READY=1"
            server.send_signal(signal.SIGTERM)
            assert said()[0] == "STOPPING=1"
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()


def as_service(*arguments):
    return ["su", "-s", "/bin/sh", "pointsman", "-c", " ".join(map(str, arguments))]


@pytest.mark.skipif("POINTSMAN_PACKAGE" not in os.environ or os.geteuid() != 0,
                    reason="installs a package: needs root and POINTSMAN_PACKAGE=FILE.deb (cpack makes it)")
def test_the_package_installs_serves_and_leaves_nothing_behind(tmp_path):
    package = pathlib.Path(os.environ["POINTSMAN_PACKAGE"]).resolve()
    run = lambda *command: subprocess.run(command, check=True, capture_output=True, text=True,
                                          env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    run("apt-get", "install", "-y", package)
    try:
        assert "not found" not in run("ldd", "/usr/bin/pointsman").stdout
        assert run("/usr/bin/pointsman", "--version").stdout.startswith("pointsman 0.")
        # What the unit runs, as its user; there may be no systemd here.
        unit = pathlib.Path("/usr/lib/systemd/system/pointsman.service").read_text()
        command = re.search(r"^ExecStart=(.*)$", unit, re.M)[1]
        server = subprocess.Popen(as_service("exec", command, "--port", "0", "--json"), stdout=subprocess.PIPE, text=True)
        try:
            port = json.loads(server.stdout.readline())["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
                assert json.load(answer) == {"status": "ready"}
        finally:
            server.terminate()
            server.wait(60)
        kept = pathlib.Path("/var/lib/pointsman/memories/kept")
        kept.mkdir()
        run("apt-get", "remove", "-y", "pointsman")
        assert kept.exists() and pathlib.Path("/etc/pointsman/pointsman.toml").exists()
        assert not pathlib.Path("/usr/bin/pointsman").exists()
    finally:
        run("apt-get", "purge", "-y", "pointsman")
    for path in ("/etc/pointsman", "/var/lib/pointsman", "/var/log/pointsman", "/usr/lib/pointsman", "/usr/share/pointsman"):
        assert not pathlib.Path(path).exists(), path
    assert subprocess.run(["id", "pointsman"], capture_output=True).returncode != 0
