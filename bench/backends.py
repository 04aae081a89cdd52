"""Drawers of PostgreSQL: palace beside stock on the same server, and beside a bare psycopg.

usage: python -m bench.backends [--quick] [--json FILE]

Eight clients file drawers without a pause, in turns; the bare program embeds and writes the same
texts in batches of the size that palace's had in that round.  The server is real, from a wheel, and
makes each commit durable.  It asserts nothing about time.
Exit codes: 0 measured, 1 it could not be.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from bench import rig, work
from bench.bare_chroma import Raw
from bench.lean import Lean, drive
from bench.throughput import (
    HANG_S,
    WRITERS,
    Goal,
    Job,
    batches,
    open_clients,
    per_second,
    table,
    verdicts,
)
from tests.support.engines.postgres import Postgres, running_postgres


@attrs.frozen(kw_only=True)
class Effort:
    rounds: int
    seconds: float
    sizes: tuple[int, ...]


FULL = Effort(rounds=7, seconds=4, sizes=(20, 60))
QUICK = Effort(rounds=2, seconds=2, sizes=(20,))
BARE = "bare psycopg"
GOALS = (
    Goal(key="adds 20 hub", text="adds/s, 8 clients, 20 words / stock hub", limit=5, more=True),
    Goal(key="adds 60 hub", text="adds/s, 8 clients, 60 words / stock hub", limit=5, more=True),
    Goal(key="adds 20 raw", text="... 20 words / bare psycopg", limit=0.7, more=True),
    Goal(key="adds 60 raw", text="... 60 words / bare psycopg", limit=0.7, more=True),
)


def naming(server: Postgres, database: str) -> dict[str, str]:
    """Return the variables that put a palace's drawers into a database of its own."""
    server.ask(f"CREATE DATABASE {database}")
    return {"MEMPALACE_BACKEND": "pgvector", "MEMPALACE_PGVECTOR_DSN": server.dsn(database)}


def measure(options: argparse.Namespace, scratch: Path) -> Job:
    """Do everything; whatever was started has ended when this returns."""
    commands = rig.install(options.source, scratch / "venv")
    effort = QUICK if options.quick else FULL
    job = Job(effort, scratch, commands)
    with ExitStack() as stack:
        server = stack.enter_context(running_postgres(durable=True))
        raw = Raw(scratch, commands, naming(server, "bare"))
        stack.callback(raw.close)
        ours = naming(server, "palace")
        palace = stack.enter_context(rig.open_palace(scratch, commands, more=ours))
        theirs = naming(server, "stock")
        hub = stack.enter_context(rig.open_stock_hub(scratch, commands, more=theirs))
        mine = stack.enter_context(open_clients(palace, WRITERS))
        others = stack.enter_context(open_clients(hub, WRITERS))
        for words in [size for _ in range(effort.rounds) for size in effort.sizes]:
            what = f"adds/s, 8 clients, {words} words"
            before = batches(palace)
            rate = job.note(what, palace.name, load(job, mine, words))
            count, calls = (b - a for a, b in zip(before, batches(palace), strict=True))
            batch = job.note(f"calls in a batch, {words} words", palace.name, calls / count)
            stock = job.note(what, hub.name, load(job, others, words))
            first, seconds = job.numbers.take(), effort.seconds
            limit = raw.per_second(first, words, round(batch), seconds, "upsert_rows")
            job.note(what, BARE, limit)
            job.ratio(f"adds {words} hub", rate, stock)
            job.ratio(f"adds {words} raw", rate, limit)
            job.tell(f"{words} words: {rate:.1f}, hub {stock:.1f}, bare {limit:.1f}/s")
    return job


def load(job: Job, clients: list[Lean], words: int) -> float:
    """Let all clients file drawers without a pause; return how many a second."""
    seconds = job.effort.seconds
    asked = [work.adds(job.numbers.take(), words) for _ in clients]
    return per_second(drive(clients, asked, seconds), seconds)


def main() -> int:
    parser = rig.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")

    def tell(job: Job) -> tuple[str, dict[str, Any]]:
        figures = {f"{what} | {who}": values for (what, who), values in job.figures.items()}
        text = f"{verdicts(job, GOALS)}\n\n{table(job)}"
        return text, {"figures": figures, "ratios": job.ratios}

    return rig.carry_out(parser.parse_args(), measure, tell, HANG_S)


if __name__ == "__main__":
    sys.exit(main())
