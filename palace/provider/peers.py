"""palace as a provider: its entry in the configuration of each agent that is born.

A host's file may serve several agents (a user's own file all of them, a project's file several
hosts), so each is counted: the entry is made for the first and taken out after the last, and one
that was there before the first stays.  The count is written before a file is changed and after it
was put back, so that whoever is killed in between leaves what the same command finishes.

One lock for all of it, in the user's state directory: births that come at once take turns.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs

from palace.kernel.kernel import Kernel
from palace.mcp_hosts.files import read_configuration
from palace.mcp_hosts.install import install_host, uninstall_host
from palace.mcp_hosts.plan import find
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.table import HOSTS, McpHost
from palace.mcp_hosts.target import Target, find_target
from palace.protocol.decoding import decode_json
from palace.protocol.errors import HostEntry, HostFile, UnknownPeer
from palace.settings.paths import provider_dir

_SCHEMA = 1
_BYTES_MAX = 8 << 20
_TURN_S = 0.02


@attrs.frozen(kw_only=True)
class Use:
    """Who needs palace's entry in one file: (runtime, personality) of each.

    `ours` says that palace made the entry for them.
    """

    file: str
    host: str
    project: str
    members: tuple[tuple[str, str], ...]
    ours: bool


@contextmanager
def in_turn(environ: Mapping[str, str]) -> Iterator[None]:
    """Hold the provider's lock; waits for as long as others have it."""
    kernel = Kernel()
    os.makedirs(provider_dir(environ), 0o700, exist_ok=True)
    fd = kernel.open_lock(f"{provider_dir(environ)}/lock")
    try:
        while not kernel.try_lock(fd):
            time.sleep(_TURN_S)
        yield
    finally:
        kernel.close(fd)


def host_named(runtime: str) -> McpHost:
    """Return the host of that name; raises UnknownPeer."""
    for host in HOSTS:
        if host.name == runtime:
            return host
    names = ", ".join(host.name for host in HOSTS)
    raise UnknownPeer(f"palace knows no runtime {runtime[:60]!a}. Use one of: {names}.")


def arrive(runtime: str, personality: str, cwd: str, environ: Mapping[str, str]) -> str:
    """Give an agent its entry; return what to tell.  Call it in turn, as often as you like.

    Raises HostFile, HostEntry, ConfigError; then nothing was changed.
    """
    host = host_named(runtime)
    target = find_target(runtime, environ, project=cwd if host.project else "")
    book = _Book(environ)
    use, member = book.of(target), (runtime, personality)
    if use is None:
        use = Use(
            file=target.path,
            host=runtime,
            project=target.project,
            members=(),
            ours=not _has_palace(target),
        )
    fresh = member not in use.members
    if fresh:
        book.put(attrs.evolve(use, members=(*use.members, member)))
    try:
        return install_host(target, replace=False, yes=True)
    except (HostFile, HostEntry, OSError):
        if fresh:
            book.put(use)
        raise


def leave(runtime: str, personality: str, environ: Mapping[str, str]) -> list[str]:
    """Take an agent's entries away where nobody else needs them; return what to tell.

    Call it in turn, as often as you like.  Raises HostFile, HostEntry: an entry that was edited
    since stays, and so does the agent's claim to it.
    """
    book, told = _Book(environ), []
    for use in book.uses_of((runtime, personality)):
        others = tuple(one for one in use.members if one != (runtime, personality))
        if not others and use.ours and _is_reachable(use):
            told.append(uninstall_host(_target_of(use, environ), force=False, yes=True))
        book.put(attrs.evolve(use, members=others))
    return told


def personalities(environ: Mapping[str, str]) -> set[str]:
    """Return who has an entry as any runtime."""
    return {name for use in _Book(environ).uses() for _, name in use.members}


def _has_palace(target: Target) -> bool:
    """Tell whether a file starts palace already; one that can't be read will say so later."""
    try:
        text = read_configuration(target.path, beneath=target.project).text
        values = target.editor.parse(text)
    except (HostFile, OSError, Unreadable):
        return False
    return any(
        target.kind.is_ours(one.value)
        for slot in target.slots(values)
        for one in find(values, slot, target.kind)
    )


def _is_reachable(use: Use) -> bool:
    """Tell whether a project is still there: what was removed whole needs no undoing."""
    return not use.project or os.path.isdir(use.project)


def _target_of(use: Use, environ: Mapping[str, str]) -> Target:
    return Target(
        host=host_named(use.host),
        path=use.file,
        hooks=False,
        project=use.project,
        environ=environ,
    )


class _Book:
    """Which files have an entry for whom; one that can't be read counts as empty."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._kernel = Kernel()
        self._path = f"{provider_dir(environ)}/peers.json"

    def uses(self) -> list[Use]:
        data = self._kernel.read_hint(self._path, _BYTES_MAX)
        try:
            body = decode_json(data or b"{}")
            known = body.get("v") == _SCHEMA
            return [_decoded(one) for one in body["files"]] if known else []
        except (ValueError, KeyError, TypeError, AttributeError):
            return []

    def of(self, target: Target) -> Use | None:
        return next((use for use in self.uses() if use.file == target.path), None)

    def uses_of(self, member: tuple[str, str]) -> list[Use]:
        return [use for use in self.uses() if member in use.members]

    def put(self, use: Use) -> None:
        """Keep whom a file is for; one that is for nobody is forgotten."""
        uses = [one for one in self.uses() if one.file != use.file]
        uses += [use] if use.members else []
        body = {"v": _SCHEMA, "files": [attrs.asdict(one) for one in uses]}
        self._kernel.write_durable(self._path, json.dumps(body, indent=1).encode() + b"\n")


def _decoded(body: Mapping[str, object]) -> Use:
    members = body["members"]
    if not isinstance(members, list) or not all(len(one) == 2 for one in members):
        raise ValueError("no members")
    return Use(
        file=str(body["file"]),
        host=str(body["host"]),
        project=str(body["project"]),
        members=tuple((str(runtime), str(name)) for runtime, name in members),
        ours=body["ours"] is True,
    )
