"""Whatever is published is changed on purpose: `UPDATE_GOLDENS=1` writes the lock, nothing else."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from palace.broker import candidate_catalogue, own_catalogue
from tests.contract.reading import DOCUMENT, FOLDER, document, inlined
from tests.support.machines.needs import need_command

ROOT = FOLDER.parent


def published(folder: Path) -> dict[str, str]:
    """Return the digest of each published file, whatever its line ends were made into."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(folder)): digest(path) for path in files}


def locked(folder: Path) -> dict[str, str]:
    lines = (line.split("  ") for line in (folder / "LOCK").read_text().splitlines())
    return {name: told for told, name in lines}


def lock(folder: Path) -> None:
    text = "".join(f"{told}  {name}\n" for name, told in published(folder).items())
    (folder / "LOCK").write_text(text)


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
    entries = (*own_catalogue.ENTRIES, *candidate_catalogue.ENTRIES)
    path, text = FOLDER / "tools-own.json", json.dumps(entries, indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.write_text(text)

    assert path.read_text() == text


def test_the_lock_holds_the_digest_of_each_file() -> None:
    if os.environ.get("UPDATE_GOLDENS") == "1":
        lock(FOLDER)

    assert locked(FOLDER) == published(FOLDER), (
        "meant? UPDATE_GOLDENS=1 pytest tests/contract/test_lock.py"
    )


def test_each_byte_of_each_file_is_under_the_lock(tmp_path: Path) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "contract")
    assert locked(copy) == published(copy)
    for name in locked(copy):
        path, whole = copy / name, (copy / name).read_bytes()
        place = len(whole) // 2
        for changed in (
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
            whole[:-1],
            whole + b"\n",
        ):
            path.write_bytes(changed)
            assert locked(copy) != published(copy), name
        path.unlink()
        assert locked(copy) != published(copy), name
        path.write_bytes(whole.replace(b"\n", b"\r\n"))
        assert locked(copy) == published(copy), "as git checks it out elsewhere"
        path.write_bytes(whole)

    (copy / "golden" / "more.json").write_text("{}")
    assert locked(copy) != published(copy)
    lock(copy)
    assert locked(copy) == published(copy)


def defined_in(paths: Iterable[str], read: Callable[[str], str]) -> list[str]:
    """Return the files that define a shape as the contract does: by JSON Schema or OpenAPI."""
    shape = re.compile(r"\s*(\{\s*)?\"?(\$schema|openapi)\"?\s*:")
    data = (path for path in paths if path.endswith((".json", ".yaml", ".yml", ".d.ts")))
    return [path for path in data if path.endswith(".d.ts") or shape.match(read(path))]


def test_a_shape_is_defined_once() -> None:
    """What another file says of a shape goes its own way; palace's models are held elsewhere."""
    need_command("git")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    there = [path for path in listed if (ROOT / path).is_file()]
    found = defined_in(there, lambda path: (ROOT / path).read_text())

    assert [path for path in found if not path.startswith("contract/")] == []
    assert len(found) > 10
    more = {
        "palace/record.schema.json": '{\n  "$schema": "http://json-schema.org/draft-07/schema#"}',
        "docs/plugin.yaml": "openapi: 3.0.3\ninfo: {}\n",
        "examples/record.d.ts": "export interface BrokerJson {}",
    }
    assert defined_in(more, more.__getitem__) == list(more)
    fits = {"a.json": '{"text": "$schema: openapi: 3"}', "b.yaml": "# openapi: 3\nname: x"}
    assert defined_in(fits, fits.__getitem__) == []


def test_the_version_is_the_documents() -> None:
    assert (FOLDER / "VERSION").read_text().strip() == document()["info"]["version"]
