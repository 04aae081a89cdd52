"""The simulated processes' traces are ways through the model; patches of the code are noticed.

Every other seed of the simulation is judged by its trace, too (scenario.py); these look at nothing
else, and break the traces on purpose.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.model.follow import problems_of
from tests.sim.breakages import RESTLESS
from tests.sim.scenario import Run

SEEDS = 16
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def traces() -> list[Events]:
    """Owners that are told to stop, killed and replaced; and whatever the seeds bring."""
    found = []
    for seed in range(SEEDS):
        run = Run(seed, RESTLESS if seed % 2 else None)
        run.run()
        found.append(run.world.notes["trace"])
    return found


def untold(events: Events) -> Events:
    """Return what real processes could have written: nobody notes its own end."""
    return [event for event in events if event["act"] != "end"]


def test_all_events_are_steps_of_the_model(traces: list[Events]) -> None:
    assert [problems_of(events, ends_told=True) for events in traces] == [[]] * SEEDS
    assert sum(map(len, traces)) > 1000


def test_they_are_so_for_who_does_not_know_of_deaths(traces: list[Events]) -> None:
    assert [problems_of(untold(events)) for events in traces] == [[]] * SEEDS


def double(events: Events, number: int) -> Events:
    return [*events[: number + 1], *events[number:]]


def leave_out(events: Events, number: int) -> Events:
    return [*events[:number], *events[number + 1 :]]


def swap(events: Events, number: int) -> Events:
    """Exchange an event with its process's next one."""
    pid = events[number]["pid"]
    after = (n for n in range(number + 1, len(events)) if events[n]["pid"] == pid)
    other = next(after, number)
    changed = list(events)
    changed[number], changed[other] = changed[other], changed[number]
    return changed


def may_lack(events: Events, number: int) -> bool:
    """Tell whether a process could have gone on as it did without an event.

    One that then gave up may have done so before, and one that never opened the store may have
    waited for mempalace's lock until its end.
    """
    later = [e["act"] for e in events[number + 1 :] if e["pid"] == events[number]["pid"]]
    unopened = events[number]["act"] == "B4.fence" and "B9.open" not in later
    return unopened or later in ([], ["fault"])


# What an owner does once, and goes on from.
_ONCE = "B2.lock B4.fence B4.data B5.epoch B6.bind B7.publish X2.goodbye X4.hangup X4.settled"


@pytest.mark.parametrize("alter", [double, leave_out, swap])
@pytest.mark.parametrize("act", _ONCE.split())
def test_an_altered_trace_is_not_one(
    traces: list[Events], act: str, alter: Callable[[Events, int], Events]
) -> None:
    found = missed = 0
    for events in map(untold, traces):
        for number in [n for n, event in enumerate(events) if event["act"] == act]:
            changed = alter(events, number)
            if changed == events or (alter is leave_out and may_lack(events, number)):
                continue
            found += bool(problems_of(changed))
            missed += not problems_of(changed)

    assert found
    assert not missed
