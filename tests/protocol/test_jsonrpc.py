import json

import pytest

from palace.protocol import jsonrpc
from palace.protocol.errors import Busy
from palace.protocol.jsonrpc import NOT_INLINE, Catalogue
from palace.settings.catalogue import load_catalogue

CATALOGUE = Catalogue(
    engine_version="3.11.0",
    protocol_versions=("2025-11-25", "2025-06-18", "2024-11-05"),
    tools=({"name": "look"}, {"name": "change"}),
    read_only_refused=frozenset({"change"}),
)


def inline(message: object, *, read_only: bool = False) -> object:
    return jsonrpc.inline_reply(message, CATALOGUE, read_only=read_only)


def test_initialize_echoes_a_known_version_and_offers_the_newest_otherwise() -> None:
    def version(asked: object) -> str:
        message = {"id": 1, "method": "initialize", "params": {"protocolVersion": asked}}
        return inline(message)["result"]["protocolVersion"]  # type: ignore[index]

    assert version("2024-11-05") == "2024-11-05"
    assert version("1999-01-01") == "2025-11-25"
    assert inline({"id": 1, "method": "initialize"})["result"]["protocolVersion"] == "2024-11-05"  # type: ignore[index]


def test_a_read_only_session_is_not_shown_what_it_may_not_do() -> None:
    message = {"id": 1, "method": "tools/list"}

    assert [tool["name"] for tool in inline(message)["result"]["tools"]] == ["look", "change"]  # type: ignore[index]
    hidden = inline(message, read_only=True)
    assert [tool["name"] for tool in hidden["result"]["tools"]] == ["look"]  # type: ignore[index]


@pytest.mark.parametrize("message", [[], [{"id": 1}], "x", 3, None, True])
def test_what_is_no_object_is_one_invalid_request(message: object) -> None:
    assert inline(message) == jsonrpc.error(None, -32600, "Invalid Request")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"id": 1, "method": "nope"}, "Unknown method: nope"),
        ({"id": 1, "method": 7}, "Unknown method: expected a string, got int"),
        ({"id": 1}, "Unknown method: expected a string, got NoneType"),
    ],
)
def test_unknown_methods_are_named(message: dict, expected: str) -> None:
    assert inline(message) == jsonrpc.error(1, -32601, expected)


def test_silence_where_stock_is_silent() -> None:
    assert inline({"method": "nope"}) is None
    assert inline({"method": "notifications/initialized"}) is None
    assert inline({"id": 4, "method": "notifications/cancelled"}) is None


def test_tool_calls_and_what_needs_a_missing_catalogue_are_not_inline() -> None:
    assert inline({"id": 1, "method": "tools/call"}) is NOT_INLINE
    assert jsonrpc.inline_reply({"method": "tools/list"}, None, read_only=False) is NOT_INLINE
    assert jsonrpc.inline_reply({"id": 2, "method": "ping"}, None, read_only=False) == {
        "jsonrpc": "2.0",
        "id": 2,
        "result": {},
    }


def test_ids_of_different_types_are_different_keys() -> None:
    ids = [1, 1.0, True, "1", None, [1], {"a": 1}]

    assert len({jsonrpc.id_key(ident) for ident in ids}) == len(ids)


def test_a_cancellation_names_its_request() -> None:
    message = {"method": "notifications/cancelled", "params": {"requestId": 7}}

    assert jsonrpc.cancelled_id(message) == jsonrpc.id_key(7)
    assert jsonrpc.cancelled_id({"method": "ping"}) is None
    assert jsonrpc.cancelled_id({"method": "notifications/cancelled", "params": {}}) is None


def test_lone_surrogates_and_broken_bytes_pass_as_in_stock() -> None:
    assert jsonrpc.encode({"a": "\ud800"}) == b'{"a": "?"}'
    assert jsonrpc.parse(b'{"a": "\xff"}') == {"a": "\ufffd"}


def test_an_error_of_ours_carries_the_id_a_name_and_what_to_try() -> None:
    reply = jsonrpc.failure("x", Busy("Later.", waiting=3))

    assert reply["id"] == "x"
    assert reply["error"] == {
        "code": -31041,
        "message": "Later.",
        "data": {"palace": "busy", "retry": "same_request", "waiting": 3},
    }


def test_a_client_that_says_who_it_is_is_known_and_others_are_not() -> None:
    named = {"params": {"clientInfo": {"name": "pi", "version": "2"}}}

    assert jsonrpc.client_of(named) == "pi 2"
    assert jsonrpc.client_of({"params": {"clientInfo": {"version": 2}}}) == "2"
    assert jsonrpc.client_of({"params": {"clientInfo": {"name": "n" * 101}}}) == "n" * 100
    assert jsonrpc.client_of({"params": {"clientInfo": "pi"}}) == ""


def test_the_catalogue_survives_its_file_and_a_torn_one_is_replaced_by_the_shipped() -> None:
    assert Catalogue.from_json(CATALOGUE.to_json()).to_json() == CATALOGUE.to_json()
    assert load_catalogue(CATALOGUE.to_json()).tools == CATALOGUE.tools
    for torn in (CATALOGUE.to_json()[:-30], b"[]", b'{"tools": 3}', None):
        assert len(load_catalogue(torn).tools) == 47


@pytest.mark.parametrize(
    "changed",
    [{"protocol_versions": []}, {"protocol_versions": [3]}, {"tools": [{"name": 3}]}, {"tools": 3}],
)
def test_a_catalogue_without_versions_or_names_is_none(changed: dict) -> None:
    fields = json.loads(CATALOGUE.to_json()) | changed

    with pytest.raises(ValueError, match=r"catalogue|a tool has"):
        Catalogue.from_json(json.dumps(fields))


def test_a_tool_call_is_known_by_its_method() -> None:
    assert jsonrpc.is_tool_call({"method": "tools/call"})
    assert not jsonrpc.is_tool_call({"method": "tools/list"})
    assert not jsonrpc.is_tool_call(["tools/call"])


def test_a_blank_line_is_answered_with_silence() -> None:
    assert inline(jsonrpc.BLANK) is None


def test_params_that_are_no_object_are_taken_as_none() -> None:
    assert jsonrpc.params_of({"params": [1]}) == {}
    assert jsonrpc.params_of(json.loads("[]")) == {}
    assert jsonrpc.method_of(3) == ""
    assert jsonrpc.request_id(3) is None


@pytest.mark.parametrize(
    ("params", "token"),
    [
        ({"_meta": {"progressToken": "t"}}, "t"),
        ({"_meta": {"progressToken": 0}}, 0),
        ({"_meta": {"progressToken": True}}, None),
        ({"_meta": {"progressToken": 1.5}}, None),
        ({"_meta": []}, None),
        ({}, None),
    ],
)
def test_a_progress_token_is_a_text_or_a_whole_number(params: object, token: object) -> None:
    assert jsonrpc.progress_token({"method": "tools/call", "params": params}) == token


def test_progress_is_told_under_the_token() -> None:
    assert jsonrpc.progress("t", 1.23456, "it runs") == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": "t", "progress": 1.235, "message": "it runs"},
    }


def test_replies_have_the_shape_that_stock_gives_them() -> None:
    started = inline({"id": "a", "method": "initialize", "params": {"protocolVersion": "x"}})

    assert started == {
        "jsonrpc": "2.0",
        "id": "a",
        "result": {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "mempalace", "version": "3.11.0"},
        },
    }
    assert inline({"id": 5, "method": "tools/list"}) == {
        "jsonrpc": "2.0",
        "id": 5,
        "result": {"tools": list(CATALOGUE.tools)},
    }
    assert jsonrpc.error(3, -32600, "No") == {
        "jsonrpc": "2.0",
        "id": 3,
        "error": {"code": -32600, "message": "No"},
    }
    assert jsonrpc.failure(4, Busy("Later.", waiting=1))["jsonrpc"] == "2.0"


@pytest.mark.parametrize("size", [-3, -1, 0, 1])
@pytest.mark.parametrize("tail", [b"", b"\xe2\x82", "\u20ac".encode()])
def test_long_lines_of_broken_bytes_are_read_as_a_whole_one_would_be(
    size: int, tail: bytes
) -> None:
    pieces = jsonrpc.DECODED_BYTES * 2 + size
    line = b"\xff" + "\u20ac".encode() * (pieces // 3) + b"x" * (pieces % 3) + tail

    assert jsonrpc._decoded(line) == line.decode("utf-8", "replace")
