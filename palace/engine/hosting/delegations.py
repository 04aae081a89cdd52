"""What mempalace's log of events says of its tasks, and the event that ends one which is stuck.

Nothing is kept beside the log: each answer is folded from it (palace/protocol/delegations.py).
"""

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from palace.engine.stock import JsonObject, Logstream, Server
from palace.kernel.wall import wall_s
from palace.protocol import jsonrpc
from palace.protocol.decoding import decode_json
from palace.protocol.delegations import (
    AGENT,
    STUCK_EVENT,
    Delegation,
    TaskEvent,
    fold,
)
from palace.protocol.request import ToolCall
from palace.protocol.task_watch import Verdict, still_holds, watched_in

Arguments = Mapping[str, Any]
TOLD_MAX = 1000  # tasks in one answer, the newest
TASK = "COALESCE(correlation_id, CASE type WHEN 'task.request' THEN id END)"
_COLUMNS = (
    f"id, type, {TASK} AS task, from_agent, to_agent, status, created_at, hlc, origin_replica,"
    " substr(body, 1, 4096) AS body, metadata_json"
)
_ALL = (
    f"SELECT {_COLUMNS} FROM events WHERE type = 'task.request' OR correlation_id IN"  # noqa: S608
    " (SELECT COALESCE(correlation_id, id) FROM events WHERE type = 'task.request')"
)
_OF_ONE = f"SELECT {_COLUMNS} FROM events WHERE correlation_id = ?1 OR id = ?1"  # noqa: S608
# Without those that the fold would find to be over, so that it is asked for few.
_OPEN = (
    "SELECT DISTINCT COALESCE(r.correlation_id, r.id) AS task FROM events r"
    " WHERE r.type = 'task.request' AND r.origin_replica = ?"
    " AND instr(r.metadata_json, '\"palace\"')"
    " AND NOT EXISTS (SELECT 1 FROM events e"
    " WHERE e.correlation_id = COALESCE(r.correlation_id, r.id) AND e.type <> 'task.request'"
    " AND (COALESCE(e.hlc, ''), e.id) > (COALESCE(r.hlc, ''), r.id)"
    " AND (e.type = 'task.stuck'"
    " OR e.status IN ('ready', 'applied', 'failed', 'blocked', 'superseded')"
    " OR e.type IN ('patch.ready', 'task.reply') AND COALESCE(e.status, '') <> 'claimed'))"
)
# All events of some tasks.
OF_TASKS = (
    f"WITH some(task) AS ({{tasks}}) SELECT {_COLUMNS} FROM events"  # noqa: S608
    " WHERE correlation_id IN (SELECT task FROM some) OR id IN (SELECT task FROM some)"
)
_OF_OPEN = OF_TASKS.replace("4096", "0").format(tasks=_OPEN)  # what bodies say is not asked
# Where the log ends, in one look: events are never changed, and a call that is taken back takes its
# own away, whose number another one may be given then.
_END = (
    "SELECT COALESCE(max(rowid), 0) AS last, count(*) AS many,"
    " (SELECT id FROM events ORDER BY rowid DESC LIMIT 1) AS id FROM events"
)
_BETWEEN = "FROM events WHERE rowid > ? AND rowid <= ?"
_TOUCHED = f"SELECT DISTINCT {TASK} AS task {_BETWEEN}"


def answer_delegations(server: Server, call: ToolCall) -> JsonObject:
    """Return the reply to a call of one of `DELEGATIONS`.

    Raises what the store raises, and JournalFailed: nothing of the call is kept then.
    """
    told: JsonObject = {"tasks": []}
    if os.path.exists(f"{server._config.palace_path}/logstream.sqlite3"):  # noqa: SLF001
        told = server._call_logstream(  # noqa: SLF001
            lambda log: DELEGATIONS[call.name](log, call.arguments)
        )
    content = [{"type": "text", "text": json.dumps(told, ensure_ascii=False)}]
    return jsonrpc.result(call.id, {"content": content})


def _list(log: Logstream, arguments: Arguments) -> JsonObject:
    """Return the newest tasks, the oldest of them first; `states` are those that are asked for.

    `goal_chars` is how much of each goal is asked for.
    """
    states = arguments.get("states")
    found = fold(map(event_of, log._conn().execute(_ALL)))  # noqa: SLF001
    asked = [task for task in found if states is None or task.state in states]
    told = [attrs.asdict(task) for task in asked[-TOLD_MAX:]]
    for task in told:
        task["goal"] = task["goal"][: arguments.get("goal_chars")]
    return {"tasks": told, "more": len(asked) - len(told)}


def _watched(log: Logstream, arguments: Arguments) -> JsonObject:
    """Return the tasks of this palace's that are to be watched, as far as they have changed.

    `since` is what an earlier answer said of the log's `end`.  Where the log doesn't go on from
    there, or none is given, the answer is `whole`: it names all.
    """
    connection = log._conn()  # noqa: SLF001
    last, many, ident = connection.execute(_END).fetchone()
    end = {"last": last, "many": many, "id": ident}
    since = arguments.get("since")
    touched: set[str] = set()
    whole = since is None or not _goes_on(connection, since, end)
    if since is None or whole:
        tasks = fold(map(event_of, connection.execute(_OF_OPEN, (log.replica_id,))))
    else:
        found = connection.execute(_TOUCHED, (since["last"], last)).fetchall()
        touched = {row["task"] for row in found if row["task"]}
        tasks = [task for one in touched if (task := task_in(log, one)) is not None]
    watched = watched_in(tasks, log.replica_id)
    return {
        "tasks": [attrs.asdict(one) for one in watched],
        "gone": sorted(touched - {task.id for task in watched}),
        "end": end,
        "whole": whole,
    }


def _goes_on(connection: sqlite3.Connection, since: JsonObject, end: JsonObject) -> bool:
    """Tell whether the log has only grown since it ended so."""
    span = (since["last"], end["last"])
    (new,) = connection.execute(f"SELECT count(*) {_BETWEEN}", span).fetchone()
    row = connection.execute("SELECT id FROM events WHERE rowid = ?", span[:1]).fetchone()
    ident = row["id"] if row else None
    return bool(since["many"] + new == end["many"] and ident == since["id"])


def _end(log: Logstream, arguments: Arguments) -> JsonObject:
    """End the tasks of which a verdict is true still, each by one event to whoever asked for it.

    What is over, or has given a sign of life since, is left alone: so nothing ends twice.
    """
    ended = []
    for told in arguments["verdicts"]:
        verdict = Verdict(**told)
        task = task_in(log, verdict.id)
        if task is not None and still_holds(verdict, task, log.replica_id, wall_s()):
            _append(log, task, verdict)
            ended.append(verdict.id)
    return {"tasks": ended}


def _append(log: Logstream, task: Delegation, verdict: Verdict) -> None:
    query = "SELECT stream, room, topic, branch FROM events WHERE id = ?"
    row = log._conn().execute(query, (task.request,)).fetchone()  # noqa: SLF001
    log.append_event(
        type=STUCK_EVENT,
        stream=row["stream"],
        room=row["room"],
        topic=row["topic"],
        from_agent=AGENT,
        to_agent=task.caller,
        correlation_id=task.id,
        branch=row["branch"],
        status="failed",
        body=verdict.detail,
        metadata={"palace": {"why": verdict.why, "state": task.state, "worker": task.worker}},
    )


def task_in(log: Logstream, ident: str) -> Delegation | None:
    rows = log._conn().execute(_OF_ONE, (ident,))  # noqa: SLF001
    return next((task for task in fold(map(event_of, rows)) if task.id == ident), None)


def event_of(row: Mapping[str, Any]) -> TaskEvent:
    try:
        metadata = decode_json(row["metadata_json"])
    except (ValueError, TypeError):  # it was written past mempalace
        metadata = {}
    return TaskEvent(
        id=row["id"],
        type=_text(row["type"]),
        task=_text(row["task"]),
        agent=_text(row["from_agent"]),
        to=_text(row["to_agent"]),
        status=_text(row["status"]),
        at=_text(row["created_at"]),
        hlc=_text(row["hlc"]),
        origin=_text(row["origin_replica"]),
        body=_text(row["body"]),
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _text(value: object) -> str:
    """Return what is a text; whatever else stands there says nothing, and stops nobody."""
    return value if isinstance(value, str) else ""


DELEGATIONS: Mapping[str, Callable[[Logstream, Arguments], JsonObject]] = {
    "palace_delegation_list": _list,
    "palace_task_list": _list,
    "palace_task_watched": _watched,
    "palace_task_stuck": _end,
}
