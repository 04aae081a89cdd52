"""Whatever is published is changed on purpose: `UPDATE_GOLDENS=1` writes the lock, nothing else."""

import hashlib
import json
import os
from pathlib import Path

from palace.broker.own_catalogue import ENTRIES
from tests.contract.reading import DOCUMENT, FOLDER, document, inlined

LOCK = FOLDER / "LOCK"


def published() -> dict[str, str]:
    """Return the digest of each published file, whatever its line ends were made into."""
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path != LOCK)
    return {str(path.relative_to(FOLDER)): digest(path) for path in files}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def schemas_text() -> str:
    """Return the document's components for readers without YAML, each with what it refers to."""
    schemas = document()["components"]["schemas"]
    found = {name: inlined(schema, schemas) for name, schema in schemas.items()}
    return json.dumps(found, indent=1) + "\n"


def test_the_schemas_are_the_documents() -> None:
    path = FOLDER / f"{DOCUMENT}.schemas.json"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.write_text(schemas_text())

    assert path.read_text() == schemas_text()


def test_palaces_own_tools_are_those_that_sessions_are_shown() -> None:
    path, text = FOLDER / "tools-own.json", json.dumps(ENTRIES, indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.write_text(text)

    assert path.read_text() == text


def test_the_lock_holds_the_digest_of_each_file() -> None:
    if os.environ.get("UPDATE_GOLDENS") == "1":
        LOCK.write_text("".join(f"{told}  {name}\n" for name, told in published().items()))
    lines = [line.split("  ") for line in LOCK.read_text().splitlines()]
    locked = {name: told for told, name in lines}

    assert locked == published(), "meant? UPDATE_GOLDENS=1 pytest tests/contract/test_lock.py"


def test_the_version_is_the_documents() -> None:
    assert (FOLDER / "VERSION").read_text().strip() == document()["info"]["version"]
