"""A line as a value."""

import json

import pytest

from palace.protocol import jsonrpc
from palace.protocol.request import (
    UNREADABLE,
    Request,
    ToolCall,
    read_request,
    tool_call,
    translated,
)
from palace.protocol.tools import TOOLS, UNKNOWN

META = {"progressToken": "t"}
ADD = {"wing": "w", "room": "r", "content": "c"}


def line(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def test_a_tool_call_is_classified_and_grouped_once() -> None:
    params = {"name": "mempalace_add_drawer", "arguments": ADD}
    call = read_request(line(id=7, method="tools/call", params=params))

    assert isinstance(call, ToolCall)
    assert (call.id, call.method, call.name) == (7, "tools/call", "mempalace_add_drawer")
    assert call.tool is TOOLS["mempalace_add_drawer"]
    assert call.arguments == ADD
    assert call.group == "drawer\0w\0r\0c"
    assert call.message["params"] == params
    assert call.progress_token is None
    followed = read_request(line(id=7, method="tools/call", params={**params, "_meta": META}))
    assert isinstance(followed, ToolCall)
    assert followed.progress_token == "t"


@pytest.mark.parametrize("params", [None, 1, {}, {"name": 1}, {"name": "x", "arguments": []}])
def test_a_call_that_can_not_be_told_is_a_mutation_that_runs_alone(params: object) -> None:
    call = tool_call({"method": "tools/call", "params": params})

    assert (call.tool, call.arguments, call.group) == (UNKNOWN, {}, "")
    assert call.name == ("x" if params and isinstance(params, dict) and len(params) > 1 else "")


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_unreadable(text: bytes) -> None:
    request = read_request(text)

    assert request.message is UNREADABLE
    assert request.expects_reply


@pytest.mark.parametrize(
    ("text", "ident", "method", "expects"),
    [
        (line(id=1, method="ping"), 1, "ping", True),
        (line(method="notifications/initialized"), None, "notifications/initialized", False),
        (line(method=5), None, "", False),
        (b"[]", None, "", True),
    ],
)
def test_other_lines_have_an_id_and_a_method(
    text: bytes, ident: object, method: str, expects: bool
) -> None:
    request = read_request(text)

    assert type(request) is Request
    assert (request.id, request.method, request.expects_reply) == (ident, method, expects)


def test_a_blank_line_is_no_request() -> None:
    assert read_request(b" \n").message is jsonrpc.BLANK


def test_a_translated_call_keeps_all_but_its_paths() -> None:
    here = {"method": "tools/call", "params": {"name": "x", "arguments": {"source": "/here"}}}
    there = {"method": "tools/call", "params": {"name": "x", "arguments": {"source": "/there"}}}
    call = tool_call(here)

    assert translated(call, here) is call
    moved = translated(call, there)
    assert (moved.message, moved.arguments, moved.name) == (there, {"source": "/there"}, "x")
    assert moved.beneath == ""
    held = translated(call, here, beneath="/lent")
    assert (held.message, held.beneath) == (here, "/lent")
