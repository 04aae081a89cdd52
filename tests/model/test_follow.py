"""The checker of whole runs: it passes what real processes can do, and finds what is not so.

`tests/sim/test_trace.py` has it follow the product; here the events are written by hand.
"""

from typing import Any

import pytest

from tests.model.follow import Follower, problems_of
from tests.model.trace import Mismatch

BECOMES = ("B1.open", "B2.lock", "B4.fence", "B4.data", "B5.epoch", "B6.bind", "B7.publish")
LATE = (*BECOMES[:2], *BECOMES[3:])  # stock has its lock
SERVES = (*BECOMES, "B9.open", "B9.ready")
LEAVES = ("X0.idle", "X2.goodbye", "X4.hangup", "X4.settled", "X5.close", "X6.exit")
Events = list[dict[str, Any]]


def life(pid: int = 41, epoch: int = 1, acts: tuple[str, ...] = SERVES) -> Events:
    events: Events = [{"act": act, "pid": pid} for act in acts]
    for event in events:
        if event["act"] in ("B5.epoch", "B7.publish"):
            event["epoch"] = epoch
    return events


def served(pid: int = 7, owner: int = 41, epoch: int = 1) -> Events:
    return [
        {"act": "C.dial", "pid": pid, "session": f"s{pid}"},
        {"act": "A.hello", "pid": owner, "session": f"s{pid}"},
        {"act": "C2.welcome", "pid": pid, "epoch": epoch},
    ]


def end(pid: int) -> Events:
    return [{"act": "end", "pid": pid}]


def event(act: str, pid: int = 41, **seen: Any) -> Events:
    return [{"act": act, "pid": pid, **seen}]


LEFT = life(acts=LEAVES)
ABANDONED = [*event("X5.abandon"), *event("X6.exit")]
PARTED = [*event("C.goodbye", 7), *event("C4.lost", 7)]


@pytest.mark.parametrize(
    "events",
    [
        [*life(), *LEFT, *life(42, 2), *life(42, acts=LEAVES)],
        # A killed owner writes nothing; the next one may have its pid.
        [*life(), *life(42, 2)],
        [*life(), *life(41, 2)],
        # Killed after it took an epoch, before it could say so.
        [*life(acts=BECOMES[:4]), *life(42, 2)],
        # The loser's line comes before the winner's, and long after the winner's end.
        [*event("B1.open", 42), *event("B1.open"), *event("B2.lost", 42), *life()[1:]],
        [*event("B1.open", 42), *life(), *LEFT, *event("B2.lost", 42)],
        # Nobody says that it holds the lock: somebody was killed who might have.
        [*event("B1.open", 43), *event("B1.open", 42), *event("B2.lost", 42)],
        # An owner that has said its last word holds the lock until it has ended.
        [*life(), *LEFT, *event("B1.open", 42), *event("B2.lost", 42), *life(43, 2)],
        [*life(), *served(), *LEFT, *PARTED, *life(42, 2), *served(7, 42, 2)],
        [*life(), *served(), *event("C4.lost", 7), *life(42, 2), *served(7, 42, 2)],
        # Given up, and read all the same.
        [*life(), served()[0], *event("C3.silent", 7), *served(), *served()[1:2]],
        [*life(), *served(), *event("C.leave", 7), *event("C4.lost", 7)],
        [*life(acts=BECOMES[:2]), *event("B3.held"), *life(42)],
        [*life(acts=BECOMES[:2]), *event("B4.foreign"), *life(42)],
        [*life(acts=BECOMES[:3]), *event("B4.foreign"), *life(42)],
        # Stock had its lock when the owner came, and has ended.
        [*life(acts=LATE), *event("B4.fence"), *event("B9.open"), *event("B9.ready")],
        [*life(acts=LATE), *event("X0.stop"), *LEFT[1:4], *ABANDONED, *life(42, 2)],
        [*life(acts=BECOMES[:2]), *event("fault"), *life(42)],
        [*life(acts=BECOMES[:5]), *event("fault"), *life(42, 2)],
        [*life(acts=SERVES[:8]), *event("B9.fail"), *event("X0.failed"), *LEFT[1:4]],
        [*life(acts=SERVES[:8]), *event("B9.fail"), *event("X0.away"), *LEFT[1:4]],
    ],
)
def test_what_can_happen_is_followed(events: Events) -> None:
    assert problems_of(events) == []


@pytest.mark.parametrize(
    ("events", "number"),
    [
        ([*life(), *event("B1.open", 42), *event("B2.lock", 42), *LEFT], 11),  # two holders
        ([*life(acts=BECOMES[:5]), *event("B7.publish", epoch=1)], 6),  # before it listens
        ([*life(acts=BECOMES[:3]), *event("B5.epoch", epoch=1)], 4),  # a lock left out
        ([*life(acts=BECOMES[:6]), *event("B9.open")], 7),  # the store before the record
        ([*life(acts=LATE), *event("B9.open")], 7),  # the store beside stock
        ([*life(), *life(42, 1)], 14),  # an epoch twice
        ([*life(), *life(42, 3)], 14),  # an epoch left out, and nobody died of it
        ([*event("B1.open"), *event("B2.lost")], 2),  # lost to nobody
        ([*life(), *LEFT[1:]], 10),  # a goodbye that nobody decided
        ([*life(), *LEFT[:1], *LEFT[2:]], 11),  # no goodbye
        ([*life(), *LEFT[:-2], *LEFT[-1:]], 14),  # an end without closing
        ([*life(), *LEFT, *LEFT[-1:]], 16),  # twice
        ([*life(), *LEFT[:2], *served()], 13),  # admitted while it leaves
        ([*life(acts=BECOMES[:5]), *served()], 7),  # and before it listens
        ([served()[0], *life(), *served()[1:]], 11),  # a hello that was sent to an earlier owner
        ([*life(), *served()[1:]], 11),  # a welcome that nobody asked for
        ([*life(), *served()[:1], *served()[2:]], 11),  # and that nobody gave
        ([*life(), *served(epoch=2)], 12),
        ([*life(), *served(), *event("C.goodbye", 7)], 13),
        ([*life(), *served(), *event("C4.lost", 7), *LEFT], 13),  # cut off by a living owner
        ([*event("nothing", 41)], 1),
    ],
)
def test_what_cannot_happen_is_found(events: Events, number: int) -> None:
    with pytest.raises(Mismatch, match=f"event {number}:"):
        Follower(events).run()


def test_a_shim_that_goes_on_under_a_new_name_is_found() -> None:
    renamed = [*life(), *served(), *event("C.dial", 7, session="other")]
    assert "under a new name" in problems_of(renamed)[0]


def test_where_ends_are_told_nobody_dies_unheard() -> None:
    assert problems_of([*life(), *life(42, 2)], ends_told=True)
    assert problems_of([*life(), *end(41), *life(42, 2)], ends_told=True) == []


@pytest.mark.parametrize("told", [True, False])
def test_every_step_of_a_whole_life_is_missed_and_counted(told: bool) -> None:
    """Only a last line may be missing: who wrote it may have been killed instead."""
    whole = [*life(), *served(), *LEFT]
    assert problems_of(whole, ends_told=told) == []
    for number, left_out in enumerate(whole[:-1]):
        missing = [*whole[:number], *whole[number + 1 :]]
        doubled = [*whole[: number + 1], left_out, *whole[number + 1 :]]
        assert problems_of(missing, ends_told=told) or left_out["act"] == "C2.welcome", left_out
        assert problems_of(doubled, ends_told=told) or left_out["act"] in ("B1.open", "C.dial")


@pytest.mark.parametrize("told", [True, False])
def test_steps_of_one_process_in_another_order_are_found(told: bool) -> None:
    whole = [*life(), *LEFT]
    for number in range(len(whole) - 1):
        swapped = list(whole)
        swapped[number : number + 2] = reversed(whole[number : number + 2])
        assert problems_of(swapped, ends_told=told), whole[number]
