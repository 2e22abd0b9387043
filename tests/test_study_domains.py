"""tools/study/domains: a table for each domain and seed, and no work twice."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def domains(pointsman, *arguments):
    return subprocess.run([sys.executable, str(ROOT / "tools/study/domains"), *map(str, arguments)], capture_output=True,
                          text=True, env=pointsman.environment(), timeout=280)


def test_domains_prints_a_table_and_goes_on_where_it_stopped(pointsman, model, corpus, off_domain, tmp_path):
    arguments = ("--model", model, "--domain", f"headers={corpus}", "--off-domain", off_domain, "--seeds", "3", "--variants",
                 "frozen,bias,memory", "--max-tokens", 3000, "--max-test-tokens", 3000, "--threads", 1, "--work", tmp_path / "work")
    first = domains(pointsman, *arguments)
    assert first.returncode == 0, first.stderr
    tables = (tmp_path / "work/tables.md").read_text()
    lines = tables.splitlines()
    assert lines[0].startswith("headers, seed 3: ")
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["bias", "memory", "**built with --output-memory**"]
    again = domains(pointsman, *arguments)
    assert again.returncode == 0 and "$" not in again.stdout and (tmp_path / "work/tables.md").read_text() == tables


def test_domains_says_what_a_domain_looks_like(pointsman, off_domain):
    done = domains(pointsman, "--domain", "headers", "--off-domain", off_domain)
    assert done.returncode == 2 and "NAME=PATH" in done.stderr
