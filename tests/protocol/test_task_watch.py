"""The watch over tasks: beside one that looks at all of them each time, and clock by clock."""

import random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.protocol.delegations import COMPLETED, QUEUED, fold
from palace.protocol.task_watch import (
    GAP_S,
    GRACE_S,
    LOOK_S,
    OVERDUE,
    SILENT,
    Changes,
    Verdict,
    Watch,
    Watched,
    still_holds,
    watched_in,
)
from tests.protocol.test_delegations import BEGAN_S, ELSEWHERE, HERE, asking, request, said


def test_a_palace_watches_what_was_asked_for_there_and_is_not_over() -> None:
    claim = said(1, "event.ack", "claimed")
    mine = fold([asking(silence_s=600), claim])

    assert watched_in(mine, HERE) == [
        Watched(
            id="task_1",
            sign="evt_1",
            in_progress=True,
            is_heard=True,
            deadline_at=None,
            silence_s=600.0,
            worker="worker",
            claim="evt_1",
        )
    ]
    assert watched_in(mine, ELSEWHERE) == []
    assert watched_in(fold([request(), claim]), HERE) == [], "nobody has asked for it"
    over = said(2, "patch.ready", "ready")
    assert watched_in(fold([asking(deadline_s=60), claim, over]), HERE) == []
    foreign = attrs.evolve(claim, origin=ELSEWHERE)
    assert not watched_in(fold([asking(deadline_s=60), foreign]), HERE)[0].is_heard


# The watch.


def watched(**fields: Any) -> Watched:
    made = Watched(
        id="t", sign="e", in_progress=True, is_heard=True, deadline_at=None, silence_s=600.0
    )
    return attrs.evolve(made, **fields)


class Clock:
    """Both clocks, and the watch that is looked through."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.monotonic_s, self.wall_s = 0.0, BEGAN_S

    def look(self, task: Watched, after_s: float = LOOK_S, asleep_s: float = 0.0) -> list[Verdict]:
        self.monotonic_s += after_s
        self.wall_s += after_s + asleep_s
        changes = Changes(tasks=(task,), whole=True)
        return self.watch.look(changes, monotonic_s=self.monotonic_s, wall_s=self.wall_s)


def looks(clock: Clock, task: Watched) -> int:
    """Return how many looks it takes until something is wrong."""
    return next(n for n in range(1, 100) if clock.look(task))


def test_a_worker_that_is_silent_for_so_long_is_given_up() -> None:
    assert looks(Clock(), watched()) == 11  # the first one begins to count
    clock = Clock()
    assert looks(clock, watched()) == 11
    (verdict,) = clock.look(watched())
    assert (verdict.why, verdict.id, verdict.sign) == (SILENT, "t", "e")
    assert "660 s" in verdict.detail


def test_each_sign_of_life_begins_anew() -> None:
    clock = Clock()
    for _ in range(10):
        assert not clock.look(watched())
    assert looks(clock, watched(sign="another")) == 11


@pytest.mark.parametrize(
    "task",
    [
        watched(is_heard=False),
        watched(in_progress=False),
        watched(silence_s=None, deadline_at=BEGAN_S + 1e6),
    ],
)
def test_no_silence_counts_that_nobody_was_to_break_or_could_hear(task: Watched) -> None:
    clock = Clock()

    assert not any(clock.look(task) for _ in range(100))


@pytest.mark.parametrize("pause", [{"after_s": GAP_S + 1}, {"asleep_s": GAP_S}])
def test_a_broker_that_hung_and_a_machine_that_slept_have_heard_nothing(
    pause: dict[str, float],
) -> None:
    clock = Clock()
    for _ in range(10):
        assert not clock.look(watched())
    assert not clock.look(watched(), **pause)
    assert looks(clock, watched()) == 1, "what it was awake for counts"


def test_a_deadline_counts_once_workers_had_time_to_come_back() -> None:
    clock, task = Clock(), watched(deadline_at=BEGAN_S - 10, in_progress=False)
    assert not clock.look(task)
    (verdict,) = clock.look(task, GRACE_S)
    assert (verdict.why, verdict.detail) == (OVERDUE, "The deadline was 130 s ago.")
    assert not clock.look(task, asleep_s=10 * GAP_S), "the machine has just come to itself"
    assert clock.look(task)


def test_a_clock_that_goes_back_ends_nothing() -> None:
    clock, task = Clock(), watched(deadline_at=BEGAN_S + 600)
    for _ in range(9):
        assert not clock.look(task)
    assert not clock.look(task, asleep_s=-500)
    assert not clock.look(task, after_s=0)


# What is written, once its turn has come.


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"sign": "evt_9"}, False),
        ({"state": COMPLETED}, False),
        ({"state": QUEUED}, False),
        ({"origin": ELSEWHERE}, False),
    ],
)
def test_silence_that_was_broken_meanwhile_ends_nothing(
    change: dict[str, Any], holds: bool
) -> None:
    (task,) = fold([asking(silence_s=600), said(1, "event.ack", "claimed")])
    verdict = Verdict(id=task.id, sign=task.sign, why=SILENT, detail="")

    assert still_holds(verdict, attrs.evolve(task, **change), HERE, BEGAN_S) is holds
    assert not still_holds(verdict, None, HERE, BEGAN_S)


@pytest.mark.parametrize(("deadline_s", "holds"), [(60, True), (61, False), (None, False)])
def test_a_deadline_that_is_none_ends_nothing(deadline_s: float | None, holds: bool) -> None:
    (task,) = fold([asking(deadline_s=deadline_s)])
    verdict = Verdict(id=task.id, sign="", why=OVERDUE, detail="")

    assert still_holds(verdict, task, HERE, BEGAN_S + 60) is holds


# Beside a watch that counts for each task at each look, as the first one did.


class Plain:
    """Keeps of each task its sign, and the seconds of watching since that."""

    def __init__(self, counts_absent: bool) -> None:
        self.counts_absent = counts_absent
        self.unheard: set[str] = set()  # the first signs of workers that never came
        self.silences: dict[str, tuple[str, float]] = {}
        self.last: tuple[float, float] | None = None
        self.awake_s = 0.0

    def look(self, tasks: dict[str, Watched], heard: set[str], at: tuple[float, float]) -> Any:
        if self.last is None and not self.counts_absent:
            self.unheard = {task.sign for task in tasks.values() if task.claim}
        self.unheard -= {task.sign for task in tasks.values() if task.claim in heard}
        self.unheard &= {task.sign for task in tasks.values()}
        last, self.last = self.last or at, at
        passed_s = at[0] - last[0]
        step_s = 0.0 if max(passed_s, at[1] - last[1]) > GAP_S else max(0.0, passed_s)
        self.awake_s = self.awake_s + step_s if step_s else 0.0
        silences, self.silences = self.silences, {}
        ended = set()
        for task in tasks.values():
            sign, silent_s = silences.get(task.id, (task.sign, -step_s))
            silent_s = silent_s + step_s if sign == task.sign else 0.0
            silent_s = 0.0 if task.claim in heard else silent_s
            self.silences[task.id] = task.sign, silent_s
            if (task.deadline_at or 1e12) <= at[1] and self.awake_s >= GRACE_S:
                ended.add((task.id, OVERDUE))
            elif task.sign in self.unheard:
                continue
            elif task.in_progress and task.is_heard and silent_s >= (task.silence_s or 1e9):
                ended.add((task.id, SILENT))
        return ended


def task_of(chance: random.Random, ident: str, number: int) -> Watched:
    claim = f"{ident}{number}" if chance.random() < 0.8 else ""
    return watched(
        id=ident,
        sign=claim,
        claim=claim,
        in_progress=bool(claim),
        is_heard=chance.random() < 0.9,
        deadline_at=chance.choice([None, BEGAN_S + chance.randrange(3000)]),
        silence_s=chance.choice([None, 60.0, 120.0, 600.0]),
    )


@settings(max_examples=1000)
@given(seed=st.integers(0, 2**32))
def test_it_finds_what_one_finds_that_looks_at_every_task(seed: int) -> None:
    chance = random.Random(seed)
    counts_absent = chance.random() < 0.7
    watch, plain = Watch(counts_absent=counts_absent), Plain(counts_absent)
    tasks: dict[str, Watched] = {}
    at = (0.0, BEGAN_S)
    for number in range(chance.randrange(1, 60)):
        before = dict(tasks)
        for ident in chance.sample("abcdef", chance.randrange(4)):
            if ident not in tasks or chance.random() < 0.3:
                tasks[ident] = task_of(chance, ident, number)
            elif chance.random() < 0.4:
                del tasks[ident]
            else:
                tasks[ident] = attrs.evolve(tasks[ident], sign=f"s{number}")
        whole = chance.random() < 0.2
        changed = [task for task in tasks.values() if before.get(task.id) != task]
        changes = Changes(
            tasks=tuple(tasks.values() if whole else changed),
            gone=() if whole else tuple({*before, "never"} - tasks.keys()),
            whole=whole,
        )
        step_s = chance.choice([0.0, 1.0, 30.0, LOOK_S, LOOK_S, GAP_S, GAP_S + 1])
        asleep_s = chance.choice([0.0, 0.0, 0.0, -500.0, 300.0])
        at = (at[0] + step_s, at[1] + step_s + asleep_s)
        claims = [task.claim for task in tasks.values() if task.claim]
        heard = set(chance.sample(claims, chance.randrange(len(claims) + 1)))

        found = watch.look(changes, heard=[*heard, "none"], monotonic_s=at[0], wall_s=at[1])
        assert {(one.id, one.why) for one in found} == plain.look(tasks, heard, at)
        assert len(found) == len({one.id for one in found}), "each task ends for one reason"
        assert all(one.sign == tasks[one.id].sign for one in found)
        assert len(watch) == len(tasks)


def test_a_worker_who_is_there_is_not_silent_and_its_deadline_counts() -> None:
    clock = Clock()
    task = watched(claim="c", worker="worker", deadline_at=BEGAN_S + 3600.0)
    verdicts: list[Verdict] = []
    for _ in range(100):
        clock.monotonic_s += LOOK_S
        clock.wall_s += LOOK_S
        verdicts = clock.watch.look(
            Changes(tasks=(task,)), heard=["c"], monotonic_s=clock.monotonic_s, wall_s=clock.wall_s
        )
        if verdicts:
            break
    assert [one.why for one in verdicts] == [OVERDUE]
    assert clock.wall_s - BEGAN_S == 3600.0
    assert clock.watch.worker_of("c") == "worker"
    assert clock.watch.worker_of("another") == ""
