"""`python -m tests.sim`: replay a seed with its event log, run many, or run on for ever."""

import argparse
import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from tests.sim.breakages import BREAKAGES, broken
from tests.sim.scenario import Outcome, Plan, Run, plan_of

HARDER = ("lazy_store", "brittle_store", "cruel_disk", "poor_shim")


def command_of(seed: int) -> str:
    """Return what replays a seed."""
    return f"python -m tests.sim --seed {seed}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay one seed and print its event log")
    what.add_argument("--seeds", metavar="A..B", help="run the seeds from A up to B, B left out")
    what.add_argument("--soak", action="store_true", help="run new seeds until interrupted")
    parser.add_argument("--steps", action="store_true", help="log every system call, too")
    parser.add_argument("--break", dest="broken", choices=sorted(BREAKAGES), help="break palace")
    help_text = "harder worlds, in which palace is known not to keep all promises"
    parser.add_argument("--with", dest="harder", action="append", choices=HARDER, help=help_text)
    return parser.parse_args()


def changed(plan: Plan, options: argparse.Namespace) -> Plan:
    harder: dict[str, Any] = dict.fromkeys(options.harder or (), True)
    return attrs.evolve(plan, **harder)


def show(outcome: Outcome) -> None:
    """Print one seed's events and problems."""
    print("\n".join(outcome.log))
    print(
        f"\nseed {outcome.seed}: {outcome.steps} steps, {outcome.virtual_s:.1f} virtual seconds, "
        f"digest {outcome.digest:08x}, {outcome.counts}"
    )
    for problem in outcome.problems:
        print(f"PROBLEM: {problem}")


@attrs.define
class Tally:
    """What came of some seeds; `failed` has what replays each, and its first problem."""

    count: int = 0
    failed: list[str] = attrs.field(factory=list)
    totals: Counter[str] = attrs.field(factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.count += 1
        self.totals.update(outcome.counts)
        self.totals["steps"] += outcome.steps
        if outcome.problems:
            self.failed.append(f"{command_of(outcome.seed)}: {outcome.problems[0]}")


def run_seeds(seeds: Iterable[int]) -> Tally:
    """Run seeds as they are, silently."""
    tally = Tally()
    for seed in seeds:
        tally.add(Run(seed).run())
    return tally


def run_many(seeds: Iterable[int], options: argparse.Namespace) -> int:
    """Run seeds and say which failed; return how many."""
    begun = time.monotonic()
    tally = Tally()
    with contextlib.suppress(KeyboardInterrupt):
        for seed in seeds:
            outcome = Run(seed, changed(plan_of(seed), options)).run()
            tally.add(outcome)
            if outcome.problems:
                print(tally.failed[-1], flush=True)
            if options.soak and tally.count % 1000 == 0:
                print(f"{tally.count} seeds, {len(tally.failed)} failed", flush=True)
    took_s = time.monotonic() - begun
    rate = tally.count / took_s
    print(f"{tally.count} seeds in {took_s:.1f} s ({rate:.1f}/s), {len(tally.failed)} failed")
    print(", ".join(f"{name}: {number}" for name, number in sorted(tally.totals.items())))
    return len(tally.failed)


def main() -> int:
    options = parse()
    with broken(options.broken) if options.broken else contextlib.nullcontext():
        if options.seed is not None:
            plan = changed(plan_of(options.seed), options)
            print(plan)
            outcome = Run(options.seed, plan, verbose=options.steps).run()
            show(outcome)
            return int(bool(outcome.problems))
        if options.soak:
            seeds: Iterable[int] = itertools.count(int(time.time()) * 1000)
        else:
            first, _, last = options.seeds.partition("..")
            seeds = range(int(first), int(last))
        return int(run_many(seeds, options) > 0)


if __name__ == "__main__":
    sys.exit(main())
