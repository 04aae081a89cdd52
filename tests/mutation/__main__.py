"""Try small slips in palace's code, and name those that no test notices: `just mutants`.

    python -m tests.mutation [ROOM ...] [--since REVISION] [--full] [--sample N [--seed S]]

Without a room, only what differs from REVISION is mutated (origin/main, or main).  Rooms that are
named, and `--full` for all, are mutated whole: minutes to hours.  `--sample` tries N mutants of
each, the same ones for the same seed and code, and prints their rate.  A run that was stopped goes
on where it was; what is known stays in .mutation/.  The exit code is 1 where a survivor of what has
changed is neither killed nor excused in tests/mutation/excused.toml, or where a whole room is below
its floor.  Needs the extra `mutants`.
"""

import argparse
import os
import random
import subprocess
import sys
import time

from tests.mutation.results import Tally, changed_functions, excuses, mutants_of, tally
from tests.mutation.rooms import ROOMS, ROOT, Room
from tests.mutation.workspace import MutationFailed, generate, prepare, run

SHOWN = 40  # survivors of a room, so that a first run doesn't flood the terminal


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="just mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=", ".join(ROOMS))
    parser.add_argument("--since", default="", help="what differs from this commit")
    parser.add_argument("--full", action="store_true", help="all rooms")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="so many of each room")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="another seed, others")
    parser.add_argument("--report", action="store_true", help="show what is known; try nothing")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.rooms) - set(ROOMS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such room; there are {', '.join(ROOMS)}")
    rooms = ROOMS if given.full else tuple(given.rooms)
    wanted: dict[Room, list[str] | None]
    if rooms:
        wanted = {Room(name): None for name in rooms}
    else:
        wanted = dict(changed_functions(given.since or _main()))
        if not wanted:
            print("no function of a room has changed")
    codes = [_try(room, names, given) for room, names in wanted.items()]
    return max(codes, default=0)


def _main() -> str:
    """Return the commit at which this branch left main."""
    for name in ("origin/main", "main"):
        command = ["git", "merge-base", "HEAD", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return "HEAD"


def _try(room: Room, names: list[str] | None, given: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    try:
        sampled = _prepare(room, given)
        if not given.report:
            _run(room, names, sampled, given.children)
    except MutationFailed as error:
        print(f"{room.name}: {error}", file=sys.stderr)
        return 2
    found = tally(room, excuses(), names if sampled is None else sampled)
    for mutant in found.survivors[:SHOWN]:
        print(mutant.text())
    if len(found.survivors) > SHOWN:
        print(f"... and {len(found.survivors) - SHOWN} more")
    print(_line(room, found, time.monotonic() - begun_s), flush=True)
    if names is not None:
        return 1 if found.survivors else 0
    return 1 if found.rate < room.floor or found.untried else 0


def _run(room: Room, names: list[str] | None, sampled: list[str] | None, children: int) -> None:
    if sampled is None:
        run(room, [f"{name}__mutmut_*" for name in names or ()], children)
    elif untried := [name for name in sampled if name in mutants_of(room, untried=True)]:
        run(room, untried, children)


def _prepare(room: Room, given: argparse.Namespace) -> list[str] | None:
    """Bring the room's copy up to date, and return the mutants of its sample, if it is to be one.

    Raises MutationFailed.
    """
    if not given.report:
        prepare(room)
    if not given.sample:
        return None
    if not given.report:
        generate(room)
    return sample_of(mutants_of(room), given.sample, given.seed)


def sample_of(mutants: list[str], count: int, seed: int) -> list[str]:
    """Return `count` of them, the same for the same seed, or all where there are no more."""
    return random.Random(seed).sample(sorted(mutants), min(count, len(mutants)))


def _line(room: Room, found: Tally, seconds: float) -> str:
    excused = sum(found.excused.values())
    return (
        f"{room.name}: {found.rate:.1%} killed (floor {room.floor:.0%}): {found.killed} killed, "
        f"{len(found.survivors)} survived, {excused} excused, {found.untried} not tried, "
        f"in {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
