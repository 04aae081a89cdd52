"""The contract's document and golden texts, as this tree has them."""

import json
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent.parent.parent / "contract"
DOCUMENT = "memory-plugin-v1"


def document() -> Any:
    return yaml.safe_load((FOLDER / f"{DOCUMENT}.yaml").read_text())


def golden() -> Any:
    return json.loads((FOLDER / "golden" / f"{DOCUMENT}.json").read_text())


def cases() -> list[Any]:
    """Return (schema, text, valid) of each golden text, named by what is said of it."""
    found = golden()
    return [
        (one["schema"], one["text"], valid)
        for name, valid in (("valid", True), ("invalid", False))
        for one in found[name]
    ]


def inlined(schema: Any, schemas: Any) -> Any:
    """Return a schema with what it refers to in its place, and without what only people read."""
    if isinstance(schema, list):
        return [inlined(one, schemas) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return inlined(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    found = {}
    for name, value in schema.items():
        if name == "properties":
            found[name] = {key: inlined(one, schemas) for key, one in value.items()}
        elif name not in ("$defs", "title", "description", "default", "example"):
            found[name] = inlined(value, schemas)
    return found
