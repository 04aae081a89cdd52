"""Throughput and latency of the real engine, beside stock and raw chromadb, interleaved in one run.

usage: python -m bench.throughput [--quick] [--json FILE] [--chart FILE] [--only PART ...]

Each figure is the median over rounds of a ratio taken within one round, so that a machine that is
busy for a while is so for both.  It asserts nothing about time.
Exit codes: 0 measured, 1 a measurement could not be made.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import attrs

from bench import rig, work
from bench.bare_chroma import Raw
from bench.chart import draw
from bench.lean import Broken, Lean, drive, ok
from bench.report import number, spread
from bench.rig import Contender

HANG_S = 900
WRITERS = 8
READERS = 4
SIZES = (20, 60, 130)
WINDOW = 50


@attrs.frozen(kw_only=True)
class Effort:
    rounds: int
    seconds: float
    lone: int
    growth: int
    takeovers: int
    requests: int
    sizes: tuple[int, ...]
    palaces: tuple[int, ...]


FULL = Effort(
    rounds=7,
    seconds=4,
    lone=15,
    growth=1100,
    takeovers=5,
    requests=200_000,
    sizes=SIZES,
    palaces=(500, 20_000),
)
QUICK = Effort(
    rounds=2,
    seconds=2,
    lone=5,
    growth=250,
    takeovers=1,
    requests=5000,
    sizes=(20,),
    palaces=(500,),
)


@attrs.frozen(kw_only=True)
class Goal:
    """A ratio of two figures of one round; the median over rounds is held against `limit`."""

    key: str
    text: str
    limit: float
    more: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.more else value <= self.limit


GOALS = (
    Goal(key="adds 20 hub", text="adds/s, 8 clients, 20 words / stock hub", limit=8, more=True),
    Goal(key="adds 60 hub", text="adds/s, 8 clients, 60 words / stock hub", limit=4, more=True),
    Goal(key="adds 130 hub", text="adds/s, 8 clients, 130 words / stock hub", limit=1, more=True),
    Goal(key="adds 20 raw", text="... 20 words / raw chromadb", limit=0.8, more=True),
    Goal(key="adds 60 raw", text="... 60 words / raw chromadb", limit=0.8, more=True),
    Goal(key="adds 130 raw", text="... 130 words / raw chromadb", limit=0.8, more=True),
    Goal(key="add direct", text="add p50, 1 client / stock direct", limit=0.5),
    Goal(key="searches hub", text="searches/s, 4 clients / stock hub", limit=6, more=True),
    Goal(key="search direct", text="search p50, 1 client / stock direct", limit=0.25),
    Goal(key="kg direct", text="kg_query p50 / stock direct", limit=1.5),
    Goal(key="storm", text="search p95 in a storm of 4 writers / idle", limit=3),
    Goal(key="growth 500", text="slowest / fastest add from 500 drawers", limit=1.5),
    Goal(key="growth 20000", text="slowest / fastest add from 20,000 drawers", limit=1.5),
    Goal(key="takeover", text="SIGKILL to search / stock's spawn to search", limit=1.2),
)


@attrs.define(eq=False)
class Job:
    """One run: figures by (what, who), and ratios by goal, a value per round.

    `other` is a second tree's palace, which takes its turn after ours; `beside_other` holds the
    ratios of ours to it.
    """

    effort: Any  # of whoever measures
    scratch: Path
    commands: Path
    numbers: work.Numbers = attrs.field(factory=work.Numbers)
    figures: dict[tuple[str, str], list[float]] = attrs.field(factory=dict)
    ratios: dict[str, list[float]] = attrs.field(factory=dict)
    other: Contender | None = None
    beside_other: dict[str, list[float]] = attrs.field(factory=dict)
    others: list[Lean] = attrs.field(factory=list)

    def note(self, what: str, who: str, value: float) -> float:
        self.figures.setdefault((what, who), []).append(value)
        return value

    def ratio(self, key: str, one: float, other: float) -> None:
        self.ratios.setdefault(key, []).append(one / other)

    def compare(self, what: str, mine: float, measure: Callable[[list[Lean]], float]) -> None:
        """Measure the other tree's palace in the same round, if there is one."""
        if self.other is not None:
            theirs = self.note(what, self.other.name, measure(self.others))
            self.beside_other.setdefault(what, []).append(mine / theirs)

    @contextmanager
    def open_others(self, count: int) -> Iterator[None]:
        """Keep so many clients of the other palace, as `others`."""
        if self.other is None:
            yield
            return
        with open_clients(self.other, count) as self.others:
            yield

    def tell(self, text: str) -> None:
        signal.alarm(HANG_S)
        print(text, file=sys.stderr, flush=True)


# Clients.


@contextmanager
def open_clients(contender: Contender, count: int) -> Iterator[list[Lean]]:
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = contender.start()
            stack.callback(client.close)
            client.initialize()
            client.must(work.KG_QUERY)
            clients.append(client)
        yield clients


def per_second(latencies: list[list[float]], seconds: float) -> float:
    return len(list(chain.from_iterable(latencies))) / seconds


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int((len(values) - 1) * share)]


def batches(contender: Contender) -> tuple[int, int]:
    status = subprocess.run(
        [contender.argv[0], "status", "--json"],
        env=dict(contender.environ),
        capture_output=True,
        check=True,
    )
    told = json.loads(status.stdout)["batches"]
    return told["count"], told["calls"]


# Adds.


def adds(job: Job, palace: Contender, hub: Contender, raw: Raw) -> None:
    """Let 8 clients file drawers without a pause, at each size in turn."""
    effort = job.effort
    with (
        open_clients(palace, WRITERS) as ours,
        open_clients(hub, WRITERS) as theirs,
        job.open_others(WRITERS),
    ):
        for words in [size for _ in range(effort.rounds) for size in effort.sizes]:

            def load(clients: list[Lean], words: int = words) -> float:
                asked = [work.adds(job.numbers.take(), words) for _ in clients]
                return per_second(drive(clients, asked, effort.seconds), effort.seconds)

            before = batches(palace)
            mine = job.note(f"adds/s, 8 clients, {words} words", palace.name, load(ours))
            count, calls = (b - a for a, b in zip(before, batches(palace), strict=True))
            batch = job.note(f"calls in a batch, {words} words", palace.name, calls / count)
            job.compare(f"adds/s, 8 clients, {words} words", mine, load)
            stock = job.note(f"adds/s, 8 clients, {words} words", hub.name, load(theirs))
            limit = raw.per_second(job.numbers.take(), words, round(batch), effort.seconds)
            job.note(f"adds/s, 8 clients, {words} words", "raw chromadb", limit)
            job.ratio(f"adds {words} hub", mine, stock)
            job.ratio(f"adds {words} raw", mine, limit)
            job.tell(f"{words} words: {mine:.1f}, hub {stock:.1f}, raw {limit:.1f}/s")


def lone_clients(job: Job, palace: Contender, direct: Contender) -> None:
    """Ask from one client: add, search, kg_query."""
    with (
        open_clients(palace, 1) as (ours,),
        open_clients(direct, 1) as (theirs,),
        job.open_others(1),
    ):
        for _ in range(job.effort.rounds):
            first = job.numbers.take()
            for what, key, make, times in (
                ("add, 1 client, ms", "add direct", lambda n: work.adds(n, 60), 1),
                ("search, 1 client, ms", "search direct", work.searches, 1),
                ("kg_query, ms", "kg direct", lambda _: iter(lambda: work.KG_QUERY, None), 10),
            ):
                count = job.effort.lone * times
                mine = job.note(what, palace.name, lone(ours, make(first), count))
                job.compare(what, mine, partial(first_alone, requests=make(first), count=count))
                stock = job.note(what, direct.name, lone(theirs, make(first), count))
                job.ratio(key, mine, stock)
            job.tell("one client")


def lone(client: Lean, requests: Iterator[bytes], count: int) -> float:
    """Return the median latency in milliseconds."""
    taken = []
    for _ in range(count):
        request = next(requests)
        begun_s = time.perf_counter()
        reply = client.ask(request)
        taken.append((time.perf_counter() - begun_s) * 1e3)
        if not ok(reply):
            raise Broken(f"{request[:100]!r} was answered {reply[:500]!r}")
    return statistics.median(taken)


def first_alone(clients: list[Lean], requests: Iterator[bytes], count: int) -> float:
    return lone(clients[0], requests, count)


# Reads.


def reads(job: Job, palace: Contender, hub: Contender) -> None:
    seconds = job.effort.seconds
    with (
        open_clients(palace, READERS + 1) as ours,
        open_clients(hub, READERS) as theirs,
        job.open_others(READERS),
    ):
        for _ in range(job.effort.rounds):

            def load(clients: list[Lean]) -> float:
                asked = [work.searches(job.numbers.take()) for _ in clients]
                return per_second(drive(clients, asked, seconds), seconds)

            mine = job.note("searches/s, 4 clients", palace.name, load(ours[:READERS]))
            job.compare("searches/s, 4 clients", mine, load)
            stock = job.note("searches/s, 4 clients", hub.name, load(theirs))
            job.ratio("searches hub", mine, stock)
            idle = drive(ours[:1], [work.searches(job.numbers.take())], seconds)[0]
            writers = [work.adds(job.numbers.take(), 20) for _ in range(READERS)]
            asked = [work.searches(job.numbers.take()), *writers]
            storm = drive(ours, asked, seconds)[0]
            calm_ms = job.note("search p95, idle, ms", palace.name, percentile(idle, 0.95))
            storm_ms = job.note("search p95, storm, ms", palace.name, percentile(storm, 0.95))
            job.ratio("storm", storm_ms, calm_ms)
            job.tell(f"searches: {mine:.0f}, hub {stock:.0f}/s; storm {storm_ms / calm_ms:.2f}")


# Growth.


def growth(job: Job, raw: Raw, drawers: int) -> None:
    """File drawers from one client through several writings of the index, and compare windows."""
    root = job.scratch / f"grown-{drawers}" / "palace"
    root.mkdir(parents=True, mode=0o700)
    raw.ask({"do": "seed", "root": str(root), "count": drawers})
    job.tell(f"{drawers} drawers are there")
    medians = []
    with ExitStack() as stack:
        palace = stack.enter_context(rig.open_palace(job.scratch, job.commands, root=root))
        (client,) = stack.enter_context(open_clients(palace, 1))
        lone(client, work.adds(job.numbers.take(), 20), 20)
        requests = work.adds(job.numbers.take(), 20)
        for _ in range(job.effort.growth // WINDOW):
            median = lone(client, requests, WINDOW)
            medians.append(job.note(f"add, 50 from {drawers} drawers, ms", palace.name, median))
    job.ratio(f"growth {drawers}", max(medians), min(medians))
    job.tell(f"growth at {drawers}: {max(medians):.1f} against {min(medians):.1f} ms")


# Takeover.


def takeovers(job: Job, direct: Contender) -> None:
    """Kill the broker under load; let stock start on a copy of the same palace."""
    root = job.scratch / "takeover" / "palace"
    root.mkdir(parents=True, mode=0o700)
    environ = rig.environment(job.scratch, MEMPALACE_PATH=str(root), PALACE_IDLE_S="5")
    shim = Contender(
        name="palace",
        argv=(str(job.commands / "palace"), "shim"),
        environ=environ,
        log=job.scratch / "takeover.log",
    )
    with open_clients(shim, 2) as (writer, reader):
        lone(writer, work.adds(job.numbers.take(), 20), 200)
        for number_of_copy in range(job.effort.takeovers):
            taken_s = one_takeover(job, root, writer, reader)
            job.note("SIGKILL to an answered search, s", "palace", taken_s)
            stock_s = one_start(job, root, direct, number_of_copy)
            job.note("SIGKILL to an answered search, s", "stock direct, spawn to search", stock_s)
            job.ratio("takeover", taken_s, stock_s)
            job.tell(f"takeover: {taken_s:.2f} s, stock {stock_s:.2f} s")


def one_takeover(job: Job, root: Path, writer: Lean, reader: Lean) -> float:
    lone(reader, work.searches(job.numbers.take()), 3)
    pid = json.loads((root / "broker.json").read_text())["pid"]
    request = next(work.searches(job.numbers.take()))
    pending = next(work.adds(job.numbers.take(), 20))
    os.write(writer.out, pending)
    begun_s = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    reply = reader.ask(request)
    taken_s = time.perf_counter() - begun_s
    if not ok(reply) or not ok(os.read(writer.into, 1 << 16)):
        raise Broken(f"a takeover was answered {reply[:300]!r}")
    return taken_s


def one_start(job: Job, root: Path, direct: Contender, number_of_copy: int) -> float:
    copy = job.scratch / f"copy-{number_of_copy}"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("*.sock", "journal", "*.lock"))
    argv = (*direct.argv[:-1], str(copy))
    client = attrs.evolve(direct, argv=argv).start()
    try:
        client.initialize()
        lone(client, work.searches(job.numbers.take()), 1)
        return time.perf_counter() - client.spawned_ns / 1e9
    finally:
        client.close()
        shutil.rmtree(copy)


# Memory.


def memory(job: Job) -> None:
    """Look at the broker's memory while it answers very many requests, with all kinds of calls."""
    root = job.scratch / "remembered" / "palace"
    root.mkdir(parents=True, mode=0o700)
    with ExitStack() as stack:
        palace = stack.enter_context(rig.open_palace(job.scratch, job.commands, root=root))
        for _ in range(5):
            with open_clients(palace, READERS) as clients:  # sessions come and go, too
                count = 0
                while count < job.effort.requests / 5:
                    asked = [work.mixture(job.numbers.take()) for _ in clients]
                    count += sum(map(len, drive(clients, asked, job.effort.seconds)))
            job.note("resident after each fifth, MiB", palace.name, resident_mib(palace.server_pid))
            job.tell(f"{count} requests more: {resident_mib(palace.server_pid):.0f} MiB")


def resident_mib(pid: int) -> float:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmRSS"))


# The run.


def measure(options: argparse.Namespace, scratch: Path) -> Job:
    commands = rig.install(options.source, scratch / "venv")
    effort = QUICK if options.quick else FULL
    effort = attrs.evolve(effort, rounds=options.rounds or effort.rounds)
    job = Job(effort, scratch, commands)
    wanted = set(options.only or PARTS)
    with ExitStack() as stack:
        raw = Raw(scratch, commands)
        stack.callback(raw.close)
        direct = rig.stock_direct(scratch, commands)
        if wanted & {"adds", "lone", "reads"}:
            palace = stack.enter_context(rig.open_palace(scratch, commands))
            if options.against:
                other = rig.install(options.against, scratch / "other")
                name = f"palace of {options.against}"
                job.other = stack.enter_context(rig.open_palace(scratch, other, name))
            hub = stack.enter_context(rig.open_stock_hub(scratch, commands))
            parts: dict[str, Callable[[], None]] = {
                "adds": lambda: adds(job, palace, hub, raw),
                "lone": lambda: lone_clients(job, palace, direct),
                "reads": lambda: reads(job, palace, hub),
            }
            for name, part in parts.items():
                if name in wanted:
                    part()
        if "takeover" in wanted:
            takeovers(job, direct)
        if "memory" in wanted:
            memory(job)
        for drawers in job.effort.palaces if "growth" in wanted else ():
            growth(job, raw, drawers)
    return job


PARTS = ("adds", "lone", "reads", "takeover", "memory", "growth")


def table(job: Job) -> str:
    rows = ["| measure | who | median | p10..p90 | n |", "|---|---|--:|--:|--:|"]
    for (what, who), values in sorted(job.figures.items()):
        seen = spread(values)
        span = f"{number(seen.p10)}..{number(seen.p90)}"
        rows.append(f"| {what} | {who} | {number(seen.p50)} | {span} | {seen.count} |")
    return "\n".join(rows)


def verdicts(job: Job, goals: tuple[Goal, ...] = GOALS) -> str:
    rows = ["| palace against | ratio | p10..p90 | goal | |", "|---|--:|--:|--:|---|"]
    for goal in goals:
        if goal.key not in job.ratios:
            continue
        seen = spread(job.ratios[goal.key])
        verdict = "met" if goal.met(seen.p50) else "**missed**"
        span = f"{seen.p10:.2f}..{seen.p90:.2f}"
        sign = ">=" if goal.more else "<="
        rows.append(
            f"| {goal.text} | {seen.p50:.2f} | {span} | {sign} {goal.limit:g} | {verdict} |"
        )
    for what, ratios in job.beside_other.items():
        seen = spread(ratios)
        span = f"{seen.p10:.2f}..{seen.p90:.2f}"
        rows.append(f"| {what} / the other tree | {seen.p50:.2f} | {span} | | |")
    return "\n".join(rows)


def parse_arguments() -> argparse.Namespace:
    parser = rig.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--against", type=Path, help="a second tree, beside the first's calls")
    parser.add_argument("--chart", type=Path, help="also draw the goals' ratios here (SVG)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these parts only")
    parser.add_argument("--rounds", type=int, help="how often each comparison is made")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()

    def tell(job: Job) -> tuple[str, dict[str, Any]]:
        if options.chart:
            medians = {g: spread(job.ratios[g.key]).p50 for g in GOALS if g.key in job.ratios}
            rows = [(goal.text, value, goal.limit, goal.more) for goal, value in medians.items()]
            options.chart.write_text(draw(rows))
        figures = {f"{what} | {who}": values for (what, who), values in job.figures.items()}
        return f"{verdicts(job)}\n\n{table(job)}", {"figures": figures, "ratios": job.ratios}

    return rig.carry_out(options, measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
