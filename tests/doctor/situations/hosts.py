"""Entries in the files of MCP hosts."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from palace.doctor.finding import WARNING
from tests.doctor.situations.place import Place, Situation
from tests.provider.scripts import declared

GONE = "/no/such/directory/palace"


def _cursor(place: Place) -> Path:
    directory = place.home / ".cursor"
    directory.mkdir(exist_ok=True)
    return directory / "mcp.json"


def _entry(command: str, *args: str) -> Callable[[Place], None]:
    text = json.dumps({"mcpServers": {"mempalace": {"command": command, "args": args}}})

    def write(place: Place) -> None:
        _cursor(place).write_text(text)

    return write


def broken_file(place: Place) -> None:
    _cursor(place).write_text("{ this is no JSON")


def no_entry(place: Place) -> None:
    _cursor(place).write_text("{}")


def _claude(project: dict[str, object]) -> Callable[[Place], None]:
    palace = {"mcpServers": {"mempalace": {"command": "palace", "args": ["shim"]}}}

    def write(place: Place) -> None:
        told = palace | {"projects": {os.getcwd(): {"mcpServers": project}}}
        (place.home / ".claude.json").write_text(json.dumps(told))

    return write


def slot_of(place: Place) -> Path:
    directory = place.home / ".config" / "palace"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "memory-provider.json"


def _declared(mode: int, command: str = "/bin/true") -> Callable[[Place], None]:
    def write(place: Place) -> None:
        given = {"command": command, "args": []}
        declared(slot_of(place), provision=given)
        slot_of(place).chmod(mode)

    return write


SITUATIONS = {
    "others may write to the declaration of a provider": Situation(
        arrange=_declared(0o666),
        code="slot_unsound",
        level=WARNING,
        text="counts as empty: others may write to it",
        remedy="palace provider claim --replace",
        heal=_declared(0o600),
    ),
    "a provider's command is gone": Situation(
        arrange=_declared(0o600, GONE),
        code="provider_command",
        level=WARNING,
        text="can't be executed",
        remedy="palace provider claim --replace",
        heal=_declared(0o600),
    ),
    "a project has another entry": Situation(
        arrange=_claude({"mempalace": {"command": "else"}}),
        code="hidden_entry",
        level=WARNING,
        text="takes the place of the entry in",
        remedy="Remove it: (cd ",
        heal=_claude({}),
    ),
    "a host's file can't be read": Situation(
        arrange=broken_file,
        code="host_file",
        level=WARNING,
        text=".cursor/mcp.json",
        remedy="Correct the file",
        heal=no_entry,
    ),
    "a host starts stock": Situation(
        arrange=_entry("mempalace-mcp"),
        code="stock_entry",
        level=WARNING,
        text="starts a mempalace server other than palace",
        remedy="palace install cursor --replace",
        heal=_entry("palace", "shim"),
    ),
    "a host starts a palace that is gone": Situation(
        arrange=_entry(GONE, "shim"),
        code="host_command",
        level=WARNING,
        text=f"starts palace as {GONE}, which does not exist",
        remedy="palace install cursor",
        heal=_entry("palace", "shim"),
    ),
}
