"""Searches of the fence's model: scopes, broken protocols, and the breadth-first search itself.

Five of these are faults that the code had when it was first written, and a test on a real server:
`settled_unseen`, `settles_elsewhere`, `note_keeps_one`, `terminates_later`, `copied_note`.

    python -m tests.model.fence_search [SCOPE | MUTANT ...]     all, without a name
"""

import sys
import time

import attrs

from tests.model.explore import Result, cut_off
from tests.model.fence import FAULTS, Label, World, init, next_states
from tests.model.fence_checks import violation
from tests.model.fence_state import SERVE, Scope, State

# What each is there to see, and how many states it has at least.
_QUICK = (
    # Owners die in the middle, and are succeeded; another palace asks meanwhile.
    (Scope("die", claims=3, crashes=2), 12_000),
    # Both sessions of an owner; the server ends them at any time.
    (Scope("cut", kinds=2, ends=2, crashes=1), 25_000),
    # Somebody takes the right by force from one that is dead, or was cut off.
    (Scope("force", forces=1, ends=1, crashes=1), 34_000),
    # A replica takes over, and lacks the last commits; several claims can be among them.
    (Scope("promoted", crashes=1, failovers=1), 16_000),
    (Scope("claims", palaces=1, claims=3, crashes=2, failovers=1), 13_800),
    # A copy of the directory starts elsewhere.
    (Scope("copy", palaces=1, copies=1, claims=3, crashes=1), 5_500),
    # Somebody who asks gets the right in the end.
    (Scope("asks", crashes=1, ends=1, live=True), 7_400),
)
_DEEP = (
    (Scope("three", palaces=3, claims=3, changes=2, crashes=1), 71_000),
    (Scope("copies", claims=3, copies=1, crashes=1), 29_000),
    (Scope("promoted3", claims=3, crashes=1, failovers=1), 131_000),
    (Scope("stocks", kinds=2, crashes=1, ends=1, failovers=1), 107_000),
    (Scope("force3", kinds=2, claims=3, crashes=1, ends=1, forces=1), 242_000),
)
_LONG = (
    (Scope("cut3", kinds=2, claims=3, changes=2, crashes=2, ends=1), 249_000),
    (Scope("die4", claims=4, changes=2, crashes=3), 225_000),
    (Scope("promoted2", claims=3, crashes=1, failovers=2), 556_000),
    (Scope("all", claims=3, crashes=1, forces=1, failovers=1), 652_000),
)
QUICK = tuple(scope for scope, _ in _QUICK)
DEEP = QUICK + tuple(scope for scope, _ in _DEEP)
FULL = DEEP + tuple(scope for scope, _ in _LONG)
PROFILES = {"quick": QUICK, "deep": DEEP, "full": FULL}
SCOPES = {scope.name: scope for scope in FULL}
FLOORS = {scope.name: floor for scope, floor in (*_QUICK, *_DEEP, *_LONG)}
# Each is taken in some scope of the quick profile.
_STEPS = (
    "start force claim.cut claim.alone claim.owned claim.terminate claim.read claim.unsettled "
    "claim.note claim.share claim.unlock enter enter.cut enter.own enter.lost lost.leave "
    "load.undo load.close load.rewrite load.serve change change.commit change.done "
    "leave leave.unsettled leave.stuck leave.settle leave.lost leave.end "
    "server.commit server.row server.miss kill end replicate failover copy"
)
STEPS = frozenset(_STEPS.split())
MUTANTS_MIN = 24


@attrs.frozen
class Mutant:
    """A broken protocol, the smallest world in which it shows, and the invariant that finds it.

    `without` are invariants that would find it sooner, for a trivial reason.
    """

    name: str
    what: str
    breaks: str
    scope: Scope
    without: tuple[str, ...] = ()


def _scope(**fields: int) -> Scope:
    return Scope("mutant", **fields)  # type: ignore[arg-type]


_TWO = _scope()
_FORCE = _scope(ends=1, forces=1)
_DEATH = _scope(crashes=1)
_OVER = _scope(palaces=1, failovers=1)
_STOCK = _scope(palaces=1, kinds=2, ends=1, crashes=1)

MUTANTS = (
    Mutant("reconnects_blindly", "a new session takes the lock and reads no row", "F2", _FORCE),
    Mutant("row_before_lock", "a new session reads the row, then takes the lock", "F2", _FORCE),
    Mutant("unlocked_between", "the lock is let go, then taken shared", "F2", _FORCE),
    Mutant(
        "no_exclusive",
        "the row alone is compared, nobody has the lock alone",
        "F2",
        _TWO,
        without=("F5", "F8"),
    ),
    Mutant("stock_holds_nothing", "stock's session holds no lock", "F2", _STOCK),
    Mutant(
        "stock_unfenced",
        "stock's second try runs in a session of which nobody asks",
        "F2",
        _scope(kinds=2, ends=1, forces=1),
    ),
    Mutant("epoch_not_raised", "the epoch stays", "F3", _TWO),
    Mutant("epoch_not_raised", "the epoch stays", "F1", _scope(changes=2), without=("F3",)),
    Mutant("settled_early", "settled is said while a change is open", "F6", _TWO),
    Mutant("settled_in_service", "the row says settled while its owner serves", "F6", _TWO),
    Mutant("settled_unseen", "a command that settles nothing says settled", "F6", _DEATH),
    Mutant("settles_anybodys", "settled is said in another's row", "F6", _FORCE),
    Mutant("settles_elsewhere", "settled is said to a server that took over", "F6", _OVER),
    Mutant(
        "no_unsettled_rule", "another gets the right of one that ended in the middle", "F5", _DEATH
    ),
    Mutant("note_after_row", "the note is written when the row is committed", "F10", _TWO),
    Mutant(
        "note_overwritten",
        "the note forgets the incarnation before",
        "F10",
        _scope(palaces=1, crashes=1),
    ),
    Mutant(
        "note_keeps_one",
        "the note keeps the incarnation that the row named, and none before",
        "F10",
        _scope(palaces=1, claims=3, crashes=2, failovers=1),
    ),
    Mutant("no_timeline", "a new session doesn't compare the timeline", "F7", _OVER),
    Mutant(
        "lacks_not_rewritten",
        "what a fail-over lost is not written again",
        "F4",
        _scope(palaces=1, failovers=1, changes=2),
    ),
    Mutant("lease", "the lock is had for a time", "F8", _scope(forces=1), without=("F5",)),
    Mutant("forced_past_the_lock", "force waits for no lock", "F8", _scope(forces=1)),
    Mutant("terminates_anybody", "the sessions of any owner are ended", "F9", _TWO),
    Mutant("terminates_later", "sessions are ended some time after the row was read", "F9", _DEATH),
    Mutant("copied_note", "a copy takes the note for its own", "F9", _scope(palaces=1, copies=1)),
)


def explore(scope: Scope, broken: str = "", without: tuple[str, ...] = ()) -> Result:
    """Search a scope whole, or until an invariant that is not among `without` is broken."""
    world, result = World(scope, broken), Result(scope.name, broken)
    begun_s = time.monotonic()
    states = [init(scope)]
    known = {states[0]: 0}
    origin: list[tuple[int, Label]] = [(-1, ("init", 0))]
    depth = [0]
    into: list[list[int]] = [[]]
    place = 0
    while place < len(states) and not result.broken:
        for label, found in next_states(states[place], world):
            result.transitions += 1
            result.reached[label[0]] += 1
            is_wanted = found.bad.partition(" ")[0] not in without
            after = found._replace(
                sessions=tuple(sorted(found.sessions)), bad=found.bad if is_wanted else ""
            )
            there = known.get(after)
            if there is None:
                there = known[after] = len(states)
                states.append(after)
                origin.append((place, label))
                depth.append(depth[place] + 1)
                into.append([])
                broke = violation(after)
                if broke and broke.split()[0] not in without:
                    result.broken, result.trace = broke, _trace(origin, there)
                    break
            if scope.live and label[0] not in FAULTS:
                into[there].append(place)
        place += 1
    result.states, result.depth = len(states), depth[-1]
    if scope.live and not result.broken:
        _check_liveness(states, into, origin, result)
    result.seconds = time.monotonic() - begun_s
    return result


def _trace(origin: list[tuple[int, Label]], place: int) -> list[Label]:
    labels = []
    while place:
        place, label = origin[place]
        labels.append(label)
    return labels[::-1]


def _check_liveness(
    states: list[State], into: list[list[int]], origin: list[tuple[int, Label]], result: Result
) -> None:
    """From every state, without a further fault, each directory's process can come to serve."""
    for d in range(len(states[0].procs)):
        good = [n for n, s in enumerate(states) if s.procs[d].at == SERVE or not s.left.claims]
        stuck = cut_off(into, good)
        if stuck >= 0:
            result.broken = f"F11 directory {d} never gets the right"
            result.trace = _trace(origin, stuck)
            return


def run(mutant: Mutant) -> Result:
    return explore(mutant.scope, mutant.name, mutant.without)


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
            _report(found, bool(names))
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
