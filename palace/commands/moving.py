"""`palace memory export`, `import`, `backfill` and `retire`: memories on the move.

Each asks a page at a time, and is asked again where it was cut off; a memory that is stored twice
is there once.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, TextIO

import attrs

from palace.commands.agent import OWNERS_SHIM, Agent
from palace.kernel.odd_files import open_regular
from palace.kernel.output import complain
from palace.protocol.decoding import decode_json
from palace.protocol.errors import (
    ConfigError,
    InvalidMemory,
    MemoriesDiffer,
    PluginUnavailable,
)
from palace.settings.concurrency import BACKFILLS
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

PAGE = 32
LINE_BYTES_MAX = 4 << 20
PATIENCE_S = 60.0  # for a server that is away
AGAIN_S = 0.5
PROBLEMS_MAX = 20  # shown of each namespace

_BEFORE = "Copy them again: palace memory backfill --apply"
_AFTER = (
    "The server counts since memory_cutover is on, so what was changed or forgotten there since is "
    "no fault. Nothing more is copied: what was never there is read after going back (palace "
    "config set memory_cutover=false; palace stop), and stored anew after the next cutover."
)


@attrs.define(kw_only=True)
class Told:
    """What has become of memories: how many, and the lines that say why not of others."""

    done: int = 0
    skipped: int = 0
    problems: list[str] = attrs.field(factory=list)


@contextmanager
def _owner(paths: Paths, environment: ShimEnvironment) -> Iterator[Agent]:
    argv = [sys.executable, "-P", "-m", OWNERS_SHIM, f"--palace={paths.root}"]
    agent = Agent("palace", argv, environment.all, quiet=True)
    try:
        yield agent
    finally:
        agent.close()


def export(
    paths: Paths, environment: ShimEnvironment, target: str, namespaces: Sequence[str]
) -> Told:
    """Write memories to a new file, one JSON object a line."""
    with _owner(paths, environment) as owner, _new_file(target) as file:
        known = [one["name"] for one in owner.tool("palace_memory_page")["namespaces"]]
        told = Told(problems=[f"There is no {name}." for name in namespaces if name not in known])
        for name in known:
            if not namespaces or name in namespaces:
                _export_one(owner, name, file, told)
    return told


def _export_one(owner: Agent, name: str, file: TextIO, told: Told) -> None:
    after, is_more = "", True
    while is_more:
        try:
            page = owner.tool("palace_memory_page", namespace=name, after=after, most=PAGE)
        except PluginUnavailable as problem:
            told.problems.append(f"{name}: {problem.message}")
            return
        for row in page["memories"]:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            after = row["id"]
        told.done += len(page["memories"])
        is_more = page["more"]
    if not page["whole"]:
        told.problems.append(f"{name}: it may hold more than what can be listed of it.")


@contextmanager
def _new_file(target: str) -> Iterator[TextIO]:
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{target} can't be made: {error.strerror}.") from None
    with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def import_all(paths: Paths, environment: ShimEnvironment, source: str, *, is_trial: bool) -> Told:
    """Store the memories of an exported file; with `is_trial` only say what would become of it."""
    told = Told()
    with _owner(paths, environment) as owner:
        part: list[tuple[int, Any]] = []
        for row in _rows(source, told):
            part.append(row)
            if len(part) == PAGE:
                _import_part(owner, part, told, is_trial=is_trial)
                part = []
        if part:
            _import_part(owner, part, told, is_trial=is_trial)
    return told


def _rows(source: str, told: Told) -> Iterator[tuple[int, Any]]:
    """Yield the objects of a file with the numbers of their lines; others are problems."""
    try:
        file = sys.stdin.buffer if source == "-" else open_regular(source)
    except OSError as error:
        raise ConfigError(f"{source} can't be read: {error.strerror}.") from None
    with file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), 1):
            try:
                row = decode_json(line)
            except ValueError:
                told.problems.append(f"line {number}: it is no JSON.")
                continue
            yield number, row


def _import_part(
    owner: Agent, part: Sequence[tuple[int, Any]], told: Told, *, is_trial: bool
) -> None:
    rows = [row for _, row in part]
    asked = partial(owner.tool, "palace_memory_store", memories=rows, trial=is_trial)
    found = _patiently(asked)
    told.done += len(found["stored"])
    told.skipped += len(found["skipped"])
    told.problems += [f"{one['id'] or 'a memory'}: {one['why']}." for one in found["problems"]]


def backfill(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    what: str,
    sample: int = 0,
    say: Callable[[str], None],
) -> Told:
    """Copy what the server shall hold to it; `what` is `dry-run`, `apply` or `verify`.

    `sample` verifies that many of each namespace, 0 all.  Raises MemoriesDiffer where something is
    not there, or not as it is here.
    """
    told = Told()
    with ExitStack() as sessions:
        owner = sessions.enter_context(_owner(paths, environment))
        named = owner.tool("palace_memory_page")["namespaces"]
        wanted = [one["name"] for one in named if one["server"]]
        is_over = any(one["counts"] for one in named)
        if not wanted:
            raise InvalidMemory(
                "there is nothing to copy: memory_plugin names no server, or no workspace has a "
                "namespace of memory_plugin_kinds. Nothing was done."
            )
        limit = min(BACKFILLS.limit(environment.all, complain), len(wanted))
        more = [sessions.enter_context(_owner(paths, environment)) for _ in range(1, limit)]
        for name, found in _Copying(what, sample).all(wanted, [owner, *more]):
            told.done += found.done
            told.problems += found.problems
            say(f"{name}  {found.done}")
    if what == "verify" and told.problems:
        shown = "\n".join(told.problems[:PROBLEMS_MAX])
        raise MemoriesDiffer(
            f"{len(told.problems)} memories are not at the server as they are here, and "
            f"{told.done} are:\n{shown}\n{_AFTER if is_over else _BEFORE}"
        )
    return told


@attrs.define(eq=False)
class _Copying:
    """Copies namespaces, as many at once as there are sessions for it."""

    what: str
    sample: int
    _free: "SimpleQueue[Agent]" = attrs.field(factory=SimpleQueue)
    _is_over: threading.Event = attrs.field(factory=threading.Event)

    def all(self, names: Sequence[str], owners: Sequence[Agent]) -> Iterator[tuple[str, Told]]:
        """Yield what became of each, in their order; where one fails, the others begin no page."""
        for owner in owners:
            self._free.put(owner)
        with ThreadPoolExecutor(len(owners)) as pool:
            try:
                yield from zip(names, pool.map(self._one, names), strict=True)
            finally:
                self._is_over.set()

    def _one(self, name: str) -> Told:
        told, is_done, owner = Told(), False, self._free.get()
        try:
            self._pages(owner, name, told)
            is_done = True
        finally:
            self._free.put(owner)
            if not is_done:
                self._is_over.set()
        return told

    def _pages(self, owner: Agent, name: str, told: Told) -> None:
        after, is_more, left = "", True, self.sample or sys.maxsize
        while is_more and left > 0 and not self._is_over.is_set():
            if self.what == "dry-run":
                given = {"namespace": name, "after": after, "most": PAGE, "here": True}
                page = owner.tool("palace_memory_page", **given)
                told.done += len(page["memories"])
                after = page["memories"][-1]["id"] if page["memories"] else ""
                is_more = page["more"]
                continue
            given = {"namespace": name, "after": after, "most": min(PAGE, left)}
            verify = self.what == "verify"
            page = _patiently(partial(owner.tool, "palace_memory_copy", verify=verify, **given))
            told.done += page["done"]
            left -= page["done"] + len(page["problems"])
            told.problems += [f"{one['id']} of {name}: {one['why']}." for one in page["problems"]]
            after, is_more = page["last"], page["more"]


def retire(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    idents: Sequence[str] = (),
    say: Callable[[str], None],
) -> Told:
    """Forget copies that were left here: those that are named, or all that the server has."""
    told = Told()
    with _owner(paths, environment) as owner:
        for ident in idents:
            told.done += owner.tool("palace_memory_retire", id=ident)["done"]
        if idents:
            return told
        named = owner.tool("palace_memory_page")["namespaces"]
        wanted = [one["name"] for one in named if one["counts"]]
        if not wanted:
            raise InvalidMemory(
                "no server holds a namespace in this palace's place, so no copy was left of any "
                "(memory_cutover). Nothing was done."
            )
        for name in wanted:
            before = told.done
            _retire_all(owner, name, told)
            say(f"{name}  {told.done - before}")
    return told


def _retire_all(owner: Agent, name: str, told: Told) -> None:
    after, is_more = "", True
    while is_more:
        ask = partial(owner.tool, "palace_memory_retire", namespace=name, after=after, most=PAGE)
        page = _patiently(ask)
        told.done += page["done"]
        told.problems += [f"{one['id']} of {name}: {one['why']}." for one in page["problems"]]
        after, is_more = page["last"], page["more"]


def _patiently(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask again while a server is away, for as long as somebody may be expected to look on."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except PluginUnavailable:
            if time.monotonic() > until_s:
                raise
            time.sleep(AGAIN_S)
