"""HTTP's side of MCP from 2026-07-28 on: a request's headers repeat what its body says.

Whatever stands between client and server goes by the headers, so a request whose headers say
something else than its body is refused.  Source: the specification's revision 2026-07-28,
basic/transports/streamable-http.
"""

import base64
import binascii
from typing import Any

from palace.broker.http.exchange import Exchange, Refused
from palace.protocol import jsonrpc, modern
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.request import PARSE_ERROR_REPLY, TOO_MUCH, UNREADABLE, Request

VERSION, METHOD, NAME = "mcp-protocol-version", "mcp-method", "mcp-name"
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"} | dict.fromkeys(
    modern.TASK_METHODS, "taskId"
)
ENCODED, END = "=?base64?", "?="


def is_asked(exchange: Exchange, request: Request) -> bool:
    """Tell whether a request is of the modern era, by its body or by what its header says."""
    if request.modern:
        return True
    return exchange.header(VERSION) in modern.VERSIONS and not modern.is_handshake(request.message)


def methods(exchange: Exchange) -> tuple[str, ...]:
    """Return the HTTP methods that the era of a request has."""
    return ("POST",) if exchange.header(VERSION) in modern.VERSIONS else ("POST", "DELETE")


def refusal(
    exchange: Exchange, request: Request, catalogue: Catalogue | None
) -> tuple[int, bytes] | None:
    """Return the status and body that refuse a modern request, None where it is well formed."""
    message = request.message
    if message is UNREADABLE:
        return 400, PARSE_ERROR_REPLY
    if message is TOO_MUCH:
        return None  # which is answered like anybody's
    if not isinstance(message, dict):
        return 400, jsonrpc.encode(jsonrpc.error(None, jsonrpc.INVALID_REQUEST, "Invalid Request"))
    if "id" not in message:
        return None  # a notification, whose headers the specification leaves open
    reply = (
        _other_version(exchange, message)
        or modern.problem(message, catalogue)
        or _other_headers(exchange, message)
        or modern.unknown_method(message, catalogue)
        or (modern.task_problem(message) if modern.names_task(message) else None)
    )
    if reply is None:
        return None
    is_unknown = reply["error"]["code"] == jsonrpc.METHOD_NOT_FOUND
    return 404 if is_unknown else 400, jsonrpc.encode(reply)


def unsupported(version: str, catalogue: Catalogue | None) -> Refused:
    """Return the refusal of a version that stands in the header alone."""
    error = modern.unsupported(None, version, catalogue)["error"]
    refused = Refused(400, error["message"])
    refused.code, refused.data = error["code"], error["data"]
    return refused


def _other_version(exchange: Exchange, message: dict[str, Any]) -> dict[str, Any] | None:
    version = modern.meta_of(message).get(modern.VERSION)
    return _compared(exchange, message, VERSION, version) if isinstance(version, str) else None


def _other_headers(exchange: Exchange, message: dict[str, Any]) -> dict[str, Any] | None:
    method = jsonrpc.method_of(message)
    mismatch = _compared(exchange, message, METHOD, method)
    if mismatch is None and method in NAMED_BY:
        named = jsonrpc.params_of(message).get(NAMED_BY[method])
        mismatch = _compared(exchange, message, NAME, named)
    return mismatch


def _compared(
    exchange: Exchange, message: dict[str, Any], header: str, expected: object
) -> dict[str, Any] | None:
    shown = exchange.header(header)
    value = _decoded(shown) if header == NAME else shown
    if exchange.count(header) == 1 and value is not None and value == expected:
        return None
    if not exchange.count(header):
        why = f"the header {header} is missing"
    elif exchange.count(header) > 1:
        why = f"the header {header} stands there more than once"
    else:
        why = f"the header {header} is {shown[:100]!r}, the body says {str(expected)[:100]!r}"
    return jsonrpc.error(message["id"], modern.HEADER_MISMATCH, f"Header mismatch: {why}")


def _decoded(value: str) -> str | None:
    """Return what a header stands for, None where it is damaged."""
    if not (value.startswith(ENCODED) and value.endswith(END) and len(value) >= len(ENCODED + END)):
        return value if value.isascii() and value.isprintable() else None
    inner = value[len(ENCODED) : -len(END)]
    try:
        raw = base64.b64decode(inner, validate=True)
        # Two spellings of one name would let two programs see two names.
        return raw.decode() if base64.b64encode(raw).decode() == inner else None
    except (binascii.Error, UnicodeDecodeError):
        return None
