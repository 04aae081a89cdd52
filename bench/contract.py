"""The memory contract at its socket beside the same calls of MCP, and what others wait meanwhile.

usage: python -m bench.contract [--rounds N] [--seconds S] [--clients N] [--json FILE]

Many clients act as one workspace, first by the contract on http.sock, then as many shims by
palace's own tools: the same commits, searches and lists in the same order.  Which goes first
alternates by round, and each way has a namespace of its own.  Four honest clients of MCP (two
shims, one over HTTP, one guest over TLS) work at peace, beside one process that only computes,
beside each load, and beside the contract's load on another palace: what that costs them is the
machine's, and the broker that serves them has no part in it.
Each round has a palace and a broker of its own.  It asserts nothing about time.
Exit codes: 0 measured, 1 a measurement could not be made.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from bench import rig
from bench.contract_load import CONTRACT, KINDS, MCP
from bench.hostile import busy_processors, open_round
from bench.lean import Broken
from bench.report import number
from tests.support.loads import honest
from tests.support.loads.honest import Agent, work_together
from tests.support.processes.brokers import Serving, wait_ready
from tests.support.processes.clients import PALACE, Site, wait_until

HANG_S = 3600
GOAL = 2.0  # times what it takes at peace
PEACE, BUSY, FLOOR = "peace", "a busy processor", "the contract's load on another palace"
CALLED = {CONTRACT: "the contract's load", MCP: "MCP's load"}

Taken = dict[str, list[float]]  # kind of call -> ms


@attrs.frozen
class Round:
    """What one broker's clients found: loads by way, and honest clients by what went on."""

    loads: dict[str, Mapping[str, Any]]
    honest: dict[str, Taken]


def ask(site: Site, *arguments: str) -> str:
    done = site.run(*arguments)
    if done.returncode:
        raise Broken(f"palace {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


@attrs.define(eq=False)
class Loading:
    """The process that plays the clients."""

    process: "subprocess.Popen[str]"

    def begin(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def end(self) -> Mapping[str, Any]:
        """Return what they found; raises Broken where they were refused anything."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            raise Broken("the clients ended without a word")
        found: Mapping[str, Any] = json.loads(said)
        if found["refused"]:
            raise Broken(f"{len(found['refused'])} calls were refused: {found['refused'][0]}")
        return found


@contextmanager
def loading(site: Site, way: str, options: argparse.Namespace) -> Iterator[Loading]:
    """Connect the clients of one way, each with the rights of a workspace of that name."""
    ask(site, "workspace", "add", way)
    file = site.home / f"{way}.token"
    ask(site, "token", "new", f"workspace:{way}", "--out", str(file))
    wait_until((site.palace / "http.sock").exists, what="the contract is served")
    spec = {
        "way": way,
        "clients": options.clients,
        "socket": str(site.palace / "http.sock"),
        "token": file.read_text().strip(),
        "namespace": f"team:{way}",
        "argv": [*PALACE, "shim"],
        "environ": site.environ(PALACE_WORKSPACE_TOKEN_FILE=str(file)),
        "log": str(site.home / "load.log"),
        "first": 1_000_000_000,
    }
    argv = [sys.executable, "-m", "bench.contract_load", json.dumps(spec)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise Broken("the clients could not be connected")
            yield Loading(process)
        finally:
            process.terminate()


def work(agents: list[Agent], seconds: float, meanwhile: str, found: Round) -> None:
    work_together(agents, seconds)
    taken: Taken = {kind: [] for kind in honest.KINDS}
    for agent in agents:
        if agent.failures:
            raise Broken(f"{agent.name} beside {meanwhile}: {agent.failures[0]}")
        for kind in honest.KINDS:
            taken[kind] += agent.taken_ms[kind]
        agent.forget()
    found.honest[meanwhile] = taken


def measure_round(options: argparse.Namespace, root: Path, ways: tuple[str, ...]) -> Round:
    found = Round({}, {})
    with open_round(root) as (site, _, agents):
        work(agents, options.seconds, PEACE, found)
        with busy_processors(1):
            work(agents, options.seconds, BUSY, found)
        with another_palace(root) as other:
            found.loads[FLOOR] = work_beside(other, CONTRACT, agents, options, found, FLOOR)
        for way in ways:
            found.loads[way] = work_beside(site, way, agents, options, found, CALLED[way])
    return found


@contextmanager
def another_palace(root: Path) -> Iterator[Site]:
    """Serve one more palace, by a broker of its own."""
    site = Site(home=root.parent / "home", palace=root / "another" / "palace")
    site.palace.mkdir(parents=True, mode=0o700)
    with Serving(site):
        wait_ready(site)
        yield site


def work_beside(
    site: Site,
    way: str,
    agents: list[Agent],
    options: argparse.Namespace,
    found: Round,
    meanwhile: str,
) -> Mapping[str, Any]:
    """Let the agents work while a site has a load; return what the load's clients found."""
    with loading(site, way, options) as load:
        load.begin(options.seconds)
        work(agents, options.seconds, meanwhile, found)
        told = load.end()
    (site.home / f"{way}.token").unlink()
    return told


def measure(options: argparse.Namespace, scratch: Path) -> list[Round]:
    both = (CONTRACT, MCP)
    return [
        measure_round(options, scratch / f"round-{turn}", both if turn % 2 == 0 else both[::-1])
        for turn in range(options.rounds)
    ]


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[int(percent / 100 * (len(values) - 1))]


def per_second(load: Mapping[str, Any]) -> float:
    return float(load["within"] / load["seconds"])


def times_peace(found: Round, kind: str, meanwhile: str) -> float:
    """Return how many times longer the p95 of honest calls is than at peace, in one round."""
    here, peace = found.honest[meanwhile][kind], found.honest[PEACE][kind]
    return percentile(here, 95) / percentile(peace, 95)


def load_rows(rounds: list[Round]) -> Iterator[str]:
    """Yield what the many clients found: medians over rounds, and the contract's beside MCP's."""
    yield "| clients' calls | by | p50, ms | p99, ms | n |"
    yield "|---|---|--:|--:|--:|"
    for kind in KINDS:
        for way in (CONTRACT, MCP):
            taken = [one.loads[way]["taken_ms"][kind] for one in rounds]
            p50, p99 = (median(percentile(one, p) for one in taken) for p in (50, 99))
            count = sum(map(len, taken))
            yield f"| {kind} | {way} | {number(p50)} | {number(p99)} | {count} |"
    ways = (CONTRACT, MCP, FLOOR)
    rates = {way: [per_second(one.loads[way]) for one in rounds] for way in ways}
    ratio = median(a / b for a, b in zip(rates[CONTRACT], rates[MCP], strict=True))
    yield ""
    yield (
        f"calls/s: {median(rates[CONTRACT]):.0f} by the contract, {median(rates[MCP]):.0f} by MCP: "
        f"{ratio:.2f} times; {median(rates[FLOOR]):.0f} by the contract on another palace, where "
        "nobody holds them back"
    )
    yield ""


def honest_rows(rounds: list[Round]) -> Iterator[str]:
    yield "| honest call, ms | meanwhile | p50 | p95 | n | p95, times peace |"
    yield "|---|---|--:|--:|--:|--:|"
    for kind in honest.KINDS:
        for meanwhile in (PEACE, BUSY, FLOOR, *CALLED.values()):
            taken = [one.honest[meanwhile][kind] for one in rounds]
            p50, p95 = (median(percentile(one, p) for one in taken) for p in (50, 95))
            times = median(times_peace(one, kind, meanwhile) for one in rounds)
            count = sum(map(len, taken))
            yield (
                f"| {kind} | {meanwhile} | {number(p50)} | {number(p95)} | {count} | {times:.1f} |"
            )


def tell(rounds: list[Round]) -> tuple[str, dict[str, Any]]:
    beside = CALLED[CONTRACT]
    times = {
        kind: [median(times_peace(one, kind, what) for one in rounds) for what in (beside, FLOOR)]
        for kind in honest.KINDS
    }
    verdict = "met" if max(here for here, _ in times.values()) <= GOAL else "missed"
    text = "\n".join([*load_rows(rounds), *honest_rows(rounds)])
    each = ", ".join(f"{kind} {a:.1f} (floor {b:.1f})" for kind, (a, b) in times.items())
    goal = (
        f"goal, p95 beside the contract's load at most {GOAL:g} times that at peace: {verdict}: "
        f"{each}"
    )
    return f"{text}\n\n{goal}", {"rounds": [attrs.asdict(one) for one in rounds]}


def main() -> int:
    parser = rig.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=200)
    return rig.carry_out(parser.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
