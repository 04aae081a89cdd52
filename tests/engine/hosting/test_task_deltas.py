"""What a watch is told of a log that has gone on is what one is told that begins anew.

On mempalace's own log of events, without its server: thousands of events, of which deaths take the
last ones back, as recovery does.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mempalace.logstream import Logstream

from palace.engine.hosting import delegations
from palace.protocol.delegations import FINAL, fold
from palace.protocol.task_watch import watched_in
from tests.support.faults.killing import is_deep

SEQUENCES = 1000 if is_deep() else 100
HERE = "rep_here"
SAID = [
    ("event.ack", "claimed"),
    ("event.ack", None),
    ("note.sent", None),
    ("patch.ready", "ready"),
    ("task.reply", "failed"),
    ("task.stuck", "failed"),
]

pytestmark = pytest.mark.engine


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logstream]:
    log = Logstream(str(tmp_path / "palace" / "logstream.sqlite3"), replica_id=HERE)
    log._conn().execute("PRAGMA synchronous=OFF")
    yield log
    log.close()


def say(log: Any, chance: random.Random, ident: str) -> None:
    made = {"stream": "s", "room": "r", "correlation_id": ident, "from_agent": "worker"}
    if chance.random() < 0.4:
        asked = {"palace": {"silence_s": 600}} if chance.random() < 0.8 else {}
        log.append_event(type="task.request", status="open", metadata=asked, **made)
    else:
        kind, status = chance.choice(SAID)
        log.append_event(type=kind, status=status, body="why", **made)


def die(log: Any, chance: random.Random) -> None:
    """Take back the last events, or one before them, as a group without an end is."""
    last = log._conn().execute("SELECT max(rowid) FROM events").fetchone()[0] or 0
    first = last - chance.randrange(3)
    until = last if chance.random() < 0.7 else first
    with log._conn() as connection:
        connection.execute("DELETE FROM events WHERE rowid BETWEEN ? AND ?", (first, until))


def test_the_ledger_is_the_fold_however_often_its_log_was_cut_off(log: Any) -> None:
    """For so many random logs, with deaths anywhere in them: what is kept is what is there."""
    grown, deaths = 0, 0
    for seed in range(SEQUENCES):
        chance = random.Random(seed)
        with log._conn() as connection:
            connection.execute("DELETE FROM events")
        kept: dict[str, Any] = {}
        end = None
        for _ in range(chance.randrange(1, 25)):
            for _ in range(chance.randrange(4)):
                say(log, chance, f"t{chance.randrange(5)}")
                if chance.random() < 0.15:  # what is said next may have its number
                    die(log, chance)
                    deaths += 1
            told = delegations._watched(log, {"since": end})
            grown += not told["whole"]
            end = told["end"]
            kept = {} if told["whole"] else kept
            kept |= {task["id"]: task for task in told["tasks"]}
            for ident in told["gone"]:
                kept.pop(ident, None)
            anew = delegations._watched(log, {})["tasks"]
            assert sorted(kept) == sorted(task["id"] for task in anew)
            assert kept == {task["id"]: task for task in anew}
            events = list(map(delegations.event_of, log._conn().execute(delegations._ALL)))
            assert set(kept) == {task.id for task in watched_in(fold(events), HERE)}
            listed = delegations._list(log, {})["tasks"]
            assert [task["state"] for task in listed] == [task.state for task in fold(events)]
    assert grown > 5 * SEQUENCES, "most answers told of what was new alone"
    assert deaths > SEQUENCES


def test_a_poisoned_row_stops_nobody(log: Any) -> None:
    chance = random.Random(1)
    for number in range(20):
        say(log, chance, f"t{number}")
    sound = delegations._list(log, {})["tasks"]
    columns = ("correlation_id", "from_agent", "to_agent", "status", "created_at", "hlc")
    deep = "[" * 30_000
    values = [b"\x00\xff", 7, 1e308, "", "\x1b[31m", "9999-99-99", deep]
    with log._conn() as connection:
        for number, value in enumerate(values * 2):
            fields = {
                "id": f"bad{number}",
                **dict.fromkeys(("type", "stream", "room"), "task.request"),
                "body": value,
                "metadata_json": deep if number % 2 else value,
                **dict.fromkeys(columns, value),
            }
            places = ",".join("?" * len(fields))
            connection.execute(
                f"INSERT INTO events ({','.join(fields)}) VALUES ({places})", tuple(fields.values())
            )
    told = delegations._list(log, {})["tasks"]
    assert [task for task in told if task["id"].startswith("t")] == sound
    watched = {task["id"] for task in delegations._watched(log, {})["tasks"]}
    mine = {task["id"] for task in sound if task["silence_s"] and task["state"] not in FINAL}
    assert watched == mine
