"""MCP from 2026-07-28 on ("modern" in its own words), beside what stock speaks ("legacy").

Each modern request says in `_meta` which version it speaks; there is no `initialize` and no
session.  A server may speak both eras at once, on one stream, and palace does: the engine is asked
in stock's terms, and what it answers is put into the modern form for the requests that are modern.
So a reply is recorded as stock's, whoever asked.

Source: the specification's revision 2026-07-28, basic/index, basic/versioning, server/discover,
server/utilities/caching and server/tools.

Rule for this file: pure, and free of attrs: the shim imports it while no broker is connected.
"""

from palace.protocol import jsonrpc
from palace.protocol.extra_names import METHODS as EXTRAS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from palace.protocol.jsonrpc import Catalogue

VERSIONS = ("2026-07-28",)  # the newest first
PREFIX = "io.modelcontextprotocol/"
VERSION, CLIENT, CAPABILITIES, SERVER = (
    f"{PREFIX}{name}"
    for name in ("protocolVersion", "clientInfo", "clientCapabilities", "serverInfo")
)

INVALID_PARAMS = -32602
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022
# From -32019 to -32000 no meaning may be assumed, and -32002 must not be sent.
STOCKS_OWN = range(-32019, -31999)
OUT_OF_RESERVED = 1000  # what is added to them, as palace's own codes have it

MISSING_CAPABILITY = -32021
TASKS = f"{PREFIX}tasks"  # an extension: palace/protocol/tasks.py
TASK_METHODS = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
METHODS = frozenset({"server/discover", "tools/list", "tools/call"}) | TASK_METHODS
TTL_MS = 300_000  # tools change with the engine, which may be another after any takeover


def meta_of(message: object) -> "dict[str, Any]":
    meta = jsonrpc.params_of(message).get("_meta")
    return meta if isinstance(meta, dict) else {}


def is_modern(message: object) -> bool:
    """Tell whether a message is a request, or a notification, of the modern era.

    `initialize` that names a version is legacy's handshake, whatever else its client adds: only a
    client that does not know yet which era it will speak sends both.
    """
    return VERSION in meta_of(message) and not is_handshake(message)


def is_handshake(message: object) -> bool:
    """Tell whether a message is legacy's handshake."""
    return jsonrpc.method_of(message) == "initialize" and (
        "protocolVersion" in jsonrpc.params_of(message)
    )


def client_of(message: object) -> str:
    """Return the client that a modern request names, as "name version"; "" where it doesn't."""
    return jsonrpc.client_text(meta_of(message).get(CLIENT))


def declares_tasks(message: object) -> bool:
    """Tell whether a request's client can be answered with a task."""
    capabilities = meta_of(message).get(CAPABILITIES)
    extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
    return isinstance(extensions, dict) and isinstance(extensions.get(TASKS), dict)


def names_task(message: object) -> bool:
    """Tell whether a message is a request about a task."""
    return jsonrpc.method_of(message) in TASK_METHODS and is_modern(message)


def task_problem(message: object) -> "dict[str, Any] | None":
    """Return the error for a request about a task that is not as it must be."""
    ident = jsonrpc.request_id(message)
    if not declares_tasks(message):
        reply = jsonrpc.error(
            ident, MISSING_CAPABILITY, f"Missing required client capability: {TASKS}"
        )
        reply["error"]["data"] = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        return reply
    if not isinstance(jsonrpc.params_of(message).get("taskId"), str):
        return jsonrpc.error(ident, INVALID_PARAMS, "params lack taskId, a string: say it")
    return None


def no_task(message: object) -> "dict[str, Any]":
    """Return the error for a task that is not known."""
    text = (
        "Task not found: it has expired, or belongs to another session, or the broker that had it "
        "ended before it was answered. Look at what its call was to change before you repeat it"
    )
    return jsonrpc.error(jsonrpc.request_id(message), INVALID_PARAMS, text)


def problem(
    message: object, catalogue: "Catalogue | None", *, strict: bool = True
) -> "dict[str, Any] | None":
    """Return the error that answers a malformed modern request, None for one that is well formed.

    Without `strict`, `server/discover` is answered to whoever asks: a probe that is refused makes
    its client fall back to legacy's handshake.
    """
    assert isinstance(message, dict)
    ident = message.get("id")
    if isinstance(ident, bool) or not isinstance(ident, (str, int)):
        reply = jsonrpc.error(
            None, jsonrpc.INVALID_REQUEST, "The id is neither a string nor a number"
        )
        del reply["id"]  # which must not be null
        return reply
    meta = meta_of(message)
    version = meta.get(VERSION)
    if not isinstance(version, str):
        return jsonrpc.error(ident, INVALID_PARAMS, f"_meta lacks {VERSION}, a string: say it")
    if version not in VERSIONS:
        return unsupported(ident, version, catalogue)
    is_probe = jsonrpc.method_of(message) == "server/discover"
    if not isinstance(meta.get(CAPABILITIES), dict) and (strict or not is_probe):
        text = f"_meta lacks {CAPABILITIES}, an object: say them, if only {{}}"
        return jsonrpc.error(ident, INVALID_PARAMS, text)
    return None


def unknown_method(message: object, catalogue: "Catalogue | None") -> "dict[str, Any] | None":
    """Return the error for a method that is not spoken, None for one that is."""
    method = jsonrpc.method_of(message)
    if method in METHODS or (method in EXTRAS and has_extras(catalogue)):
        return None
    text = f"Method not found: {method[:100]}"
    return jsonrpc.error(jsonrpc.request_id(message), jsonrpc.METHOD_NOT_FOUND, text)


def is_well_formed(message: object) -> bool:
    """Tell whether a modern message is a request that may be carried out."""
    return isinstance(message, dict) and "id" in message and problem(message, None) is None


def unsupported(ident: object, requested: str, catalogue: "Catalogue | None") -> "dict[str, Any]":
    """Return the error for a version that is not spoken; it names those that are."""
    reply = jsonrpc.error(ident, UNSUPPORTED_VERSION, "Unsupported protocol version")
    reply["error"]["data"] = {"supported": supported(catalogue), "requested": requested[:100]}
    return reply


def supported(catalogue: "Catalogue | None") -> "list[str]":
    """Return the versions of both eras, the newest first; legacy's are asked for by handshake."""
    return [*VERSIONS, *(catalogue.protocol_versions if catalogue is not None else ())]


def inline_reply(message: object, catalogue: "Catalogue | None", *, read_only: bool) -> object:
    """Answer what needs no engine in the form of the era in which it was asked.

    Returns what `jsonrpc.inline_reply` does; a malformed tool call, too, is answered here.
    """
    method = jsonrpc.method_of(message)
    if not is_modern(message):
        if method in EXTRAS and has_extras(catalogue) and jsonrpc.request_id(message) is not None:
            return _extra(message, None)
        return jsonrpc.inline_reply(message, catalogue, read_only=read_only)
    assert isinstance(message, dict)
    if "id" not in message:
        return None  # a notification, which gets no reply
    refusal = problem(message, catalogue, strict=False) or unknown_method(message, catalogue)
    if refusal is not None:
        return refusal
    if method in TASK_METHODS:  # those who know tasks have looked for it before they came here
        return task_problem(message) or no_task(message)
    if method == "tools/call" or catalogue is None:
        return jsonrpc.NOT_INLINE
    if method in EXTRAS:
        return _extra(message, catalogue)
    if method == "server/discover":
        told: dict[str, Any] = {
            "supportedVersions": supported(catalogue),
            "capabilities": {**jsonrpc.capabilities_of(catalogue), "extensions": {TASKS: {}}},
        }
        scope = "public"
    else:
        told = {"tools": jsonrpc.tools_of(catalogue, read_only=read_only)}
        scope = "private"  # a session that may only read gets fewer
    cached = {"ttlMs": TTL_MS, "cacheScope": scope}
    return jsonrpc.result(message["id"], {**head_of(catalogue), **told, **cached})


def has_extras(catalogue: "Catalogue | None") -> bool:
    return catalogue is not None and catalogue.extras


def _extra(message: object, catalogue: "Catalogue | None") -> object:
    """Answer what is of palace/protocol/extras.py; the catalogue is a modern request's alone."""
    from palace.protocol.extras import static_reply

    assert isinstance(message, dict)
    reply = static_reply(message, modern=catalogue is not None)
    if reply is None:
        return jsonrpc.NOT_INLINE
    if "result" in reply and catalogue is not None:
        reply["result"] |= head_of(catalogue)
    return reply


def head_of(catalogue: "Catalogue | None") -> "dict[str, Any]":
    """Return what every result begins with."""
    head: dict[str, Any] = {"resultType": "complete"}
    if catalogue is not None:
        head["_meta"] = {SERVER: {"name": "mempalace", "version": catalogue.engine_version}}
    return head


def in_modern_form(payload: bytes, ident: object, catalogue: "Catalogue | None") -> bytes:
    """Return stock's encoded reply to a tool call as a modern one."""
    before = jsonrpc.encode({"jsonrpc": "2.0", "id": ident})[:-1] + b', "result": {'
    # Nearly always; a reply of megabytes is then neither parsed nor encoded again.
    is_plain = not any(key in payload for key in (b'"_meta": ', b'"resultType": '))
    if is_plain and payload.startswith(before):
        rest = payload[len(before) :]
        comma = b"" if rest.startswith(b"}") else b", "
        return b"".join((before, jsonrpc.encode(head_of(catalogue))[1:-1], comma, rest))
    reply = jsonrpc.parse(payload)
    if isinstance(reply.get("result"), dict):
        told, head = reply["result"], head_of(catalogue)
        if isinstance(told.get("_meta"), dict):
            head["_meta"] = {**told["_meta"], **head.get("_meta", {})}
        reply["result"] = {**told, **head}
    elif isinstance(reply.get("error"), dict):
        reply["error"]["code"] = _modern_code(reply["error"].get("code"))
    return jsonrpc.encode(reply)


def _modern_code(code: object) -> object:
    if code == jsonrpc.METHOD_NOT_FOUND:
        return INVALID_PARAMS  # the method is there: it is the tool that isn't
    if isinstance(code, int) and code in STOCKS_OWN:
        return code + OUT_OF_RESERVED
    return code
