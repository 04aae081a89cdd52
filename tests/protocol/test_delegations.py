"""The ledger of delegations: beside a reference, in any order of arrival, and cut off anywhere."""

import random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.protocol.delegations import (
    COMPLETED,
    DEADLINE_S_MAX,
    DISPATCHED,
    FAILED,
    FINAL,
    IN_PROGRESS,
    PREVIEW_BYTES,
    QUEUED,
    SILENCE_S_MIN,
    STUCK,
    STUCK_EVENT,
    TaskEvent,
    fold,
    limits_of,
    preview,
    seconds_of,
)

HERE, ELSEWHERE = "rep_here", "rep_elsewhere"
AT = "2026-11-30T00:00:00Z"
BEGAN_S = 1_795_996_800.0
RANK = {QUEUED: 0, DISPATCHED: 1, IN_PROGRESS: 2, COMPLETED: 3, FAILED: 3, STUCK: 3}
SAID = [
    ("task.request", "open"),
    ("event.ack", ""),
    ("event.ack", "claimed"),
    ("note.sent", "claimed"),
    ("patch.ready", "ready"),
    ("event.ack", "applied"),
    ("task.reply", ""),
    ("task.reply", "failed"),
    ("task.reply", "blocked"),
    ("event.ack", "superseded"),
    ("task.stuck", "failed"),
    ("note.sent", ""),
]


def request(number: int = 0, **fields: Any) -> TaskEvent:
    made = TaskEvent(
        id=f"evt_{number}",
        type="task.request",
        task="task_1",
        agent="lead",
        to="worker",
        status="open",
        at=AT,
        hlc=f"{number:013}",
        origin=HERE,
        body="Goal:\nmend it",
    )
    return attrs.evolve(made, **fields)


def said(number: int, kind: str, status: str = "", **fields: Any) -> TaskEvent:
    made = request(number, type=kind, status=status, agent="worker", to="lead", body="")
    return attrs.evolve(made, **fields)


def asking(**palace: Any) -> TaskEvent:
    return request(metadata={"palace": palace})


@st.composite
def logs(draw: st.DrawFn) -> list[TaskEvent]:
    """Return events of three tasks, of two agents and two palaces."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(SAID),
                st.sampled_from(["task_1", "task_2", ""]),
                st.sampled_from(["worker", "other"]),
                st.sampled_from([HERE, ELSEWHERE]),
            ),
            max_size=30,
        )
    )
    return [
        said(n, kind, status, task=task, agent=agent, origin=origin, body=f"b{n}")
        for n, ((kind, status), task, agent, origin) in enumerate(drawn)
    ]


def states_by_reference(events: list[TaskEvent]) -> dict[str, str]:
    """Return what each task's state is, by the table that the design has, event by event."""
    states: dict[str, str] = {}
    for event in filter(lambda event: event.task, events):
        state = states.get(event.task)
        if event.type == "task.request":
            states.setdefault(event.task, QUEUED)
        if state is None or state in FINAL or event.type == "task.request":
            continue
        if event.type == "task.stuck":
            states[event.task] = STUCK if state == IN_PROGRESS else FAILED
        elif event.status == "claimed":
            states[event.task] = IN_PROGRESS
        elif event.status in ("failed", "blocked", "superseded"):
            states[event.task] = FAILED
        elif event.status in ("ready", "applied") or event.type in ("task.reply", "patch.ready"):
            states[event.task] = COMPLETED
        elif event.type == "event.ack" and state == QUEUED:
            states[event.task] = DISPATCHED
    return states


@settings(max_examples=1000)
@given(events=logs(), seed=st.integers(), cut=st.integers(0, 30))
def test_the_ledger_is_a_function_of_the_events_alone(
    events: list[TaskEvent], seed: int, cut: int
) -> None:
    whole = fold(events)

    assert {one.id: one.state for one in whole} == states_by_reference(events)
    # What arrives otherwise, or twice (a part that is pulled again), makes no difference.
    mixed = random.Random(seed).sample(events, len(events)) + events[:cut]
    assert fold(mixed) == whole
    # A death after any event leaves the ledger of those that are there, and no task goes back.
    before = {one.id: one.state for one in fold(events[:cut])}
    after = {one.id: one.state for one in whole}
    assert all(RANK[after[task]] >= RANK[state] for task, state in before.items())
    assert all(after[task] == state for task, state in before.items() if state in FINAL)


def test_what_is_told_of_a_task() -> None:
    claim = said(2, "event.ack", "claimed", body="on it", at="2026-11-30T00:01:00Z")
    (task,) = fold([request(), request(1, agent="thief"), claim, said(3, "note.sent")])

    assert (task.id, task.request, task.caller, task.callee) == (
        *("task_1", "evt_0", "lead", "worker"),
    )
    assert (task.state, task.worker, task.claimed_in, task.sign) == (
        *(IN_PROGRESS, "worker", HERE, "evt_3"),
    )
    assert (task.detail, task.changed_at, task.goal) == ("on it", claim.at, "Goal:\nmend it")


def test_a_worker_that_takes_a_task_over_is_the_one_that_is_listened_to() -> None:
    events = [request(), said(1, "event.ack", "claimed"), said(2, "note.sent", agent="other")]
    assert fold(events)[0].sign == "evt_1"

    events.append(said(3, "event.ack", "claimed", agent="other", origin=ELSEWHERE))
    (task,) = fold(events)
    assert (task.worker, task.claimed_in, task.sign) == ("other", ELSEWHERE, "evt_3")


def test_what_was_said_before_a_task_was_asked_for_is_none_of_its() -> None:
    early = said(0, "patch.ready", "ready", body="done already")

    assert fold([early]) == []
    assert fold([early, request(1)]) == fold([request(1)])


def test_what_comes_after_the_end_changes_nothing() -> None:
    events = [request(), said(1, "event.ack", "claimed"), said(2, STUCK_EVENT, "failed", body="x")]
    late = said(3, "patch.ready", "ready", body="here it is")

    assert fold([*events, late]) == fold(events)
    assert (fold(events)[0].state, fold(events)[0].detail) == (STUCK, "x")


def test_a_preview_is_cut_between_characters() -> None:
    text = "x" * (PREVIEW_BYTES - 2) + "\N{GRINNING FACE}" * 2

    assert preview(text) == "x" * (PREVIEW_BYTES - 2)
    assert preview("short") == "short"


@pytest.mark.parametrize(
    ("palace", "deadline_at", "silence_s"),
    [
        ({"deadline_s": 60, "silence_s": 600}, BEGAN_S + 60, 600.0),
        ({"deadline_s": 0.5}, BEGAN_S + 0.5, None),
        ({"deadline_s": -1, "silence_s": SILENCE_S_MIN - 1}, None, None),
        ({"deadline_s": DEADLINE_S_MAX + 1, "silence_s": 1e300}, None, None),
        ({"deadline_s": float("nan"), "silence_s": True}, None, None),
        ({"deadline_s": 10**400, "silence_s": "600"}, None, None),
        ("no object", None, None),
        (None, None, None),
    ],
)
def test_a_request_says_what_it_is_to_be_watched_for(
    palace: Any, deadline_at: float | None, silence_s: float | None
) -> None:
    found = limits_of(request(metadata={"palace": palace}))

    assert (found.deadline_at, found.silence_s) == (deadline_at, silence_s)


def test_a_time_that_is_none_sets_no_deadline() -> None:
    assert seconds_of("soon") is None
    assert seconds_of(AT) == seconds_of(AT.removesuffix("Z")) == BEGAN_S
    assert limits_of(attrs.evolve(asking(deadline_s=60), at="soon")).deadline_at is None
