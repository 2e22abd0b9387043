"""The stored golden vectors fit their schema, cover every rule, and are what the generator makes today."""

import importlib.util
import json
import pathlib

import jsonschema
import pytest

SCHEMAS = pathlib.Path(__file__).resolve().parent.parent / "schemas"


@pytest.fixture(scope="module")
def stored():
    return json.loads((SCHEMAS / "blend_golden.json").read_text())


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("make_blend_golden", SCHEMAS / "make_blend_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_close(left, right, where):
    """Equal but for the last digits of exp and log, which differ between C libraries."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_close(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right)):
            assert_close(*pair, f"{where}[{index}]")
    elif isinstance(left, float):
        assert left == pytest.approx(right, abs=1e-9), where
    else:
        assert left == right, where


def test_stored_vectors_fit_the_schema(stored):
    schema = json.loads((SCHEMAS / "blend_golden.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(stored, schema)


def test_schema_rejects_an_unknown_rule(stored):
    schema = json.loads((SCHEMAS / "blend_golden.schema.json").read_text())
    wrong = {**stored, "cases": [{**case, "confidence_rule": "median"} for case in stored["cases"]]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_stored_vectors_are_what_the_generator_makes(stored, generator):
    assert_close(stored, json.loads(json.dumps(generator.make_document())), "golden")


def test_every_value_kind_meets_every_confidence_rule(stored, generator):
    met = {(case["value_kind"], case["confidence_rule"]) for case in stored["cases"] if case["expected"]["touched"]}
    assert met == {(kind, rule) for kind in generator.VALUE_KINDS for rule in generator.CONFIDENCE_RULES}
    names = [case["name"] for case in stored["cases"]]
    assert len(set(names)) == len(names)


def test_assignments_keep_the_total_probability(stored, generator):
    """Models without renormalisation keep their scale: the new probabilities still sum to 1."""
    for case in stored["cases"]:
        if case["value_kind"] == "assignments":
            total = sum(generator.math.exp(z) for z in case["expected"]["logits"])
            kept = sum(generator.math.exp(z) for z in case["logits"]) if not case["expected"]["touched"] else 1.0
            assert total == pytest.approx(kept, abs=1e-6), case["name"]
