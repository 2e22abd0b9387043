"""Options: flags, environment, TOML file, their precedence, and every way to use them wrongly."""

import json

import pytest
from conftest import ROOT, copy_headers, fails

COMMANDS = ["probe", "plan", "build", "eval", "generate", "inspect", "verify", "snapshot", "restore", "rollback", "compact",
            "docs list", "docs add", "docs remove", "serve", "keys new", "keys list", "keys revoke", "bench scan", "bench route",
            "bench build", "bench rewire", "bench daemon", "study rewire", "config"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_of_the_command(pointsman, command):
    done = pointsman.ok(*command.split(), "--help")
    assert f"pointsman {command}" in done.stdout
    assert "--json" in done.stdout
    assert done.stderr == ""


def test_version(pointsman):
    assert pointsman.ok("--version").stdout.startswith("pointsman 0.")


def test_no_command_is_wrong_use(pointsman):
    fails(pointsman(), 2, "--help")


def test_unknown_command_is_named(pointsman):
    fails(pointsman("biuld"), 2, "biuld")


@pytest.mark.parametrize("command, option", [
    ("build", "--cluster"), ("build", "--store"), ("build", "--shard"),
    ("build", "--transform-from")])
def test_options_of_later_versions_are_refused(pointsman, command, option):
    fails(pointsman(command, option, "x"), 2, "unknown option", option, "--help")


def test_unknown_option_suggests_the_nearest(pointsman):
    fails(pointsman("build", "--max-token", "3"), 2, "--max-token", "did you mean --max-tokens?")


@pytest.mark.parametrize("arguments, parts", [
    (("build", "--model", "m", "--corpus", "c"), ("--out MEM is missing",)),
    (("generate", "--model", "m"), ("--prompt TEXT is missing",)),
    (("inspect",), ("MEM is missing",)),
    (("generate", "--model", "m", "--prompt", "x", "--max-tokens", "many"), ("--max-tokens", "'many'", "whole number")),
    (("generate", "--model", "m", "--prompt", "x", "--max-tokens", "0"), ("--max-tokens", "out of range")),
    (("generate", "--model", "m", "--prompt", "x", "--strength", "1.5"), ("--strength", "at most 1")),
    (("eval", "--model", "m", "--corpus", "c", "--rewire-layers", "first:2"), ("--rewire-layers", "first:2", "last:3")),
    (("eval", "--model", "m", "--corpus", "c", "--rewire-layers", "last:0"), ("--rewire-layers", "last:0")),
    (("eval", "--model", "m", "--corpus", "c", "--rewire-guard", "on"), ("--rewire-guard", "margin")),
    (("eval", "--model", "m", "--corpus", "c", "--rewire-stop", "soon"), ("--rewire-stop", "nats")),
    (("generate", "--model", "m", "--prompt", "x", "--temperature", "nan"), ("--temperature", "not a number")),
    (("generate", "--model", "m", "--prompt", "x", "--seed", "1", "--seed", "2"), ("--seed",)),
    (("generate", "--model", "m", "--prompt", "x", "--explain"), ("--explain", "--memory")),
    (("generate", "--model", "m", "--prompt", "x", "--rewire-steps", "2"), ("--rewire-steps", "add --rewire")),
    (("build", "--model", "m", "--corpus", "c", "--out", "o", "--index", "ivf"), ("--index", "'ivf'", "auto, exact")),
    (("build", "--model", "m", "--corpus", "c", "--out", "o", "--kind", "both"), ("--kind", "prototypes")),
    (("eval", "--model", "m", "--corpus", "c", "--variants", "frozen,knn_ml"), ("--variants", "'knn_ml'", "shuffled_values")),
    (("eval", "--model", "m"), ("--corpus",)),
    (("eval", "--model", "m", "--corpus", "c", "--task", "essay"), ("--task", "'essay'", "exact")),
    (("eval", "--model", "m", "--corpus", "c", "--answer-pattern", "x"), ("--answer-pattern", "--task")),
    (("eval", "--model", "m", "--corpus", "c", "--self-consistency", "4"), ("--self-consistency", "--task exact")),
    (("eval", "--model", "m", "--corpus", "c", "--task", "exact", "--answer-pattern", "(x"), ("--answer-pattern '(x'", "character 2")),
    (("eval", "--model", "m", "--corpus", "c", "--task", "exact", "--task-fields", "query=q"), ("--task-fields query=q", "prompt=NAME")),
    (("eval", "--model", "m", "--memory", "e", "--task", "exact", "--task-strengths", "2"), ("--task-strengths 2", "0 to 1")),
    (("eval", "--model", "m", "--corpus", "c", "--task", "exact", "--task-strengths", "0.5"), ("--task-strengths", "--memory")),
    (("generate", "--model", "m", "--prompt", "x", "--self-consistency", "4"), ("--self-consistency", "--answer-pattern")),
    (("generate", "--model", "m", "--prompt", "x", "--self-consistency", "4", "--answer-pattern", "x"), ("--temperature 0.7",)),
    (("eval", "--model", "m", "--corpus", "c", "--require", "reject"), ("--require", "adopt"))])
def test_wrong_values_name_option_and_remedy(pointsman, arguments, parts):
    fails(pointsman(*arguments), 2, *parts)


def in_force(pointsman, *arguments, **options):
    document = pointsman.json("config", *arguments, schema="config", **options)
    return {(s["command"], s["name"]): (s["value"], s["source"]) for s in document["settings"]}


def test_config_names_the_source_of_every_value(pointsman, tmp_path):
    file = tmp_path / "pointsman.toml"
    file.write_text('seed = 3\nthreads = 2\n[build]\nseed = 4\ncorpus = ["a", "b"]\nresume = true\n')
    settings = in_force(pointsman, "--config", file, env={"POINTSMAN_THREADS": "1", "POINTSMAN_OFF_DOMAIN": "x:y"})
    assert settings["build", "seed"] == (["4"], f"file {file}")
    assert settings["eval", "seed"] == (["3"], f"file {file}")
    assert settings["build", "corpus"] == (["a", "b"], f"file {file}")
    assert settings["build", "resume"] == (["true"], f"file {file}")
    assert settings["build", "threads"] == (["1"], "environment POINTSMAN_THREADS")
    assert settings["eval", "off-domain"] == (["x", "y"], "environment POINTSMAN_OFF_DOMAIN")
    assert settings["generate", "max-tokens"] == (["64"], "default")
    assert settings["eval", "memory"] == ([], "default")


def test_a_flag_beats_the_environment_and_the_environment_the_file(pointsman, tmp_path):
    file = tmp_path / "pointsman.toml"
    file.write_text("strength = 7\n")
    base = ("generate", "--model", tmp_path, "--prompt", "x", "--config", file)
    assert f"{file}: strength" in fails(pointsman(*base), 2)
    assert "POINTSMAN_STRENGTH" in fails(pointsman(*base, env={"POINTSMAN_STRENGTH": "8"}), 2)
    assert "--strength" in fails(pointsman(*base, "--strength", "9", env={"POINTSMAN_STRENGTH": "8"}), 2)
    # A right flag hides both: what fails now is the model's directory.
    fails(pointsman(*base, "--strength", "1", env={"POINTSMAN_STRENGTH": "8"}), 1, str(tmp_path))


def test_the_output_of_config_is_a_file_for_config(pointsman, tmp_path):
    environment = {"POINTSMAN_VARIANTS": "frozen,knn", "POINTSMAN_STOP": 'a"b\n', "POINTSMAN_MIN_GAIN": "0.25"}
    first = in_force(pointsman, env=environment)
    file = tmp_path / "saved.toml"
    file.write_text(pointsman.ok("config", env=environment).stdout)
    again = in_force(pointsman, "--config", file)
    assert {key: value for key, (value, _) in again.items()} == {key: value for key, (value, _) in first.items()}
    assert again["eval", "min-gain"] == (["0.25"], f"file {file}")


@pytest.mark.parametrize("text, parts", [
    ("max-token = 3\n", (":1:", "unknown key 'max-token'", "did you mean max-tokens?")),
    ("\n[build]\nprompt = 'x'\n", (":3:", "unknown key 'prompt'")),
    ("[biuld]\nseed = 1\n", (":1:", "[biuld]", "did you mean build?")),
    ("seed = \n", (":1:", "not valid TOML")),
    ("corpus = [[1]]\n", (":1:", "corpus")),
    ("index = 'hnsw'\n", ("index", "'hnsw'", "auto, exact")),
    ("memory = 3\nseed = -1\n", ("seed", "-1", "out of range"))])
def test_a_wrong_file_is_refused_with_its_name_and_line(pointsman, tmp_path, text, parts):
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    fails(pointsman("config", "--config", file), 2, str(file), *parts)


def test_a_missing_file_is_named(pointsman, tmp_path):
    fails(pointsman("config", "--config", tmp_path / "no.toml"), 1, str(tmp_path / "no.toml"))


def test_an_unknown_variable_is_warned_about(pointsman):
    done = pointsman.ok("config", env={"POINTSMAN_STRENGHT": "1"})
    assert "POINTSMAN_STRENGHT" in done.stderr and "POINTSMAN_STRENGTH" in done.stderr


def test_bench_scan_reports_every_kernel_of_this_machine(pointsman):
    document = pointsman.json("bench", "scan", "--keys", "20000", "--dim", "32", "--batch", "4", schema="bench_scan")
    assert {run["batch"] for run in document["runs"]} == {1, 4}
    assert "portable" in {run["engine"] for run in document["runs"]}
    assert all(run["recall_at_16"] > 0.9 for run in document["runs"]), json.dumps(document)


def test_bench_rewire_times_both_sides(pointsman):
    document = pointsman.json("bench", "rewire", "--model", ROOT / "models/reference", "--max-tokens", "8",
                              "--prompt-tokens", "16", "--runs",
                              "2", "--threads", "1", schema="bench_rewire")
    assert 0.2 < document["ratio"] < 20 and document["runs"] == 2
    assert document["plain_prompt_s"] < document["plain_s"] and document["rewired_prompt_s"] < document["rewired_s"]
    fails(pointsman("bench", "rewire", "--model", ROOT / "models/reference", "--prompt-tokens", "200"), 2, "context of 256")


def test_study_rewire_varies_one_setting_at_a_time(pointsman, model, tmp_path):
    headers, plot = tmp_path / "headers", tmp_path / "study.svg"
    headers.mkdir()
    copy_headers(headers, 3, 20000)
    document = pointsman.json("study", "rewire", "--model", ROOT / "models/reference", "--text", f"headers={headers}", "--windows",
                              "2", "--groups", "default,guard", "--plot", plot, "--threads", "1", schema="study_rewire")
    assert [row["label"] for row in document["rows"]] == ["default", "off", "0", "0.01", "0.03"]
    assert document["texts"] == [{"name": "headers", "windows": 2, "tokens": 256}]
    again = pointsman.json("study", "rewire", "--model", ROOT / "models/reference", "--text", f"headers={headers}", "--text",
                           f"headers={headers}", "--windows", "2", "--groups", "default", "--threads", "1")
    assert again["texts"] == document["texts"]
    fails(pointsman("study", "rewire", "--model", ROOT / "models/reference", "--text", f"a={headers}", "--groups", "beside a memory"),
          2, "beside a memory", "--memory")
    assert plot.read_text().startswith("<svg")
    fails(pointsman("study", "rewire", "--model", model, "--text", f"a={headers}"), 2, "192 tokens", "context 128")
    fails(pointsman("study", "rewire", "--model", "m", "--text", "headers"), 2, "--text headers", "NAME=PATH")
    fails(pointsman("study", "rewire", "--model", "m", "--text", "a=b", "--groups", "colour"), 2, "colour", "guard")
