"""A client's line as a value: parsed and classified once, then handed on as it is.

Rule for this file: pure.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from palace.protocol import extras, jsonrpc
from palace.protocol.modern import declares_tasks, is_modern
from palace.protocol.tools import UNKNOWN, Tool, classify_call, group_key
from palace.protocol.weight import SHORT_BYTES, has_too_many_values, id_at_ends

UNREADABLE = object()  # stands for the message of a line that is no JSON
TOOL_CALL = "tools/call"
TOO_MUCH = object()  # and of one that holds too many values to be parsed
PARSE_ERROR_REPLY = jsonrpc.encode(jsonrpc.error(None, jsonrpc.PARSE_ERROR, "Parse error"))


# Frozen, a request would take three times as long to make; nothing changes one.
@attrs.define(kw_only=True, eq=False)
class Request:
    """One line.  `message` is what stock takes: any JSON, BLANK, UNREADABLE or TOO_MUCH.

    `modern` is the era of MCP in which it is asked and answered (palace/protocol/modern.py).
    """

    message: Any
    id: object = None
    method: str = ""
    modern: bool = False

    @property
    def expects_reply(self) -> bool:
        """Tell whether its client waits for a reply, be it only to learn that this is no request.

        Stock answers a tool call without an id, too; that is the engine's affair.
        """
        return self.id is not None or not isinstance(self.message, dict)


@attrs.define(kw_only=True, eq=False)
class ToolCall(Request):
    """A `tools/call`.  `group` is what it must not share with others of its batch, "" for alone.

    `beneath` is the directory beneath which alone it may open what it names, "" for anywhere.
    `progress_token` is None where its client does not ask how it comes on.  `may_be_task`: its
    client takes a task for a reply.
    """

    name: str = ""
    tool: Tool = UNKNOWN
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    group: str = ""
    progress_token: str | int | None = None
    beneath: str = ""
    may_be_task: bool = False


@attrs.define(kw_only=True, eq=False)
class ExtraCall(ToolCall):
    """A request for what is no tool, but answered from one (palace/protocol/extras.py).

    `asked` is what its client sent; `message` is the tool call that it comes to.
    """

    asked: Any = None


def read_request(line: bytes, *, light: bool = False) -> Request:
    """Parse one line; what is no JSON has the message UNREADABLE.

    One that is not light (palace/protocol/weight.py) is to be parsed apart from what must not wait;
    whoever knows that it is says so, and its values are not counted.
    """
    if not light and len(line) > SHORT_BYTES and has_too_many_values(line):
        return Request(message=TOO_MUCH, id=jsonrpc.parse(id_at_ends(line)))
    try:
        message = jsonrpc.parse(line)
    except (ValueError, RecursionError, MemoryError):
        return Request(message=UNREADABLE)
    if not isinstance(message, dict):
        return Request(message=message)
    method = jsonrpc.method_of(message)
    if method == TOOL_CALL:
        return tool_call(message)
    modern = "params" in message and is_modern(message)
    return Request(message=message, id=message.get("id"), method=method, modern=modern)


def tool_call(message: dict[str, Any]) -> ToolCall:
    """Return a parsed `tools/call` as a value."""
    params = jsonrpc.params_of(message)
    name, arguments = params.get("name"), params.get("arguments")
    name = name if isinstance(name, str) else ""
    arguments = arguments if isinstance(arguments, dict) else {}
    has_meta = "_meta" in params  # most have none, and every call comes by here
    modern = has_meta and is_modern(message)
    return ToolCall(
        message=message,
        id=message.get("id"),
        method=TOOL_CALL,
        modern=modern,
        may_be_task=modern and declares_tasks(message),
        name=name,
        tool=classify_call(name, arguments),
        arguments=arguments,
        group=group_key(name, arguments),
        progress_token=jsonrpc.progress_token(message) if has_meta else None,
    )


def extra_call(request: Request) -> ExtraCall:
    """Return the tool call that a well-formed request for a resource or a completion comes to."""
    name, arguments = extras.tool_for(request.message)
    params = {"name": name, "arguments": arguments}
    return ExtraCall(
        message={"jsonrpc": "2.0", "id": request.id, "method": TOOL_CALL, "params": params},
        id=request.id,
        method=TOOL_CALL,
        modern=request.modern,
        name=name,
        tool=classify_call(name, arguments),
        arguments=arguments,
        asked=request.message,
    )


def translated(call: ToolCall, message: Any, *, beneath: str = "") -> ToolCall:
    """Return a call with its paths as they are called here (palace/protocol/pathmap.py)."""
    if message is call.message and not beneath:
        return call
    arguments = message["params"]["arguments"]
    return attrs.evolve(call, message=message, arguments=arguments, beneath=beneath)
