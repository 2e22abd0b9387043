"""The JSON Schemas in schemas/ against the examples that the C++ tests read and write.

memory_test asserts that schemas/examples/manifest.json is byte for byte what Pointsman writes, and that its parser rejects
every patch in manifest_invalid.json; here the schema is held to the same files.
"""

import copy
import json
import pathlib

import jsonschema
import pytest

SCHEMAS = pathlib.Path(__file__).resolve().parent.parent / "schemas"
SCHEMA = json.loads((SCHEMAS / "manifest.schema.json").read_text())
MANIFEST = json.loads((SCHEMAS / "examples" / "manifest.json").read_text())
INVALID = json.loads((SCHEMAS / "examples" / "manifest_invalid.json").read_text())


def apply_patch(document, patch):
    """A JSON Patch of one operation: add, replace or remove."""
    result = copy.deepcopy(document)
    *parents, last = patch["path"].strip("/").split("/")
    target = result
    for name in parents:
        target = target[name]
    key = int(last) if isinstance(target, list) else last
    if patch["op"] == "remove":
        del target[key]
    else:
        assert patch["op"] == "add" or isinstance(target, list) or key in target, patch
        target[key] = patch["value"]
    return result


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_written_manifest_fits_the_schema():
    jsonschema.Draft202012Validator(SCHEMA).validate(MANIFEST)


@pytest.mark.parametrize("bad", INVALID, ids=lambda bad: f"{bad['patch']['op']} {bad['patch']['path']}")
def test_what_the_parser_rejects_the_schema_rejects(bad):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(apply_patch(MANIFEST, bad["patch"]))
