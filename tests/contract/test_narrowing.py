"""A shape that took something takes it until the next major version."""

import copy
import json
from typing import Any

import pytest

from tests.contract.narrowing import PUBLISHED, complaints, narrowed, state

OBJECT: dict[str, Any] = {
    "type": "object",
    "required": ["a"],
    "properties": {"a": {"type": "integer", "maximum": 9}, "b": {"enum": ["x", "y"]}},
}


def with_(**more: Any) -> dict[str, Any]:
    return {**OBJECT, **more}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"type": "number"}, {"type": "integer"}),
        ({}, {"type": "string"}),
        ({"type": ["string", "null"]}, {"type": "string"}),
        ({"type": "string", "nullable": True}, {"type": "string"}),
        ({"enum": [1, 2]}, {"enum": [1]}),
        ({"type": "string"}, {"type": "string", "enum": ["x"]}),
        ({"const": 1}, {"const": 2}),
        ({"maxLength": 9}, {"maxLength": 8}),
        ({}, {"minLength": 1}),
        ({"pattern": "^a"}, {"pattern": "^ab"}),
        ({}, {"format": "date-time"}),
        ({}, {"uniqueItems": True}),
        (OBJECT, with_(required=["a", "b"])),
        (OBJECT, with_(additionalProperties=False)),
        (OBJECT, with_(properties={"a": OBJECT["properties"]["a"]})),
        (OBJECT, with_(properties={**OBJECT["properties"], "b": {"enum": ["x"]}})),
        ({"items": True}, {"items": {"type": "string"}}),
        ({"items": {"maximum": 2}}, {"items": {"maximum": 1}}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}]}),
        ({}, {"oneOf": [{"type": "string"}]}),
        ({"allOf": [{"minimum": 1}]}, {"allOf": [{"minimum": 1}, {"maximum": 1}]}),
        ({"definitions": {"a": {}}}, {"definitions": {}}),
        ({"definitions": {"a": {"minimum": 1}}}, {"definitions": {"a": {"minimum": 2}}}),
        ({"$ref": "#/definitions/a"}, {"$ref": "#/definitions/b"}),
        (True, False),
    ],
)
def test_what_is_narrower_is_seen(old: Any, new: Any) -> None:
    assert list(narrowed(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OBJECT, copy.deepcopy(OBJECT)),
        (OBJECT, with_(description="of what")),
        ({"type": "integer"}, {"type": "number"}),
        ({"type": "string"}, {}),
        ({"enum": [1]}, {"enum": [2, 1]}),
        ({"const": 1}, {"enum": [1, 2]}),
        ({"maxLength": 9}, {"maxLength": 10}),
        ({"minLength": 1}, {"minLength": 0}),
        (OBJECT, with_(required=[])),
        (OBJECT, with_(properties={**OBJECT["properties"], "c": {"type": "string"}})),
        (with_(additionalProperties=False), OBJECT),
        ({"anyOf": [{"type": "string"}]}, {"anyOf": [{"type": "null"}, {"type": "string"}]}),
        ({"allOf": [{"minimum": 1}]}, {"allOf": [{"minimum": 0}]}),
        ({"definitions": {}}, {"definitions": {"a": {}}}),
        (False, {}),
    ],
)
def test_what_is_wider_may_be(old: Any, new: Any) -> None:
    assert list(narrowed(old, new)) == []


def test_nothing_is_narrower_than_what_was_published() -> None:
    assert complaints(json.loads(PUBLISHED.read_text()), state()) == [], (
        "raise VERSION: of the folder, package.json, the document, and palace/memory/contract.py"
    )


def changed(version: str, **parts: Any) -> dict[str, Any]:
    told = json.loads(PUBLISHED.read_text())
    told["version"] = version
    for name, part in parts.items():
        told[name] = {**told[name], **part}
    return told


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("files", "record-v1.schema.json"),
        ("schemas", "record-v1"),
        ("fields", "hello/session"),
        ("operations", "get /v1/health"),
        ("valid", "golden/wire-v1.json"),
    ],
)
def test_what_has_changed_needs_a_version_and_what_is_gone_a_major_one(
    part: str, name: str
) -> None:
    old = json.loads(PUBLISHED.read_text())
    version = [int(number) for number in old["version"].split(".")]
    same, minor, major = (
        changed(text, files={"README.md": "another"})
        for text in (old["version"], f"{version[0]}.{version[1] + 1}.0", f"{version[0] + 1}.0.0")
    )
    for told in (minor, major):
        told[part] = {key: value for key, value in old[part].items() if key != name}

    assert "README.md" in complaints(old, same)[0]
    assert complaints(old, changed(f"{version[0] - 1}.9.9")), "it went back"
    assert len(complaints(old, minor)) == (0 if part == "files" else 1)
    assert complaints(old, major) == []
