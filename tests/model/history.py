"""Histories of requests and replies: did each change happen once, in order, and was it seen?

A history is what clients saw (`Call`s) and what is in the store at the end (`applied`, in order).
A reply may be lost: the call then took effect or did not, and the checker follows both branches,
each as a world of its own, until the store or a later read tells them apart.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

CHANGE, READ = "change", "read"


@attrs.frozen(kw_only=True)
class Call:
    """One request of a session, in the order in which it was sent.

    `reply` is "ok", "unknown" (the client was told so, or told nothing) or "refused" (nothing was
    done).  `saw` is what an answered read showed: the session's own changes, by name.
    `waited` says that all earlier calls of the session were over before this one was sent.
    """

    session: str
    name: str
    kind: str = CHANGE
    reply: str = "ok"
    saw: frozenset[str] | None = None
    waited: bool = True


@attrs.frozen
class World:
    """One branch: which lost calls took effect."""

    happened: frozenset[str] = frozenset()


def check(calls: Sequence[Call], applied: Sequence[str]) -> list[str]:
    """Return what is wrong with a history, nothing for a good one."""
    problems = _counts(calls, applied)
    for session in dict.fromkeys(call.session for call in calls):
        mine = [call for call in calls if call.session == session]
        problems += _order(mine, applied)
        problems += _reads(mine, frozenset(applied))
    return problems


def _counts(calls: Iterable[Call], applied: Sequence[str]) -> list[str]:
    problems = []
    counts = Counter(applied)
    asked = {call.name: call for call in calls if call.kind == CHANGE}
    for name, count in counts.items():
        if name not in asked:
            problems.append(f"{name} is in the store, and nobody asked for it")
        elif count > 1:
            problems.append(f"{name} took effect {count} times")
    for name, call in asked.items():
        if call.reply == "ok" and not counts[name]:
            problems.append(f"{name} was acknowledged and is lost")
        if call.reply == "refused" and counts[name]:
            problems.append(f"{name} was refused and took effect")
    return problems


def _order(calls: Sequence[Call], applied: Sequence[str]) -> list[str]:
    """A session's changes take effect in the order in which it asked for them."""
    place = {name: number for number, name in reversed(list(enumerate(applied)))}
    names = [call.name for call in calls if call.kind == CHANGE and call.name in place]
    return [
        f"{later} took effect before {earlier}, which {calls[0].session} asked for first"
        for earlier, later in zip(names, names[1:], strict=False)
        if place[later] < place[earlier]
    ]


def _reads(calls: Sequence[Call], final: frozenset[str]) -> list[str]:
    """Follow every branch of the lost replies; some branch must explain all reads and the store."""
    worlds = {World()}
    for call in calls:
        if call.kind == CHANGE:
            worlds = {after for world in worlds for after in _branches(world, call)}
        elif call.reply == "ok" and call.saw is not None:
            fitting = {world for world in worlds if world.happened == call.saw}
            if not fitting:
                return [
                    f"{call.name} of {call.session} saw {_names(call.saw)}: {_why(worlds, call)}"
                ]
            worlds = fitting
    own = frozenset(call.name for call in calls if call.kind == CHANGE)
    if all(world.happened != final & own for world in worlds):
        return [f"no way in which {calls[0].session}'s lost calls went explains the store"]
    return []


def _branches(world: World, call: Call) -> list[World]:
    done = World(world.happened | {call.name})
    if call.reply == "ok":
        return [done]
    return [world] if call.reply == "refused" else [world, done]


def _why(worlds: Iterable[World], call: Call) -> str:
    assert call.saw is not None
    must = frozenset.intersection(*(world.happened for world in worlds))
    missing = must - call.saw
    if missing:
        return f"its own change {_names(missing)} is missing"
    return "that fits no way in which the lost calls can have gone"


def _names(names: Iterable[str]) -> str:
    return "{" + ", ".join(sorted(names)) + "}"
