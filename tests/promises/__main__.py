"""Try the slips that must turn a promise's tests red: `just promises`.

    python -m tests.promises [NAME ...] [--all] [--part K/N] [--list]

Without anything, those are tried that are not known to be killed: a slip or its test is new, or
has changed.  NAMEs are promises, documents (readme, security, design) or parts of a test's path.
--all tries the others, too, and --part every Nth of them.  Each slip is made in a copy of the tree,
where its tests pass without it; what is killed is noted in tests/promises/killed.txt at once, so
that a run that was stopped goes on.  The exit code is 1 where a slip survives.
"""

import argparse
import sys
import time

from tests.promises.table import (
    DOCUMENTS,
    Mutant,
    Promise,
    keep_killed,
    killed,
    read_table,
)
from tests.promises.workspace import Copy, copied_tree

Trial = tuple[Mutant, str]
GREEN_S = 900.0  # for all of a file's tests, without a slip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="just promises",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="those that are known to be killed, too")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth, from the Kth on")
    parser.add_argument("--list", action="store_true", help="show what would be tried")
    given = parser.parse_args(arguments)
    table = read_table()
    known = set() if given.all else killed()
    trials = dict.fromkeys(
        (mutant, test)
        for promise in table.promises
        for mutant in promise.mutants
        for test, key in mutant.keys.items()
        if key not in known and _is_meant(promise, test, given.names)
    )
    first, _, step = given.part.partition("/")
    chosen = list(trials)[int(first) - 1 :: int(step)]
    if given.list:
        for mutant, test in chosen:
            print(f"{test}\n  {mutant.file}\n  " + "\n  ".join(mutant.lines))
    survivors = [] if given.list or not chosen else try_all(chosen)
    if not given.names:
        _forget({key for mutant in table.mutants for key in mutant.keys.values()})
    print(f"{len(chosen)} tried, {len(survivors)} survived" if not given.list else len(chosen))
    return 1 if survivors else 0


def _is_meant(promise: Promise, test: str, names: list[str]) -> bool:
    stem = next(stem for stem, document in DOCUMENTS.items() if document == promise.document)
    return not names or any(name in (promise.name, stem) or name in test for name in names)


def try_all(trials: list[Trial]) -> list[Trial]:
    """Try each slip with its test, and return those that survived."""
    survivors = []
    with copied_tree() as copy:
        for file in dict.fromkeys(_file_of(test) for _, test in trials):
            here = [trial for trial in trials if _file_of(trial[1]) == file]
            ran = copy.run(sorted({test for _, test in here}), limit_s=GREEN_S)
            print(f"{file} without a slip: {ran.said.splitlines()[-1]}", flush=True)
            survivors += [trial for trial in here if not _is_killed(copy, trial, ran.passed)]
    return survivors


def _is_killed(copy: Copy, trial: Trial, green: frozenset[str]) -> bool:
    mutant, test = trial
    if test.partition("[")[0] not in green:
        print(f"NOT TRIED, since it doesn't pass without a slip: {test}", flush=True)
        return False
    begun_s = time.monotonic()
    with copy.slip(mutant):
        ran = copy.run([test], "-x")
    if ran.is_red:
        keep_killed(killed() | {mutant.keys[test]})
        print(f"killed in {time.monotonic() - begun_s:.1f} s: {mutant.file}, {test}", flush=True)
    else:
        shown = "\n  ".join(mutant.lines)
        print(f"SURVIVED {test}\n  {mutant.file}\n  {shown}\n{ran.said}", flush=True)
    return ran.is_red


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _forget(keys: set[str]) -> None:
    """Drop the digests of what is no longer in the table, or has changed since."""
    if killed() - keys:
        keep_killed(killed() & keys)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
