"""What a guest's way over TLS costs beside a neighbour's socket, interleaved in one run.

usage: python -m bench.guests [--rounds N] [--json FILE]

Both are the real shim on the loopback, in front of one broker.  It asserts nothing about time.
Exit codes: 0 measured, 1 a measurement could not be made.
"""

import argparse
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from bench import rig
from bench.lean import MIB, NO_OP, PING, Lean
from bench.report import number, spread
from bench.rig import Contender
from palace.commands.config import change_settings
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

TRIPS = 200
LARGE = 4
CLIENTS = 3
HANG_S = 300
GOAL_US = 600
UNITS = {"ping": "us", "no-op": "us", "1 MiB": "ms", "memory": "MiB"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure_round(contender: Contender, found: dict[tuple[str, str], list[float]]) -> None:
    """Start a client, let it work, and note what it took; memory last, when all is loaded."""
    with ExitStack() as stack:
        clients: list[Lean] = []
        for _ in range(CLIENTS):
            client = contender.start()
            stack.callback(client.close)
            client.initialize()
            client.must(NO_OP)
            clients.append(client)
        taken = {
            "ping": clients[0].round_trips(PING, TRIPS),
            "no-op": clients[0].round_trips(NO_OP, TRIPS),
            "1 MiB": [us / 1e3 for us in clients[1].round_trips(MIB, LARGE)],
            "memory": [clients[2].memory_mib()[0]],
        }
    for what, values in taken.items():
        found.setdefault((what, contender.name), []).extend(values)


def measure(options: argparse.Namespace, scratch: Path) -> dict[tuple[str, str], list[float]]:
    commands = rig.install(options.source, scratch / "venv")
    url = f"127.0.0.1:{free_port()}"
    root = scratch / "venv-store" / "palace"
    root.mkdir(parents=True, mode=0o700)
    found: dict[tuple[str, str], list[float]] = {}
    environment = ShimEnvironment(rig.environment(scratch))
    change_settings(Paths(str(root)), environment, {"listen": url}, Kernel())
    with rig.open_palace(scratch, commands, "neighbour") as neighbour:
        environ = {**neighbour.environ, "MEMPALACE_BROKER": f"wss://{url}"}
        guest = attrs.evolve(neighbour, name="guest over TLS", environ=environ)
        for _ in range(options.rounds):
            for contender in (neighbour, guest):
                measure_round(contender, found)
    return found


def table(found: dict[tuple[str, str], list[float]]) -> str:
    rows = ["| measure | who | p50 | p10..p90 | n |", "|---|---|--:|--:|--:|"]
    for (what, who), values in sorted(found.items()):
        seen = spread(values)
        span = f"{number(seen.p10)}..{number(seen.p90)}"
        rows.append(
            f"| {what}, {UNITS[what]} | {who} | {number(seen.p50)} | {span} | {seen.count} |"
        )
    return "\n".join(rows)


def tell(found: dict[tuple[str, str], list[float]]) -> tuple[str, dict[str, Any]]:
    ping_us = spread(found["ping", "guest over TLS"]).p50
    verdict = "met" if ping_us <= GOAL_US else "missed"
    text = f"{table(found)}\n\ngoal, ping of a guest at most {GOAL_US} us: {verdict}"
    rows = {f"{what}, {who}": attrs.asdict(spread(v)) for (what, who), v in found.items()}
    return text, {"found": rows}


def main() -> int:
    parser = rig.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    return rig.carry_out(parser.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
