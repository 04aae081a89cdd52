"""Resources, prompts and completion: what stock has not, for hosts that let people mention things.

Off unless `mcp_extras` is set, so that a palace without it answers byte for byte as stock does.
Nothing here reads a store: a resource is asked of one of stock's own tools, as the client that
wants it might, and the tool's reply is put into a resource's form.

    mempalace://wing/WING                 its rooms, and how many drawers are in each
    mempalace://wing/WING/room/ROOM       its drawers, each with the beginning of its text
    mempalace://drawer/ID                 a drawer's text

Names in a URI are percent-encoded.

Rule for this file: pure, and free of attrs: the shim imports it for these methods alone.
"""

from urllib.parse import quote, unquote

from palace.protocol import jsonrpc, wire
from palace.protocol.extra_names import METHODS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["METHODS"]

SCHEME = "mempalace://"
PAGE = 200  # resources in one reply
VALUES_MAX = 100  # of a completion, which the specification bounds
DRAWERS_MAX = 100  # that a room shows
NOT_FOUND, NOT_FOUND_LEGACY = -32602, -32002
TTL_MS = 300_000
JSON = "application/json"

TEMPLATES = [
    ("wing", "mempalace://wing/{wing}", "The rooms of a wing.", JSON),
    ("room", "mempalace://wing/{wing}/room/{room}", "The drawers of a room.", JSON),
    ("drawer", "mempalace://drawer/{id}", "The text of a drawer.", "text/plain"),
]
_TOPIC = {"name": "topic", "description": "What to recall.", "required": True}
_WING = {"name": "wing", "description": "The wing to stay in.", "required": False}
_ROOM = {"name": "room", "description": "The room to file in.", "required": False}
PROMPTS = {
    "recall_topic": ("Recall what the palace holds on a topic.", [_TOPIC, _WING]),
    "file_session": ("File what this session has brought to light.", [_WING, _ROOM]),
}
RECALL = (
    "Search the memory palace for {topic}{wing} with mempalace_search. Read the drawers that "
    "matter in full, follow tunnels where they lead on, and tell me what is known, with the "
    "drawers that it comes from. Say so where nothing is found."
)
FILE = (
    "File what this session has brought to light in the memory palace{wing}{room}: decisions and "
    "their reasons, facts that were found, what is still open. One drawer for each, in the words "
    "that were used, with mempalace_add_drawer; mempalace_check_duplicate first. Then write a line "
    "in the diary with mempalace_diary_write."
)


def static_reply(message: "dict[str, Any]", *, modern: bool) -> "dict[str, Any] | None":
    """Answer what needs no engine, an error included; None where a tool has to be asked."""
    method, ident = jsonrpc.method_of(message), message.get("id")
    if method == "resources/templates/list":
        told = [
            {"name": name, "uriTemplate": uri, "description": text, "mimeType": kind}
            for name, uri, text, kind in TEMPLATES
        ]
        return jsonrpc.result(ident, _head({"resourceTemplates": told}, modern=modern))
    if method == "prompts/list":
        prompts = [
            {"name": name, "description": text, "arguments": arguments}
            for name, (text, arguments) in PROMPTS.items()
        ]
        return jsonrpc.result(ident, _head({"prompts": prompts}, modern=modern))
    if method == "prompts/get":
        return _prompt(message, modern=modern)
    try:
        tool_for(message)
    except Unknown as problem:
        return problem.reply(ident, modern=modern)
    return None


class Unknown(Exception):
    """What is asked for is not there; `uri` is named where it is a resource."""

    def __init__(self, text: str, uri: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.uri = uri

    def reply(self, ident: object, *, modern: bool) -> "dict[str, Any]":
        code = NOT_FOUND if modern or not self.uri else NOT_FOUND_LEGACY
        reply = jsonrpc.error(ident, code, self.text)
        if self.uri:
            reply["error"]["data"] = {"uri": self.uri}
        return reply


def _head(
    told: "dict[str, Any]", *, modern: bool, ttl_ms: "int | None" = TTL_MS
) -> "dict[str, Any]":
    if not modern:
        return told
    head = {"resultType": "complete", **told}
    return head if ttl_ms is None else head | {"ttlMs": ttl_ms, "cacheScope": "private"}


def _prompt(message: "dict[str, Any]", *, modern: bool) -> "dict[str, Any]":
    params, ident = jsonrpc.params_of(message), message.get("id")
    name, given = params.get("name"), params.get("arguments")
    arguments = {k: str(v) for k, v in given.items()} if isinstance(given, dict) else {}
    if not isinstance(name, str) or name not in PROMPTS:
        return jsonrpc.error(ident, NOT_FOUND, f"Unknown prompt: {str(name)[:100]}")
    wing = f", in the wing {arguments['wing']}" if arguments.get("wing") else ""
    room = f", in the room {arguments['room']}" if arguments.get("room") else ""
    if name == "file_session":
        text = FILE.format(wing=wing, room=room)
    elif arguments.get("topic"):
        text = RECALL.format(topic=arguments["topic"], wing=wing)
    else:
        return jsonrpc.error(ident, NOT_FOUND, "recall_topic lacks its argument topic: say it")
    content = {"role": "user", "content": {"type": "text", "text": text}}
    told = {"description": PROMPTS[name][0], "messages": [content]}
    return jsonrpc.result(ident, _head(told, modern=modern, ttl_ms=None))


def tool_for(message: "dict[str, Any]") -> "tuple[str, dict[str, Any]]":
    """Return the tool, and its arguments, that a request is answered from; raises Unknown."""
    method, params = jsonrpc.method_of(message), jsonrpc.params_of(message)
    if method == "resources/read":
        where = parts_of(params.get("uri"))
        if "id" in where:
            return "mempalace_get_drawer", {"drawer_id": where["id"]}
        if "room" in where:
            return "mempalace_list_drawers", {**where, "limit": DRAWERS_MAX}
    elif method == "resources/list":
        _cursor(params)
    else:
        _completed(params)
    return "mempalace_get_taxonomy", {}


def parts_of(uri: object) -> "dict[str, str]":
    """Return what a resource's URI names: id, or wing, or wing and room; raises Unknown."""
    text = uri if isinstance(uri, str) else ""
    named = [unquote(part) for part in text.removeprefix(SCHEME).split("/")]
    if text.startswith(SCHEME) and all(named):
        if named[0] == "drawer" and len(named) == 2:
            return {"id": named[1]}
        if named[0] == "wing" and len(named) == 2:
            return {"wing": named[1]}
        if named[0::2] == ["wing", "room"] and len(named) == 4:
            return {"wing": named[1], "room": named[3]}
    raise Unknown(f"Resource not found: {text[:200]}", text[:200] or "(none)")


def uri_of(*names: str) -> str:
    return SCHEME + "/".join(quote(name, safe="") for name in names)


def _cursor(params: "dict[str, Any]") -> int:
    cursor = params.get("cursor", "0")
    try:
        return wire.whole_number(cursor if isinstance(cursor, str) else "")
    except ValueError:
        raise Unknown("The cursor is none that was given: begin again without one") from None


def _completed(params: "dict[str, Any]") -> "tuple[str, str, str]":
    """Return the argument to complete, how it begins, and the wing that is named already."""
    argument, context = params.get("argument"), params.get("context")
    ref = params.get("ref")
    if not isinstance(argument, dict) or not isinstance(ref, dict):
        raise Unknown("completion/complete takes ref and argument")
    known = {uri for _, uri, _, _ in TEMPLATES} | set(PROMPTS)
    if ref.get("uri", ref.get("name")) not in known:
        raise Unknown(f"Nothing to complete for {str(ref)[:200]}")
    before = context.get("arguments") if isinstance(context, dict) else None
    wing = before.get("wing") if isinstance(before, dict) else None
    return str(argument.get("name")), str(argument.get("value", "")), str(wing or "")


def shaped(message: "dict[str, Any]", payload: bytes, *, modern: bool) -> bytes:
    """Return a tool's encoded reply as the answer to the request that it was asked for."""
    ident = message.get("id")
    reply = jsonrpc.parse(payload)
    result = reply.get("result")
    if not isinstance(result, dict):
        return payload  # an error, which tells its own tale
    try:
        told = jsonrpc.parse(result["content"][0]["text"].encode())
        answer = jsonrpc.result(ident, _answer(message, told, modern=modern))
    except Unknown as problem:
        answer = problem.reply(ident, modern=modern)
    return jsonrpc.encode(answer)


def _answer(message: "dict[str, Any]", told: "Any", *, modern: bool) -> "dict[str, Any]":
    method, params = jsonrpc.method_of(message), jsonrpc.params_of(message)
    if method == "completion/complete":
        values = _values(_taxonomy(told), *_completed(params))
        shown = {"values": values[:VALUES_MAX], "total": len(values)}
        shown["hasMore"] = len(values) > VALUES_MAX
        return _head({"completion": shown}, modern=modern, ttl_ms=None)
    if method == "resources/list":
        return _head(_listed(_taxonomy(told), _cursor(params)), modern=modern, ttl_ms=0)
    uri = str(params.get("uri"))
    text, kind = _content(uri, told)
    return _head(
        {"contents": [{"uri": uri, "mimeType": kind, "text": text}]}, modern=modern, ttl_ms=0
    )


def _taxonomy(told: "Any") -> "dict[str, dict[str, int]]":
    found = told.get("taxonomy")
    return found if isinstance(found, dict) else {}


def _listed(taxonomy: "dict[str, dict[str, int]]", start: int) -> "dict[str, Any]":
    entries = []
    for wing, rooms in taxonomy.items():
        drawers = sum(rooms.values())
        entries.append(_entry(wing, f"{len(rooms)} rooms, {drawers} drawers", "wing", wing))
        for room, count in rooms.items():
            entry = _entry(f"{wing}/{room}", f"{count} drawers", "wing", wing, "room", room)
            entries.append(entry)
    told: dict[str, Any] = {"resources": entries[start : start + PAGE]}
    if start + PAGE < len(entries):
        told["nextCursor"] = str(start + PAGE)
    return told


def _entry(name: str, text: str, *names: str) -> "dict[str, Any]":
    return {"uri": uri_of(*names), "name": name, "description": text, "mimeType": JSON}


def _values(taxonomy: "dict[str, dict[str, int]]", name: str, value: str, wing: str) -> "list[str]":
    if name == "wing":
        found = list(taxonomy)
    elif name == "room":
        wings = [wing] if wing else list(taxonomy)
        found = sorted({room for one in wings for room in taxonomy.get(one, {})})
    else:
        found = []
    return [one for one in found if one.lower().startswith(value.lower())]


def _content(uri: str, told: "Any") -> "tuple[str, str]":
    """Return a resource's text and kind; raises Unknown where there is none."""
    where = parts_of(uri)
    if "id" in where:
        if "content" not in told:
            raise Unknown(str(told.get("error", f"Resource not found: {uri}")), uri)
        return str(told["content"]), "text/plain"
    if "room" in where:
        found = told if told.get("drawers") else None
    else:
        found = _taxonomy(told).get(where["wing"])
    if not found:
        raise Unknown(f"Resource not found: {uri}", uri)
    return jsonrpc.encode(found).decode(), JSON
