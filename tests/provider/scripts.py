"""Providers as others might write them: real programs, each a few lines of sh or Python."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from palace.provider.births import Provider, Result
from palace.provider.declaration import Slot, read_slot

ALL = ("--cwd", "{cwd}", "--runtime={runtime}", "{personality}", "--occasion", "{occasion}")
# Writes its arguments down, each with a zero behind it, as they were given.
JOURNALLING = 'for one in "$@"; do printf "%s\\0" "$one"; done >> "$0.journal"'


def script(path: Path, body: str) -> Path:
    """Write an executable sh script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def python_script(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return path


def journal_of(path: Path) -> list[str]:
    """Return the arguments that a journalling script was given, [] where it never ran."""
    journal = Path(f"{path}.journal")
    return journal.read_bytes().decode().split("\0")[:-1] if journal.exists() else []


def block(command: Path, *args: str) -> dict[str, Any]:
    return {"command": str(command), "args": list(args)}


def declared(path: Path, **members: Any) -> Slot:
    """Write a declaration with the required members and others, and read it."""
    body = {
        "provider": "notes",
        "package": "notes-memory",
        "version": "2.0",
        "registeredAt": "2026-01-31T12:00:00Z",
    }
    path.write_text(json.dumps(body | members))
    path.chmod(0o600)
    return read_slot(str(path))


def provider(slot: Slot, *, heard: list[Result] | None = None, timeout_s: float = 30) -> Provider:
    assert slot.declaration is not None, slot.problem
    return Provider(
        declaration=slot.declaration,
        environ=dict(os.environ),
        limit=3,
        note=(heard if heard is not None else []).append,
        timeout_s=timeout_s,
    )
