"""palace puts itself into a slot, or takes itself out of one: its own, or another program's."""

import json
import os
from collections.abc import Mapping

from palace import __version__
from palace.kernel.kernel import Kernel
from palace.mcp_hosts.commands import find_program
from palace.protocol.errors import ConfigError, SlotTaken
from palace.provider.declaration import read_slot
from palace.settings.paths import python_command

PROVIDER = "palace"
PACKAGE = "palace-broker"
_FIELDS = ("cwd", "runtime", "personality", "occasion")


def claim_slot(
    path: str, palace: str, environ: Mapping[str, str], *, heartbeat: str, replace: bool
) -> str:
    """Declare palace in a slot; return what to tell.

    `palace` is the directory that the commands are for, "" for the one that each agent's
    environment names; `heartbeat` a file that a broker that stays touches, "" for none.
    Raises SlotTaken where another provider is, unless `replace`.
    """
    _check_free(path, replace=replace)
    kernel = Kernel()
    words = _command(environ)
    body: dict[str, object] = {
        "provider": PROVIDER,
        "package": PACKAGE,
        "version": __version__,
        "registeredAt": kernel.utc_text(),
        "provision": _block(words, "provision-peer", palace),
        "unprovision": _block(words, "unprovision-peer", palace),
    }
    if heartbeat:
        body["heartbeat"] = heartbeat
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    kernel.write_durable(path, json.dumps(body, indent=2).encode() + b"\n")
    found = read_slot(path)
    if found.declaration is None:  # whoever owns the slot would read it likewise
        raise ConfigError(f"{path} is written, and counts for nothing: {found.problem}.")
    return f"palace is the provider in {path}. Take it out again: palace provider release"


def release_slot(path: str) -> str:
    """Take palace out of a slot; return what to tell.  Raises SlotTaken where another one is."""
    found = read_slot(path)
    if found.declaration is None and not found.problem:
        return f"{path} is empty: nothing was changed."
    if found.declaration is None or found.declaration.provider != PROVIDER:
        who = found.declaration.provider if found.declaration else "what can't be read"
        raise SlotTaken(f"{path} is not palace's, but {who}. To empty it, remove the file.")
    Kernel().unlink(path)
    return f"{path} is removed. Entries of agents stay until they leave."


def _check_free(path: str, *, replace: bool) -> None:
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ConfigError(f"{path} is no file. Remove it, or name another one: --slot FILE")
    if os.path.islink(path):
        raise ConfigError(f"{path} is a link, which no slot may be. Name the file: --slot FILE")
    found = read_slot(path)
    other = found.declaration is not None and found.declaration.provider != PROVIDER
    if (other or found.problem) and not replace:
        who = found.declaration.provider if found.declaration else f"unreadable: {found.problem}"
        raise SlotTaken(
            f"{path} is taken ({who}). Nothing was changed. Put palace in its place: --replace"
        )


def _command(environ: Mapping[str, str]) -> list[str]:
    found = find_program("palace", environ)
    return [found] if found else python_command()


def _block(words: list[str], name: str, palace: str) -> dict[str, object]:
    named = [f"--palace={palace}"] if palace else []
    # One word each: a value that begins with a hyphen is no option.
    asked = [f"--{field}={{{field}}}" for field in _FIELDS]
    return {"command": words[0], "args": [*words[1:], name, *named, *asked]}
