"""MCP from 2026-07-28 on, beside what stock speaks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol import errors, jsonrpc, modern
from palace.protocol.jsonrpc import NOT_INLINE
from palace.protocol.request import ToolCall, read_request
from tests.protocol.test_jsonrpc import CATALOGUE

MODERN = "2026-07-28"
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "host", "version": "7"},
}
SERVER = {"io.modelcontextprotocol/serverInfo": {"name": "mempalace", "version": "3.11.0"}}
BOTH_ERAS = [MODERN, *CATALOGUE.protocol_versions]


def request(method: str, ident: object = 1, meta: object = META, **params: object) -> Any:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": {"_meta": meta, **params}}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in META.items() if not name.endswith(f"/{key}")}


def inline(message: object, *, read_only: bool = False) -> Any:
    return modern.inline_reply(message, CATALOGUE, read_only=read_only)


def test_a_client_learns_which_versions_and_capabilities_there_are() -> None:
    assert inline(request("server/discover", "d")) == {
        "jsonrpc": "2.0",
        "id": "d",
        "result": {
            "resultType": "complete",
            "_meta": SERVER,
            "supportedVersions": BOTH_ERAS,
            "capabilities": {"tools": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}},
            "ttlMs": 300_000,
            "cacheScope": "public",
        },
    }


def test_tools_are_listed_as_far_as_the_client_may_use_them() -> None:
    all_of_them = inline(request("tools/list"))["result"]
    assert all_of_them["tools"] == list(CATALOGUE.tools)
    assert (all_of_them["resultType"], all_of_them["_meta"]) == ("complete", SERVER)
    assert (all_of_them["ttlMs"], all_of_them["cacheScope"]) == (300_000, "private")

    some = inline(request("tools/list"), read_only=True)["result"]
    assert [tool["name"] for tool in some["tools"]] == ["look"]


@pytest.mark.parametrize(
    "method",
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "subscriptions/listen", ""],
)
def test_what_the_era_no_longer_has_is_no_method(method: str) -> None:
    text = f"Method not found: {method}"
    assert inline(request(method, 5)) == jsonrpc.error(5, -32601, text)


def test_a_version_that_is_not_spoken_is_answered_with_those_that_are() -> None:
    meta = META | {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}

    for method in ("server/discover", "tools/call", "ping"):
        error = inline(request(method, "v", meta))["error"]
        assert error["code"] == -32022
        assert error["data"] == {"supported": BOTH_ERAS, "requested": "2031-01-01"}


@pytest.mark.parametrize("capabilities", [None, [], "all", 7])
def test_a_request_without_its_clients_capabilities_is_malformed(capabilities: object) -> None:
    meta = META | {"io.modelcontextprotocol/clientCapabilities": capabilities}
    if capabilities is None:
        meta = without("clientCapabilities")

    for method in ("tools/list", "tools/call"):
        assert inline(request(method, meta=meta))["error"]["code"] == -32602
    assert "supportedVersions" in inline(request("server/discover", meta=meta))["result"]
    probe = modern.problem(request("server/discover", meta=meta), CATALOGUE)
    assert probe is not None
    assert probe["error"]["code"] == -32602


@pytest.mark.parametrize("version", [None, 20260728, ["2026-07-28"], {}])
def test_a_version_that_is_no_text_is_malformed(version: object) -> None:
    meta = META | {"io.modelcontextprotocol/protocolVersion": version}
    assert inline(request("tools/list", meta=meta))["error"]["code"] == -32602


@pytest.mark.parametrize("ident", [None, True, 1.5, [], {}])
def test_an_id_that_is_neither_text_nor_number_is_not_repeated(ident: object) -> None:
    reply = inline(request("tools/list", ident))

    assert "id" not in reply
    assert reply["error"]["code"] == -32600


def test_a_notification_is_never_answered_and_a_call_without_id_is_one() -> None:
    for method in ("notifications/cancelled", "tools/call", "tools/list", "nope"):
        message = request(method)
        del message["id"]
        assert inline(message) is None


def test_a_well_formed_call_is_the_engines() -> None:
    assert inline(request("tools/call", name="look")) is NOT_INLINE
    assert modern.is_well_formed(request("tools/call"))
    assert not modern.is_well_formed(request("tools/call", meta=without("clientCapabilities")))
    assert modern.inline_reply(request("tools/list"), None, read_only=False) is NOT_INLINE
    assert modern.inline_reply(request("server/discover"), None, read_only=False) is NOT_INLINE


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "method": "ping"},
        {"id": 1, "method": "tools/list", "params": {"_meta": {"progressToken": 3}}},
        {"id": 1, "method": "server/discover"},
        {"id": 1, "method": "server/discover", "params": {"_meta": without("protocolVersion")}},
        request("initialize", protocolVersion="2025-06-18"),
        [],
        "x",
        None,
    ],
)
def test_everything_else_is_answered_as_stock_does(message: object) -> None:
    assert not modern.is_modern(message)
    assert inline(message) == jsonrpc.inline_reply(message, CATALOGUE, read_only=False)


def test_the_client_says_its_name_with_each_request() -> None:
    assert modern.client_of(request("tools/list")) == "host 7"
    assert modern.client_of(request("tools/list", meta=without("clientInfo"))) == ""


def test_a_line_knows_its_era() -> None:
    call = read_request(jsonrpc.encode(request("tools/call", name="look")))
    assert isinstance(call, ToolCall)
    assert (call.modern, call.name) == (True, "look")
    assert read_request(jsonrpc.encode(request("tools/list"))).modern
    assert not read_request(b'{"id": 1, "method": "tools/call"}').modern


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    ident=st.text() | st.integers(),
    told=st.dictionaries(st.text() | st.just("_meta"), json_values, max_size=4),
)
def test_a_reply_of_stocks_gets_a_head_and_keeps_the_rest(
    ident: object, told: dict[str, Any]
) -> None:
    payload = jsonrpc.encode(jsonrpc.result(ident, told))

    reply = jsonrpc.parse(modern.in_modern_form(payload, ident, CATALOGUE))

    stocks = jsonrpc.parse(payload)
    assert reply.pop("id") == stocks["id"]
    assert reply["result"].pop("_meta").items() >= SERVER.items()
    assert reply["result"].pop("resultType") == "complete"
    rest = {k: v for k, v in stocks["result"].items() if k not in ("_meta", "resultType")}
    assert reply == {"jsonrpc": "2.0", "result": rest}


def test_a_head_is_put_before_a_long_reply_without_reading_it() -> None:
    content = [{"type": "text", "text": 'a "_meta": {} in a text, and "result": {'}]
    payload = jsonrpc.encode(jsonrpc.result('", "result": {', {"content": content}))

    reply = modern.in_modern_form(payload, '", "result": {', CATALOGUE)

    assert reply.endswith(payload[payload.index(b'"content"') :])
    assert jsonrpc.parse(reply)["result"]["content"] == content
    without_catalogue = jsonrpc.parse(modern.in_modern_form(payload, '", "result": {', None))
    assert without_catalogue["result"] == {"resultType": "complete", "content": content}


@pytest.mark.parametrize(
    ("stocks", "ours"),
    [(-32601, -32602), (-32602, -32602), (-32603, -32603), (-32003, -31003), (-32000, -31000)],
)
def test_errors_of_stocks_leave_what_the_specification_reserves(stocks: int, ours: int) -> None:
    payload = jsonrpc.encode(jsonrpc.error(1, stocks, "Unknown tool: x"))

    assert jsonrpc.parse(modern.in_modern_form(payload, 1, CATALOGUE)) == jsonrpc.error(
        1, ours, "Unknown tool: x"
    )


@pytest.mark.parametrize("reply", [{"jsonrpc": "2.0", "id": 1}, {"id": 1, "result": "text"}])
def test_what_has_neither_result_nor_error_is_left_as_it_is(reply: dict[str, Any]) -> None:
    payload = jsonrpc.encode(reply)
    assert modern.in_modern_form(payload, 1, CATALOGUE) == payload


def test_no_error_of_ours_is_in_the_range_that_json_rpc_reserves() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.wire_code for kind in kinds if issubclass(kind, errors.PalaceError)}

    assert len(codes) > 30
    assert not [code for code in codes if -32768 <= code <= -32000]
