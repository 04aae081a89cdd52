"""Workspaces that store and forget memories beside all else, and an owner who moves them about.

What they were told is held against the raw stores (tests/support/stores/memories.py, in a process
of its own): each acknowledged change is there once, and each change of an organisation's memories
has its one row among the audits.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.calls.mutations import long_text
from tests.support.loads.changes import ChangeLoad, Promises, Turns
from tests.support.loads.pool import Caller
from tests.support.processes.brokers import code_of, text_of
from tests.support.processes.clients import Client, Site
from tests.support.processes.sites import start_shim
from tests.support.stores import memories

OWNERS_SHIM = [sys.executable, "-P", "-m", "palace.shim.of_command"]  # of palace's commands
AIDE = "aide"  # whom the owner moves
NOT_YOURS = -31075
SECRET = "ghp_" + "q7Rt2Xw9Lk4M" * 3
AT_ONCE = 2  # memories of a client that are there before it forgets the oldest
OWNERS_PAUSE_S = 0.3

Told = dict[str, Any]


@dataclass(frozen=True)
class Commit:
    """An acknowledged one."""

    id: str
    namespace: str
    chunks: int


@dataclass
class MemoryPromises(Promises):
    """What one client was told of its memories as well; the owner's, of what it moved."""

    commits: dict[str, Commit] = field(default_factory=dict)
    forgets: dict[str, bool] = field(default_factory=dict)  # by id: whether it was acknowledged
    denied: set[str] = field(default_factory=set)  # the namespace had been removed
    moves: list[tuple[str, bool]] = field(default_factory=list)
    customs: int = 0

    @property
    def memories(self) -> int:
        """Return how many changes of memories were acknowledged."""
        return len(self.commits) + sum(self.forgets.values())

    @property
    def acknowledged(self) -> int:
        mine = self.memories + sum(said for _, said in self.moves) + self.customs
        return super().acknowledged + mine


def workspace_of(number: int) -> str:
    return f"worker{number}"


def register_workers(site: Site, workers: int) -> list[Path]:
    """Register a root workspace for each client; return where its shims are to be started."""
    places = [site.home / workspace_of(number) for number in range(workers)]
    with Client(OWNERS_SHIM, site.environ()) as owner:
        for place in places:
            place.mkdir(exist_ok=True)
            made = owner.call("palace_workspace_add", id=place.name, cwd=str(place))
            assert "result" in made, made
        made = owner.call("palace_workspace_add", id=AIDE, parent=workspace_of(0))
        assert "result" in made, made
    return places


class MemoryLoad(ChangeLoad):
    """Workspaces' clients, and the last one the owner's; close it."""

    def __init__(self, site: Site, workers: int) -> None:
        self.told_each: list[MemoryPromises] = []
        self._workers = workers
        self._places = register_workers(site, workers)
        super().__init__(site, workers + 1, f"--palace={site.palace}")

    def _promises_of(self, number: int) -> Promises:
        self.told_each.append(MemoryPromises(number))
        return self.told_each[number]

    def _start(self, number: int, log: BinaryIO) -> Client:
        if number == self._workers:
            return Client(OWNERS_SHIM, self._site.environ(), stderr=log)
        place = self._places[number]
        return start_shim(self._site.environ(), *self._arguments, stderr=log, cwd=place)

    def _take_turns(self, client: Caller, promises: Promises) -> Iterator[None]:
        told = self.told_each[promises.number]
        if told.number == self._workers:
            return OwnersTurns(client, told, self._workers).forever()
        return MemoryTurns(client, told).forever()

    @property
    def memories(self) -> int:
        return sum(told.memories for told in self.told_each)


class MemoryTurns(Turns):
    """One workspace's turns: each stores memories in several namespaces, and forgets one."""

    def __init__(self, client: Caller, promises: MemoryPromises) -> None:
        super().__init__(client, promises)
        self._told = promises
        self._workspace = workspace_of(promises.number)

    def changes(self) -> tuple[Callable[[str], None], ...]:
        own = (self._commit, self._decree, self._summarize, self._share, self._forget)
        # Every other client does nothing else, so that enough of it is under way at a kill.
        return own if self._told.number % 2 else (*own, *super().changes())

    def _own(self, tool: str, nonce: str, **arguments: Any) -> Told | None:
        """Call one of palace's own tools; return what it says if it is a promise."""
        self._promises.calls += 1
        reply = self._client.call(f"palace_{tool}", **arguments)
        if "error" not in reply:
            return dict(text_of(reply))
        if code_of(reply) == NOT_YOURS and nonce.endswith("p"):
            self._told.denied.add(nonce)
        else:
            refusal = (tool, nonce, code_of(reply), reply["error"]["message"])
            self._promises.refused.append(refusal)
        return None

    def _store(self, tool: str, nonce: str, chunks: int, content: str, **more: Any) -> None:
        told = self._own(tool, nonce, content=content, **more)
        if told is not None:
            self._told.commits[nonce] = Commit(told["id"], told["namespace"], chunks)

    def _commit(self, nonce: str) -> None:
        chunks, nonce = 1 + len(nonce) % 2, f"{nonce}m"
        more = {"id": f"mem-{nonce}"} if chunks == 2 else {}
        self._store("commit_memory", nonce, chunks, long_text(nonce, "my memory", chunks), **more)

    def _decree(self, nonce: str) -> None:
        content = f"a decree, nonce {nonce}o; the key is {SECRET}"
        where = {"namespace": f"org:{self._workspace}"}
        self._store("commit_memory", f"{nonce}o", 1, content, **where)

    def _summarize(self, nonce: str) -> None:
        content = long_text(f"{nonce}y", "a summary", 2)
        where = {"namespace": f"team:{self._workspace}"}
        self._store("commit_summary", f"{nonce}y", 2, content, **where)

    def _share(self, nonce: str) -> None:
        """Store in a namespace that is there now, and may be removed before this has its turn."""
        told = self._own("list_writable_namespaces", nonce)
        names = [one["name"] for one in told["namespaces"]] if told is not None else []
        for name in [name for name in names if name.startswith("custom:")][-1:]:
            content = f"a shared one, nonce {nonce}p"
            self._store("commit_memory", f"{nonce}p", 1, content, namespace=name)

    def _forget(self, nonce: str) -> None:
        there = [
            one.id
            for name, one in self._told.commits.items()
            if one.id not in self._told.forgets and not name.endswith("p")
        ]
        for ident in there[:-AT_ONCE][:1]:
            self._told.forgets[ident] = False
            self._told.forgets[ident] = (
                self._own("forget_memory", nonce + "f", id=ident) is not None
            )


class OwnersTurns(MemoryTurns):
    """The owner's: a workspace is moved, and namespaces come and go with what is in them."""

    def __init__(self, client: Caller, promises: MemoryPromises, workers: int) -> None:
        super().__init__(client, promises)
        self._workers = [workspace_of(number) for number in range(workers)]
        self._parents = iter(self._workers[turn % workers] for turn in range(1, 10**6))
        self._made = ""

    def make_drawer(self) -> None:
        """A command has none of stock's tools."""

    def changes(self) -> tuple[Callable[[str], None], ...]:
        return (self._move, self._replace_namespace)

    def _move(self, nonce: str) -> None:
        time.sleep(OWNERS_PAUSE_S)
        parent = next(self._parents)
        told = self._own("workspace_move", f"{nonce}f", id=AIDE, parent=parent)
        self._told.moves.append((parent, told is not None))

    def _replace_namespace(self, nonce: str) -> None:
        name = f"custom:{nonce}"
        added = self._own("namespace_add", f"{nonce}f", name=name, members=self._workers)
        removed = None
        if self._made:
            removed = self._own("namespace_remove", f"{nonce}f", name=self._made, purge=True)
        self._made = name if added is not None else ""
        self._told.customs += (added is not None) + (removed is not None)


# Promises held against the stores.


def read_in_another_process(site: Site) -> Told:
    argv = [sys.executable, "-P", str(memories.__file__), str(site.palace)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def wrong_memories(load: MemoryLoad, found: dict[str, Told], site: Site) -> list[object]:
    """Return each memory, audit and move that isn't as it was acknowledged."""
    register = read_in_another_process(site)
    wrong: list[object] = []
    for told in load.told_each:
        wrong += _wrong_commits(told, found["drawers"], register)
        wrong += [("denied, and there", nonce) for nonce in told.denied & found["drawers"].keys()]
    wrong += _wrong_audits(load, register)
    wrong += [
        ("of no namespace", ident, name)
        for ident, name in register["memories"].items()
        if name.startswith("custom:") and name not in register["ending"]
    ]
    moves = load.told_each[-1].moves
    last = max((place for place, (_, said) in enumerate(moves) if said), default=-1)
    there = register["parents"][f"workspace:{AIDE}"]
    if last >= 0 and there not in [parent for parent, _ in moves[last:]]:
        wrong.append(("moved elsewhere", there, moves[last:]))
    return wrong


def _wrong_commits(told: MemoryPromises, there: Told, register: Told) -> Iterator[object]:
    for nonce, one in told.commits.items():
        chunks = {ident: sorted(numbers) for ident, numbers in there.get(nonce, {}).items()}
        if one.id in told.forgets:
            if told.forgets[one.id] and chunks:
                yield "forgotten, and there", nonce, one
            continue
        if one.namespace.startswith("custom:") and register["ending"].get(one.namespace, True):
            continue  # the owner has removed it since; what is left of it goes by and by
        if chunks != {one.id: list(range(one.chunks))} or (
            register["memories"].get(one.id) != one.namespace
        ):
            yield "acknowledged", nonce, one, chunks


def _wrong_audits(load: MemoryLoad, register: Told) -> Iterator[object]:
    """Yield what breaks: one row for each write of an organisation's memory, and its write."""
    rows = Counter((action, ident) for action, ident, _ in register["audit"])
    yield from (("audited twice", row) for row, times in rows.items() if times > 1)
    yield from (("no decree", row) for row in register["audit"] if not row[2].startswith("org:"))
    stored = {ident for action, ident in rows if action == "commit"}
    gone = {ident for action, ident in rows if action == "forget"}
    memories = register["memories"].items()
    there = {ident for ident, namespace in memories if namespace.startswith("org:")}
    yield from (("not audited, or not stored", ident) for ident in there ^ (stored - gone))
    for told in load.told_each:
        decreed = {one.id for one in told.commits.values() if one.namespace.startswith("org:")}
        forgotten = {ident for ident in decreed if told.forgets.get(ident)}
        yield from (("acknowledged without an audit", ident) for ident in decreed - stored)
        yield from (("forgotten without an audit", ident) for ident in forgotten - gone)


def secrets_left(site: Site) -> list[str]:
    """Return the files in which the key stands that decrees quote."""
    needle = SECRET.encode()[4:]
    files = [path for path in site.palace.parent.rglob("*") if path.is_file()]
    return [str(path) for path in files if needle in path.read_bytes()]
