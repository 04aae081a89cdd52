"""What honest clients wait for while others do their worst: with and without, in one run.

usage: python -m bench.hostile [--rounds N] [--seconds S] [--nice N] [--each] [--json FILE]

Four honest clients (two shims, one over HTTP, one guest over TLS) file, search and ask for the
status.  Each round has a palace and a broker of its own, first at peace, then under all attacks of
tests/support/loads/attacks.py at once.  With --each every attack has rounds of its own as well, in
which it is the only one.  The attackers compute, too: beside it all stands what the same calls take
while as many processes only compute.  --nice 19 leaves all of these what nobody else wants of the
processors, so that what the broker does for them is left.  What something costs is its p95 divided
by that at peace in the same round, and the median of that over the rounds.  It asserts nothing
about time.
Exit codes: 0 measured, 1 a measurement could not be made.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from bench import rig
from bench.lean import Broken
from bench.report import number, spread
from palace.commands.config import change_settings
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.loads.attacks import ATTACKS, Place, nicely, under_attack
from tests.support.loads.honest import KINDS, Agent, honest_agents, place_of, work_together
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import Serving, status_of, wait_ready
from tests.support.processes.clients import Site, wait_until

HANG_S = 3600
GOAL = 3.0  # times what it takes at peace
PEACE, BUSY, ATTACK = "peace", "busy processors", "all attacks"
BURN = "while True: pass"

Taken = dict[str, list[float]]  # by kind of call, in ms
Round = dict[str, Taken]  # by what went on meanwhile, in one palace
Found = list[Round]


@contextmanager
def busy_processors(count: int, nice: int = 0) -> Iterator[None]:
    """Let so many processes compute."""
    argv = [*nicely(nice), sys.executable, "-c", BURN]
    processes = [subprocess.Popen(argv) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def work(agents: list[Agent], seconds: float, meanwhile: str) -> Taken:
    """Return what the calls of so many seconds took."""
    work_together(agents, seconds)
    taken: Taken = {kind: [] for kind in KINDS}
    for agent in agents:
        if agent.failures:
            raise Broken(f"{agent.name} under {meanwhile}: {agent.failures[0]}")
        for kind in KINDS:
            taken[kind] += agent.taken_ms[kind]
        agent.forget()
    return taken


@contextmanager
def open_round(root: Path) -> Iterator[tuple[Site, Place, list[Agent]]]:
    """Serve a new palace by every way, with four honest clients that have worked for a second.

    Its broker is killed at the end: what it was asked for would take much longer.
    """
    site = Site(home=root.parent / "home", palace=root / "palace")
    site.palace.mkdir(parents=True, mode=0o700)
    listen = {"listen": f"127.0.0.1:{free_port()}"}
    change_settings(Paths(str(site.palace)), ShimEnvironment(site.environ()), listen, Kernel())
    with ExitStack() as stack:
        stack.enter_context(Serving(site))
        wait_ready(site)
        wait_until(lambda: bool(status_of(site)["http"]["url"]), what="HTTP is served")
        place = place_of(status_of(site), site.palace / "broker.sock")
        agents = stack.enter_context(honest_agents(place, site.shim))
        work_together(agents, 1)
        for agent in agents:
            agent.forget()
        try:
            yield site, place, agents
        except Broken as broken:
            deaths = site.run("deaths").stdout
            said = "".join(path.read_text()[-2000:] for path in site.home.glob("serve-*.log"))
            raise Broken(f"{broken}\n{deaths}\n{said}") from None


def measure_all(options: argparse.Namespace, root: Path) -> Round:
    with open_round(root) as (_, place, agents):
        found = {PEACE: work(agents, options.seconds, PEACE)}
        with busy_processors(len(ATTACKS), options.nice):
            found[BUSY] = work(agents, options.seconds, BUSY)
        with under_attack(place, options.attacks or tuple(ATTACKS), options.nice):
            found[ATTACK] = work(agents, options.seconds, ATTACK)
    return found


def measure_one(options: argparse.Namespace, root: Path, name: str) -> Round:
    """Measure one attack in a palace of its own: what it asked for may go on after its end."""
    with open_round(root) as (_, place, agents):
        found = {PEACE: work(agents, options.seconds, PEACE)}
        with under_attack(place, (name,), options.nice):
            found[name] = work(agents, options.seconds, name)
    return found


def measure(options: argparse.Namespace, scratch: Path) -> Found:
    found: Found = []
    for turn in range(options.rounds):
        found.append(measure_all(options, scratch / f"round-{turn}"))
        if options.each:
            for name in options.attacks or ATTACKS:
                found.append(measure_one(options, scratch / f"round-{turn}-{name}", name))
    return found


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def of(found: Found, kind: str, meanwhile: str) -> list[float]:
    """Return what calls of a kind took, whatever the round."""
    return [ms for one in found if meanwhile in one for ms in one[meanwhile][kind]]


def times_peace(found: Found, kind: str, meanwhile: str) -> float:
    """Return how many times longer the p95 is than at peace in the same round."""
    return statistics.median(
        p95(one[meanwhile][kind]) / p95(one[PEACE][kind]) for one in found if meanwhile in one
    )


def tell(found: Found) -> tuple[str, dict[str, Any]]:
    attacks = list(dict.fromkeys(what for one in found for what in one if what in ATTACKS))
    rows = ["| call, ms | meanwhile | p50 | p95 | n | times peace |", "|---|---|--:|--:|--:|--:|"]
    kept = {}
    for kind in KINDS:
        for meanwhile in (PEACE, BUSY, *attacks, ATTACK):
            values, times = of(found, kind, meanwhile), times_peace(found, kind, meanwhile)
            rows.append(
                f"| {kind} | {meanwhile} | {number(spread(values).p50)} | {number(p95(values))} "
                f"| {len(values)} | {times:.1f} |"
            )
            told = {"p95": p95(values), "times": times}
            kept[f"{kind}, {meanwhile}"] = attrs.asdict(spread(values)) | told
    worst = max(times_peace(found, kind, ATTACK) for kind in KINDS)
    verdict = "met" if worst <= GOAL else "missed"
    text = "\n".join(rows) + f"\n\ngoal, p95 at most {GOAL:g} times that at peace: {verdict}"
    return text, {"found": kept, "rounds": [round_ratios(one) for one in found]}


def round_ratios(one: Round) -> dict[str, float]:
    return {
        f"{kind}, {meanwhile}": times_peace([one], kind, meanwhile)
        for kind in KINDS
        for meanwhile in one
    }


def main() -> int:
    parser = rig.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--nice", type=int, default=0, help="priority of all but the honest")
    parser.add_argument("--each", action="store_true", help="also one attack after the other")
    parser.add_argument("--attacks", nargs="*", choices=tuple(ATTACKS), default=())
    return rig.carry_out(parser.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
