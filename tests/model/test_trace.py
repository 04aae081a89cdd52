"""The trace checker passes what the model does, and nothing else."""

import random
from typing import Any

import pytest

from tests.model.model import init, next_states
from tests.model.scope import NO_JOURNAL, Scope
from tests.model.trace import Mismatch, events_of, replay
from tests.model.walks import pick
from tests.model.world_types import Label

SCOPE = Scope(name="trace", lines=("Q", "Q"), starts=2, crashes=1, journal_from=NO_JOURNAL)
LIFE = ["B2.lock", "B5.epoch", "B6.bind", "B7.publish", "B9.open", "B9.ready", "A.hello"]


def life(pid: int = 41, epoch: int = 1) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"act": act, "pid": pid} for act in LIFE[:-1]]
    events[1]["epoch"] = epoch
    return [*events, {"act": "A.hello", "shim": 0}]


def walked(seed: int, steps: int = 40) -> list[Label]:
    draw = random.Random(seed)
    state, labels = init(SCOPE), []
    for _ in range(steps):
        possible = next_states(state, SCOPE)
        if not possible:
            break
        label, state = pick(possible, draw.getrandbits(20))
        labels.append(label)
    return labels


@pytest.mark.parametrize("seed", range(6))
def test_what_the_model_does_is_a_trace_of_it(seed: int) -> None:
    events = events_of(walked(seed), SCOPE)
    assert replay(events, SCOPE) == len(events)


def test_a_life_is_followed_and_the_next_one_too() -> None:
    first, second = life(), life(pid=42, epoch=2)
    assert replay([*first, {"act": "crash", "pid": 41}, *second], SCOPE) == 15
    reused = life(pid=41, epoch=2)
    assert replay([*first, {"act": "crash", "pid": 41}, *reused], SCOPE) == 15


@pytest.mark.parametrize(
    ("place", "event"),
    [
        (1, {"act": "B2.lock", "pid": 42}),  # a second holder
        (1, {"act": "B6.bind", "pid": 41}),  # the socket before the epoch
        (1, {"act": "B9.open", "pid": 41}),  # the store before the record
        (4, {"act": "B7.publish", "pid": 41}),  # twice
        (7, {"act": "X2.goodbye", "pid": 41}),  # a goodbye without a decision
        (7, {"act": "X6.exit", "pid": 41}),  # an end without leaving
        (7, {"act": "B5.epoch", "pid": 42, "epoch": 2}),  # an epoch without the lock
        (7, {"act": "no such step", "pid": 41}),
    ],
)
def test_what_the_model_does_not_do_is_found(place: int, event: dict[str, Any]) -> None:
    events = life()
    with pytest.raises(Mismatch, match=f"event {place + 1}"):
        replay([*events[:place], event, *events[place:]], SCOPE)


def test_an_epoch_that_was_not_raised_is_found() -> None:
    with pytest.raises(Mismatch, match="event 10"):
        replay([*life(), {"act": "crash", "pid": 41}, *life(pid=42, epoch=1)], SCOPE)


def test_a_step_that_was_left_out_is_found() -> None:
    events = life()
    for missing in range(5):
        with pytest.raises(Mismatch):
            replay([*events[:missing], *events[missing + 1 :]], SCOPE)
