"""JSON-RPC as stock mempalace answers it: parsing, the replies that need no engine, and errors.

Quirks count, since clients have met them: a call without an id is answered with a null id, params
that are no object are taken as none, NaN is let through, a batch is one invalid request.

Rule for this file: pure, and free of attrs: the shim imports it while no broker is connected.
"""

import json

from palace.protocol.decoding import decode_json
from palace.protocol.errors import PalaceError
from palace.protocol.extra_names import CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
READ_ONLY_REFUSED = -32003

DECODED_BYTES = 1 << 20

LISTING = ("initialize", "tools/list")  # what can't be answered without a catalogue
NOT_INLINE = object()
BLANK = object()  # a line of nothing but white space, which stock passes over


class Catalogue:
    """What `initialize` and `tools/list` say for one engine version; values are never changed.

    `extras`: resources and prompts are served as well (palace/protocol/extras.py).
    """

    __slots__ = ("engine_version", "extras", "protocol_versions", "read_only_refused", "tools")

    def __init__(
        self,
        *,
        engine_version: str,
        protocol_versions: "tuple[str, ...]",
        tools: "tuple[dict[str, Any], ...]",
        read_only_refused: "frozenset[str]",
        extras: bool = False,
    ) -> None:
        self.extras = extras
        self.engine_version = engine_version
        self.protocol_versions = protocol_versions
        self.tools = tools
        self.read_only_refused = read_only_refused

    @classmethod
    def from_json(cls, text: "bytes | str") -> "Catalogue":
        """Read what `to_json` wrote; raises ValueError on anything else."""
        try:
            data = decode_json(text)
            versions, tools = data["protocol_versions"], data["tools"]
            if not versions or not all(isinstance(version, str) for version in versions):
                raise ValueError("a catalogue names protocol versions")
            if not all(isinstance(tool["name"], str) for tool in tools):
                raise ValueError("a tool has a name")
            return cls(
                engine_version=str(data["engine_version"]),
                protocol_versions=tuple(versions),
                tools=tuple(tools),
                read_only_refused=frozenset(data["read_only_refused"]),
                extras=data.get("extras") is True,
            )
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a tool catalogue: {error!r}") from None

    def served(self, *, extras: bool) -> "Catalogue":
        """Return the same for a palace with extras, or without."""
        return Catalogue(
            engine_version=self.engine_version,
            protocol_versions=self.protocol_versions,
            tools=self.tools,
            read_only_refused=self.read_only_refused,
            extras=extras,
        )

    def to_json(self) -> bytes:
        data: dict[str, object] = {
            "engine_version": self.engine_version,
            "protocol_versions": list(self.protocol_versions),
            "read_only_refused": sorted(self.read_only_refused),
            "tools": list(self.tools),
        }
        if self.extras:
            data["extras"] = True
        return json.dumps(data, ensure_ascii=False, indent=1).encode() + b"\n"


def _decoded(line: bytes) -> str:
    if len(line) <= DECODED_BYTES:
        return line.decode("utf-8", "replace")
    try:
        return line.decode()
    except UnicodeDecodeError:
        pass
    # Piece by piece, since broken bytes take a second for 32 MiB, and nothing else runs meanwhile.
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    starts = range(0, len(line), DECODED_BYTES)
    return "".join(
        decoder.decode(line[at : at + DECODED_BYTES], at + DECODED_BYTES >= len(line))
        for at in starts
    )


def parse(line: bytes) -> "Any":
    """Decode one line as stock does; raises ValueError or RecursionError when it is no JSON."""
    text = _decoded(line).strip()  # of str: it knows more kinds of white space
    return json.loads(text) if text else BLANK


def encode(message: object) -> bytes:
    """Encode one reply as stock does: UTF-8, lone surrogates become question marks."""
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")


def error(request_id: object, code: int, text: str) -> "dict[str, Any]":
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def failure(request_id: object, reason: PalaceError) -> "dict[str, Any]":
    """Return the reply that tells a client of one of our own errors."""
    return {"jsonrpc": "2.0", "id": request_id, "error": reason.error_object()}


def result(request_id: object, value: object) -> "dict[str, Any]":
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def request_id(message: object) -> object:
    return message.get("id") if isinstance(message, dict) else None


def method_of(message: object) -> str:
    """Return the method, or "" where it is missing or no string."""
    method = message.get("method") if isinstance(message, dict) else None
    return method if isinstance(method, str) else ""


def params_of(message: object) -> "dict[str, Any]":
    params = message.get("params") if isinstance(message, dict) else None
    return params if isinstance(params, dict) else {}


def progress_token(message: object) -> "str | int | None":
    """Return what the sender of a request wants to be told of its progress under, None for none."""
    meta = params_of(message).get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    return token if isinstance(token, (str, int)) and not isinstance(token, bool) else None


def progress(token: "str | int", waited_s: float, text: str) -> "dict[str, object]":
    """Return the notification that tells how a request comes on.

    How much is left is seldom known, so that progress is counted in seconds and has no total; it
    rises with each notification, as MCP asks for.
    """
    params = {"progressToken": token, "progress": round(waited_s, 3), "message": text}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def is_tool_call(message: object) -> bool:
    return method_of(message) == "tools/call"


def inline_reply(message: object, catalogue: "Catalogue | None", *, read_only: bool) -> object:
    """Answer what needs no engine.

    Returns the reply, None where stock stays silent, or NOT_INLINE for a tool call and for what
    needs a catalogue when there is none yet.
    """
    if message is BLANK:
        return None
    if not isinstance(message, dict):
        return error(None, INVALID_REQUEST, "Invalid Request")
    method = method_of(message)
    ident = message.get("id")
    if method == "ping":
        return result(ident, {})
    if method.startswith("notifications/"):
        return None
    if method == "tools/call":
        return NOT_INLINE
    if method in LISTING:
        if catalogue is None:
            return NOT_INLINE
        if method == "initialize":
            return result(ident, _initialize(params_of(message), catalogue))
        return result(ident, {"tools": tools_of(catalogue, read_only=read_only)})
    if ident is None:
        return None
    return _unknown_method(ident, message)


def _initialize(params: "dict[str, Any]", catalogue: Catalogue) -> "dict[str, Any]":
    versions = catalogue.protocol_versions
    asked = params.get("protocolVersion", versions[-1])
    return {
        "protocolVersion": asked if asked in versions else versions[0],
        "capabilities": capabilities_of(catalogue),
        "serverInfo": {"name": "mempalace", "version": catalogue.engine_version},
    }


def capabilities_of(catalogue: Catalogue) -> "dict[str, dict[str, object]]":
    return {"tools": {}, **(CAPABILITIES if catalogue.extras else {})}


def tools_of(catalogue: Catalogue, *, read_only: bool) -> "list[dict[str, Any]]":
    if not read_only:
        return list(catalogue.tools)
    return [tool for tool in catalogue.tools if tool["name"] not in catalogue.read_only_refused]


def _unknown_method(ident: object, message: "dict[str, Any]") -> "dict[str, object]":
    method = message.get("method")
    if not isinstance(method, str):
        kind = type(method).__name__
        text = f"Unknown method: expected a string, got {kind}"
    else:
        text = f"Unknown method: {method}"
    return error(ident, METHOD_NOT_FOUND, text)


def client_of(message: object) -> str:
    """Return the client that an `initialize` names, as "name version"; "" where it doesn't."""
    return client_text(params_of(message).get("clientInfo"))


def client_text(info: object) -> str:
    """Return a client's name and version as one text, "" where they are not told."""
    if not isinstance(info, dict):
        return ""
    parts = (str(info.get(key, ""))[:100] for key in ("name", "version"))
    return " ".join(part for part in parts if part)


def cancelled_id(message: object) -> "str | None":
    """Return the key of the request that a `notifications/cancelled` names, if it is one."""
    if method_of(message) != "notifications/cancelled":
        return None
    ident = params_of(message).get("requestId")
    return None if ident is None else id_key(ident)


def id_key(ident: object) -> str:
    """Return a key under which 1, 1.0, true and "1" are four different ids."""
    return f"{type(ident).__name__}:{ident!r}"
