"""tools/study/domains: a table for each domain and seed, and no work twice."""

import pathlib
import subprocess
import sys

from plot_domains import tables as read_tables

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
    (title, rows), = read_tables(tables)
    assert title == "headers, seed 3" and [name for name, _, _ in rows] == ["bias", "memory", "built with --output-memory"]
    assert all(low <= mean <= high for _, *cells in rows for mean, low, high in cells)
    again = domains(pointsman, *arguments)
    assert again.returncode == 0 and "$" not in again.stdout and (tmp_path / "work/tables.md").read_text() == tables


def test_domains_says_what_a_domain_looks_like(pointsman, off_domain):
    done = domains(pointsman, "--domain", "headers", "--off-domain", off_domain)
    assert done.returncode == 2 and "NAME=PATH" in done.stderr


def test_the_picture_reads_the_tables_of_the_results_and_no_others():
    read = read_tables((ROOT / "docs/results.md").read_text())
    assert {title.split(",")[0] for title, _ in read} == {"headers", "sql", "gsm8k"}
    for title, rows in read:
        variants = {name: (gain, damage) for name, gain, damage in rows}
        assert "memory" in variants and "frozen" not in variants and len(variants) == len(rows), title
        assert variants["memory"][0][0] < -0.1 and abs(variants["memory"][1][0]) < 0.001, title
