"""What honest clients wait for while others do their worst: with and without, in one run.

usage: python -m bench.hostile [--rounds N] [--seconds S] [--json FILE]

Four honest clients (two shims, one over HTTP, one guest over TLS) file, search and ask for the
status.  Each round has a palace and a broker of its own, first at peace, then under all attacks of
tests/support/loads/attacks.py at once.  The attackers compute, too: beside both stands what the
same calls take while as many processes only compute.  It asserts nothing about time.
Exit codes: 0 measured, 1 a measurement could not be made.
"""

import argparse
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
from tests.support.loads.attacks import ATTACKS, Place, under_attack
from tests.support.loads.honest import KINDS, Agent, honest_agents, place_of, work_together
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import Serving, status_of, wait_ready
from tests.support.processes.clients import Site, wait_until

HANG_S = 1200
GOAL = 3.0  # times what it takes at peace
PEACE, BUSY, ATTACK = "peace", "busy processors", "all attacks"
BURN = "while True: pass"

Found = dict[tuple[str, str], list[float]]  # kind of call, and what went on meanwhile -> ms


@contextmanager
def busy_processors(count: int) -> Iterator[None]:
    """Let so many processes compute."""
    processes = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def work(agents: list[Agent], seconds: float, meanwhile: str, found: Found) -> None:
    """Note what the calls of so many seconds took."""
    work_together(agents, seconds)
    for agent in agents:
        if agent.failures:
            raise Broken(f"{agent.name} under {meanwhile}: {agent.failures[0]}")
        for kind in KINDS:
            found.setdefault((kind, meanwhile), []).extend(agent.taken_ms[kind])
        agent.forget()


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
        yield site, place, agents


def measure_round(options: argparse.Namespace, root: Path, found: Found) -> None:
    with open_round(root) as (_, place, agents):
        work(agents, options.seconds, PEACE, found)
        with busy_processors(len(ATTACKS)):
            work(agents, options.seconds, BUSY, found)
        with under_attack(place, options.attacks or tuple(ATTACKS)):
            work(agents, options.seconds, ATTACK, found)


def measure(options: argparse.Namespace, scratch: Path) -> Found:
    found: Found = {}
    for turn in range(options.rounds):
        measure_round(options, scratch / f"round-{turn}", found)
    return found


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def ratios(found: Found) -> dict[str, float]:
    """Return for each kind of call how many times longer the p95 is than at peace."""
    return {kind: p95(found[kind, ATTACK]) / p95(found[kind, PEACE]) for kind in KINDS}


def tell(found: Found) -> tuple[str, dict[str, Any]]:
    rows = ["| call, ms | meanwhile | p50 | p95 | n | times peace |", "|---|---|--:|--:|--:|--:|"]
    for kind in KINDS:
        for meanwhile in (PEACE, BUSY, ATTACK):
            values = found[kind, meanwhile]
            times = p95(values) / p95(found[kind, PEACE])
            rows.append(
                f"| {kind} | {meanwhile} | {number(spread(values).p50)} | {number(p95(values))} "
                f"| {len(values)} | {times:.1f} |"
            )
    worst = max(ratios(found).values())
    verdict = "met" if worst <= GOAL else "missed"
    text = "\n".join(rows) + f"\n\ngoal, p95 at most {GOAL:g} times that at peace: {verdict}"
    kept = {f"{k}, {m}": attrs.asdict(spread(v)) | {"p95": p95(v)} for (k, m), v in found.items()}
    return text, {"found": kept, "ratios": ratios(found)}


def main() -> int:
    parser = rig.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--attacks", nargs="*", choices=tuple(ATTACKS), default=())
    return rig.carry_out(parser.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
