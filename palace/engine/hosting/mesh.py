"""Stock's mesh, as far as the store goes: what is told to peers, and what is taken over of theirs.

Stock answers its peers and pulls from them in its own HTTP server (mempalace 3.11:
mcp_server/http.py, logsync.py).  Here the broker does both, and each look at the log of events is a
call like any other: what peers are shown is durable (palace/engine/durability/calls.py), and what
is taken over is one group of the journal.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from palace.engine.stock import JsonObject, Logstream, Server
from palace.engine.stores.rows import WatchedConnection
from palace.protocol import jsonrpc
from palace.protocol.mesh import PAGE_EVENTS, SERVED_BYTES
from palace.protocol.request import ToolCall

Arguments = Mapping[str, Any]
TAIL_EVENTS = 100
_FILTERS = (
    *("stream", "room", "topic", "type", "to_agent", "from_agent", "correlation_id", "status"),
)


def answer_mesh(server: Server, call: ToolCall) -> JsonObject:
    """Return the reply to a call of `protocol.tools.MESH_TOOLS`; what stock refuses is said in it.

    Raises what the store raises, and JournalFailed: nothing of the call is kept then.
    """
    try:
        told = _ANSWERS[call.name](server, call.arguments)
    except ValueError as error:
        told = {"problem": str(error)[:1000]}
    text = json.dumps(told, ensure_ascii=False)
    return jsonrpc.result(call.id, {"content": [{"type": "text", "text": text}]})


def _vector(server: Server, _arguments: Arguments) -> JsonObject:
    def read(log: Logstream) -> JsonObject:
        return {"replica_id": log.replica_id, "version_vector": log.version_vector()}

    told: JsonObject = server._call_logstream(read)  # noqa: SLF001
    return told


def _profile(server: Server, _arguments: Arguments) -> JsonObject:
    return {
        "profile": server._node_profile(),  # noqa: SLF001
        "profiles": server._known_profiles_snapshot(),  # noqa: SLF001
    }


def _ops(server: Server, arguments: Arguments) -> JsonObject:
    """Return a page of an author's events; never so much at once that it fills the memory."""
    origin, after, limit = (arguments.get(name) for name in ("origin", "after", "limit"))
    if isinstance(limit, int):
        limit = min(limit, PAGE_EVENTS)
    events = server._call_logstream(  # noqa: SLF001
        lambda log: log.list_ops(origin, after_seq=after, limit=limit)
    )
    kept: list[JsonObject] = []
    size = 0
    for event in events:
        size += len(json.dumps(event, ensure_ascii=False))
        if kept and size > SERVED_BYTES:
            break
        kept.append(event)
    return {"origin": origin, "events": kept, "count": len(kept)}


def _artifact(server: Server, arguments: Arguments) -> JsonObject:
    ident = arguments.get("id")
    return {"artifact": server._call_logstream(lambda log: log.get_artifact(ident))}  # noqa: SLF001


def _lacking(server: Server, arguments: Arguments) -> JsonObject:
    """Return which of these artifacts are not here."""

    def read(log: Logstream) -> list[str]:
        return [ident for ident in arguments["ids"] if not log.has_artifact(ident)]

    return {"ids": server._call_logstream(read)}  # noqa: SLF001


def _peers(server: Server, _arguments: Arguments) -> JsonObject:
    return server._mesh_peers_payload()  # noqa: SLF001


def _latest(server: Server, _arguments: Arguments) -> JsonObject:
    return {"id": server._call_logstream(lambda log: log.latest_event_id())}  # noqa: SLF001


def _tail(server: Server, arguments: Arguments) -> JsonObject:
    """Return the events behind one, "" for the first, that fit the filters."""
    filters = {name: arguments.get(name) or None for name in _FILTERS}
    since = arguments.get("since") or None

    def read(log: Logstream) -> list[JsonObject]:
        return log.list_events(since_event_id=since, limit=TAIL_EVENTS, **filters)

    return {"events": server._call_logstream(read)}  # noqa: SLF001


def _fold(server: Server, arguments: Arguments) -> JsonObject:
    """Take over artifacts, and then events in the order in which they are given.

    What can't be taken ends it: what came before is kept, and nothing that comes after.
    """
    told: JsonObject = {"artifacts": 0, "events": 0}

    def fold(log: Logstream) -> None:
        connection = log._conn()  # noqa: SLF001
        if isinstance(connection, WatchedConnection):
            try:
                with connection.together():  # else each event costs two fsyncs
                    _apply(log, arguments, told)
                return
            except ValueError:  # taken back, all of it: it is found out which is to blame
                pass
        _apply(log, arguments, told)

    try:
        server._call_logstream(fold)  # noqa: SLF001
    except ValueError as error:
        told["problem"] = str(error)[:1000]
    return told


def _apply(log: Logstream, arguments: Arguments, told: JsonObject) -> None:
    told["artifacts"] = told["events"] = 0
    for artifact in arguments["artifacts"]:
        told["artifacts"] += log.apply_remote_artifact(artifact)
    for event in arguments["events"]:
        told["events"] += log.apply_remote_event(event)


def _note(server: Server, arguments: Arguments) -> JsonObject:
    """Note how the peers are, where stock's processes look: mempalace_mesh_peers tells it."""
    for stats in arguments["rounds"]:
        server._record_peer_sync(stats)  # noqa: SLF001
    server._publish_mesh_state(arguments["palace"])  # noqa: SLF001
    return {}


_ANSWERS: Mapping[str, Callable[[Server, Arguments], JsonObject]] = {
    "palace_mesh_vector": _vector,
    "palace_mesh_profile": _profile,
    "palace_mesh_ops": _ops,
    "palace_mesh_artifact": _artifact,
    "palace_mesh_lacking": _lacking,
    "palace_mesh_peers": _peers,
    "palace_mesh_latest": _latest,
    "palace_mesh_cursor": _latest,
    "palace_mesh_tail": _tail,
    "palace_mesh_fold": _fold,
    "palace_mesh_note": _note,
}
