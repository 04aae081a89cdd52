"""palace's own tools for tasks, carried out by what stock's own do: nothing else writes its log."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from palace.engine.hosting.delegations import OF_TASKS, TASK, event_of, task_in
from palace.engine.stock import JsonObject, Logstream, Server
from palace.protocol.delegating import (
    Arguments,
    Listing,
    Order,
    Sign,
    Speaker,
    listing,
    ordered,
    refusal_of_sign,
    signed,
)
from palace.protocol.delegations import Delegation, fold
from palace.protocol.errors import InvalidMemory
from palace.protocol.request import ToolCall

LOOKED_AT = 1000  # tasks of a listing, the newest: more would keep others waiting
_NEWEST = (
    f"SELECT {TASK} FROM events WHERE type = 'task.request'"  # noqa: S608
    " AND (?1 = '' OR from_agent = ?1 OR to_agent = ?1) ORDER BY created_at DESC LIMIT ?2"
)
_LISTED = OF_TASKS.format(tasks=_NEWEST)


def answer_delegating(server: Server, call: ToolCall, speaker: Speaker) -> JsonObject:
    """Return what a call of one of `protocol.delegating.TASK_TOOLS` tells.

    Raises InvalidMemory and Forbidden, and then nothing was done; and what the store raises.
    """
    asked = _ASKED[call.name]
    try:
        return asked(server, call.arguments, speaker)
    except ValueError as error:  # stock's word, as of a base commit that is a branch
        raise InvalidMemory(str(error)[:500]) from None


def _delegate(server: Server, arguments: Arguments, speaker: Speaker) -> JsonObject:
    order = ordered(arguments, speaker)
    told: JsonObject = server._call_logstream(lambda log: _asked_once(log, order))  # noqa: SLF001
    return told


def _asked_once(log: Logstream, order: Order) -> JsonObject:
    """Ask for a task, unless it was asked for before under its name.

    The writer's lane runs one change at a time, so that nobody else asks for it in between.
    """
    tasks = importlib.import_module("mempalace.tasks")
    known = task_in(log, order.id) if order.id else None
    if known is not None:
        if known.caller != order.caller:
            raise InvalidMemory(f"the id {order.id} is another task's: choose another")
        return _told(known, existing=True, handoff=tasks.task_handoff(known.id, known.callee))
    made = tasks.create_task(
        _Envelope(log, order),
        project=order.project,
        from_agent=order.caller,
        to_agent=order.callee,
        goal=order.goal,
        branch=order.branch,
        base_commit=order.base_commit,
        done=order.done,
    )["task"]
    ident = made["correlation_id"]
    task = task_in(log, ident)
    assert task is not None, "it was just asked for"
    return _told(task, existing=False, handoff=tasks.task_handoff(ident, order.callee))


@attrs.frozen
class _Envelope:
    """The log as stock's `create_task` writes to it, which takes neither an id nor metadata."""

    log: Logstream
    order: Order

    def append_event(self, **fields: Any) -> JsonObject:
        ident = self.order.id or fields["correlation_id"]
        given = {**fields, "correlation_id": ident, "metadata": self.order.metadata}
        return self.log.append_event(**given)


def _heartbeat(server: Server, arguments: Arguments, speaker: Speaker) -> JsonObject:
    sign = signed(arguments, speaker)
    told: JsonObject = server._call_logstream(  # noqa: SLF001
        lambda log: _noted(log, sign, speaker)
    )
    return told


def _noted(log: Logstream, sign: Sign, speaker: Speaker) -> JsonObject:
    task = task_in(log, sign.id)
    why = refusal_of_sign(sign, task, speaker)
    if why or task is None:
        raise InvalidMemory(why)
    is_known = sign.status == "claimed" and task.worker == sign.agent and not sign.note
    if task.is_final or sign.says_nothing or is_known:
        return _told(task)
    log.ack_event(task.request, from_agent=sign.agent, status=sign.status or None, body=sign.note)
    changed = task_in(log, sign.id)
    assert changed is not None, "events are never taken away"
    return _told(changed)


def _list(server: Server, arguments: Arguments, speaker: Speaker) -> JsonObject:
    asked = listing(arguments, speaker)
    found: JsonObject = server._call_logstream(  # noqa: SLF001
        lambda log: _one(log, asked, speaker) if asked.id else _some(log, asked, speaker)
    )
    return found


def _one(log: Logstream, asked: Listing, speaker: Speaker) -> JsonObject:
    """Return a task with the whole of what is asked for."""
    task = task_in(log, asked.id)
    if task is None or not speaker.sees(task):
        raise InvalidMemory(f"there is no task {asked.id} of yours")
    query = "SELECT body FROM events WHERE id = ?"
    row = log._conn().execute(query, (task.request,)).fetchone()  # noqa: SLF001
    return {"tasks": [{**attrs.asdict(task), "goal": row["body"]}], "more": False}


def _some(log: Logstream, asked: Listing, speaker: Speaker) -> JsonObject:
    rows = log._conn().execute(_LISTED, (asked.agent, LOOKED_AT))  # noqa: SLF001
    found = [
        task
        for task in fold(map(event_of, rows))
        if speaker.sees(task) and (not asked.states or task.state in asked.states)
    ]
    told = found[-asked.limit :]
    return {"tasks": [attrs.asdict(task) for task in told], "more": len(found) > len(told)}


def _told(task: Delegation, **more: object) -> JsonObject:
    return {"task": attrs.asdict(task), "is_over": task.is_final, **more}


_ASKED: Mapping[str, Callable[[Server, Arguments, Speaker], JsonObject]] = {
    "palace_delegate": _delegate,
    "palace_heartbeat": _heartbeat,
    "palace_delegations": _list,
}
