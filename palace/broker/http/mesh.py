"""What stock's hub serves besides /mcp: `/sync/*` for peers, `/logstream/stream`, `/statusz`.

Answers are stock's (mempalace 3.11: mcp_server/http.py), which its peers and its viewers read.
Whoever shows the token that peers are given gets these paths and nothing else; the palace's owner
gets them, too.  They are there while the palace is in the mesh (palace/broker/mesh/part.py).
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

import attrs
import trio

from palace.broker.http.exchange import JSON, Exchange, Gone, Refused
from palace.broker.http.sessions import HttpSessions, Use
from palace.broker.http.waiting import answered
from palace.broker.mesh.asking import call_of, told_apart
from palace.broker.state import BrokerState
from palace.protocol import wire
from palace.protocol.errors import PalaceError
from palace.protocol.lifecycle import EngineState
from palace.protocol.mesh import SEQ_MAX

SYNC, STREAM, STATUS = "/sync/", "/logstream/stream", "/statusz"
RETRY_S = "5"
POLL_S = 0.5  # between two looks for new events, as stock's
PING_S = 15.0
QUERY_BYTES_MAX = 8192
_FILTERS = (
    *("stream", "room", "topic", "type", "to_agent", "from_agent", "correlation_id", "status"),
)


def is_mesh_path(path: str) -> bool:
    """Tell whether a path is one of these."""
    return path.startswith(SYNC) or path in (STREAM, STATUS)


@attrs.define(eq=False, kw_only=True)
class MeshPages:
    """Answers what `is_mesh_path` says; whoever asks has been let in."""

    state: BrokerState
    sessions: HttpSessions
    port: int

    async def serve(self, exchange: Exchange) -> None:
        """Answer a request; raises Refused and Gone."""
        if exchange.method != "GET":
            raise Refused(405, "This path takes GET.", allow="GET")
        await exchange.body(0)  # which a GET has none of
        if exchange.path == STATUS:
            await _tell(exchange, 200, _status_of(self.state, self.port))
            return
        if self.state.lifecycle.engine is not EngineState.READY:
            raise Refused(503, "The palace is being opened. Ask again.", retry_after=RETRY_S)
        query = _query_of(exchange)
        if exchange.path == STREAM:
            await Tail(pages=self, exchange=exchange, query=query).serve()
            return
        try:
            await self._sync(exchange, query)
        except PalaceError as problem:
            raise Refused(503, problem.message, retry_after=RETRY_S) from None

    async def _sync(self, exchange: Exchange, query: Mapping[str, str]) -> None:
        page = exchange.path.removeprefix(SYNC)
        if page == "version_vector":
            told = await self.ask(exchange, "palace_mesh_vector")
            told |= await self.ask(exchange, "palace_mesh_profile")
        elif page == "ops":
            after, limit = _number(query, "after", 0), _number(query, "limit", 500)
            origin = query.get("origin", "")
            told = await self.ask(
                exchange, "palace_mesh_ops", origin=origin, after=after, limit=limit
            )
        elif page == "artifact":
            told = await self.ask(exchange, "palace_mesh_artifact", id=query.get("id", ""))
            if told.get("artifact", told) is None:
                text = f"artifact {query.get('id', '')!r} not found"
                await _tell(exchange, 404, {"error": text})
                return
        elif page == "peers":
            told = await self.ask(exchange, "palace_mesh_peers")
        else:
            raise Refused(404, f"There is no such page below {SYNC}.")
        problem = told.get("problem")
        await _tell(exchange, 400 if problem else 200, {"error": problem} if problem else told)

    async def ask(self, exchange: Exchange, tool: str, **arguments: object) -> dict[str, Any]:
        """Return what a tool says; raises PalaceError, and Gone where the client hangs up."""
        client = exchange.header("user-agent")[:100]
        party = exchange.connection.party
        session = self.sessions.open(client=client, token="", use=Use.PEER, party=party)
        pending = self.sessions.post(session, call_of(tool, arguments))
        try:
            await answered(exchange, pending, float("inf"))
        except Gone:
            self.sessions.give_up(session, pending)
            raise
        self.sessions.settle(session)
        if pending.problem is not None:
            raise pending.problem
        return await told_apart(pending.payload)


@attrs.define(eq=False, kw_only=True)
class Tail:
    """One stream of events: those behind a cursor, and then those that come."""

    pages: MeshPages
    exchange: Exchange
    query: Mapping[str, str]
    _cursor: str = ""
    _seen: object = None  # the newest event at the last look

    async def serve(self) -> None:
        """Send events until the client hangs up or the broker leaves; raises Refused and Gone."""
        part = self.pages.state.mesh
        try:
            await self._begin()
        except PalaceError as problem:
            raise Refused(503, problem.message, retry_after=RETRY_S) from None
        if part.streams >= part.streams_max:
            text = f"{part.streams_max} streams are open, as many as may be."
            raise Refused(503, text, retry_after=RETRY_S)
        part.streams += 1
        try:
            await self.exchange.start_events(x_accel_buffering="no")
            await self._follow()
        except PalaceError:
            return  # its client comes again, with the last event that it has seen
        finally:
            part.streams -= 1

    async def _begin(self) -> None:
        """Find where to begin, and refuse what can't be followed before anything is promised."""
        since = self.query.get("since_event_id") or self.exchange.header("last-event-id")
        if not since:
            # Where no change is half done: an event that a death takes back is nobody's cursor.
            self._seen = (await self._ask("palace_mesh_cursor"))["id"]
        self._cursor = since or str(self._seen or "")
        told = await self._read()
        if told.get("problem"):
            raise Refused(400, str(told["problem"]))

    async def _read(self) -> dict[str, Any]:
        filters = {name: self.query[name] for name in _FILTERS if name in self.query}
        return await self._ask("palace_mesh_tail", since=self._cursor, **filters)

    async def _ask(self, tool: str, **arguments: object) -> dict[str, Any]:
        return await self.pages.ask(self.exchange, tool, **arguments)

    async def _follow(self) -> None:
        """Look for what is new; read it only where anything is."""
        seen: object = None
        told_s = trio.current_time()
        while self.pages.state.lifecycle.drain is None:
            newest = (await self._ask("palace_mesh_latest"))["id"]
            if newest != seen:
                told = await self._read()
                if told.get("problem"):
                    break  # its cursor is gone: its client is told so when it comes again
                events = told["events"]
                for event in events:
                    await self._send(event)
                    told_s = trio.current_time()
                if events:
                    continue  # there may be more than a page
                seen = newest
            if trio.current_time() - told_s >= PING_S:
                await self.exchange.beat()
                told_s = trio.current_time()
            with trio.move_on_after(POLL_S):
                await self.pages.state.leaving.begun.wait()
        await self.exchange.last_event(b"")

    async def _send(self, event: Mapping[str, Any]) -> None:
        self._cursor = str(event["id"])
        data = json.dumps(event, ensure_ascii=False)
        frame = f"id: {event['id']}\nevent: logstream\ndata: {data}\n\n"
        await self.exchange.frame(frame.encode("utf-8", "backslashreplace"))


def _query_of(exchange: Exchange) -> dict[str, str]:
    if len(exchange.query) > QUERY_BYTES_MAX:
        raise Refused(414, f"A query has at most {QUERY_BYTES_MAX} bytes.")
    return dict(parse_qsl(exchange.query.decode("latin-1")))


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    try:
        return wire.whole_number(query.get(name) or str(default), most=SEQ_MAX)
    except ValueError:
        raise Refused(400, f"{name} is no number.") from None


async def _tell(exchange: Exchange, status: int, told: Mapping[str, Any]) -> None:
    text = await trio.to_thread.run_sync(_encoded, told)
    await exchange.answer(status, text, JSON, cache_control="no-store")


def _encoded(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _status_of(state: BrokerState, port: int) -> dict[str, Any]:
    """Return what stock's /statusz says, as far as it can be said of a broker; no client is named.

    Stock's own check of a database is not made here: palace's are what `palace doctor` tells.
    """
    services, telemetry = state.services, state.telemetry
    up_s = trio.current_time() - telemetry.started_s
    version = services.catalogue.engine_version if services.catalogue is not None else ""
    counters = telemetry.http
    answers = counters.answers if counters is not None else {}
    is_ready = state.lifecycle.engine is EngineState.READY
    return {
        "ok": is_ready and not state.lifecycle.failure,
        "server": {
            "name": "palace",
            "version": version,
            "transport": "http",
            "scheme": "http",
            "bind_host": "127.0.0.1",
            "port": port,
            "started_at": telemetry.since,
            "uptime_seconds": round(up_s, 3),
        },
        "palace": {
            "path_hash": sha256(services.ownership.paths.root.encode()).hexdigest()[:16],
            "backend": services.backend,
            "sqlite_integrity": {"checked": False, "ok": None},
        },
        "writer": {
            "read_only": False,
            "peer_writer_read_only": False,
            "peer_writer_lock_failed": False,
        },
        "requests": {
            "total": sum(answers.values()),
            "by_status": {str(status): many for status, many in answers.items()},
        },
        "clients": {"active_window_seconds": 120.0, "active": [], "recent": []},
    }
