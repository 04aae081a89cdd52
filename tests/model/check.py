"""All invariants, all mutants, with floors: `python -m tests.model.check --profile quick|full`.

`quick` is what a change must pass, `full` what a night may take.  Scopes are explored by two
processes at once; the table says how long each part took.
"""

import argparse
import importlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import attrs

from tests.model.code_mutants import all_patches, applies, try_patch
from tests.model.explore import Result, describe, explore
from tests.model.mutants import MUTANTS, run
from tests.model.scopes import FLOORS, FULL, QUICK, SCOPES
from tests.model.walks import walk_many

# In one scope or another every step must have been taken.
_STEPS = (
    "B1.open B2.lock B2.lost B3.verify B3.held B3.free B4.fence B4.data B4.foreign B4.shared "
    "B5.epoch B6.bind B6.deaf B7.publish B9.open B9.ready B9.fail "
    "X0.idle X0.stop X0.upgrade X0.direct X2.goodbye X3.backlog X4.hangup X4.settled X4.grace "
    "X5.close X5.abandon X6.exit "
    "A.hello A.line A.room A.eof A.forget "
    "W.journal W.sync W.apply W.outcome W.synced W.done W.query W.poll W.repeat W.unknown "
    "W.quarantine W.roll R.attempt R.undo R.abort R.write R.state "
    "C.ask C.dial C.dial.late C.child C.reply C.goodbye C.leave "
    "C2.welcome C3.refused C3.reset C3.silent C4.lost "
    "crash crash.torn reboot sandbox fault tear lose_epoch stock stock.end other other.end alien "
    "hold hold.told hold.end wedge watchdog poison cut"
)
STEPS_EXPECTED = frozenset(_STEPS.split())


@attrs.frozen
class Floors:
    """What a profile must not fall below."""

    states: int
    mutants: int
    walks: int
    processes: int
    lives: int
    crashes: int
    clients: int


PROFILES = {
    "quick": Floors(
        states=330_000, mutants=65, walks=200, processes=2, lives=4, crashes=3, clients=2
    ),
    "full": Floors(
        states=3_400_000, mutants=66, walks=5_000, processes=2, lives=5, crashes=3, clients=2
    ),
}


@attrs.define
class Table:
    """The parts, what came of each, and what is wrong."""

    rows: list[tuple[str, str, float]] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)

    def part(self, name: str, work: Callable[[], str]) -> None:
        begun = time.monotonic()
        said = work()
        self.rows.append((name, said, time.monotonic() - begun))
        print(f"{name:<14} {said:<90} {self.rows[-1][2]:7.1f} s", flush=True)

    def need(self, what: str, found: int, floor: int) -> None:
        if found < floor:
            self.wrong.append(f"{what}: {found:,}, the floor is {floor:,}")


def _explore(name: str) -> Result:
    return explore(SCOPES[name])


def explore_all(table: Table, profile: str, floors: Floors, jobs: int) -> str:
    scopes = FULL if profile == "full" else QUICK
    names = sorted((scope.name for scope in scopes), key=lambda name: -FLOORS[name])
    with ProcessPoolExecutor(jobs) as pool:
        results = list(pool.map(_explore, names))
    reached: Counter[str] = Counter()
    for result in results:
        reached.update(result.reached)
        table.need(f"states of {result.scope}", result.states, FLOORS[result.scope])
        if result.broken:
            table.wrong.append(f"{result.scope}: {result.broken}")
            print("\n".join(describe(SCOPES[result.scope], result.trace)))
        rate = result.states / max(result.seconds, 0.001)
        print(
            f"    {result.scope:<12} {result.states:>9,} states {result.transitions:>10,} steps "
            f"depth {result.depth:>3} {result.seconds:7.1f} s {rate:8,.0f}/s"
        )
    states = sum(result.states for result in results)
    table.need("states", states, floors.states)
    table.need("processes", max(scope.slots for scope in scopes), floors.processes)
    table.need("lives", max(scope.starts for scope in scopes), floors.lives)
    table.need("crashes", max(scope.crashes for scope in scopes), floors.crashes)
    table.need("clients", max(scope.clients for scope in scopes), floors.clients)
    missing = sorted(STEPS_EXPECTED - reached.keys())
    if missing:
        table.wrong.append(f"steps that no scope took: {' '.join(missing)}")
    steps = sum(result.transitions for result in results)
    return f"{len(results)} scopes, {states:,} states, {steps:,} steps, {len(reached)} actions"


def try_mutants(table: Table, profile: str, floors: Floors, jobs: int) -> str:
    chosen = [mutant for mutant in MUTANTS if profile == "full" or not mutant.slow]
    with ProcessPoolExecutor(jobs) as pool:
        results = list(pool.map(run, chosen, chunksize=4))
    killed = 0
    for mutant, result in zip(chosen, results, strict=True):
        if result.invariant == mutant.breaks:
            killed += 1
        else:
            found = result.broken or "survived"
            table.wrong.append(f"mutant {mutant.name}: {found}, expected {mutant.breaks}")
    table.need("mutants killed", killed, floors.mutants)
    return f"{killed} of {len(chosen)} broken protocols caught"


def walk(table: Table, floors: Floors) -> str:
    walks = walk_many(floors.walks)
    if walks.broken:
        table.wrong.append(f"walk {walks.seed}: {walks.broken}")
    return f"{walks.count:,} random walks, {walks.steps:,} steps, {len(walks.reached)} actions"


def try_code(table: Table, profile: str) -> str:
    patches = all_patches()
    for patch in patches:
        why = applies(patch)
        if why:
            table.wrong.append(f"patch {patch.name} does not apply: {why}")
    if profile != "full":
        return f"{len(patches)} patches apply (the full profile runs them)"
    killed = 0
    for patch in patches:
        outcome = try_patch(patch)
        killed += outcome.killed
        if not outcome.killed:
            table.wrong.append(f"patch {patch.name} survived: {outcome.words}")
    return f"{killed} of {len(patches)} mutants of the code caught"


def machine(table: Table, profile: str) -> str:
    """Hypothesis and the tests of the checkers themselves."""
    environ = os.environ | {"PALACE_MODEL": profile}
    names = ["machine", "history", "trace"]
    paths = [f"tests/model/test_{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", *paths]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if ran.returncode:
        table.wrong.append(ran.stdout[-2000:])
    return ran.stdout.strip().splitlines()[-1]


def spin(table: Table, profile: str) -> str:
    try:
        module = importlib.import_module("tests.model.spin")
    except ModuleNotFoundError:
        return "there is no tests/model/spin.py"
    status = module.main(["--profile", profile])
    if status:
        table.wrong.append(f"the specs: exit {status}")
    return "the specs, by Spin" + ("" if not status else " FAILED")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--no-spin", action="store_true")
    options = parser.parse_args()
    floors, table = PROFILES[options.profile], Table()
    profile, jobs = options.profile, options.jobs
    table.part("scopes", lambda: explore_all(table, profile, floors, jobs))
    table.part("mutants", lambda: try_mutants(table, profile, floors, jobs))
    table.part("walks", lambda: walk(table, floors))
    table.part("machine", lambda: machine(table, profile))
    table.part("code mutants", lambda: try_code(table, profile))
    if not options.no_spin:
        table.part("spin", lambda: spin(table, profile))
    print("\n| part | result | s |\n|---|---|---|")
    for name, said, seconds in table.rows:
        print(f"| {name} | {said} | {seconds:.1f} |")
    for problem in table.wrong:
        print(f"WRONG: {problem}")
    return 1 if table.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
