"""`/v1`: the memory contract (contract/memory-plugin-v1.yaml), for clients that speak no MCP.

Each operation is a tool call of a session of its own, through admission and the gate like any
other: fair, journalled, exactly once.  There is no second way to the store.  Here it is only found
which operation a request asks for, and said in the contract's own words what became of it.

It is served where the palace's owner uses it (`is_served`): to everybody else there is no such
path.
"""

import json
import logging
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import attrs
import trio

from palace.broker.http.exchange import JSON, Exchange, Gone, Refused
from palace.broker.http.sessions import HttpSession, HttpSessions, Use
from palace.broker.http.waiting import answered
from palace.broker.state import BrokerState
from palace.protocol.decoding import decode_json, decode_json_exact
from palace.protocol.errors import Forbidden, OutcomeUnknown, PalaceError, TooLarge
from palace.protocol.lifecycle import EngineState
from palace.protocol.principals import UNKNOWN_PRINCIPAL
from palace.protocol.request import ToolCall, tool_call
from palace.protocol.weight import SHORT_BYTES, has_too_many_values, is_light
from palace.transport.pending import PendingRequest

PREFIX = "/v1/"
VERSION = "1.0.0"  # of the contract
BODY_BYTES_MAX = 2 << 20
RETRY_S = "5"
CODES = {  # the contract's, by HTTP's statuses
    401: "forbidden",
    403: "forbidden",
    404: "not_found",
    500: "internal",
    503: "unavailable",
}
STATUSES = {  # of a call that was not answered by its tool; for all others 503
    Forbidden.wire_code: 403,
    TooLarge.wire_code: 413,
    OutcomeUnknown.wire_code: 500,
}
_ROUTES = {  # by how many segments a path has, and what stands first
    (1, "health"): {"GET": ""},
    (2, "namespaces"): {
        "PUT": "palace_v1_put_namespace",
        "PATCH": "palace_v1_patch_namespace",
        "DELETE": "palace_v1_delete_namespace",
    },
    (3, "namespaces"): {"POST": "palace_v1_commit"},
    (1, "search"): {"POST": "palace_v1_search"},
    (2, "memories"): {"DELETE": "palace_v1_forget"},
}
_WITHOUT_BODY = ("", "palace_v1_delete_namespace")
_PARSING = trio.CapacityLimiter(1)

logger = logging.getLogger("palace.http")


def is_served(state: BrokerState) -> bool:
    """Tell whether the contract is served: to programs that have a token, or if so set.

    Also while there is what such programs have left, so that they can delete it; and where who
    has a token can't be known now, so that they are told to ask again (503).
    """
    services = state.services
    wanted = services.config.memory_contract
    if wanted == "auto":
        tree = services.engine.workspaces()
        if tree is None:
            return services.kernel.file_id(services.ownership.paths.register) is not None
        return bool(tree.workspaces or tree.plugins or tree.spaces)
    return wanted == "on"


@attrs.frozen(kw_only=True)
class Asked:
    """What a request asks for; `tool` is "" for the server's health."""

    tool: str
    name: str = ""
    ident: str = ""


def asked_by(exchange: Exchange) -> Asked:
    """Return what a request asks for; raises Refused.

    By its path as it came: a slash that is written as %2F belongs to a name.
    """
    parts = [_decoded(part) for part in exchange.raw_path.split(b"/")[2:]]
    methods = _ROUTES.get((len(parts), parts[0])) if parts else None  # /v1%2Fhealth has none
    if methods is None or (len(parts) == 3 and parts[2] != "memories"):
        raise Refused(404, f"There is no such path below {PREFIX}.")
    if exchange.method not in methods:
        allowed = ", ".join(methods)
        raise Refused(405, f"This path takes {allowed}.", allow=allowed)
    name = parts[1] if len(parts) > 1 else ""
    if len(parts) > 1 and not name:
        raise Refused(404, "The name is empty.")
    is_memory = parts[0] == "memories"
    return Asked(
        tool=methods[exchange.method],
        name="" if is_memory else name,
        ident=name if is_memory else "",
    )


def _decoded(part: bytes) -> str:
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise Refused(400, "The path is not UTF-8.") from None


@attrs.define(eq=False, kw_only=True)
class Contract:
    """Answers requests below `/v1/`, whichever door they have come by."""

    state: BrokerState
    sessions: HttpSessions

    async def serve(self, exchange: Exchange, check: Callable[[Exchange], None]) -> None:
        """Answer a request; `check` raises Refused for whoever may not ask, and admits others."""
        try:
            check(exchange)
            await self._serve(exchange)
        except Refused as refused:
            await _refuse(exchange, refused)

    async def _serve(self, exchange: Exchange) -> None:
        # First, whatever is asked: a client that is still sending would not read why it is refused.
        raw = await exchange.body(BODY_BYTES_MAX)
        asked = asked_by(exchange)
        if not asked.tool:
            await self._health(exchange)
            return
        body = None
        if asked.tool not in _WITHOUT_BODY:
            body = await _parsed_apart(raw)
        if self.state.lifecycle.engine is not EngineState.READY or self._trouble:
            raise _unavailable(self._trouble or "Memories are being opened. Ask again.")
        arguments = {"name": asked.name, "id": asked.ident, "body": body}
        params = {"name": asked.tool, "arguments": arguments}
        call = tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        await self._ask(exchange, call)

    async def _ask(self, exchange: Exchange, call: ToolCall) -> None:
        try:
            session = self.sessions.open(
                client=exchange.header("user-agent")[:100],
                token=exchange.token,
                use=Use.CONTRACT,
                party=exchange.connection.party,
            )
            pending = self.sessions.post(session, call)
        except PalaceError as problem:  # full, or leaving
            raise _unavailable(problem.message) from None
        await self._wait(exchange, session, pending)
        self.sessions.settle(session)
        if pending.problem is not None:
            raise _failed(pending.problem.wire_code, pending.problem.message)
        await _tell(exchange, pending.payload)

    async def _wait(
        self, exchange: Exchange, session: HttpSession, pending: PendingRequest
    ) -> None:
        try:
            await answered(exchange, pending, float("inf"))
        except Gone:
            self.sessions.give_up(session, pending)
            raise

    async def _health(self, exchange: Exchange) -> None:
        """Say what can be done now; without a store nothing can, and that is an error as well."""
        told: dict[str, object] = {"status": "degraded", "version": VERSION, "capabilities": []}
        if self._trouble:
            told |= {"code": CODES[503], "message": self._trouble}
            await exchange.answer(503, json.dumps(told).encode(), retry_after=RETRY_S)
            return
        searches = self._searches()
        told["status"] = "ok" if searches else "degraded"
        told["capabilities"] = [*sorted(searches), "ttl", "pin", "propagation"]
        await exchange.answer(200, json.dumps(told).encode())

    def _searches(self) -> frozenset[str]:
        """Return by what memories are found now: nothing is without the model."""
        engine = self.state.services.engine
        is_ready = self.state.lifecycle.engine is EngineState.READY
        model = engine.model()
        return engine.searches() if is_ready and not (model.pending or model.text) else frozenset()

    @property
    def _trouble(self) -> str:
        """Say why memories can't be had, "" where they can, or could in a moment."""
        lifecycle = self.state.lifecycle
        if lifecycle.engine in (EngineState.WAITING, EngineState.FAILED):
            return lifecycle.waiting or lifecycle.failure or "The palace's store can't be opened."
        is_ready = lifecycle.engine is EngineState.READY
        if is_ready and self.state.services.engine.workspaces() is None:
            return UNKNOWN_PRINCIPAL  # nor can anybody's namespaces be known
        return ""


async def _parsed_apart(raw: bytes) -> object:
    """Return what a body says, in a thread where that takes long; raises Refused."""
    if is_light(raw):
        return _parsed(raw)
    return await trio.to_thread.run_sync(_parsed, raw, limiter=_PARSING, abandon_on_cancel=True)


def _parsed(raw: bytes) -> object:
    if has_too_many_values(raw):
        raise Refused(400, "The body holds more values than any request needs.")
    try:
        return decode_json_exact(raw)
    except ValueError as error:
        said = str(error) if not isinstance(error, UnicodeError) else "it is not UTF-8"
        raise Refused(400, f"The body is no JSON: {said[:200]}.") from None


async def _tell(exchange: Exchange, payload: bytes) -> None:
    """Send what a call was answered."""
    status, raw = await _told_apart(payload)
    if status >= 400:
        await exchange.answer(status, raw, JSON)
    else:
        await exchange.answer(status, raw, JSON, cache_control="no-store")


async def _told_apart(payload: bytes) -> tuple[int, bytes]:
    """Return the status and the body of a reply, made in a thread where that takes long."""
    if len(payload) <= SHORT_BYTES:
        return _told(payload)
    return await trio.to_thread.run_sync(_told, payload, limiter=_PARSING, abandon_on_cancel=True)


def _told(payload: bytes) -> tuple[int, bytes]:
    """Return the status and the body of a reply; raises Refused for one that is an error."""
    reply = decode_json(payload)
    error = reply.get("error")
    if error is not None:
        raise _failed(error.get("code"), str(error.get("message", "")))
    told = decode_json(reply["result"]["content"][0]["text"])
    body = told.get("body")
    if body is None:
        return told["status"], b""
    # What UTF-8 can't say, half a surrogate pair, becomes the escape by which JSON says it.
    text = json.dumps(body, ensure_ascii=False)
    return told["status"], text.encode("utf-8", "backslashreplace")


def _failed(code: object, text: str) -> Refused:
    status = STATUSES.get(code, 503) if isinstance(code, int) else 503
    return _unavailable(text) if status == 503 else Refused(status, text)


def _unavailable(text: str) -> Refused:
    return Refused(503, text, retry_after=RETRY_S)


async def _refuse(exchange: Exchange, refused: Refused) -> None:
    told = {"code": CODES.get(refused.status, "bad_request"), "message": refused.text}
    await exchange.answer(refused.status, json.dumps(told).encode(), **refused.headers)
