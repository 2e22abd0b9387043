"""Builds that go wrong: an empty or strange corpus, a full disk, a killed process, two writers at once."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from conftest import SMALL_BUILD, copy_headers, fails


def build_arguments(model, corpus, off_domain, out, *more):
    return ("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", out, "--kind", "entries",
            *SMALL_BUILD, *more)


def digest(pointsman, memory):
    return pointsman.ok("inspect", memory, "--digest").stdout.strip()


def test_probe_and_plan_print_what_their_schemas_say(pointsman, model, corpus, off_domain):
    probe = pointsman.json("probe", "--model", model, "--corpus", corpus, "--sample-tokens", "256", "--threads", "1",
                           schema="probe")
    assert [layer["layer"] for layer in probe["layers"]] == [0, 1]
    plan = pointsman.json("plan", "--model", model, "--corpus", corpus, "--max-tokens", "4000", "--threads", "1",
                          schema="plan")
    assert 0 < plan["tokens"] <= 4000


def test_an_empty_corpus_leaves_nothing_behind(pointsman, model, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "memory"
    fails(pointsman("build", "--model", model, "--corpus", empty, "--out", out), 1, str(empty))
    assert not (out / "MANIFEST.json").exists()


def test_a_corpus_that_is_not_there_is_named(pointsman, model, tmp_path):
    fails(pointsman("build", "--model", model, "--corpus", tmp_path / "nowhere", "--out", tmp_path / "m"), 1, "nowhere")


def test_unusable_files_are_skipped_counted_and_named(pointsman, model, off_domain, tmp_path):
    corpus = copy_headers(tmp_path / "corpus", count=40, largest=9_000)
    (corpus / "picture.png").write_bytes(b"\x89PNG\0\0\0" + bytes(range(256)) * 8)
    (corpus / "latin1.txt").write_bytes("Grüße aus Köln\n".encode("latin-1") * 50)
    done = pointsman.ok(*build_arguments(model, corpus, off_domain, tmp_path / "memory"))
    assert "1 binary" in done.stdout and "picture.png" in done.stdout
    assert "1 invalid UTF-8" in done.stdout and "latin1.txt" in done.stdout


def test_the_digest_does_not_depend_on_threads(pointsman, model, corpus, off_domain, built_memory, tmp_path):
    settings = SMALL_BUILD[: SMALL_BUILD.index("--threads")]
    pointsman.ok("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", tmp_path / "memory",
                 "--kind", "entries", *settings, "--threads", "2")
    assert digest(pointsman, tmp_path / "memory") == digest(pointsman, built_memory)


def test_kill_during_a_build_then_resume_gives_the_same_memory(pointsman, model, corpus, off_domain, built_memory, tmp_path):
    out = tmp_path / "memory"
    arguments = build_arguments(model, corpus, off_domain, out)
    began = time.monotonic()
    pointsman.ok(*build_arguments(model, corpus, off_domain, tmp_path / "whole"))
    whole = time.monotonic() - began
    for share in (0.3, 0.6, 0.8):
        process = pointsman.start(*arguments, *(["--resume"] if out.exists() else []))
        time.sleep(whole * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
    pointsman.ok(*arguments, "--resume")
    assert digest(pointsman, out) == digest(pointsman, tmp_path / "whole") == digest(pointsman, built_memory)
    assert "sound" in pointsman.ok("verify", out).stdout


def test_resume_with_other_settings_reuses_nothing(pointsman, model, corpus, off_domain, built_memory, tmp_path):
    out = tmp_path / "memory"
    process = pointsman.start(*build_arguments(model, corpus, off_domain, out, "--seed", "5"))
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not list(out.glob("build/*")):
        time.sleep(0.02)  # until a stage is kept
    process.kill()
    process.wait()
    done = pointsman.ok(*build_arguments(model, corpus, off_domain, out, "--resume"))
    assert "reused" not in done.stderr
    assert digest(pointsman, out) == digest(pointsman, built_memory)


def test_a_second_writer_is_refused_and_harms_nothing(pointsman, model, corpus, off_domain, built_memory, tmp_path):
    out = tmp_path / "memory"
    arguments = build_arguments(model, corpus, off_domain, out)
    first = pointsman.start(*arguments)
    deadline = time.monotonic() + 60
    while not (out / "LOCK").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    second = pointsman(*arguments)
    assert first.wait(timeout=120) == 0
    fails(second, 1, str(out), str(first.pid))
    assert digest(pointsman, out) == digest(pointsman, built_memory)


def test_a_finished_memory_is_not_overwritten(pointsman, model, corpus, off_domain, memory):
    before = digest(pointsman, memory)
    fails(pointsman(*build_arguments(model, corpus, off_domain, memory)), 2, str(memory), "--resume")
    fails(pointsman(*build_arguments(model, corpus, off_domain, memory, "--seed", "3", "--resume")), 1, "--out")
    assert "nothing to do" in pointsman.ok(*build_arguments(model, corpus, off_domain, memory, "--resume")).stderr
    assert digest(pointsman, memory) == before


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 8 MiB, gone afterwards."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount a tmpfs here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk, left):
    """Leaves `left` bytes free; returns the file that takes the rest."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(filler, max(0, filler.stat().st_size - left))
    return filler


def test_a_full_disk_ends_a_build_and_keeps_what_was_there(pointsman, model, corpus, off_domain, built_memory, small_disk):
    neighbour = pathlib.Path(shutil.copytree(built_memory, small_disk / "neighbour"))
    arguments = build_arguments(model, corpus, off_domain, small_disk / "memory")
    for left in (0, 65_536, 500_000, 2_000_000):
        filler = fill(small_disk, left)
        line = fails(pointsman(*arguments, "--resume"), 1, str(small_disk))
        assert "space" in line or "full" in line, line
        filler.unlink()
    pointsman.ok(*arguments, "--resume")  # with room again it goes on
    assert digest(pointsman, small_disk / "memory") == digest(pointsman, neighbour) == digest(pointsman, built_memory)
    assert "sound" in pointsman.ok("verify", neighbour).stdout


def test_progress_for_programs_is_json_lines(pointsman, model, corpus, off_domain, tmp_path):
    done = pointsman.ok(*build_arguments(model, corpus, off_domain, tmp_path / "m", "--progress", "json", "--json"))
    assert json.loads(done.stdout)["kind"] == "entries"
    lines = done.stderr.splitlines()
    updates = [json.loads(line) for line in lines if line.startswith("{")]
    assert all(set(u) - {"loss"} == {"stage", "done", "total", "rows_per_s", "eta_s"} for u in updates)
    stages = list(dict.fromkeys(u["stage"] for u in updates))
    assert stages == ["load", "ingest", "capture", "train", "entries", "gate", "write", "verdict"]
    capture = [u for u in updates if u["stage"] == "capture" and u["total"]]
    assert capture[0]["done"] == 0 and capture[-1]["done"] == capture[-1]["total"] > 1000
    assert any(0 < u.get("loss", 0) < 20 for u in updates if u["stage"] == "entries")
    assert any(line.startswith("corpus: ") for line in lines)  # people's lines stay
