"""What palace costs on its main job, beside floors and peers, interleaved in one run.

usage: python -m bench.main_job [--quick] [--json FILE]

It asserts nothing about time.  Exit codes: 0 measured, 1 a measurement could not be made.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from bench import rig
from bench.lean import MIB, NO_OP, PING, Lean, load
from bench.report import PALACE, Samples, goals, number, table
from bench.rig import Contender

CLIENTS = 5
CLIENTS_FOR_MEMORY = 10
LOADED = 4  # clients that call at once
HANG_S = 180
LOAD_S = 0.5
DIRECT_SPAWN_EVERY = 5  # it takes a second
# What the shim imports of the standard library when a broker runs.
IMPORTS = "import errno, fcntl, os, select, stat, struct, sys, time, _socket"


@attrs.frozen(kw_only=True)
class Effort:
    rounds: int
    spawns: int
    trips: int
    large: int


FULL = Effort(rounds=24, spawns=2, trips=120, large=4)
QUICK = Effort(rounds=5, spawns=1, trips=60, large=2)


@attrs.define(eq=False)
class Job:
    """One run: everybody's clients are up, and take turns."""

    effort: Effort
    samples: Samples = attrs.field(factory=Samples)
    clients: dict[str, list[Lean]] = attrs.field(factory=dict)
    generator_cores: list[float] = attrs.field(factory=list)
    server_cores: list[float] = attrs.field(factory=list)

    def connect(self, stack: ExitStack, contender: Contender, count: int) -> list[Lean]:
        """Start clients that stay up until `stack` ends, and let each do its work once."""
        started = []
        for _ in range(count):
            client = contender.start()
            stack.callback(client.close)
            client.initialize()
            client.must(NO_OP if contender.speaks_mcp else PING)
            started.append(client)
        return started

    def memory(self, contender: Contender) -> None:
        """Measure each further client, while nothing but its own kind is up."""
        signal.alarm(HANG_S)
        with ExitStack() as stack:
            for client in self.connect(stack, contender, CLIENTS_FOR_MEMORY)[1:]:
                pss, uss = client.memory_mib()
                self.samples.add("pss", contender.name, pss)
                self.samples.add("uss", contender.name, uss)

    def spawn(self, contender: Contender) -> None:
        for _ in range(self.effort.spawns):
            client = contender.start()
            try:
                self.samples.add("spawn", contender.name, client.initialize())
            finally:
                client.close()

    def run_to_end(self, contender: Contender) -> None:
        for _ in range(self.effort.spawns):
            client = contender.start()
            try:
                self.samples.add("spawn", contender.name, client.wait())
            finally:
                client.close()

    def ping(self, contender: Contender) -> None:
        client = self.clients[contender.name][0]
        taken = client.round_trips(PING, self.effort.trips)
        self.samples.add("ping", contender.name, *taken)

    def no_op(self, contender: Contender) -> None:
        client = self.clients[contender.name][0]
        taken = client.round_trips(NO_OP, self.effort.trips)
        self.samples.add("no_op", contender.name, *taken)

    def mib(self, contender: Contender) -> None:
        # With a client of its own: once malloc has freed a block of 1 MiB it no longer maps large
        # ones again, and reads into large buffers would be faster than in most shims' lives.
        taken = self.clients[contender.name][-1].round_trips(MIB, self.effort.large)
        self.samples.add("mib", contender.name, *(us / 1e3 for us in taken))

    def load(self, contender: Contender) -> None:
        request = NO_OP if contender.speaks_mcp else PING
        before_s = rig.cpu_s(contender.server_pid) if contender.server_pid else 0.0
        rate, cores = load(self.clients[contender.name][:LOADED], request, LOAD_S)
        self.samples.add("load", contender.name, rate)
        if contender.name == PALACE:
            self.generator_cores.append(cores)
            self.server_cores.append((rig.cpu_s(contender.server_pid) - before_s) / LOAD_S)


# A measure, and what is measured by it.
Step = tuple[Callable[[Contender], None], Contender]


@attrs.frozen(kw_only=True)
class Contenders:
    """All that are measured beside each other."""

    palaces: tuple[Contender, ...]
    pump: Contender
    answer: Contender
    cat: Contender
    proxy: Contender
    direct: Contender
    bare: Contender
    imports: Contender


def measure(options: argparse.Namespace, scratch: Path) -> Job:
    """Do everything; whatever was started has ended when this returns."""
    job = Job(QUICK if options.quick else FULL)
    commands = rig.install(options.source, scratch / "venv")
    other = rig.install(options.against, scratch / "other") if options.against else None
    palaces_to_open = [partial(rig.open_palace, scratch, commands)]
    if other:
        name = f"palace of {options.against}"
        palaces_to_open.append(partial(rig.open_palace, scratch, other, name))
    peers = [partial(opened, scratch, commands) for opened in (rig.open_pump, rig.open_stock_hub)]
    for opened in (*palaces_to_open, *peers):
        with opened() as contender:
            job.memory(contender)
    with ExitStack() as stack:
        palaces = [stack.enter_context(opened()) for opened in palaces_to_open]
        pump, proxy = [stack.enter_context(opened()) for opened in peers]
        direct = rig.stock_direct(scratch, commands)
        answer = rig.plain(scratch, "answer on stdio", str(commands / "floor-answer"))
        cat = rig.plain(scratch, "client and `cat`", "/bin/cat")
        for contender in (*palaces, pump, answer, proxy):
            job.clients[contender.name] = job.connect(stack, contender, CLIENTS)
        job.clients[direct.name] = job.connect(stack, direct, 2)
        job.clients[cat.name] = [_started(stack, cat)]
        python = str(commands / "python")
        bare = rig.plain(scratch, "`python -c pass`, to its end", python, "-c", "pass")
        imports = rig.plain(scratch, "its stdlib imports, to the end", python, "-c", IMPORTS)
        every = Contenders(
            palaces=tuple(palaces),
            pump=pump,
            answer=answer,
            cat=cat,
            proxy=proxy,
            direct=direct,
            bare=bare,
            imports=imports,
        )
        _rounds(job, _steps(job, every), direct)
    return job


def _started(stack: ExitStack, contender: Contender) -> Lean:
    client = contender.start()
    stack.callback(client.close)
    return client


def _steps(job: Job, every: Contenders) -> list[list[Step]]:
    """Return, for each measure, who takes part: palace, floors, peers."""
    palaces, answer, pump = every.palaces, every.answer, every.pump
    proxy, direct = every.proxy, every.direct
    spawns: list[Step] = [(job.spawn, c) for c in (*palaces, answer, pump, proxy, direct)]
    return [
        [*spawns, *((job.run_to_end, c) for c in (every.bare, every.imports))],
        [(job.ping, c) for c in (*palaces, every.cat, answer, pump, proxy, direct)],
        [(job.no_op, c) for c in (*palaces, proxy, direct)],
        [(job.mib, c) for c in (*palaces, answer, pump, proxy, direct)],
        [(job.load, c) for c in (*palaces, answer, pump, proxy)],
    ]


def _rounds(job: Job, measures: list[list[Step]], direct: Contender) -> None:
    for number_of_round in range(job.effort.rounds):
        for steps in measures:
            first = number_of_round % len(steps)
            for act, contender in steps[first:] + steps[:first]:  # nobody always comes first
                if (
                    act == job.spawn
                    and contender is direct
                    and number_of_round % DIRECT_SPAWN_EVERY
                ):
                    continue
                signal.alarm(HANG_S)
                act(contender)
        print(f"round {number_of_round + 1} of {job.effort.rounds}", file=sys.stderr, flush=True)
    signal.alarm(0)


def notes(job: Job) -> str:
    generator = sum(job.generator_cores) / len(job.generator_cores)
    server = sum(job.server_cores) / len(job.server_cores)
    return (
        f"Load: four processes, one blocking call in flight each. In palace's rounds they took "
        f"{number(generator)} and the broker {number(server)} cores; clients, shims and broker "
        "share the machine, so `answer on stdio` is this generator's ceiling, not a server's.\n"
        "Memory: measured with only the kind's own server and five clients up; other Python "
        "processes on the machine (this one too) share pages and lower PSS, not the private part.\n"
        "Floors and `client and cat` answer a constant line; the 1 MiB goes one way."
    )


def parse_arguments() -> argparse.Namespace:
    parser = rig.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--against", type=Path, help="a second tree, interleaved with the first")
    return parser.parse_args()


def tell(job: Job) -> tuple[str, dict[str, Any]]:
    text = "\n\n".join([table(job.samples), goals(job.samples), notes(job)])
    return text, {"effort": attrs.asdict(job.effort), **job.samples.to_dict()}


def main() -> int:
    return rig.carry_out(parse_arguments(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
