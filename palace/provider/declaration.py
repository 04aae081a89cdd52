"""The slot: a file in which a provider of memory declares itself, and what may stand in it.

    {"provider": "palace", "package": "palace-broker", "version": "0.1.0",
     "registeredAt": "2026-01-31T12:00:00Z", "heartbeat": "/home/u/.../heartbeat",
     "provision":   {"command": "/usr/local/bin/palace", "args": ["provision-peer", ...]},
     "unprovision": {"command": "/usr/local/bin/palace", "args": ["unprovision-peer", ...]}}

It names commands that are run, so it lies in the user's configuration, never in a palace, which may
be lent to a container; and it counts only where nobody else could have written it.  Reading it
fails open: a slot that says nothing sensible is empty, with the reason beside it.  Whoever owns the
slot never writes it: the provider does (palace/provider/claim.py).
"""

import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from palace.kernel.whose import above_problem
from palace.protocol.decoding import decode_json_once, is_text, is_word
from palace.settings.paths import home_dir, xdg_dir

NAME = "memory-provider.json"
BYTES_MAX = 64 << 10
ARGUMENTS_MAX = 256
_PLUGIN = ("name", "marketplace", "source")


@attrs.frozen(kw_only=True)
class Command:
    """What is run: the absolute path of a program, and its arguments with their placeholders."""

    command: str
    args: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {"command": self.command, "args": list(self.args)}


@attrs.frozen(kw_only=True)
class Declaration:
    """What a provider says of itself.

    `heartbeat` is a file that it touches while it is well, "" for none.  `has_plugin` tells that it
    has the deprecated plugin block, which palace reads and never acts upon.
    """

    provider: str
    package: str
    version: str
    registered_at: str
    heartbeat: str = ""
    has_plugin: bool = False
    provision: Command | None = None
    unprovision: Command | None = None

    def as_json(self) -> dict[str, object]:
        """Return it as it stands in a slot, without what counts as absent, and the plugin block."""
        told: dict[str, object] = {
            "provider": self.provider,
            "package": self.package,
            "version": self.version,
            "registeredAt": self.registered_at,
        }
        if self.heartbeat:
            told["heartbeat"] = self.heartbeat
        for name, block in (("provision", self.provision), ("unprovision", self.unprovision)):
            if block is not None:
                told[name] = block.as_json()
        return told


@attrs.frozen(kw_only=True)
class Slot:
    """A slot as it was read.  Without a declaration it is empty; `problem` says why a file is."""

    path: str
    declaration: Declaration | None = None
    problem: str = ""


class _Unsound(Exception):
    """Why a slot counts as empty."""


def slot_file(environ: Mapping[str, str]) -> str:
    """Return where palace's own slot is."""
    base = xdg_dir("XDG_CONFIG_HOME", environ) or f"{home_dir(environ)}/.config"
    return f"{base}/palace/{NAME}"


def read_slot(path: str) -> Slot:
    """Return what a slot holds; raises nothing, whatever is there."""
    try:
        return Slot(path=path, declaration=_declaration_in(decode_json_once(_trusted(path))))
    except FileNotFoundError:
        return Slot(path=path)
    except _Unsound as why:
        return Slot(path=path, problem=str(why))
    except ValueError as error:
        return Slot(path=path, problem=f"it is no JSON that counts: {error}")
    except OSError as error:
        return Slot(path=path, problem=error.strerror or type(error).__name__)


def writable_for_others(path: str) -> bool:
    """Tell whether others may change a file; one that is missing, nobody can."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return bool(found.st_mode & 0o022) or found.st_uid not in (0, os.geteuid())


def heartbeat_age_s(declaration: Declaration) -> float | None:
    """Return how long ago the heartbeat was touched, None where there is none.

    Negative for one in the future, as after a clock was set back.  Nothing is done about an old
    one: to mend its own process is the provider's business.
    """
    try:
        beat = os.stat(declaration.heartbeat).st_mtime
    except (OSError, ValueError):
        return None
    return datetime.now(UTC).timestamp() - beat


def _trusted(path: str) -> bytes:
    """Return the bytes of a slot that is its user's alone; raises _Unsound, OSError."""
    # A FIFO must not be waited for, and a link may lead to what somebody else can write.
    if os.path.islink(path):
        raise _Unsound("it is a symbolic link")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _Unsound("it is no regular file")
        if found.st_uid != os.geteuid():
            raise _Unsound(f"it belongs to uid {found.st_uid}")
        if found.st_mode & 0o022:
            raise _Unsound(f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})")
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise _Unsound(f"it is larger than {BYTES_MAX >> 10} KiB")
    if problem := above_problem(path):
        raise _Unsound(problem)
    return data


def _declaration_in(value: Any) -> Declaration:
    if not isinstance(value, dict):
        raise _Unsound("it is no JSON object")
    required = [_word(value.get(name)) for name in ("provider", "package", "version")]
    registered_at = _word(value.get("registeredAt"))
    for name, text in zip(("provider", "package", "version"), required, strict=True):
        if not text:
            raise _Unsound(f"it says no {name}")
    if not registered_at:
        raise _Unsound("it says no registeredAt")
    heartbeat = _word(value.get("heartbeat"))
    return Declaration(
        provider=required[0],
        package=required[1],
        version=required[2],
        registered_at=registered_at,
        heartbeat=heartbeat if os.path.isabs(heartbeat) else "",
        has_plugin=_is_plugin(value.get("plugin")),
        provision=_command_in(value.get("provision")),
        unprovision=_command_in(value.get("unprovision")),
    )


def _word(value: Any) -> str:
    """Return a required text without the blanks around it, "" for what is none."""
    return value.strip() if is_word(value) else ""


def _is_plugin(value: Any) -> bool:
    return isinstance(value, dict) and all(_word(value.get(name)) for name in _PLUGIN)


def _command_in(value: Any) -> Command | None:
    """Return a block's command; one that isn't well formed counts as absent."""
    if not isinstance(value, dict):
        return None
    command, args = _word(value.get("command")), value.get("args")
    if not os.path.isabs(command) or not isinstance(args, list) or len(args) > ARGUMENTS_MAX:
        return None
    # An argument may hold anything but NUL, which no program can be given.
    if not all(is_text(one) and "\0" not in one for one in args):
        return None
    return Command(command=command, args=tuple(args))
