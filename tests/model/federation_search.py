"""Searches of federation's model: scopes, broken protocols, and the breadth-first search itself.

python -m tests.model.federation_search [SCOPE | MUTANT ...]     all, without a name
"""

import sys
import time

import attrs

from tests.model.explore import Result
from tests.model.federation import Label, World, init, next_states
from tests.model.federation_checks import violation
from tests.model.federation_state import Scope

# What each is there to see, and how many states it has at least.
_QUICK = (
    # Two who pull at once, and die.
    (Scope("together", writes=2, pullers=2, crashes=1), 5_000),
    # What was read is purged, while somebody reads.
    (Scope("purge", writes=2, purges=1, crashes=1), 7_400),
    # An earlier state is put back, and other things are written after it.
    (Scope("back", entities=1, writes=4, backs=1, pulls=3), 35_000),
    # A checkpoint stands in the place of records that were removed.
    (Scope("trim", trims=1, crashes=1), 36_000),
    # A copy is pulled from that is older than what was read, or in which a file is missing.
    (Scope("copy", copies=1), 14_000),
    (Scope("half", halves=1, trims=1), 36_000),
    # A record can't be read any more.
    (Scope("damage", writes=2, damages=1, purges=1), 12_000),
    # Our own palace is put back while somebody pulls.
    (Scope("undo", writes=2, undos=1, pullers=2), 10_000),
    # Somebody decides meanwhile.
    (Scope("decide", entities=1, decisions=2), 5_400),
    # There is no room for all that is said.
    (Scope("room", room=1), 2_600),
)
_DEEP = (
    (Scope("back2", writes=3, backs=1, purges=1), 487_000),
    (Scope("damage3", damages=1, purges=1), 154_000),
    (Scope("undo3", undos=1, pullers=2), 119_000),
)
_LONG = (
    (Scope("decide2", decisions=2, purges=1), 470_000),
    (Scope("trim2", trims=1, purges=1, pullers=2, crashes=1, writes=2), 631_000),
    (Scope("back3", writes=4, backs=1, copies=1), 1_340_000),
)
QUICK = tuple(scope for scope, _ in _QUICK)
DEEP = QUICK + tuple(scope for scope, _ in _DEEP)
FULL = DEEP + tuple(scope for scope, _ in _LONG)
PROFILES = {"quick": QUICK, "deep": DEEP, "full": FULL}
SCOPES = {scope.name: scope for scope in FULL}
FLOORS = {scope.name: floor for scope, floor in (*_QUICK, *_DEEP, *_LONG)}

# Each is taken in some scope of the quick profile; what an honest palace says is never refused.
_STEPS = (
    "write delete purge purge.mark trim copy damage backup back pull ask ask.copy ask.half read "
    "known take take.stale pull.end kill look accept dismiss decide.refused keep undo"
)
STEPS = frozenset(_STEPS.split())


@attrs.frozen
class Mutant:
    """A broken protocol, the smallest world in which it shows, and the invariant that finds it."""

    name: str
    what: str
    breaks: str
    scope: Scope


def _scope(**fields: int) -> Scope:
    return Scope("mutant", **fields)


_PURGE = _scope(writes=1, purges=1)
_HALF = _scope(halves=1)
_TRIM = _scope(trims=1)
_BACK = _scope(entities=1, writes=4, backs=1)

MUTANTS = (
    Mutant("mark_ignored", "a purge's mark is passed by", "F4", _PURGE),
    Mutant("mark_first", "a purge leaves its mark, then rewrites the files", "F4", _PURGE),
    Mutant("gone_not_told", "what is gone is not told", "F4", _scope(writes=2, purges=1)),
    Mutant(
        "damaged_stays",
        "what was damaged stays as it was when all is told anew",
        "F4",
        _scope(writes=2, damages=1, purges=1),
    ),
    Mutant("gap_passed", "a missing file is passed over, as if it were damaged", "F3", _HALF),
    Mutant("half_told", "half a copy tells all that there is", "F3", _HALF),
    Mutant("checkpoint_ignored", "no checkpoint stands for what is gone", "F6", _TRIM),
    Mutant(
        "last_checkpoint_ignored", "one that is all that there is stands for nothing", "F6", _TRIM
    ),
    Mutant("cursor_in_gap", "the cursor moves before all was told", "F3", _TRIM),
    Mutant("seq_alone", "which record is later is told by its seq alone", "F6", _BACK),
    Mutant("cursor_by_seq", "a pull goes on behind a seq, whoever wrote it", "F6", _BACK),
    Mutant("removals_unread", "a removal is no offer", "F3", _scope()),
    Mutant("cursor_ahead", "the cursor moves past what a batch holds", "F3", _scope()),
    Mutant("cursor_first", "the cursor moves in a group of its own", "F3", _scope(crashes=1)),
    Mutant(
        "no_steps", "of two who pull at once both go on", "F3", _scope(writes=2, pullers=2, trims=1)
    ),
    Mutant(
        "no_versions",
        "what is taken last counts, whenever it was said there",
        "F3",
        _scope(entities=1, writes=2, trims=1, copies=1, crashes=1),
    ),
    Mutant("old_text_stays", "what has no room leaves the text before it", "F3", _scope(room=1)),
    Mutant("version_of_end", "an offer has the version of the journal's end", "F1", _scope()),
    Mutant("decisions_forgotten", "a change makes a new candidate", "F2", _scope(decisions=1)),
    Mutant("decides_blindly", "it isn't what was looked at", "F2", _scope(decisions=1)),
    Mutant("no_batches", "all that is new is one batch", "F5", _scope()),
)
MUTANTS_MIN = 21
# A guard that no counterexample can show to be needed: something else holds the property, too.
REDUNDANT = {"older_told": "a batch that takes the cursor back is refused by whoever takes it"}


def explore(scope: Scope, broken: str = "") -> Result:
    """Search a scope whole, or until an invariant is broken."""
    world, result = World(scope, broken), Result(scope.name, broken)
    begun_s = time.monotonic()
    states = [init(scope)]
    known = {states[0]: 0}
    origin: list[tuple[int, Label]] = [(-1, ("init", 0))]
    depth = [0]
    place = 0
    while place < len(states) and not result.broken:
        for label, after in next_states(states[place], world):
            result.transitions += 1
            result.reached[label[0]] += 1
            there = known.get(after)
            if there is not None:
                continue
            there = known[after] = len(states)
            states.append(after)
            origin.append((place, label))
            depth.append(depth[place] + 1)
            broke = violation(after, scope)
            if broke:
                result.broken, result.trace = broke, _trace(origin, there)
                break
        place += 1
    result.states, result.depth = len(states), depth[-1]
    result.seconds = time.monotonic() - begun_s
    return result


def _trace(origin: list[tuple[int, Label]], place: int) -> list[Label]:
    labels = []
    while place:
        place, label = origin[place]
        labels.append(label)
    return labels[::-1]


def run(mutant: Mutant) -> Result:
    return explore(mutant.scope, mutant.name)


def describe(result: Result) -> list[str]:
    return [f"{n:3} {name} {d}" for n, (name, d) in enumerate(result.trace, 1)] + [result.broken]


def main(names: list[str]) -> int:
    """Search what is named, or all, and return 1 where anything is not as it must be."""
    good = True
    for scope in FULL:
        if not names or scope.name in names:
            found = explore(scope)
            good = good and not found.broken and found.states >= FLOORS[scope.name]
            _report(found, bool(found.broken))
    for mutant in MUTANTS:
        if not names or mutant.name in names:
            found = run(mutant)
            good = good and found.invariant == mutant.breaks
            _report(found, bool(names) or found.invariant != mutant.breaks)
    return 0 if good else 1


def _report(found: Result, is_told: bool) -> None:
    name = found.variant or found.scope
    print(
        f"{name:<20} {found.states:>8,} states, depth {found.depth:>2}, {found.seconds:5.1f} s  "
        f"{found.broken}",
        flush=True,
    )
    if is_told:
        print("\n".join(describe(found)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
