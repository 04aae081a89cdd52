"""Deliberate breakages of palace: each one a fault that the simulation must find.

A breakage replaces attributes for the length of a run, exactly as the simulation's own patches do.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import trio

import palace.broker.endpoint
import palace.broker.scheduling
import palace.engine.durability.recovery
import palace.journal.append
import palace.journal.journal
import palace.kernel.kernel
import palace.ownership.epoch
import palace.ownership.lock
import palace.shim.relay
from palace.broker.broker import Broker
from palace.broker.leaving import Leaving
from palace.broker.life import Life
from palace.broker.scheduling import Scheduler
from palace.broker.session import LiveSession
from palace.engine.api import Reply
from palace.engine.durability.calls import DurableCalls
from palace.engine.durability.groups import CallGroups
from palace.journal.append import Appender
from palace.journal.record import ABORT
from palace.journal.tail import Tail
from palace.kernel.kernel import Kernel
from palace.protocol import deaths
from palace.protocol.admission import Admission
from palace.protocol.ledger import Ledger
from palace.protocol.lifecycle import Lifecycle
from tests.sim import engine
from tests.sim.install import replace
from tests.sim.scenario import Plan

Replacement = tuple[object, str, object]


@attrs.frozen
class Breakage:
    """What is broken; `plan` is a kind of misfortune that brings it out, None for any."""

    text: str
    make: Callable[[], list[Replacement]]
    plan: Plan | None = None


# Owners that are told to stop while they load, with lines that their predecessors had begun.
RESTLESS = Plan(
    clients=4,
    calls=6,
    depth=4,
    switch=0.1,
    faults_s=6.0,
    kill_broker=0.002,
    slow=0.02,
    loads_per_s=3.0,
    actions=tuple((0.25 * number, ("kill", "term", "term")[number % 3]) for number in range(1, 24)),
)
# Engines that often can't be loaded, with such lines.
FAILING = attrs.evolve(
    RESTLESS, load_fails=0.5, actions=tuple((0.25 * number, "kill") for number in range(1, 15))
)
# Owners that have hardly patience with silent clients, and a slow disk.
IMPATIENT = Plan(clients=3, calls=6, depth=3, switch=0.1, faults_s=3.0, slow=0.1, idle_s=0.3)
# A store whose writes never return; and a disk that fails, with power cuts to tell what is on it.
STUCK = Plan(clients=2, calls=5, depth=2, switch=0.1, faults_s=3.0, stuck=0.2)
BAD_DISK = Plan(
    clients=3,
    calls=9,
    depth=2,
    switch=0.1,
    faults_s=3.0,
    error=0.02,
    actions=((0.8, "cut"), (1.6, "cut"), (2.4, "cut")),
)


def _no_fsync_of_outcomes() -> list[Replacement]:
    def at_once(_self: Any, _seq: int, told: Callable[[None], None]) -> None:
        told(None)

    return [(palace.journal.journal.Journal, "when_synced", at_once)]


def _no_rollback() -> list[Replacement]:
    def leave(self: Any, key: str) -> None:
        self.journal.close_key(key, ABORT)

    return [(palace.engine.durability.recovery.Recovery, "_roll_back", leave)]


def _change_before_journal() -> list[Replacement]:
    def change(self: Any, projection: Any, attributed: Any, make: Any, **_: Any) -> Any:
        result = make()
        for group, _change in attributed:
            group.step = 1
        draft = palace.engine.durability.groups._draft
        self.journal.append([draft(group, change) for group, change in attributed])
        projection.applied([change for _group, change in attributed])
        return result

    return [(CallGroups, "_change", change)]


def _no_outcome() -> list[Replacement]:
    def answer(self: Any, call: Any, dispatch: Callable[[], Reply]) -> Reply:
        with self.groups.group(call.key, non_atomic=True) as group:
            reply = dispatch()
        self.groups.keep_so_far(group)
        return reply

    return [(DurableCalls, "answer", answer)]


def _lock_released_before_the_store_is_closed() -> list[Replacement]:
    real = Leaving.close_engine

    async def close(self: Any) -> None:
        self.services.kernel.close(self.services.ownership.lock_fd)
        await real(self)

    return [(Leaving, "close_engine", close)]


def _unpublish_whatever_is_there() -> list[Replacement]:
    async def close(self: Any) -> None:
        await _REAL_CLOSE(self)
        self.services.kernel.close(self.services.ownership.lock_fd)
        await trio.sleep(0.3)
        for path in (self.services.ownership.paths.record, self.services.endpoint.path):
            self.services.kernel.unlink(path)

    return [(Leaving, "close_engine", close)]


def _no_lock() -> list[Replacement]:
    return [(Kernel, "try_lock", lambda _self, _fd, **_how: True)]


def _epoch_stays() -> list[Replacement]:
    real = palace.ownership.epoch.take_epoch

    def take(owner: Any, kernel: Kernel) -> None:
        before = kernel.read_file(owner.paths.epoch)
        real(owner, kernel)
        if before is not None:
            owner.epoch = int(before)

    return [(palace.ownership.epoch, "take_epoch", take)]


def _resend_with_a_new_key() -> list[Replacement]:
    real = palace.shim.relay.Relay._lost

    def lost(self: Any) -> None:
        self._session = self._kernel.token()
        real(self)

    return [(palace.shim.relay.Relay, "_lost", lost)]


def _resend_as_never_sent() -> list[Replacement]:
    def as_new(self: Any) -> list[tuple[int, bool]]:
        return [(ordinal, False) for ordinal in self._lines]

    return [(Ledger, "resend_list", as_new)]


def _idle_exit_ignores_work() -> list[Replacement]:
    real = Lifecycle.tick

    def tick(self: Any, now_s: float, *, busy: bool) -> Any:
        return real(self, now_s, busy=False)

    return [(Lifecycle, "tick", tick)]


def _handed_back_as_never_run() -> list[Replacement]:
    def hand_back(self: Any, session: LiveSession, jobs: list[Any]) -> bool:
        if not session.is_leaving:
            return False
        for job in jobs:
            if job.ordinal in session.machine.calls:
                session.machine.settle(job.ordinal)
        session.goodbye(self._reason(), [job.ordinal for job in jobs])
        return True

    return [(Scheduler, "hand_back", hand_back)]


def _failed_engine_denies_everything() -> list[Replacement]:
    return [(palace.broker.scheduling, "refusal_of", lambda _job, problem: problem)]


def _queries_overtake_changes() -> list[Replacement]:
    def startable(self: Any, queue: Any, **_: Any) -> Any:
        job = next((job for job in queue.waiting if not job.exclusive), None)
        job = job or (queue.waiting[0] if queue.waiting else None)
        if job is None or not self.slots[job.tool.lane].has_room(job.party, job.session):
            return None
        return job

    return [(Admission, "_startable", startable)]


def _outcomes_forgotten_in_new_segments() -> list[Replacement]:
    real = Tail.header

    def header(self: Any) -> dict[str, Any]:
        return {**real(self), "replies": {}}

    return [(Tail, "header", header)]


def _failed_fsync_is_tried_again() -> list[Replacement]:
    def sync(self: Any, seq: int) -> None:
        with self._lock:
            fd, target = self._fd, self.next_seq - 1
        with contextlib.suppress(OSError):
            self.kernel.sync(fd)
        with contextlib.suppress(OSError):
            self.kernel.sync(fd)
        with self._lock:
            self._confirm(target)

    return [(Appender, "sync", sync)]


def _nothing_is_synced() -> list[Replacement]:
    return [(Kernel, "sync", lambda _self, _fd: None)]


def _record_without_rename() -> list[Replacement]:
    def write(self: Any, path: str, data: bytes, mode: int = 0o600) -> None:
        fd = palace.kernel.kernel.os.open(path, 0o1101, mode)  # type: ignore[attr-defined]
        self.write(fd, data)
        self.close(fd)

    return [(Kernel, "write_durable", write)]


def _store_opened_before_the_lock() -> list[Replacement]:
    real = palace.ownership.lock.take_lock

    def take(paths: Any, kernel: Kernel) -> Any:
        store = engine.SimStore(paths.root, kernel, 0)
        store.open()
        store.close()
        return real(paths, kernel)

    return [(palace.ownership.lock, "take_lock", take)]


def _stuck_writes_are_not_noticed() -> list[Replacement]:
    return [(Broker, "_writes", lambda _self: False)]


_REAL_CLOSE = Leaving.close_engine


def _leaves_without_a_word() -> list[Replacement]:
    return [(Life, "left", lambda _self, _reason="": None)]


def _leaves_before_it_has_left() -> list[Replacement]:
    real = Life.leaving

    def leaving(self: Any, reason: str) -> None:
        real(self, reason)
        self.canary.say(deaths.LEFT, reason=reason)

    return [(Life, "leaving", leaving)]


BREAKAGES: dict[str, Breakage] = {
    "no_fsync_of_outcomes": Breakage(
        "the reply leaves before it is durable", _no_fsync_of_outcomes
    ),
    "no_rollback": Breakage("what a dead owner began is not taken back", _no_rollback),
    "change_before_journal": Breakage("the store is changed first", _change_before_journal),
    "no_outcome": Breakage("calls leave no outcome behind", _no_outcome),
    "early_unlock": Breakage(
        "the lock is released before the store is closed",
        _lock_released_before_the_store_is_closed,
    ),
    "late_unpublish": Breakage(
        "names are removed after the lock is gone", _unpublish_whatever_is_there
    ),
    "no_lock": Breakage("everybody gets the lock", _no_lock),
    "epoch_stays": Breakage("the epoch is not bumped", _epoch_stays),
    "new_key": Breakage("lines are sent again under a new key", _resend_with_a_new_key),
    "as_never_sent": Breakage("lines are sent again as if they were new", _resend_as_never_sent),
    "idle_exit": Breakage(
        "owners leave as idle while they work: nobody's long-poll ever ends",
        _idle_exit_ignores_work,
        IMPATIENT,
    ),
    "handed_back": Breakage(
        "a goodbye denies what an earlier owner did", _handed_back_as_never_run, RESTLESS
    ),
    "denied": Breakage(
        "a failed engine denies what was done", _failed_engine_denies_everything, FAILING
    ),
    "overtaking": Breakage("queries overtake changes of their session", _queries_overtake_changes),
    "forgotten": Breakage(
        "a new segment forgets the outcomes", _outcomes_forgotten_in_new_segments
    ),
    "fsync_twice": Breakage(
        "a failed fsync is tried again", _failed_fsync_is_tried_again, BAD_DISK
    ),
    "never_synced": Breakage("nothing is ever synced", _nothing_is_synced),
    "no_rename": Breakage("files are written in place", _record_without_rename),
    "store_before_lock": Breakage(
        "the store is opened before the lock", _store_opened_before_the_lock
    ),
    "left_unsaid": Breakage(
        "an owner doesn't tell its canary that it leaves", _leaves_without_a_word
    ),
    "left_early": Breakage("an owner says that it has left first", _leaves_before_it_has_left),
    "no_watchdog": Breakage("a stuck write is not noticed", _stuck_writes_are_not_noticed, STUCK),
}


@contextlib.contextmanager
def broken(name: str) -> Iterator[None]:
    """Break palace for the length of the block."""
    undo = [replace(*replacement) for replacement in BREAKAGES[name].make()]
    try:
        yield
    finally:
        for restore in reversed(undo):
            restore()
