"""What the hosted mempalace's own events tell of tasks, and the event that ends one."""

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from palace.engine.hosting.delegations import _OF_ONE, _OF_OPEN, _OPEN
from palace.journal.inspect import read_from
from palace.journal.record import PUT, Record
from palace.kernel.kernel import Kernel
from palace.protocol.delegations import TaskEvent, fold
from tests.support.engines.asked import Palace

pytestmark = pytest.mark.engine

ELSEWHERE = "rep_0123456789ab"
ENVELOPE = {"stream": "project/x", "room": "delegation", "from_agent": "lead"}


@pytest.fixture
def palace(tmp_path: Path, model_home: Path) -> Iterator[Palace]:
    palace = Palace(model_home, tmp_path / "store" / "palace")
    yield palace
    palace.engine.end()


def delegate(palace: Palace, task: str = "task_1", **asked: Any) -> str:
    """Have a task asked for, and watched as `asked`; return its event's id."""
    made = palace.ask(
        "mempalace_event_append",
        **ENVELOPE,
        type="task.request",
        to_agent="worker",
        correlation_id=task,
        status="open",
        body="mend it",
        metadata={"palace": asked} if asked else {},
    )
    return str(made["event"]["id"])


def claim(palace: Palace, event: str, agent: str = "worker") -> None:
    palace.ask("mempalace_event_ack", event_id=event, from_agent=agent, status="claimed")


def listed(palace: Palace, **asked: Any) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = palace.ask("palace_delegation_list", **asked)["tasks"]
    return told


def watched(palace: Palace) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = palace.ask("palace_task_watched")["tasks"]
    return told


def verdict(task: dict[str, Any], why: str = "silent") -> dict[str, Any]:
    return {"id": task["id"], "sign": task["sign"], "why": why, "detail": "nothing was heard"}


def test_a_palace_without_events_gets_no_log_for_being_asked(palace: Palace) -> None:
    assert listed(palace) == watched(palace) == []
    assert not (palace.root / "logstream.sqlite3").exists()


def test_stocks_own_tools_tell_what_became_of_a_task(palace: Palace) -> None:
    made = palace.ask(
        "mempalace_task_create",
        project="x",
        from_agent="lead",
        to_agent="worker",
        goal="mend it",
        branch="main",
        base_commit="abcdef0",
        done="it is mended",
    )["task"]
    assert [one["state"] for one in listed(palace)] == ["queued"]
    claim(palace, made["id"])
    (task,) = listed(palace, states=["in_progress"])
    assert (task["id"], task["caller"], task["worker"]) == (
        *(made["correlation_id"], "lead", "worker"),
    )
    assert watched(palace) == [], "stock's users have asked for no deadline"
    palace.ask(
        "mempalace_patch_submit",
        content="+ one\n",
        from_agent="worker",
        stream=made["stream"],
        correlation_id=made["correlation_id"],
    )
    assert [one["state"] for one in listed(palace)] == ["completed"]
    assert listed(palace, states=["in_progress"]) == []


def test_who_asks_for_a_task_is_told_of_its_end(palace: Palace) -> None:
    claim(palace, delegate(palace, silence_s=600))
    (task,) = watched(palace)
    assert palace.ask("palace_task_stuck", verdicts=[verdict(task)]) == {"tasks": ["task_1"]}
    query = {"correlation_id": "task_1", "to_agent": "lead", "type": "task.stuck"}
    (event,) = palace.ask("mempalace_event_wait", timeout_ms=1000, **query)["events"]
    assert (event["from_agent"], event["status"], event["stream"]) == (
        "palace",
        "failed",
        "project/x",
    )
    assert event["metadata"]["palace"] == {
        "why": "silent",
        "state": "in_progress",
        "worker": "worker",
    }
    assert listed(palace)[0]["detail"] == "nothing was heard"


def test_a_task_ends_once_and_the_journal_has_it(palace: Palace) -> None:
    claim(palace, delegate(palace, silence_s=600))
    told = [verdict(task) for task in watched(palace)]
    for ended in (["task_1"], [], []):
        assert palace.ask("palace_task_stuck", verdicts=told) == {"tasks": ended}

    assert palace.rows("SELECT count(*) FROM events WHERE type = 'task.stuck'") == [(1,)]
    palace.engine.close()
    found = list(read_from(f"{palace.root}/journal", Kernel()))
    kept = [one for one in found if isinstance(one, Record) and one.action == PUT]
    assert sum("task.stuck" in json.dumps(one.payload) for one in kept) == 1


def test_a_sign_of_life_that_came_before_the_turn_keeps_a_task(palace: Palace) -> None:
    event = delegate(palace, silence_s=600)
    claim(palace, event)
    told = [verdict(task) for task in watched(palace)]
    palace.ask("mempalace_event_ack", event_id=event, from_agent="worker", body="still at it")

    assert palace.ask("palace_task_stuck", verdicts=told) == {"tasks": []}
    assert listed(palace)[0]["state"] == "in_progress"


def test_a_deadline_ends_what_nobody_has_begun(palace: Palace) -> None:
    delegate(palace, "late", deadline_s=0)
    delegate(palace, "early", deadline_s=3600)
    told = [verdict(task, "overdue") for task in watched(palace)]

    assert palace.ask("palace_task_stuck", verdicts=told) == {"tasks": ["late"]}
    assert {one["id"]: one["state"] for one in listed(palace)} == {
        "late": "failed",
        "early": "queued",
    }


def foreign(seq: int, **fields: Any) -> dict[str, Any]:
    made = {"id": f"evt_{seq}", "type": "task.request", "from_agent": "far", "to_agent": "worker"}
    return {
        **ENVELOPE,
        **made,
        "correlation_id": "far_task",
        "status": "open",
        "created_at": "2026-11-30T00:00:00Z",
        "origin_replica": ELSEWHERE,
        "origin_seq": seq,
        "hlc": f"1783038849123-{seq:06}-{ELSEWHERE}",
        **fields,
    }


def test_another_palaces_events_are_shown_and_have_this_one_end_nothing(palace: Palace) -> None:
    asked = {"palace": {"silence_s": 60, "deadline_s": 1}}
    events = [
        foreign(1, metadata=asked),
        foreign(2, type="event.ack", status="claimed", from_agent="worker"),
        foreign(3, correlation_id=None, metadata={"palace": ["no object"]}),
    ]
    assert palace.ask("palace_mesh_fold", events=events, artifacts=[])["events"] == 3

    assert {one["id"]: one["state"] for one in listed(palace)} == {
        "far_task": "in_progress",
        "evt_3": "queued",
    }
    assert watched(palace) == []
    for why in ("silent", "overdue"):
        told = [verdict({"id": "far_task", "sign": "evt_2"}, why)]
        assert palace.ask("palace_task_stuck", verdicts=told) == {"tasks": []}


def test_a_worker_in_another_palace_is_not_judged_by_its_silence(palace: Palace) -> None:
    delegate(palace, silence_s=600)
    done = {"correlation_id": "task_1", "from_agent": "worker", "hlc": f"9{'0' * 12}-000000-x"}
    events = [foreign(1, type="event.ack", status="claimed", **done)]
    palace.ask("palace_mesh_fold", events=events, artifacts=[])

    assert [one["is_heard"] for one in watched(palace)] == [False]


def test_the_answer_is_the_fold_of_what_the_log_holds(palace: Palace) -> None:
    chance = random.Random(7)
    said = [
        ("patch.ready", "claimed"),
        ("task.reply", "open"),
        ("event.ack", "claimed"),
        ("patch.ready", "ready"),
        ("note.sent", ""),
        ("a.b", "failed"),
    ]
    for number in range(90):
        task = f"t{chance.randrange(30)}"
        kind, status = chance.choice([("task.request", "open"), *said])
        arguments = {**ENVELOPE, "type": kind, "correlation_id": task, "body": f"b{number}"}
        metadata = {"palace": {"deadline_s": 60}} if kind == "task.request" else {}
        given = {"status": status} if status else {}
        palace.ask("mempalace_event_append", **arguments, **given, metadata=metadata)
    events = [
        TaskEvent(
            id=ident,
            type=kind,
            task=task,
            agent=agent,
            status=status or "",
            at=at,
            hlc=hlc,
            origin=origin,
            body=body,
        )
        for ident, kind, task, agent, status, at, hlc, origin, body in palace.rows(
            "SELECT id, type, correlation_id, from_agent, status, created_at, hlc,"
            " origin_replica, body FROM events"
        )
    ]
    told = listed(palace)
    assert [one["id"] for one in told] == [one.id for one in fold(events)]
    assert [one["state"] for one in told] == [one.state for one in fold(events)]
    open_ones = {one.id for one in fold(events) if not one.is_final}
    assert {one["id"] for one in watched(palace)} == open_ones
    asked_for = palace.rows(_OPEN.replace("= ?", "= r.origin_replica"))
    # A second request may stand behind the end.
    assert {task for (task,) in asked_for} >= open_ones
    ended_first = {one.id for one in fold(events) if one.is_final}
    assert len({task for (task,) in asked_for} & ended_first) < 10, "few others"


def test_the_search_for_open_tasks_reads_no_whole_log(palace: Palace) -> None:
    delegate(palace)
    with closing(sqlite3.connect(palace.root / "logstream.sqlite3")) as connection:
        for query in (_OPEN, _OF_ONE, _OF_OPEN):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", ("x",)).fetchall()
            scans = [row[3] for row in plan if row[3].startswith("SCAN")]
            assert all("USING" in scan or scan == "SCAN some" for scan in scans), plan
