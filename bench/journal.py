"""What the journal costs: add_drawer with journal on beside off, interleaved in one run.

usage: python -m bench.journal [--quick] [--json FILE]

Real shims, the real engine, the genuine model.  Measured once on the device as it is, and once with
every fsync of the broker made to take 10 ms longer (a library that is compiled on the fly and
preloaded).  It asserts nothing about time.  Exit codes: 0 measured, 1 it could not be.
"""

import argparse
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from bench import rig
from bench.lean import Broken, Lean
from bench.report import Spread, number, spread
from bench.rig import Contender

CLIENTS = (1, 8)
WORDS = (20, 60)
GOAL = 0.85  # of the throughput without a journal, with most clients
HANG_S = 600
SLOW_MS = 10
SLOW_FSYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static int slowly(const char *name, int fd) {
    int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
    usleep(DELAY_US);
    return real(fd);
}
int fsync(int fd) { return slowly("fsync", fd); }
int fdatasync(int fd) { return slowly("fdatasync", fd); }
"""
VOCABULARY = (
    *("nightly", "job", "moved", "shard", "index", "grew", "cache", "token", "ledger", "broker"),
    *("palace", "drawer", "socket", "replay", "commit", "otter", "kelp", "tide", "harbour"),
    *("lantern", "keeper", "wave", "garden", "bread", "salt", "winter", "river", "stone"),
)


@attrs.frozen(kw_only=True)
class Effort:
    rounds: int
    adds: int  # of each round, all clients together


FULL = Effort(rounds=10, adds=24)
QUICK = Effort(rounds=3, adds=8)


@attrs.frozen(kw_only=True)
class Case:
    """What is compared: a device, so many clients, drawers of so many words."""

    device: str
    clients: int
    words: int


@attrs.define(eq=False)
class Job:
    effort: Effort
    clients: dict[tuple[str, str], list[Lean]] = attrs.field(factory=dict)  # device, journal
    rates: dict[tuple[Case, str], list[float]] = attrs.field(factory=dict)
    _texts: Iterator[int] = attrs.field(factory=itertools.count)

    def measure(self, case: Case, journal: str) -> None:
        """Let clients add drawers at once; keep the adds per second."""
        clients = self.clients[case.device, journal][: case.clients]
        each = max(1, self.effort.adds // case.clients)
        work = [[self._add(case.words) for _ in range(each)] for _ in clients]
        failures: list[BaseException] = []

        def run(client: Lean, requests: list[bytes]) -> None:
            try:
                for request in requests:
                    if rb"success\": true" not in client.must(request):
                        raise Broken("a drawer was not added")
            except (Broken, OSError) as error:
                failures.append(error)

        threads = [
            threading.Thread(target=run, args=pair) for pair in zip(clients, work, strict=True)
        ]
        begun_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken_s = time.perf_counter() - begun_s
        if failures:
            raise Broken(str(failures[0]))
        self.rates.setdefault((case, journal), []).append(each * len(clients) / taken_s)

    def _add(self, words: int) -> bytes:
        count = next(self._texts)
        rng = random.Random(count)
        text = " ".join([f"note{count}", *(rng.choice(VOCABULARY) for _ in range(words - 1))])
        arguments = {"wing": "bench", "room": f"r{count % 5}", "content": text}
        params = {"name": "mempalace_add_drawer", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return json.dumps(message).encode() + b"\n"


@contextmanager
def open_palace(
    scratch: Path, commands: Path, device: str, journal: str, preload: str
) -> Iterator[Contender]:
    """A broker with or without a journal, and `palace shim` in front of it."""
    name = f"{device.replace(' ', '-')}-{journal}"
    root, log = scratch / name / "palace", scratch / f"{name}.log"
    root.mkdir(mode=0o700, parents=True)
    (root / "palace.toml").write_text(f'journal = "{journal}"\n')
    environ = rig.environment(
        scratch, MEMPALACE_PATH=str(root), PALACE_IDLE_S="0", PALACE_NO_SPAWN="1"
    )
    theirs = environ | ({"LD_PRELOAD": preload} if preload else {})
    palace = str(commands / "palace")
    with rig.open_server([palace, "serve"], theirs, log) as pid:
        rig.wait_until_made(root / "broker.sock", log)
        argv = (palace, "shim")
        yield rig.warm(Contender(name=name, argv=argv, environ=environ, log=log, server_pid=pid))


def compile_slow_fsync(scratch: Path) -> str:
    """Return a library that slows fsync, "" where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return ""
    source, library = scratch / "slow.c", scratch / "slow.so"
    source.write_text(SLOW_FSYNC.replace("DELAY_US", str(SLOW_MS * 1000)))
    argv = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(argv, check=True, capture_output=True)
    return str(library)


def measure(options: argparse.Namespace, scratch: Path) -> Job:
    """Do everything; whatever was started has ended when this returns."""
    job = Job(QUICK if options.quick else FULL)
    commands = rig.install(options.source, scratch / "venv")
    devices = {"this disk": ""}
    if slow := compile_slow_fsync(scratch):
        devices[f"fsync + {SLOW_MS} ms"] = slow
    with ExitStack() as stack:
        for device, preload in devices.items():
            for journal in ("on", "off"):
                opened = open_palace(scratch, commands, device, journal, preload)
                contender = stack.enter_context(opened)
                job.clients[device, journal] = [
                    _start(stack, contender) for _ in range(max(CLIENTS))
                ]
        cases = [
            Case(device=device, clients=clients, words=words)
            for device in devices
            for clients in CLIENTS
            for words in WORDS
        ]
        for round_number in range(job.effort.rounds):
            for case in cases:
                signal.alarm(HANG_S)
                pair = ("on", "off") if round_number % 2 else ("off", "on")
                for journal in pair:
                    job.measure(case, journal)
            print(f"round {round_number + 1} of {job.effort.rounds}", file=sys.stderr, flush=True)
        signal.alarm(0)
    return job


def _start(stack: ExitStack, contender: Contender) -> Lean:
    client = contender.start()
    stack.callback(client.close)
    client.initialize()
    return client


def ratios(job: Job, case: Case) -> Spread:
    """Return each round's throughput with a journal over that without, taken side by side."""
    pairs = zip(job.rates[case, "on"], job.rates[case, "off"], strict=True)
    return spread([on / off for on, off in pairs])


def table(job: Job) -> str:
    rows = [
        "| device | clients | words | on, adds/s | off, adds/s | on / off | p10..p90 | goal |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for case in dict.fromkeys(case for case, _ in job.rates):
        on, off = (spread(job.rates[case, journal]) for journal in ("on", "off"))
        ratio = ratios(job, case)
        goal = ""
        if case.clients == max(CLIENTS):
            goal = f">= {GOAL}: {'met' if ratio.p50 >= GOAL else '**missed**'}"
        cells = (case.device, case.clients, case.words, number(on.p50), number(off.p50))
        span = f"{ratio.p10:.2f}..{ratio.p90:.2f}"
        rows.append(f"| {' | '.join(map(str, cells))} | {ratio.p50:.2f} | {span} | {goal} |")
    return "\n".join(rows)


def to_dict(job: Job) -> list[dict[str, object]]:
    return [
        {
            **attrs.asdict(case),
            "on": attrs.asdict(spread(job.rates[case, "on"])),
            "off": attrs.asdict(spread(job.rates[case, "off"])),
            "ratio": attrs.asdict(ratios(job, case)),
        }
        for case in dict.fromkeys(case for case, _ in job.rates)
    ]


def parse_arguments() -> argparse.Namespace:
    parser = rig.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    return parser.parse_args()


def tell(job: Job) -> tuple[str, dict[str, Any]]:
    text = table(job)
    if all(not case.device.startswith("fsync") for case, _ in job.rates):
        text += "\n\nThe part with a slower fsync was not run: there is no C compiler (cc) here."
    return text, {"effort": attrs.asdict(job.effort), "cases": to_dict(job)}


def main() -> int:
    return rig.carry_out(parse_arguments(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
