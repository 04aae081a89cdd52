"""Clients that change one palace all the time, a killer among its brokers, and what was promised.

Each change carries a nonce.  A reply without an error is a promise, which is held against the raw
stores once all brokers have ended (tests/support/stores/nonces.py, in a process of its own).
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from palace.protocol.errors import PalaceError
from tests.support.calls.mutations import DATES, long_text
from tests.support.faults.killing import POINTS, Failpoints
from tests.support.loads.pool import Caller, ClientPool, RestartingClient
from tests.support.processes.brokers import code_of, status_of, text_of, wait_gone
from tests.support.processes.clients import Client, Site, wait_until
from tests.support.processes.sites import start_shim
from tests.support.stores import nonces

PAUSE_MAX_S = 1.5
PASSES_MAX = 3
LIKELY = (*POINTS, "reply", "reply")  # there alone a recorded reply is asked for
BREATH_KILLS = 4  # a shim gives a line up that was under way at five deaths in a row
QUARANTINED = -31063
SAYS_NO_SUCCESS = ("checkpoint", "create_tunnel")


@dataclass
class Promises:
    """What one client was told, by the nonces of its changes."""

    number: int
    drawers: dict[str, int] = field(default_factory=dict)  # acknowledged: nonce -> chunks
    entries: dict[str, int] = field(default_factory=dict)
    facts: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)
    artifacts: set[str] = field(default_factory=set)
    updates: list[tuple[str, bool]] = field(default_factory=list)  # of its own drawer, in order
    refused: list[tuple[str, str, int, str]] = field(default_factory=list)  # tool, nonce, error
    unexpected: list[object] = field(default_factory=list)
    calls: int = 0

    @property
    def replies(self) -> int:
        return self.calls

    @property
    def acknowledged(self) -> int:
        changes = (self.drawers, self.entries, self.facts, self.events, self.artifacts)
        return sum(map(len, changes)) + sum(said for _, said in self.updates)


class ChangeLoad(ClientPool[RestartingClient, Promises]):
    """Clients with a shim each, which is replaced where it is killed; close it."""

    def __init__(self, site: Site, clients: int, *arguments: str) -> None:
        self._site, self._arguments = site, arguments
        self.promises = [self._promises_of(number) for number in range(clients)]
        self._logs = [(site.home / f"shim-{number}.log").open("wb") for number in range(clients)]
        starters = [partial(self._start, number, log) for number, log in enumerate(self._logs)]
        super().__init__(
            [RestartingClient(start) for start in starters], self.promises, self._take_turns
        )

    # For a load that does more.

    def _promises_of(self, number: int) -> Promises:
        return Promises(number)

    def _start(self, _number: int, log: BinaryIO) -> Client:
        return start_shim(self._site.environ(), *self._arguments, stderr=log)

    def _take_turns(self, client: Caller, promises: Promises) -> Iterator[None]:
        return Turns(client, promises).forever()

    def close(self) -> list[int]:
        codes = [client.close() for client in self.clients]
        for log in self._logs:
            log.close()
        return codes


class Turns:
    """One client's turns: each makes one change of every sort."""

    def __init__(self, client: Caller, promises: Promises) -> None:
        self._client = client
        self._promises = promises
        self._who = f"worker{promises.number}"
        self._nonces = (f"n{promises.number}x{turn}z" for turn in itertools.count())
        self._drawer = ""
        self._held = "nothing"

    def forever(self) -> Iterator[None]:
        self.make_drawer()
        while True:
            yield
            self.take()

    def make_drawer(self) -> None:
        """File the drawer that is updated from then on."""
        while not self._drawer:
            nonce = next(self._nonces)
            content = f"before any update of {self._who}"
            answer = self._ask("add_drawer", nonce, wing="own", room=self._who, content=content)
            if answer is not None:
                self._drawer = answer["drawer_id"]

    def take(self) -> None:
        nonce = next(self._nonces)
        for change in self.changes():
            change(nonce)

    def changes(self) -> tuple[Callable[[str], None], ...]:
        """Return what is done in a turn."""
        return (
            self._diary_write,
            self._checkpoint,
            self._update_drawer,
            self._kg_add,
            self._kg_supersede,
            self._event_append,
            self._artifact_put,
            self._add_drawer,
        )

    def _ask(self, tool: str, nonce: str, **arguments: Any) -> dict[str, Any] | None:
        """Call a tool; return what it says if it is a promise."""
        self._promises.calls += 1
        reply = self._client.call(f"mempalace_{tool}", **arguments)
        if "error" in reply:
            refusal = (tool, nonce, code_of(reply), reply["error"]["message"])
            self._promises.refused.append(refusal)
            return None
        answer = text_of(reply)
        if not answer.get("success", tool in SAYS_NO_SUCCESS) or answer.get("errors"):
            self._promises.unexpected.append((tool, nonce, answer))
            return None
        return dict(answer)

    def _diary_write(self, nonce: str) -> None:
        entry = long_text(nonce, "an entry", 1 + len(nonce) % 2)
        answer = self._ask("diary_write", nonce, agent_name=self._who, entry=entry)
        if answer is not None:
            self._promises.entries[nonce] = answer["chunks"]

    def _checkpoint(self, nonce: str) -> None:
        where = {"wing": "load", "room": self._who}
        items = [where | {"content": f"an item, nonce {nonce}{which}"} for which in "ab"]
        diary = {"agent_name": self._who, "entry": f"an entry, nonce {nonce}c"}
        # Nothing is more than entirely alike: all items are filed.
        answer = self._ask("checkpoint", nonce, items=items, diary=diary, dedup_threshold=2)
        if answer is None:
            return
        if len(answer["added"]) != len(items) or not answer["diary"]["success"]:
            self._promises.unexpected.append(("checkpoint", nonce, answer))
            return
        self._promises.drawers.update({f"{nonce}{which}": 1 for which in "ab"})
        self._promises.entries[f"{nonce}c"] = 1

    def _update_drawer(self, nonce: str) -> None:
        content = long_text(f"{nonce}u", "my drawer", 1 + len(nonce) % 3)
        answer = self._ask("update_drawer", nonce, drawer_id=self._drawer, content=content)
        self._promises.updates.append((f"{nonce}u", answer is not None))

    def _kg_add(self, nonce: str) -> None:
        # A fact that has ended may be added twice, so that a second run would show.
        fact = {"subject": self._who, "predicate": "did", "object": f"{nonce}k", **DATES}
        if self._ask("kg_add", nonce, **fact) is not None:
            self._promises.facts.add(f"{nonce}k")

    def _kg_supersede(self, nonce: str) -> None:
        fact = {"subject": self._who, "predicate": "holds", "old_object": self._held}
        if self._ask("kg_supersede", nonce, new_object=f"{nonce}s", **fact) is not None:
            self._held = f"{nonce}s"
            self._promises.facts.add(f"{nonce}s")

    def _event_append(self, nonce: str) -> None:
        about = {"type": "a.note", "stream": "load", "room": "r", "from_agent": self._who}
        if self._ask("event_append", nonce, body=f"an event, nonce {nonce}", **about) is not None:
            self._promises.events.add(nonce)

    def _artifact_put(self, nonce: str) -> None:
        about = {"kind": "note", "created_by": self._who}
        content = f"an artifact, nonce {nonce}"
        if self._ask("artifact_put", nonce, content=content, **about) is not None:
            self._promises.artifacts.add(nonce)

    def _add_drawer(self, nonce: str) -> None:
        content = long_text(nonce, "a drawer", 1 + len(nonce) % 2)
        answer = self._ask("add_drawer", nonce, wing="load", room=self._who, content=content)
        if answer is not None:
            self._promises.drawers[nonce] = answer.get("chunks", 0)


# The killer.


@dataclass(frozen=True)
class Kill:
    """One kill of a plan: `pause_s` after the owner is there or is ready, or at a point."""

    how: str  # LOADING, READY, or AT_POINT
    pause_s: float
    point: str
    passes: int


LOADING, READY, AT_POINT = "loading", "ready", "at a point"


def plan_kills(seed: int, kills: int) -> Iterator[Kill]:
    """Yield the kills that belong to a seed; the first comes when a change is made and unfinished.

    Chance alone may choose ten moments of which none leaves anything to roll back.
    """
    yield Kill(how=AT_POINT, pause_s=0.0, point="applied", passes=1)
    rng = random.Random(seed)
    for _ in range(kills - 1):
        yield Kill(
            how=rng.choice((LOADING, READY, AT_POINT)),
            pause_s=rng.uniform(0.0, PAUSE_MAX_S),
            point=rng.choice(LIKELY),
            passes=rng.randint(1, PASSES_MAX),
        )


def kill_brokers(
    site: Site, failpoints: Failpoints, plan: Iterable[Kill], load: ChangeLoad
) -> list[int]:
    """SIGKILL one broker after the other; return their pids."""
    killed: list[int] = []
    for number, kill in enumerate(plan, 1):
        pid = await_owner(site, load, spared=killed[-1:], ready=kill.how != LOADING)
        if number % BREATH_KILLS == 0:
            load.await_replies()
        if load.failed():
            break
        if kill.how == AT_POINT:
            failpoints.arm((kill.point, kill.passes))
            wait_gone(pid)
        else:
            time.sleep(kill.pause_s)
            os.kill(pid, signal.SIGKILL)
        killed.append(pid)
    return killed


def await_owner(site: Site, load: ChangeLoad, *, spared: list[int], ready: bool) -> int:
    """Return the pid of the next owner as soon as it can be killed, 0 after a failure."""
    found = 0

    def is_there() -> bool:
        nonlocal found
        found = living_owner(site, spared=spared, ready=ready)
        return bool(found or load.failed())

    wait_until(is_there, 90, "a broker to kill")
    return found


def living_owner(site: Site, *, spared: list[int], ready: bool) -> int:
    """Return the pid of the owner that has published itself, 0 where there is none to kill."""
    try:
        pid = int(site.record()["pid"])
        if pid in spared:
            return 0
        if ready and status_of(site)["engine"]["state"] != "ready":
            return 0
    except (PalaceError, OSError, ValueError):
        return 0  # nobody serves just now
    return pid


# Promises held against the stores.


def count_in_another_process(site: Site) -> dict[str, dict[str, Any]]:
    argv = [sys.executable, "-P", str(nonces.__file__), str(site.palace)]
    result = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def broken_promises(load: ChangeLoad, found: dict[str, dict[str, Any]]) -> list[object]:
    """Return what was acknowledged and isn't there, or not as it was acknowledged."""
    broken: list[object] = []
    for promises in load.promises:
        for kind, chunks in (("drawers", promises.drawers), ("entries", promises.entries)):
            for nonce, count in chunks.items():
                there = list(found[kind].get(nonce, {}).values())
                if [sorted(numbers) for numbers in there] != [list(range(count))]:
                    broken.append((kind, nonce, count, there))
        for kind in ("facts", "events", "artifacts"):
            wanted = getattr(promises, kind)
            broken += [(kind, n, found[kind].get(n)) for n in wanted if found[kind].get(n) != 1]
    return broken


def nonces_there_twice(found: dict[str, dict[str, Any]]) -> list[object]:
    """Return what is there more than once, acknowledged or not."""
    twice: list[object] = []
    for kind in ("drawers", "entries"):
        for nonce, chunks in found[kind].items():
            numbers = Counter(number for one in chunks.values() for number in one)
            if len(chunks) != 1 or set(numbers.values()) != {1}:
                twice.append((kind, nonce, chunks))
    for kind in ("facts", "events", "artifacts"):
        twice += [(kind, nonce, count) for nonce, count in found[kind].items() if count != 1]
    return twice


def wrong_updates(load: ChangeLoad, found: dict[str, dict[str, Any]]) -> list[object]:
    """Return the clients whose drawer doesn't hold their last acknowledged update, or a later."""
    wrong: list[object] = []
    for promises in load.promises:
        names = [nonce for nonce, _ in promises.updates]
        there = [nonce for nonce in names if nonce in found["drawers"]]
        last = max((place for place, (_, said) in enumerate(promises.updates) if said), default=-1)
        if last >= 0 and (len(there) != 1 or names.index(there[0]) < last):
            wrong.append((promises.number, there, promises.updates[max(0, last - 1) :]))
    return wrong


def left_by_quarantined(load: ChangeLoad, found: dict[str, dict[str, Any]]) -> list[object]:
    """Return what is there of calls that were answered with "nothing of it was kept"."""
    letters = {"checkpoint": "abc", "update_drawer": "u", "kg_add": "k", "kg_supersede": "s"}
    kinds = {"diary_write": "entries", "event_append": "events", "artifact_put": "artifacts"}
    kinds |= {"kg_add": "facts", "kg_supersede": "facts"}
    left: list[object] = []
    for promises in load.promises:
        for tool, nonce, code, _ in promises.refused:
            names = [nonce + letter for letter in letters.get(tool, "")] or [nonce]
            where = [kinds[tool]] if tool in kinds else ["drawers", "entries"]
            if code == QUARANTINED:
                left += [
                    (tool, name)
                    for name in names
                    for kind in where
                    if name in found[kind] and (tool, kind) != ("add_drawer", "entries")
                ]
    return left
