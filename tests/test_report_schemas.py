"""The JSON that the commands print fits the schemas in schemas/, and the schemas refuse what is not that.

indexer/evaluation/report_test.cc compares what the program writes with the same files in schemas/examples.
"""

import copy
import json
import pathlib

import jsonschema
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "schemas" / "examples"


def schema_of(name):
    return json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def accepts(name, document):
    return jsonschema.Draft202012Validator(schema_of(name)).is_valid(document)


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.schema.json")), ids=lambda path: path.name)
def test_every_schema_is_a_schema(path):
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize("name", ["eval", "probe", "plan"])
def test_reports_fit_their_schema(name):
    jsonschema.validate(golden(name), schema_of(name), cls=jsonschema.Draft202012Validator)


# What a report may do without; everything else is required.
OPTIONAL = {"breakdown", "generation", "tasks"}


@pytest.mark.parametrize("name", ["eval", "probe", "plan"])
def test_reports_have_exactly_the_documented_members(name):
    report = golden(name)
    for member in OPTIONAL & set(report):
        assert accepts(name, {k: v for k, v in report.items() if k != member})
    for member in set(report) - OPTIONAL:
        assert not accepts(name, {k: v for k, v in report.items() if k != member}), f"accepted without {member}"
    assert not accepts(name, {**report, "extra": 1})


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("verdict", "maybe"),
        ("stale", None),
        ("documents", -1),
        ("tokens", 1.5),
        ("dominated_by", 3),
        ("variants", []),
    ],
)
def test_eval_schema_refuses_wrong_values(member, value):
    assert not accepts("eval", {**golden("eval"), member: value})


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("name", ""),
        ("nll", None),
        ("ci95", [0.1]),
        ("ci95", [0.1, 0.2, 0.3]),
        ("damage_ci95", ["low", "high"]),
        ("worst_sequence", {"change": 0.1}),
        ("worst_sequence", {"change": 0.1, "tokens": 31}),
        ("p", 1.5),
        ("untouched_tokens", 96.9),
        ("identical_documents", -0.1),
        ("bytes_per_token", -1),
    ],
)
def test_eval_schema_refuses_wrong_variants(member, value):
    report = copy.deepcopy(golden("eval"))
    report["variants"][1][member] = value
    assert not accepts("eval", report)


@pytest.mark.parametrize(
    ("group", "member", "value"),
    [
        ("kinds", "by", "mood"),
        ("kinds", "name", ""),
        ("classes", "tokens", 0),
        ("classes", "ci95", [0.1]),
        ("positions", "gate", 1.5),
        ("layers", "changed_tokens", 75),
        ("layers", "layer", -1),
    ],
)
def test_eval_schema_refuses_wrong_breakdowns(group, member, value):
    report = copy.deepcopy(golden("eval"))
    report["breakdown"][group][0][member] = value
    assert not accepts("eval", report)
