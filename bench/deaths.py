"""What a canary costs: the time from a broker's SIGKILL to the next reply, and its memory.

usage: python -m bench.deaths [--rounds N] [--json FILE]

One palace with a canary and one without (`canary = false`) take turns.  A client is connected
through `palace shim`, the broker is killed, and the clock runs until a tool that needs the engine
has answered in the same session.  The other figure is the canary's PSS.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import rig
from bench.lean import ADD, NO_OP, Broken, Lean
from bench.report import Samples, number

HANG_S = 3600
ROUNDS = 20
SETTLED_S = 60.0
WITH, WITHOUT = "with a canary", "without"


@contextmanager
def open_client(scratch: Path, commands: Path, name: str) -> Iterator[tuple[Lean, Path]]:
    """A client of a palace of its own, whose shim starts brokers."""
    root = scratch / name.replace(" ", "-") / "palace"
    root.mkdir(mode=0o700, parents=True)
    if name == WITHOUT:
        (root / "palace.toml").write_text("canary = false\n")
    environ = rig.environment(scratch, MEMPALACE_PATH=str(root), PALACE_IDLE_S="0")
    palace = str(commands / "palace")
    client = Lean((palace, "shim"), environ, scratch / "deaths.log")
    try:
        client.initialize()
        client.must(ADD)
        yield client, root
    finally:
        client.close()
        rig.run([palace, "stop"], environ)


def owner_of(root: Path) -> int:
    return int(json.loads((root / "broker.json").read_text())["pid"])


def mark_of_the_living(root: Path) -> Path:
    """Wait until the mark of the owner that serves is the only one; return it.

    A killed owner's mark stays until its canary has recorded the death, which it does seconds after
    the next owner serves: until then the machine is not at rest, either.
    """
    deadline_s = time.monotonic() + SETTLED_S
    while True:
        record = json.loads((root / "broker.json").read_text())
        marks = [path.name for path in (root / "deaths").glob("*.armed")]
        if marks == [f"{record['epoch']}-{record['incarnation']}.armed"]:
            return root / "deaths" / marks[0]
        if time.monotonic() > deadline_s:
            raise Broken(f"{root / 'deaths'} has these marks, not the serving broker's: {marks}")
        time.sleep(0.05)


def canary_mib(mark: Path) -> tuple[float, float]:
    """Return PSS and private memory of the canary that a mark names."""
    fields = dict(word.split("=", 1) for word in mark.read_text().split())
    text = Path(f"/proc/{fields['canary_pid']}/smaps_rollup").read_text()
    kb = {row.split()[0]: int(row.split()[1]) for row in text.splitlines()[1:]}
    return kb["Pss:"] / 1024, (kb["Private_Clean:"] + kb["Private_Dirty:"]) / 1024


def takeover_ms(client: Lean, root: Path) -> float:
    pid = owner_of(root)
    began_ns = time.perf_counter_ns()
    os.kill(pid, signal.SIGKILL)
    client.must(NO_OP)
    return (time.perf_counter_ns() - began_ns) / 1e6


def measure(options: argparse.Namespace, scratch: Path) -> Samples:
    signal.alarm(HANG_S)
    commands = rig.install(options.source, scratch / "venv")
    samples = Samples()
    with (
        open_client(scratch, commands, WITH) as watched,
        open_client(scratch, commands, WITHOUT) as alone,
    ):
        for turn in range(options.rounds):
            pairs = [(WITH, watched), (WITHOUT, alone)]
            for name, (client, root) in pairs if turn % 2 else reversed(pairs):
                samples.add("takeover", name, takeover_ms(client, root))
                mark = mark_of_the_living(watched[1])
            pss, own = canary_mib(mark)
            samples.add("pss", WITH, pss)
            samples.add("private", WITH, own)
    return samples


def tell(samples: Samples) -> tuple[str, dict[str, Any]]:
    took = samples.of("takeover")
    slower_ms = took[WITH].p50 - took[WITHOUT].p50
    rows = [
        f"| SIGKILL to the next reply, ms | {name} | {number(one.p50)} | "
        f"{number(one.p10)}..{number(one.p90)} | {one.count} |"
        for name, one in took.items()
    ]
    for key, title in (("pss", "PSS of a canary, MiB"), ("private", "private part of it, MiB")):
        one = samples.of(key)[WITH]
        span = f"{number(one.p10)}..{number(one.p90)}"
        rows.append(f"| {title} | | {number(one.p50)} | {span} | {one.count} |")
    head = ["| measure | | p50 | p10..p90 | n |", "|---|---|--:|--:|--:|"]
    text = "\n".join([*head, *rows, "", f"slower by {slower_ms:.1f} ms (goal: at most 15 ms)"])
    return text, {"slower_ms": slower_ms, "samples": samples.to_dict()}


def main() -> int:
    options = rig.parser(__doc__ or "")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    return rig.carry_out(options.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
