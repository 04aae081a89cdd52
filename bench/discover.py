"""What a client waits for `server/discover`, from its spawn on, whatever is the matter here.

usage: python -m bench.discover [--rounds N] [--json FILE]

The shim answers it by itself, so that a host can begin to talk where no broker serves, and where
none could.  Each state of the palace is arranged once and asked in turns with all others; the floor
is an interpreter that reads a line and answers it.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import rig
from bench.lean import ADD, Broken, Lean, line
from bench.report import Samples, number
from bench.rig import Contender

HANG_S = 1800
ROUNDS = 60
GOAL_MS = 30.0
DISCOVER = line(
    "server/discover",
    '{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    '"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"0"},'
    '"io.modelcontextprotocol/clientCapabilities":{}}}',
)
FLOOR = "floor"
Environ = Mapping[str, str]
State = Callable[[Path, str, Environ], "contextlib.AbstractContextManager[Environ]"]


@contextmanager
def broker_up(_root: Path, palace: str, environ: Environ) -> Iterator[Environ]:
    rig.run([palace, "start"], environ)
    yield environ


@contextmanager
def none(_root: Path, _palace: str, environ: Environ) -> Iterator[Environ]:
    """Each shim begins a broker, which is stopped before the next one asks."""
    yield environ


@contextmanager
def on_hold(_root: Path, palace: str, environ: Environ) -> Iterator[Environ]:
    rig.run([palace, "stop", "--hold"], environ)
    yield environ


@contextmanager
def no_spawn(_root: Path, _palace: str, environ: Environ) -> Iterator[Environ]:
    yield {**environ, "PALACE_NO_SPAWN": "1"}


@contextmanager
def wrong_settings(root: Path, _palace: str, environ: Environ) -> Iterator[Environ]:
    (root / "palace.toml").write_text("idle_s = \n")
    yield environ


@contextmanager
def foreign_lock(root: Path, palace: str, environ: Environ) -> Iterator[Environ]:
    """Stock has the palace open."""
    stock = str(Path(palace).with_name("mempalace-mcp"))
    argv = (stock, "--palace", str(root))
    client = Lean(argv, {**environ, "MEMPALACE_HUB_FORWARD": "0"}, root.parent / "stock.log")
    try:
        client.initialize()
        client.must(ADD)
        yield environ
    finally:
        client.close()


@contextmanager
def foreign_kernel(root: Path, _palace: str, environ: Environ) -> Iterator[Environ]:
    """The palace is on a file system that another kernel may have mounted, too."""
    there = root.parent.parent / "beneath"
    there.mkdir(mode=0o700, exist_ok=True)
    root.rmdir()
    rig.run(["bindfs", str(there), str(root.parent)], {})
    try:
        root.mkdir(mode=0o700)
        yield environ
    finally:
        rig.run(["umount", "-l", str(root.parent)], {})


STATES: dict[str, State] = {
    "a broker serves": broker_up,
    "none": none,
    "on hold": on_hold,
    "none may be started": no_spawn,
    "wrong settings": wrong_settings,
    "stock has its lock": foreign_lock,
    "another kernel's": foreign_kernel,
}


def answer_ms(contender: Contender) -> float:
    """Return the milliseconds from a client's spawn to the answer."""
    client = contender.start()
    try:
        client.must(DISCOVER)
        return (time.perf_counter_ns() - client.spawned_ns) / 1e6
    finally:
        client.close()


def stop(palace: str, environ: Environ) -> None:
    """End what the last shim has begun; it may not have come as far as to be told."""
    subprocess.run([palace, "stop"], env=environ, capture_output=True, check=False)


def measure(options: argparse.Namespace, scratch: Path) -> Samples:
    commands = rig.install(options.source, scratch / "venv")
    palace = str(commands / "palace")
    samples = Samples()
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for name, state in STATES.items():
            if state is foreign_kernel and shutil.which("bindfs") is None:
                sys.stderr.write(f"{name}: not measured, there is no bindfs here\n")
                continue
            root = scratch / name.replace(" ", "-").replace("'", "") / "store" / "palace"
            root.mkdir(mode=0o700, parents=True)
            environ = rig.environment(scratch, MEMPALACE_PATH=str(root), PALACE_IDLE_S="0")
            stack.callback(stop, palace, environ)
            environ = dict(stack.enter_context(state(root, palace, environ)))
            log = scratch / "discover.log"
            contenders[name] = Contender(
                name=name, argv=(palace, "shim"), environ=environ, log=log, speaks_mcp=True
            )
        answer = str(commands / "floor-answer")
        contenders[FLOOR] = Contender(
            name=FLOOR, argv=(answer,), environ=rig.environment(scratch), log=scratch / "floor.log"
        )
        for _ in range(options.rounds):
            for name, contender in contenders.items():
                samples.add("answer", name, answer_ms(contender))
                if name == "none":
                    time.sleep(0.2)  # it is being elected
                    stop(palace, contender.environ)
    return samples


def tell(samples: Samples) -> tuple[str, dict[str, Any]]:
    found = samples.of("answer")
    lines = ["| state | p50 | p10..p90 | floor | n |", "|---|--:|--:|--:|--:|"]
    floor = found[FLOOR].p50
    for name, one in found.items():
        span = f"{number(one.p10)}..{number(one.p90)}"
        lines.append(
            f"| {name} | {number(one.p50)} | {span} | {one.p50 / floor:.1f} | {one.count} |"
        )
    worst = max(one.p50 for one in found.values())
    lines.append(f"\nslowest p50: {worst:.1f} ms (goal: at most {GOAL_MS:.0f} ms)")
    return "\n".join(lines), {"slowest_ms": worst, "samples": samples.to_dict()}


def main() -> int:
    options = rig.parser(__doc__ or "")
    options.add_argument("--rounds", type=int, default=ROUNDS, help="answers of each state")
    return rig.carry_out(options.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as error:
        sys.exit(str(error))
