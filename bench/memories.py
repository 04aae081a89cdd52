"""What memories of namespaces cost: commits beside add_drawer, searches beside stock's, in turns.

usage: python -m bench.memories [--quick] [--json FILE]

Real shims, the real engine, the genuine model, one palace with workspaces.  It asserts nothing
about time.  Exit codes: 0 measured, 1 it could not be.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import attrs

from bench import rig, work
from bench.bare_chroma import Raw
from bench.lean import Broken, Lean, line
from bench.report import Spread, number, spread
from bench.rig import Contender

CLIENTS = 8
WORDS = 20
THREE = ("workspace:coder", "team:lead", "org:lead")
NAMESPACES = (*THREE, "workspace:lead", "team:other", "workspace:other")
COMMIT, ADD, FAR, PLAIN = "commit", "add_drawer", "three namespaces", "stock's search"
GOALS = {(COMMIT, ADD): (0.9, True), (FAR, PLAIN): (1.3, False)}
HANG_S = 900


@attrs.frozen(kw_only=True)
class Effort:
    rounds: int
    changes: int  # of each round, all clients together
    memories: int
    searches: int  # of each round


FULL = Effort(rounds=8, changes=96, memories=20_000, searches=40)
QUICK = Effort(rounds=3, changes=40, memories=500, searches=10)


@attrs.define(eq=False)
class Job:
    effort: Effort
    clients: list[Lean] = attrs.field(factory=list)
    numbers: Iterator[int] = attrs.field(factory=lambda: iter(range(1 << 40)))
    values: dict[str, list[float]] = attrs.field(factory=dict)

    def change(self, what: str) -> None:
        """Let all clients store texts at once; keep the changes per second."""
        requests = [self._change(what) for _ in range(self.effort.changes)]
        self.values.setdefault(what, []).append(self._at_once(requests))

    def _change(self, what: str) -> bytes:
        text = work.note(next(self.numbers), WORDS)
        if what == ADD:
            return work.call("add_drawer", wing="bench", room="bench", content=text)
        return own("commit_memory", content=text, namespace=THREE[0])

    def _at_once(self, requests: Sequence[bytes]) -> float:
        """Ask from all clients at once; return the answers per second."""
        failures: list[BaseException] = []

        def run(client: Lean, mine: Sequence[bytes]) -> None:
            try:
                for request in mine:
                    client.must(request)
            except (Broken, OSError) as error:
                failures.append(error)

        shares = [requests[start :: len(self.clients)] for start in range(len(self.clients))]
        pairs = zip(self.clients, shares, strict=True)
        threads = [threading.Thread(target=run, args=pair) for pair in pairs]
        begun_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise Broken(str(failures[0]))
        return len(requests) / (time.perf_counter() - begun_s)

    def search(self, what: str) -> None:
        """Ask from one client; keep the median milliseconds of a round."""
        taken_ms = []
        for _ in range(self.effort.searches):
            query = f"which {work.WORDS[next(self.numbers) % len(work.WORDS)]} was it?"
            query = f"{query} number {next(self.numbers)}"
            request = (
                work.call("search", query=query, limit=10)
                if what == PLAIN
                else own("search_memory", query=query, limit=10, namespaces=list(THREE))
            )
            begun_s = time.perf_counter()
            self.clients[0].must(request)
            taken_ms.append((time.perf_counter() - begun_s) * 1e3)
        self.values.setdefault(what, []).append(statistics.median(taken_ms))


def own(name: str, **arguments: object) -> bytes:
    return line("tools/call", json.dumps({"name": f"palace_{name}", "arguments": arguments}))


def measure(options: argparse.Namespace, scratch: Path) -> Job:
    """Do everything; whatever was started has ended when this returns."""
    job = Job(QUICK if options.quick else FULL)
    commands = rig.install(options.source, scratch / "venv")
    root = scratch / "team" / "palace"
    root.mkdir(parents=True, mode=0o700)
    with ExitStack() as stack:
        raw = stack.enter_context(closing(Raw(scratch, commands)))
        told = {"root": str(root), "count": job.effort.memories, "namespaces": NAMESPACES}
        raw.ask({"do": "seed", **told})
        print(f"{job.effort.memories} memories are there", file=sys.stderr, flush=True)
        contender = stack.enter_context(rig.open_palace(scratch, commands, root=root))
        _await_adoption(commands, contender)
        _register(commands, contender)
        for _ in range(CLIENTS):
            client = contender.start()
            stack.callback(client.close)
            client.initialize()
            job.clients.append(client)
        _take_turns(job, job.change, (COMMIT, ADD))
        _take_turns(job, job.search, (FAR, PLAIN))
        signal.alarm(0)
    return job


def _await_adoption(commands: Path, contender: Contender) -> None:
    """Wait until the palace's journal knows what was there before it."""
    argv = [str(commands / "palace"), "status", "--json"]
    while True:
        done = subprocess.run(argv, env=contender.environ, capture_output=True, check=True)
        if json.loads(done.stdout)["journal"].get("adoption") is None:
            return
        time.sleep(1)


def _register(commands: Path, contender: Contender) -> None:
    for words in ("add lead", "add coder --parent lead", "add other"):
        argv = [str(commands / "palace"), "workspace", *words.split()]
        done = subprocess.run(
            argv, env=contender.environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Broken(done.stderr)


def _take_turns(job: Job, ask: Callable[[str], None], pair: tuple[str, str]) -> None:
    ask(pair[0])  # what is imported with the first one is no round's
    job.values.clear() if COMMIT in pair else job.values.pop(pair[0])
    for round_number in range(job.effort.rounds):
        signal.alarm(HANG_S)
        for what in pair if round_number % 2 else reversed(pair):
            ask(what)


def ratio(job: Job, ours: str, theirs: str) -> Spread:
    pairs = zip(job.values[ours], job.values[theirs], strict=True)
    return spread([one / other for one, other in pairs])


def tell(job: Job) -> tuple[str, dict[str, Any]]:
    rows = [
        f"| of {job.effort.memories} memories | palace's own | stock's | ratio | p10..p90 | goal |",
        "|---|--:|--:|--:|--:|---|",
    ]
    found: dict[str, Any] = {"effort": attrs.asdict(job.effort)}
    for (ours, theirs), (goal, more) in GOALS.items():
        one, other = spread(job.values[ours]), spread(job.values[theirs])
        of = ratio(job, ours, theirs)
        is_met = of.p50 >= goal if more else of.p50 <= goal
        unit = f"/s, {CLIENTS} clients" if more else " ms, p50"
        span = f"{of.p10:.2f}..{of.p90:.2f}"
        verdict = f"{'>=' if more else '<='} {goal}: {'met' if is_met else '**missed**'}"
        cells = (f"{ours} / {theirs},{unit}", number(one.p50), number(other.p50))
        rows.append(f"| {' | '.join(cells)} | {of.p50:.2f} | {span} | {verdict} |")
        found[ours] = {"own": attrs.asdict(one), "stock": attrs.asdict(other)}
        found[ours]["ratio"] = attrs.asdict(of)
    return "\n".join(rows), found


def parse_arguments() -> argparse.Namespace:
    parser = rig.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    return parser.parse_args()


def main() -> int:
    return rig.carry_out(parse_arguments(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
