"""What the Debian package brings: the configuration with every key explained, the unit, and readiness told to systemd."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tomllib

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
