"""The first reply on a large palace that stock has filled: palace beside stock, in turns.

usage: python -m bench.first_reply [--quick] [--records N] [--filled DIR] [--json FILE]

Each time a fresh copy of the palace is opened: an agent's host starts, initializes, and asks for a
search.  Stock opens it in its own process.  Palace has to elect a broker, and to take every memory
into a journal; that goes on beside the calls, so it is also measured what a client that writes
meanwhile waits, and how long it takes in all.  It asserts nothing about time.
Exit codes: 0 measured, 1 it could not be.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import rig
from bench.lean import Broken, Lean, line
from bench.report import Samples, number
from bench.rig import Contender

RECORDS = 100_000
HANG_S = 1800
FILLING = rig.HERE.parent / "tests" / "support" / "stores" / "filling.py"
ROUNDS, QUICK_ROUNDS = 5, 3
SEARCH = line(
    "tools/call",
    '{"name":"mempalace_search","arguments":{"query":"what did drawer seven say"}}',
)
SHARE = 1.5  # of stock's, at most
TITLES = {
    "first": "first reply to a search, ms",
    "again": "the same when it was adopted before, ms",
    "beside": "add_drawer during the adoption, ms",
    "after": "add_drawer after it, ms",
    "whole": "until the journal is whole, s",
}


def first_reply_ms(contender: Contender) -> tuple[Lean, float]:
    """Start a client; return it, and the milliseconds until its search was answered."""
    client = contender.start()
    client.initialize()
    client.must(SEARCH)
    return client, (time.perf_counter_ns() - client.spawned_ns) / 1e6


def add(number_: int) -> bytes:
    arguments = {"wing": "bench", "room": "bench", "content": f"Memory {number_} of the bench."}
    return line("tools/call", json.dumps({"name": "mempalace_add_drawer", "arguments": arguments}))


class Job:
    """One run: contenders take turns, each with a palace that nobody has opened."""

    def __init__(self, scratch: Path, filled: Path, commands: Path) -> None:
        self.samples = Samples()
        self._scratch, self._filled, self._commands = scratch, filled, commands
        self._count = self._opened = 0

    def round(self) -> None:
        self._stock(self._fresh())
        self._palace(self._fresh())

    def _fresh(self) -> Path:
        shutil.rmtree(self._scratch / f"fresh-{self._opened}", ignore_errors=True)
        self._opened += 1  # at a path of its own: palace remembers what it has served where
        root = self._scratch / f"fresh-{self._opened}" / "palace"
        shutil.copytree(self._filled, root)
        root.chmod(0o700)
        return root

    def _stock(self, root: Path) -> None:
        signal.alarm(HANG_S)
        environ = rig.environment(self._scratch, MEMPALACE_HUB_FORWARD="0")
        argv = (str(self._commands / "mempalace-mcp"), "--palace", str(root))
        contender = Contender(
            name="stock", argv=argv, environ=environ, log=self._scratch / "stock.log"
        )
        client, taken_ms = first_reply_ms(contender)
        client.close()
        self.samples.add("first", "stock", taken_ms)

    def _palace(self, root: Path) -> None:
        signal.alarm(HANG_S)
        environ = rig.environment(self._scratch, MEMPALACE_PATH=str(root))
        palace = str(self._commands / "palace")
        contender = Contender(
            name="palace", argv=(palace, "shim"), environ=environ, log=self._scratch / "palace.log"
        )
        try:
            client, taken_ms = first_reply_ms(contender)
            self.samples.add("first", "palace", taken_ms)
            self._write_beside(client, palace, environ)
            client.close()
            rig.run([palace, "stop"], environ)
            client, taken_ms = first_reply_ms(contender)
            self.samples.add("again", "palace", taken_ms)
            client.close()
        finally:
            subprocess.run([palace, "stop"], env=environ, capture_output=True, check=False)

    def _write_beside(self, client: Lean, palace: str, environ: dict[str, str]) -> None:
        while (left := _adoption(palace, environ)) is not None:
            if left["problem"]:
                raise Broken(f"the adoption doesn't go on: {left['problem']}")
            for _ in range(10):
                self._add(client, "beside")
        self.samples.add("whole", "palace", (time.perf_counter_ns() - client.spawned_ns) / 1e9)
        for _ in range(10):
            self._add(client, "after")

    def _add(self, client: Lean, measure: str) -> None:
        self._count += 1
        began_ns = time.perf_counter_ns()
        client.must(add(self._count))
        self.samples.add(measure, "palace", (time.perf_counter_ns() - began_ns) / 1e6)


def _adoption(palace: str, environ: dict[str, str]) -> Any:
    said = subprocess.run(
        [palace, "status", "--json"], env=environ, capture_output=True, check=True
    )
    return json.loads(said.stdout)["journal"].get("adoption")


def measure(options: argparse.Namespace, scratch: Path) -> Samples:
    signal.alarm(HANG_S)
    commands = rig.install(options.source, scratch / "venv")
    filled = options.filled
    if filled is None:
        filled = scratch / "filled"
        rig.run([sys.executable, "-P", str(FILLING), str(filled), str(options.records)], {})
    job = Job(scratch, filled, commands)
    for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
        job.round()
    return job.samples


def tell(samples: Samples) -> tuple[str, dict[str, Any]]:
    lines = ["| | stock | palace |", "|---|---|---|"]
    for key, title in TITLES.items():
        found = samples.of(key)
        cells = [
            f"{number(found[who].p50)} (p90 {number(found[who].p90)}, n {found[who].count})"
            if who in found
            else "-"
            for who in ("stock", "palace")
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    first = samples.of("first")
    share = first["palace"].p50 / first["stock"].p50
    lines.append(f"\nfirst reply: {share:.2f} of stock's (goal: at most {SHARE})")
    return "\n".join(lines), {"share": share, "samples": samples.to_dict()}


def main() -> int:
    options = rig.parser(__doc__ or "")
    options.add_argument("--quick", action="store_true", help="fewer rounds")
    options.add_argument("--records", type=int, default=RECORDS, help="of a palace that is made")
    options.add_argument("--filled", type=Path, help="a palace that stock has filled")
    return rig.carry_out(options.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
