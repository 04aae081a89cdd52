"""Breadth-first search: every state of a scope, shortest counterexamples, liveness."""

import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

from tests.model.checks import quiet, served, spent, violation
from tests.model.model import init, next_states
from tests.model.scope import Scope
from tests.model.state import GREET, PLACES, UP, State
from tests.model.world import FAULTS
from tests.model.world_types import Label, Model


@attrs.define
class Result:
    """What a search found; `broken` is "" and `complete` True for a scope that holds."""

    scope: str
    variant: str = ""
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = True
    broken: str = ""
    trace: list[Label] = attrs.field(factory=list)
    reached: Counter[str] = attrs.field(factory=Counter)

    @property
    def invariant(self) -> str:
        return self.broken.partition(" ")[0]


@attrs.define
class _Search:
    scope: Scope
    variant: str
    names: list[Label] = attrs.field(factory=list)
    numbers: dict[Label, int] = attrs.field(factory=dict)
    states: list[State] = attrs.field(factory=list)
    known: dict[State, int] = attrs.field(factory=dict)
    parent: "array[int]" = attrs.field(factory=lambda: array("l"))
    label: "array[int]" = attrs.field(factory=lambda: array("H"))
    edges_from: "array[int]" = attrs.field(factory=lambda: array("l"))
    edges_to: "array[int]" = attrs.field(factory=lambda: array("l"))
    parts: dict[Any, Any] = attrs.field(factory=dict)

    def number(self, label: Label) -> int:
        found = self.numbers.get(label)
        if found is None:
            found = self.numbers[label] = len(self.names)
            self.names.append(label)
        return found

    def shared(self, state: State) -> State:
        """Let equal parts be one object: a million states differ in little."""
        share = self.parts.setdefault
        procs = tuple(share(p, p) for p in state.procs)
        shims = tuple(share(x, x) for x in state.shims)
        conns = tuple(share(x, x) for x in state.conns)
        return State(
            share(procs, procs),
            share(shims, shims),
            share(conns, conns),
            share(state.disk, state.disk),
            share(state.kernel, state.kernel),
            share(state.left, state.left),
            share(state.seen, state.seen),
            share(state.deaths, state.deaths),
        )

    def add(self, state: State, parent: int, label: int) -> int:
        place = len(self.states)
        state = self.shared(state)
        self.known[state] = place
        self.states.append(state)
        self.parent.append(parent)
        self.label.append(label)
        return place

    def trace(self, place: int) -> list[Label]:
        labels = []
        while place > 0:
            labels.append(self.names[self.label[place]])
            place = self.parent[place]
        return labels[::-1]


def explore(
    scope: Scope,
    variant: str = "",
    *,
    states_max: int = 0,
    seconds_max: float = 0.0,
) -> Result:
    """Search a scope until all is seen, something is broken, or a limit is reached."""
    search = _Search(scope, variant)
    result = Result(scope=scope.name, variant=variant)
    model = Model(scope, variant)
    begun = time.monotonic()
    search.add(init(scope), -1, search.number(("init", 0)))
    level_end, place = 1, 0
    counts: dict[int, int] = {}
    while place < len(search.states) and not result.broken:
        if place == level_end:
            result.depth += 1
            level_end = len(search.states)
        state = search.states[place]
        for label, after in next_states(state, scope, variant):
            result.transitions += 1
            number = search.number(label)
            counts[number] = counts.get(number, 0) + 1
            there = search.known.get(after)
            if there is None:
                there = search.add(after, place, number)
                broken = violation(model, after)
                if broken:
                    result.broken, result.trace = broken, search.trace(there)
                    break
            if scope.live and label[0] not in FAULTS:
                search.edges_from.append(place)
                search.edges_to.append(there)
        place += 1
        over = seconds_max and place % 512 == 0 and time.monotonic() - begun > seconds_max
        if over or (states_max and len(search.states) >= states_max):
            result.complete = False
            break
    for number, count in counts.items():
        result.reached[search.names[number][0]] += count
    if scope.live and not result.broken and result.complete:
        _check_liveness(search, model, result)
    result.states = len(search.states)
    result.seconds = time.monotonic() - begun
    return result


def _check_liveness(search: _Search, model: Model, result: Result) -> None:
    """From every state, without any further fault, a good one can be reached."""
    goals: list[tuple[str, Callable[[State], bool]]] = [
        ("L1 a client waits for ever", served),
        ("L4 a loser of the election stays", lambda s: sum(p.pc > 0 for p in s.procs) <= 1),
    ]
    if model.scope.idle:
        goals.append(("L2 something of an owner stays", quiet))
    for text, good in goals:
        place = _stuck(search, model, good)
        if place >= 0:
            result.broken, result.trace = text, search.trace(place)
            return


def _stuck(search: _Search, model: Model, good: Callable[[State], bool]) -> int:
    """Return the first state from which no good one can be reached, -1 for none."""
    count = len(search.states)
    into: list[list[int]] = [[] for _ in range(count)]
    for a, b in zip(search.edges_from, search.edges_to, strict=True):
        into[b].append(a)
    return cut_off(into, [n for n, s in enumerate(search.states) if good(s) or spent(model, s)])


def cut_off(into: list[list[int]], good: list[int]) -> int:
    """Return the first state from which no good one can be reached, -1 for none.

    `into` names, for each state, those that lead to it.
    """
    todo = list(good)
    can = bytearray(len(into))
    for n in todo:
        can[n] = 1
    while todo:
        for before in into[todo.pop()]:
            if not can[before]:
                can[before] = 1
                todo.append(before)
    return can.find(0)


# Reading a counterexample.


def describe(scope: Scope, labels: list[Label], variant: str = "") -> list[str]:
    """Return a trace as lines: the step, who took it, and what changed."""
    state = init(scope)
    model = Model(scope, variant)
    lines = []
    for number, label in enumerate(labels, 1):
        options = [after for name, after in next_states(state, scope, variant) if name == label]
        # Several steps may bear one name: the one that goes on to the end is what was searched.
        after = _fitting(options, labels[number:], scope, variant)
        lines.append(f"{number:3} {label[0]:<12} {_who(label, state)}  {_changes(state, after)}")
        state = after
    broken = violation(model, state)
    return [*lines, f"    {broken}"] if broken else lines


def _fitting(options: list[State], rest: list[Label], scope: Scope, variant: str) -> State:
    if len(options) == 1 or not rest:
        model = Model(scope, variant)
        return next((o for o in options if violation(model, o)), options[0])
    for option in options:
        states = [option]
        for label in rest:
            states = [a for s in states for n, a in next_states(s, scope, variant) if n == label]
        if any(violation(Model(scope, variant), s) for s in states):
            return option
    return options[0]


def _who(label: Label, state: State) -> str:
    name, n = label
    if name[0] in "CA":
        return f"shim {n}"
    if n < len(state.procs) and state.procs[n].pc:
        return f"proc {state.procs[n].inc}"
    return "world"


def _changes(before: State, after: State) -> str:
    said = []
    for a, b in zip(before.procs, after.procs, strict=True):
        if a.pc != b.pc:
            said.append(f"{PLACES[a.pc]} -> {PLACES[b.pc]}")
        if a.db != b.db:
            said.append("store open" if b.db else "store closed")
    for c, (x, y) in enumerate(zip(before.shims, after.shims, strict=True)):
        if x.got != y.got:
            said.append(f"client {c}: {y.got}")
        if x.pc != y.pc and y.pc in (GREET, UP):
            said.append(f"shim {c} {'greets' if y.pc == GREET else 'is up'}")
    old, new = before.disk, after.disk
    said += [f"journal {new.journal}"] if old.journal != new.journal else []
    said += [f"store {new.store}"] if old.store != new.store else []
    return "; ".join(said)


def report(result: Result, scope: Scope) -> None:
    rate = result.states / max(result.seconds, 0.001)
    print(
        f"{result.scope:<14} {result.states:>9,} states {result.transitions:>10,} steps "
        f"depth {result.depth:>3} {result.seconds:7.1f} s {rate:7,.0f}/s"
        f"{'' if result.complete else ' (cut off)'}",
        flush=True,
    )
    if result.broken:
        print(f"  BROKEN: {result.broken}")
        print("\n".join(describe(scope, result.trace, result.variant)))


def main() -> int:
    from tests.model.scopes import SCOPES

    scope = SCOPES[sys.argv[1]]
    variant = sys.argv[2] if len(sys.argv) > 2 else ""
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    result = explore(scope, variant, states_max=limit)
    report(result, scope)
    if not result.broken:
        print(dict(sorted(result.reached.items())))
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
