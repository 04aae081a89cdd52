"""What opening a journal costs as it grows, and what large members cost in it.

usage: python -m bench.opening [--quick] [--json FILE]

The journal alone, authenticated, in a scratch directory: drawers as palace journals them, with
vectors of 384 numbers.  It asserts nothing about time.
"""

import argparse
import base64
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from palace.journal.checkpoint import make_checkpoint
from palace.journal.following import Follower
from palace.journal.journal import Journal
from palace.journal.record import OUTCOME, PUT, Draft, Stamp
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import Key, Keyring

SIZES = (1_000, 10_000, 100_000)
QUICK = (1_000, 10_000)
ROUNDS = 5
ARTIFACTS = 64
ARTIFACT_BYTES = 1 << 20
KERNEL = Kernel()
KEYS = Keyring([Key(b"k" * 32)])


def stamp(epoch: int) -> Stamp:
    return Stamp(epoch=epoch, writer=f"w{epoch}", keys=KEYS, origin="0" * 32)


def drawer(rng: random.Random, number: int) -> Draft:
    payload = {
        "document": f"note {number} " + "what many agents learn about one house " * 8,
        "metadata": {"wing": "bench", "room": f"r{number % 50}", "filed_at": "2026-01-01"},
        "vector": base64.b64encode(rng.randbytes(4 * 384)).decode(),
    }
    return Draft(action=PUT, key=f"s:{number}", kind="drawer", id=f"d{number}", payload=payload)


def append(journal: Journal, draft: Draft) -> None:
    journal.sync(journal.append([draft]))


def compact(journal: Journal) -> None:
    journal.roll()
    make_checkpoint(journal.directory, KERNEL, journal.stamp)


def timed(work: Callable[[], Any]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def median_ms(work: Callable[[], Any]) -> float:
    return statistics.median(timed(work) for _ in range(ROUNDS)) * 1000


@attrs.frozen(kw_only=True)
class Row:
    records: int
    mib: float
    open_ms: float
    append_ms: float
    replay_s: float
    checkpoint_s: float
    open_compacted_ms: float
    new_ms: float


def measure(directory: str, size: int) -> Row:
    rng, epochs = random.Random(size), iter(range(1, 1000))
    journal = Journal.open(directory, KERNEL, stamp(next(epochs)))
    for number in range(size // 2):  # a change and its outcome: two records
        journal.append([drawer(rng, number)])
        journal.close_key(f"s:{number}", OUTCOME, reply="done")
        journal.acknowledge("s", number)
    journal.close()

    def opened() -> None:
        Journal.open(directory, KERNEL, stamp(next(epochs))).close()

    open_ms = median_ms(opened)
    journal = Journal.open(directory, KERNEL, stamp(next(epochs)))
    follower = Follower(directory=directory, kernel=KERNEL, keys=KEYS, expected=journal.seq + 1)
    list(follower.read())
    append_ms = median_ms(lambda: append(journal, drawer(rng, 0)))
    journal.close_key("s:0", OUTCOME, reply="done")
    new_ms = timed(lambda: list(follower.read())) * 1000
    row = Row(
        records=journal.seq,
        mib=bytes_of(directory) / (1 << 20),
        open_ms=open_ms,
        append_ms=append_ms,
        new_ms=new_ms,
        replay_s=timed(lambda: replay(directory, KERNEL, keys=KEYS)),
        checkpoint_s=timed(partial(compact, journal)),
        open_compacted_ms=0.0,
    )
    journal.close()
    return attrs.evolve(row, open_compacted_ms=median_ms(opened))


def measure_artifacts(directory: str) -> dict[str, float]:
    """Return what artifacts cost: their changes, and each checkpoint that carries them on."""
    rng = random.Random(1)
    journal = Journal.open(directory, KERNEL, stamp(1))
    payload = base64.b64encode(rng.randbytes(ARTIFACT_BYTES * 3 // 4)).decode()
    taken: list[float] = []
    for number in range(ARTIFACTS):
        draft = Draft(action=PUT, key="s:1", kind="log:artifact", id=f"{number}", payload=payload)
        taken.append(timed(partial(append, journal, draft)))
        journal.close_key("s:1", OUTCOME, reply="done")
    journal.roll()
    found = {"artifact_ms": statistics.median(taken) * 1000, "mib": bytes_of(directory) / (1 << 20)}
    begun_s = time.perf_counter()
    make_checkpoint(directory, KERNEL, journal.stamp)
    found["checkpoint_s"] = time.perf_counter() - begun_s
    found["mib_with_archive"] = bytes_of(directory) / (1 << 20)
    journal.close()
    return found


def bytes_of(directory: str) -> int:
    return sum(path.stat().st_size for path in Path(directory).rglob("*.jsonl"))


def lines(rows: list[Row], artifacts: dict[str, float]) -> Iterator[str]:
    yield (
        "| records | MiB | open, ms | append and fsync, ms | read what is new, ms | replay, s | "
        "checkpoint, s | open after it, ms |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.records:,} | {row.mib:.0f} | {row.open_ms:.0f} | {row.append_ms:.1f} | "
            f"{row.new_ms:.1f} | {row.replay_s:.2f} | {row.checkpoint_s:.2f} | "
            f"{row.open_compacted_ms:.0f} |"
        )
    yield ""
    yield (
        f"{ARTIFACTS} artifacts of {ARTIFACT_BYTES >> 20} MiB: {artifacts['artifact_ms']:.1f} ms "
        f"each, {artifacts['mib']:.0f} MiB; a checkpoint in {artifacts['checkpoint_s']:.2f} s, "
        f"{artifacts['mib_with_archive']:.0f} MiB with the archive."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", default="")
    given = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="palace-bench-")
    try:
        sizes = QUICK if given.quick else SIZES
        rows = [measure(f"{scratch}/{size}", size) for size in sizes]
        artifacts = measure_artifacts(f"{scratch}/artifacts")
    finally:
        shutil.rmtree(scratch)
    print("\n".join(lines(rows, artifacts)))
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    if given.json:
        told = {"rows": [attrs.asdict(row) for row in rows], "artifacts": artifacts}
        Path(given.json).write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
