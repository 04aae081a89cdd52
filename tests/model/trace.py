"""Conformance: is what processes said that they did a way through the model?

    python -m tests.model.trace SCOPE FILE

A trace is one JSON object a line: `{"act": "B5.epoch", "pid": 41, "epoch": 3}`.  `act` is a step of
the model, `pid` the process, or `shim` the shim that took it; further members are observations.
What is not traced (HIDDEN) may happen in between, everything else needs its event: one without a
matching step fails, and so does one that breaks an invariant.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from tests.model.checks import violation
from tests.model.model import init, next_states
from tests.model.scope import Scope
from tests.model.state import State
from tests.model.world import FAULTS
from tests.model.world_types import Label, Model

# What the hook in the product writes down; the steps of shims, threads and the kernel are hidden.
_WORDS = (
    "B2.lock B2.lost B3.held B4.fence B4.data B4.shared B5.epoch B6.bind B7.publish "
    "B9.open B9.ready B9.fail X0.idle X0.stop X0.upgrade X0.direct X2.goodbye X4.hangup X4.settled "
    "X4.grace X5.close X5.abandon X6.exit A.hello crash reboot fault watchdog"
)
TRACED = frozenset(_WORDS.split())
WORLDS_MAX = 50_000


class Mismatch(Exception):
    """An event that no step of the model explains."""


@attrs.frozen
class World:
    """One explanation of the trace so far; `pids` says which start each pid is."""

    state: State
    pids: frozenset[tuple[int, int]] = frozenset()


def replay(events: Iterable[Mapping[str, Any]], scope: Scope) -> int:
    """Follow a trace through the model; return the number of events, raise Mismatch."""
    model = Model(scope)
    worlds = {World(init(scope))}
    count = 0
    for number, event in enumerate(events, 1):
        after = set()
        for world in _closed(worlds, scope):
            after.update(_matching(world, event, scope))
        good = {world for world in after if not violation(model, world.state)}
        if not after:
            raise Mismatch(
                f"event {number}: no step of the model is {json.dumps(dict(event))} here"
            )
        if not good:
            broken = violation(model, next(iter(after)).state)
            raise Mismatch(f"event {number}: {json.dumps(dict(event))} breaks {broken}")
        worlds = good
        count = number
    return count


def _closed(worlds: set[World], scope: Scope) -> set[World]:
    """Add all that hidden steps lead to."""
    closed = set(worlds)
    todo = list(worlds)
    while todo:
        world = todo.pop()
        for label, state in next_states(world.state, scope):
            if label[0] in TRACED or (label[0] in FAULTS and label[0] not in ("C.ask", "C.leave")):
                continue
            after = World(state, world.pids)
            if after not in closed:
                closed.add(after)
                todo.append(after)
        if len(closed) > WORLDS_MAX:
            raise Mismatch(f"more than {WORLDS_MAX} explanations: take a smaller scope")
    return closed


def _matching(world: World, event: Mapping[str, Any], scope: Scope) -> Iterable[World]:
    for label, state in next_states(world.state, scope):
        if label[0] != event["act"]:
            continue
        pids = _who(world, label, event)
        if pids is not None and _observed(label, world.state, state, event):
            yield World(state, pids)


def _who(
    world: World, label: Label, event: Mapping[str, Any]
) -> "frozenset[tuple[int, int]] | None":
    """Return the pids with the event's one, None where the step is somebody else's."""
    if "shim" in event:
        return world.pids if label[1] == event["shim"] else None
    if "pid" not in event:
        return world.pids
    inc = world.state.procs[label[1]].inc
    known = dict(world.pids)
    if event["pid"] in known:
        # A pid that ended may be somebody else's now: only a living one must be the same.
        if known[event["pid"]] == inc:
            return world.pids
        if any(p.inc == known[event["pid"]] for p in world.state.procs):
            return None
    elif inc in known.values():
        return None
    return frozenset(
        {(pid, i) for pid, i in world.pids if pid != event["pid"]} | {(event["pid"], inc)}
    )


def _observed(label: Label, before: State, after: State, event: Mapping[str, Any]) -> bool:
    if "epoch" in event:
        p = after.procs[label[1]]
        if (p if p.inc else before.procs[label[1]]).epoch != event["epoch"]:
            return False
    return True


def events_of(labels: Iterable[Label], scope: Scope) -> list[dict[str, Any]]:
    """Return the trace that a walk through the model would have written."""
    events: list[dict[str, Any]] = []
    state = init(scope)
    for label in labels:
        after = next(s for name, s in next_states(state, scope) if name == label)
        name, n = label
        if name in TRACED:
            event: dict[str, Any] = {"act": name}
            event |= {"shim": n} if name == "A.hello" else {"pid": 1000 + state.procs[n].inc}
            if name == "B5.epoch":
                event["epoch"] = after.procs[n].epoch
            events.append(event)
        state = after
    return events


def main() -> int:
    from tests.model.scopes import SCOPES

    with open(sys.argv[2]) as file:
        events = [json.loads(line) for line in file if line.strip()]
    try:
        print(f"{replay(events, SCOPES[sys.argv[1]])} events, each a step of the model")
    except Mismatch as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
