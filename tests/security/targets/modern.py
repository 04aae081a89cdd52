"""Requests of MCP's newer era: headers over HTTP that repeat a body, and replies in its form.

The body is what a client would say with some of it changed, and so are the headers.  What is let
through must say one thing in both; what an engine answered must come back whole.
"""

import base64
import json
from collections import Counter
from typing import Any

from palace.broker.http import modern as over_http
from palace.broker.http.exchange import Exchange
from palace.protocol import jsonrpc, modern
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.request import Request, read_request
from palace.transport.http import HttpConnection
from tests.security.source import Source, steps_at_most

DRIVES = ("palace.broker.http.modern", "palace.protocol.modern", "palace.broker.http.exchange")
STEPS = 50_000
NESTED_MAX = 60
REFUSAL_BYTES_MAX = 4096  # but for the id, which is its client's
CATALOGUE = Catalogue(
    engine_version="3.11.0",
    protocol_versions=("2025-11-25", "2025-06-18"),
    tools=({"name": "mempalace_search", "description": "d"}, {"name": "mempalace_status"}),
    read_only_refused=frozenset({"mempalace_add_drawer"}),
)
METHODS: tuple[Any, ...] = (
    *("tools/call", "tools/call", "tools/list", "server/discover", "initialize", "prompts/get"),
    *("resources/read", "ping", "notifications/x", "", "Tools/call", "tools/call ", 5, None),
)
NAMES: tuple[Any, ...] = (
    *("mempalace_search", "mempalace_search", "", "é", "a b", " a", "=?base64?", "=?base64?YQ==?="),
    *("\x7f", "a\nb", "\ud800", "x" * 500, 7, None, ["mempalace_search"]),
)
VERSIONS: tuple[Any, ...] = (
    *modern.VERSIONS,
    *modern.VERSIONS,
    *("2025-11-25", "1999-01-01", "2026-07-28 ", "", "v" * 500, 2026, None),
)
IDS: tuple[Any, ...] = (1, "a", 0, -1, 2**70, "", "\ud800", None, True, 1.5, [], {"a": 1})


def one(data: bytes) -> None:
    source = Source(data)
    message = _message(source)
    try:
        body = source.raw() if source.byte() % 16 == 0 else jsonrpc.encode(message)
    except RecursionError:  # deeper than a client of ours could say it
        return
    request = read_request(body)
    exchange = Exchange(_scope(source, request), _never, _never, Counter())
    with steps_at_most(STEPS):
        _ask(exchange, request)
    _answer_inline(request, read_only=bool(source.byte() % 2))
    _answer_of_the_engine(source)


# A request.


def _message(source: Source) -> Any:
    meta: dict[str, Any] = {modern.VERSION: source.pick(VERSIONS)}
    if source.byte() % 4:
        meta[modern.CAPABILITIES] = source.pick(({}, {}, {"a": 1}, None, []))
    if source.byte() % 2:
        meta[modern.CLIENT] = source.json(2)
    params: dict[str, Any] = {"_meta": source.pick((meta, meta, meta, None, [], {}))}
    for member in ("name", "uri", "protocolVersion"):
        if source.byte() % 2:
            params[member] = source.pick(NAMES)
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": source.pick(METHODS), "params": params}
    if source.byte() % 8:
        message["id"] = source.pick(IDS)
    if source.byte() % 8 == 0:
        message[source.pick(("id", "method", "params", "x"))] = source.json(2)
    return message if source.byte() % 16 else source.json(2)


def _scope(source: Source, request: Request) -> dict[str, Any]:
    """Return what a server hands over: headers like the body's, one or the other changed."""
    named = jsonrpc.params_of(request.message)
    said = [
        (over_http.VERSION, modern.meta_of(request.message).get(modern.VERSION, VERSIONS[0])),
        (over_http.METHOD, request.method),
        (over_http.NAME, named.get(over_http.NAMED_BY.get(request.method, "name"))),
    ]
    pairs = [(name, _header(source, value)) for name, value in said if source.byte() % 8]
    for _ in range(source.below(3)):
        name = source.pick((over_http.VERSION, over_http.METHOD, over_http.NAME, "accept", "x"))
        pairs.insert(source.below(len(pairs) + 1), (name, source.raw()))
    pairs = [(name.upper() if source.byte() % 8 == 0 else name, value) for name, value in pairs]
    return {
        "method": source.pick(("POST", "DELETE", "GET")),
        "path": "/mcp",
        "headers": [(name.encode(), value) for name, value in pairs],
        "state": {"connection": HttpConnection()},
    }


def _header(source: Source, value: Any) -> bytes:
    text = value if isinstance(value, str) else ""
    plain = text.encode("utf-8", "surrogatepass")
    encoded = b"=?base64?" + base64.b64encode(plain) + b"?="
    return source.pick((plain, plain, encoded, encoded[:-3] + b"?=", plain + b" ", b"", plain[1:]))


async def _never(*_given: object) -> Any:
    raise AssertionError("nothing is read or sent here")


def _ask(exchange: Exchange, request: Request) -> None:
    refused = over_http.unsupported(exchange.header(over_http.VERSION), CATALOGUE)
    assert len(json.dumps(refused.data)) <= REFUSAL_BYTES_MAX
    assert set(over_http.methods(exchange)) <= {"POST", "DELETE"}
    if not over_http.is_asked(exchange, request):
        assert not request.modern
        return
    refusal = over_http.refusal(exchange, request, CATALOGUE)
    message = request.message
    if refusal is None:
        if isinstance(message, dict) and "id" in message:
            _agrees(exchange, message)
        return
    status, body = refusal
    reply = json.loads(body)
    assert reply["jsonrpc"] == "2.0"
    assert isinstance(reply["error"]["code"], int)
    assert isinstance(reply["error"]["message"], str)
    assert status == (404 if reply["error"]["code"] == jsonrpc.METHOD_NOT_FOUND else 400)
    if isinstance(message, dict) and isinstance(message.get("id"), str | int):
        assert reply.get("id") in (_kept(message["id"]), None)
    assert len(body) <= REFUSAL_BYTES_MAX + len(jsonrpc.encode(reply.get("id")))


def _agrees(exchange: Exchange, message: dict[str, Any]) -> None:
    """What was let through says the same in both places, each of them once."""
    params = message["params"]
    meta = params["_meta"]
    assert isinstance(message["id"], str | int)
    assert not isinstance(message["id"], bool)
    assert meta[modern.VERSION] in modern.VERSIONS
    assert isinstance(meta[modern.CAPABILITIES], dict)
    assert message["method"] in modern.METHODS
    assert _shown(exchange, over_http.VERSION) == meta[modern.VERSION]
    assert _shown(exchange, over_http.METHOD) == message["method"]
    if message["method"] == "tools/call":
        shown = _shown(exchange, over_http.NAME)
        if shown.startswith("=?base64?") and shown.endswith("?=") and len(shown) > 10:
            shown = base64.b64decode(shown[9:-2]).decode()
        assert shown == params["name"]


def _shown(exchange: Exchange, name: str) -> str:
    assert exchange.count(name) == 1
    return exchange.header(name)


def _kept(value: Any) -> Any:
    return json.loads(jsonrpc.encode(value))


# Replies.


def _answer_inline(request: Request, *, read_only: bool) -> None:
    found = modern.inline_reply(request.message, CATALOGUE, read_only=read_only)
    if found is None or found is jsonrpc.NOT_INLINE or not modern.is_modern(request.message):
        return
    assert isinstance(found, dict)
    assert ("result" in found) != ("error" in found)
    if "result" in found:
        assert found["id"] == request.message["id"]
        assert found["result"]["resultType"] == "complete"
        assert "mempalace_add_drawer" not in json.dumps(found) or not read_only


def _answer_of_the_engine(source: Source) -> None:
    """A reply of stock's keeps all that it says, whichever way it was put into the other form."""
    ident = source.pick((1, "a", "\ud800", "é", 2**70, ""))
    if source.byte() % 4:
        told = source.json(2)
        told = told if isinstance(told, dict) else {"content": told}
        for key in ("_meta", "resultType"):
            if source.byte() % 4 == 0:
                told[key] = source.json(1)
        reply = jsonrpc.result(ident, told)
    else:
        reply = jsonrpc.error(ident, source.pick((-32601, -32000, -32019, -31045, 0)), "e")
    try:
        payload = jsonrpc.encode(reply)
    except RecursionError:
        return
    if payload.count(b"[") + payload.count(b"{") > NESTED_MAX:
        return  # what clients say stands in stock's replies as texts: none is as deep
    found = json.loads(modern.in_modern_form(payload, ident, CATALOGUE))
    before = json.loads(payload)
    assert found["id"] == before["id"]
    if "error" in before:
        assert found["error"]["code"] not in (*modern.STOCKS_OWN, jsonrpc.METHOD_NOT_FOUND)
        return
    told = before["result"]
    assert found["result"]["resultType"] == "complete"
    assert found["result"]["_meta"][modern.SERVER]["name"] == "mempalace"
    rest = {key: value for key, value in told.items() if key not in ("_meta", "resultType")}
    # As text, since NaN is not equal to itself.
    assert json.dumps(found["result"] | rest) == json.dumps(found["result"])
    assert found["result"].keys() == rest.keys() | {"_meta", "resultType"}
