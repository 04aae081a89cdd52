"""The whole invariant suite, with floors: `just model-check [deep|full]`.

Prints a table of what each part did, what it must not fall below, and how long it took; the exit
code is 1 where anything is below its floor or broken.  `quick` takes five minutes on two cores,
`deep` ten (each change must pass it), and `full` is the whole.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence

import attrs

from tests.model import spin
from tests.model.lanes import Done, Job, Lanes
from tests.model.parts import PROFILES, Part, Verdict, all_parts

TELL_S = 30.0  # between two lines of progress where nobody looks
INTERRUPTED = 130


@attrs.frozen
class Row:
    part: str
    verdict: Verdict
    seconds: float
    cpu_s: float
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        figures = ", ".join(
            f"{found:,} {what} (floor {floor:,})" for what, found, floor in self.verdict.figures
        )
        good = "WRONG" if self.wrong else "ok"
        times = f"{self.seconds:.0f} | {self.cpu_s:.0f}"
        return f"| {self.part} | {self.verdict.scope} | {figures} | {times} | {good} |"


HEAD = "| part | what | found | s | cpu s | |\n|---|---|---|---|---|---|"


def row_of(part: Part, ended: Sequence[Done]) -> Row:
    """Judge a part of which all jobs have ended."""
    by_name = {done.job.name: done for done in ended}
    ordered = [by_name[job.name] for job in part.jobs]
    failed = [f"{done.job.name}: {done.problem}" for done in ordered if done.problem]
    if failed:
        verdict = Verdict(f"{len(failed)} of {len(ordered)} jobs failed", wrong=failed)
    else:
        verdict = part.judge([done.result for done in ordered])
    seconds = sum(done.seconds for done in ended)
    cpu_s = sum(done.cpu_s for done in ended)
    return Row(part.name, verdict, seconds, cpu_s, tuple(verdict.problems()))


class Progress:
    """One line that says what runs: rewritten on a terminal, else told now and then."""

    def __init__(self, parts: int, jobs: int) -> None:
        self.parts, self.jobs = parts, jobs
        self.parts_done = self.jobs_done = 0
        self._begun_s = time.monotonic()
        self._told_s = self._begun_s
        self._is_terminal = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun_s

    def look(self, running: list[tuple[Job, float]]) -> None:
        now_s = time.monotonic()
        if not self._is_terminal and now_s - self._told_s < TELL_S:
            return
        self._told_s = now_s
        at_work = ", ".join(
            f"{job.part} {job.name} ({now_s - since:.0f} s)" for job, since in running
        )
        line = (
            f"{int(self.seconds) // 60}:{int(self.seconds) % 60:02} "
            f"{self.parts_done}/{self.parts} parts, {self.jobs_done}/{self.jobs} jobs; {at_work}"
        )
        begin, end = ("\r\033[K", "") if self._is_terminal else ("", "\n")
        print(f"{begin}{line[:150]}", end=end, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def check(parts: Sequence[Part], cores: int = 2) -> list[Row]:
    """Run the parts' jobs, several at a time, and say of each part what came of it."""
    jobs = [job for part in parts for job in part.jobs]
    progress = Progress(len(parts), len(jobs))
    ended: dict[str, list[Done]] = {part.name: [] for part in parts}
    rows: dict[str, Row] = {}
    print(HEAD, flush=True)
    for done in Lanes(cores, progress.look).run(jobs):
        progress.jobs_done += 1
        ended[done.job.part].append(done)
        for part in parts:
            if part.name not in rows and len(ended[part.name]) == len(part.jobs):
                rows[part.name] = row_of(part, ended[part.name])
                progress.parts_done += 1
                progress.clear()
                print(rows[part.name], flush=True)
    progress.clear()
    minutes, rest = divmod(round(progress.seconds), 60)
    print(f"\n{len(rows)} parts in {minutes} min {rest} s; a part's seconds are its jobs' together")
    return [rows[part.name] for part in parts]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.model.check", description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument("--cores", type=int, default=2, help="how many jobs at a time")
    parser.add_argument("--only", metavar="PART", action="append", help="these parts alone")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    parts = all_parts(PROFILES[options.profile])
    if options.only:
        strange = set(options.only) - {part.name for part in parts}
        if strange:
            names = ", ".join(part.name for part in parts)
            print(f"no such part: {', '.join(sorted(strange))}; there are {names}", file=sys.stderr)
            return 2
        parts = [part for part in parts if part.name in options.only]
    if spin.parts_missing():
        print(spin.parts_missing(), file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rows = check(parts, options.cores)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is left running", file=sys.stderr)
        return INTERRUPTED
    wrong = [f"{row.part}: {text}" for row in rows for text in row.wrong]
    for text in wrong:
        print(f"WRONG: {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
