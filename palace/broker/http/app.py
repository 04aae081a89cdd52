"""What is served on loopback: /healthz, /mcp and /metrics.

`POST /mcp` speaks to two kinds of clients.  Stock's (its command line, its hooks, `mempalace-mcp`)
send one JSON-RPC line without a session and take JSON.  MCP hosts follow the streamable HTTP
transport (2025-03-26, 2025-06-18): `initialize` opens a session, whose id they then show.  What
sets them apart is that the latter accept an event stream; a reply that takes long comes as one, so
that its client sees that somebody is there.

Requests from web pages are refused: by Host, which a page can't choose even where its name was
made to lead here, by Origin, and by the token, which only the palace's user can read.
"""

import hmac
import logging
from collections import Counter
from urllib.parse import urlsplit

import attrs
import trio

from palace.broker.desk import Desk
from palace.broker.http.exchange import EVENTS, JSON, TEXT, Exchange, Gone, Refused
from palace.broker.http.sessions import HttpSessions, Visitor
from palace.broker.telemetry.metrics import CONTENT_TYPE, metrics_text
from palace.protocol import jsonrpc
from palace.protocol.errors import PalaceError
from palace.settings.environment import is_true
from palace.transport.http import Receive, Scope, Send
from palace.transport.pending import Posted

SWIFT_S = 2.0  # a reply within it comes as plain JSON
BEAT_S = 15.0
HOSTS = ("127.0.0.1", "localhost", "[::1]")
INITIALIZE_BYTES_MAX = 65_536
_UNREADABLE = jsonrpc.encode(jsonrpc.error(None, jsonrpc.PARSE_ERROR, "Parse error"))

logger = logging.getLogger("palace.http")


@attrs.define(eq=False, kw_only=True)
class HttpApp:
    """The ASGI application.  `token` is what clients show."""

    desk: Desk
    sessions: HttpSessions
    token: str
    port: int
    answers: Counter[int]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})  # which Hypercorn answers with 403
            return
        exchange = Exchange(scope, receive, send, self.answers)
        try:
            await self._route(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except Gone:
            logger.debug("a client hung up in the middle of its request")

    async def _route(self, exchange: Exchange) -> None:
        self._check_origin(exchange)
        if exchange.path == "/healthz":
            _check_method(exchange, "GET")
            await exchange.answer(200, b"ok\n", TEXT)
            return
        self._check_token(exchange)
        if exchange.path == "/metrics":
            _check_method(exchange, "GET")
            await exchange.answer(200, metrics_text(self.desk).encode(), CONTENT_TYPE)
        elif exchange.path == "/mcp":
            _check_method(exchange, "POST", "DELETE")
            await (self._post(exchange) if exchange.method == "POST" else self._delete(exchange))
        else:
            raise Refused(404, "There is /mcp, /metrics and /healthz.")

    # Who asks?

    def _check_origin(self, exchange: Exchange) -> None:
        """Refuse web pages: a name that was made to lead here is no loopback address."""
        names = {name for host in HOSTS for name in (host, f"{host}:{self.port}")}
        if exchange.header("host").lower() not in names:
            raise Refused(403, f"This Host is not served: ask for 127.0.0.1:{self.port}.")
        origin = exchange.header("origin")
        if origin and _host_of(origin) not in {host.strip("[]") for host in HOSTS}:
            raise Refused(403, "Pages of this Origin are not served.")

    def _check_token(self, exchange: Exchange) -> None:
        shown = exchange.header("authorization").encode("latin-1")
        if not hmac.compare_digest(shown, f"Bearer {self.token}".encode()):
            text = (
                "Show the palace's token (Authorization: Bearer ...): palace status names its file."
            )
            raise Refused(401, text, www_authenticate="Bearer")
        exchange.visit.admitted = True

    # The MCP endpoint.

    async def _post(self, exchange: Exchange) -> None:
        if not exchange.accepts(JSON) and not exchange.accepts(EVENTS):
            raise Refused(406, f"Answers are {JSON} or {EVENTS}.")
        body = await exchange.body(self.desk.config.line_bytes_max)
        if not body.strip():
            await exchange.answer(400, _UNREADABLE)
            return
        try:
            visitor = self._visitor(exchange, body)
            posted = self.sessions.post(visitor, body)
        except PalaceError as problem:
            await exchange.answer(200, _failure(body, problem))
            return
        await self._deliver(exchange, visitor, posted, body)

    def _visitor(self, exchange: Exchange, body: bytes) -> Visitor:
        """Return whose request it is; raises Draining or Busy."""
        self._check_version(exchange)
        ident = exchange.header("mcp-session-id")
        if ident:
            return self._named(ident)
        begins = EVENTS in exchange.header("accept") and _is_initialize(body)
        return self.sessions.open(
            client=exchange.header("user-agent")[:100],
            read_only=is_true(exchange.header("palace-read-only")),
            lasting=begins,
        )

    def _named(self, ident: str) -> Visitor:
        visitor = self.sessions.lasting.get(ident)
        if visitor is None:
            raise Refused(404, "This session has ended: begin anew with initialize.")
        return visitor

    def _check_version(self, exchange: Exchange) -> None:
        version = exchange.header("mcp-protocol-version")
        catalogue = self.desk.catalogue
        if version and catalogue is not None and version not in catalogue.protocol_versions:
            known = ", ".join(catalogue.protocol_versions)
            raise Refused(400, f"MCP-Protocol-Version {version[:40]!r} is not spoken; {known} are.")

    async def _delete(self, exchange: Exchange) -> None:
        ident = exchange.header("mcp-session-id")
        if not ident:
            raise Refused(400, "Name the session to end: Mcp-Session-Id.")
        self.sessions.end(self._named(ident))
        await exchange.answer(204)

    # Replies.

    async def _deliver(
        self, exchange: Exchange, visitor: Visitor, posted: Posted, body: bytes
    ) -> None:
        """Send the reply as soon as there is one, in a way that its client takes."""
        headers = {}
        if visitor.lasting and not exchange.header("mcp-session-id"):
            headers["mcp_session_id"] = visitor.session.id
        plain = exchange.accepts(JSON)
        patience_s = SWIFT_S if EVENTS in exchange.header("accept") else float("inf")
        try:
            if await _answered(exchange, posted, patience_s if plain else 0.0) and plain:
                payload = _payload(posted, body)
                status = 400 if payload == _UNREADABLE else 200 if payload else 202
                await exchange.answer(status, payload, **headers)
            else:
                await exchange.start_events(**headers)
                while not await _answered(exchange, posted, BEAT_S):
                    await exchange.beat()
                await exchange.last_event(_payload(posted, body))
        except Gone:
            self.sessions.give_up(visitor, posted)
            raise
        self.sessions.settle(visitor)


async def _answered(exchange: Exchange, posted: Posted, patience_s: float) -> bool:
    """Wait for a reply and tell whether it came; raises Gone where the client hangs up before."""
    gone = False

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal gone
        await exchange.hung_up()
        gone = True
        scope.cancel()

    with trio.move_on_after(patience_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            await posted.answered.wait()
            nursery.cancel_scope.cancel()
    if gone and not posted.answered.is_set():
        raise Gone
    return posted.answered.is_set()


def _payload(posted: Posted, body: bytes) -> bytes:
    return posted.payload if posted.problem is None else _failure(body, posted.problem)


def _failure(body: bytes, problem: PalaceError) -> bytes:
    """Return the reply that tells of one of our own errors, nothing where none is expected."""
    message = _parsed(body)
    ident = jsonrpc.request_id(message)
    expected = ident is not None or not isinstance(message, dict)
    return jsonrpc.encode(jsonrpc.failure(ident, problem)) if expected else b""


def _is_initialize(body: bytes) -> bool:
    if len(body) > INITIALIZE_BYTES_MAX or b"initialize" not in body:
        return False
    return jsonrpc.method_of(_parsed(body)) == "initialize"


def _parsed(body: bytes) -> object:
    try:
        return jsonrpc.parse(body)
    except (ValueError, RecursionError, MemoryError):
        return None


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _check_method(exchange: Exchange, *methods: str) -> None:
    if exchange.method not in methods:
        raise Refused(405, f"{exchange.path} takes {', '.join(methods)}.", allow=", ".join(methods))
