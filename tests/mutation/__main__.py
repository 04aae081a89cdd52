"""Try small slips in palace's code, and name those that no test notices: `just mutants`.

    python -m tests.mutation [ROOM ...] [--since REVISION] [--full]

Without a room, only what differs from REVISION is mutated (origin/main, or main).  Rooms that are
named, and `--full` for all, are mutated whole: minutes to hours.  A run that was stopped goes on
where it was; what is known stays in .mutation/.  The exit code is 1 where a survivor of what has
changed is neither killed nor excused in tests/mutation/excused.toml, or where a whole room is below
its floor.  Needs the extra `mutants`.
"""

import argparse
import os
import subprocess
import sys
import time

from tests.mutation.results import Tally, changed_functions, excuses, tally
from tests.mutation.rooms import ROOMS, ROOT, Room
from tests.mutation.workspace import MutationFailed, prepare, run

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
    if not given.report:
        prepare(room)
        try:
            run(room, [f"{name}__mutmut_*" for name in names or ()], given.children)
        except MutationFailed as error:
            print(f"{room.name}: {error}", file=sys.stderr)
            return 2
    found = tally(room, excuses(), names)
    for mutant in found.survivors[:SHOWN]:
        print(mutant.text())
    if len(found.survivors) > SHOWN:
        print(f"... and {len(found.survivors) - SHOWN} more")
    print(_line(room, found, time.monotonic() - begun_s), flush=True)
    if names is not None:
        return 1 if found.survivors else 0
    return 1 if found.rate < room.floor or found.untried else 0


def _line(room: Room, found: Tally, seconds: float) -> str:
    excused = sum(found.excused.values())
    return (
        f"{room.name}: {found.rate:.1%} killed (floor {room.floor:.0%}): {found.killed} killed, "
        f"{len(found.survivors)} survived, {excused} excused, {found.untried} not tried, "
        f"in {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
