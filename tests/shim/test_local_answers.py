"""What a shim says by itself: as stock and the broker would."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol.errors import Busy
from palace.protocol.jsonrpc import id_key
from palace.settings.paths import Paths
from palace.shim import local_answers as local
from tests.broker.http.test_modern import META, enveloped
from tests.support.brokers.http import request

PARSE_ERROR = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {"code": -32700, "message": "Parse error"},
}

OLDER = ["2025-06-18", "2025-03-26", "2024-11-05"]


def answer(message: object, root: Path, *, read_only: bool = False) -> Any:
    line = local.inline_line(message, Kernel(), Paths(str(root)), read_only=read_only)
    assert line is not None
    assert line == b"" or line.endswith(b"\n")
    return json.loads(line) if line else None


def test_what_is_no_json_is_a_parse_error(tmp_path: Path) -> None:
    for line in (b"{", b"\xff", b"[" * 100_000):
        message = local.parsed(line)
        assert message is local.UNREADABLE
        assert answer(message, tmp_path) == PARSE_ERROR
        assert json.loads(local.failure_line(line, Busy("x"))) == PARSE_ERROR


def test_the_shipped_catalogue_answers_where_the_palace_has_none(tmp_path: Path) -> None:
    started = answer({"id": 1, "method": "initialize", "params": {}}, tmp_path)
    listed = answer({"id": 2, "method": "tools/list"}, tmp_path)
    fewer = answer({"id": 3, "method": "tools/list"}, tmp_path, read_only=True)

    assert started["result"]["serverInfo"]["name"] == "mempalace"
    assert len(listed["result"]["tools"]) == 47
    assert 0 < len(fewer["result"]["tools"]) < 47


def test_other_methods_are_answered_or_passed_over_as_by_the_broker(tmp_path: Path) -> None:
    assert answer({"id": 1, "method": "ping"}, tmp_path) == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {},
    }
    assert answer({"id": 1, "method": "server/discover"}, tmp_path)["error"]["code"] == -32601
    assert answer({"method": "notifications/initialized"}, tmp_path) is None


def test_a_modern_client_is_answered_in_its_form(tmp_path: Path) -> None:
    found = answer(enveloped(request("server/discover", "d")), tmp_path)
    listed = answer(enveloped(request("tools/list")), tmp_path, read_only=True)

    assert found["id"] == "d"
    assert found["result"]["supportedVersions"] == ["2026-07-28", "2025-11-25", *OLDER]
    assert found["result"]["capabilities"]["tools"] == {}
    assert 0 < len(listed["result"]["tools"]) < 47
    assert listed["result"]["ttlMs"] > 0
    assert answer(enveloped(request("ping")), tmp_path)["error"]["code"] == -32601


def test_a_modern_call_needs_the_engine_unless_it_is_malformed(tmp_path: Path) -> None:
    well_formed = enveloped(request("tools/call", 7, name="x"))
    newer = META | {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}
    other_version = enveloped(request("tools/call", 7, name="x"), newer)

    assert local.needs_engine(well_formed)
    assert not local.needs_engine(other_version)
    refused = answer(other_version, tmp_path)
    assert (refused["id"], refused["error"]["code"]) == (7, -32022)
    assert "2025-11-25" in refused["error"]["data"]["supported"]


def test_a_call_is_known_by_its_id_and_by_its_method() -> None:
    call = b'{"id": 7, "method": "tools/call"}'

    assert local.needs_engine(local.parsed(call))
    assert local.call_id(call) == id_key(7)
    for other in (b'{"id": 7, "method": "ping"}', b'{"method": "tools/call"}', b"{", b"[]"):
        assert local.call_id(other) is None


def test_a_client_is_known_by_its_initialize_or_by_each_modern_request() -> None:
    named = {"method": "initialize", "params": {"clientInfo": {"name": "pi", "version": "1"}}}

    assert local.client_of(named) == "pi 1"
    assert local.client_of({**named, "method": "ping"}) == ""
    assert local.client_of(enveloped(request("tools/list"))) == "host 9"


def test_a_cancellation_names_its_request() -> None:
    cancelled = {"method": "notifications/cancelled", "params": {"requestId": "x"}}

    assert local.cancelled_id(cancelled) == id_key("x")
    assert local.cancelled_id({"method": "ping"}) is None


@pytest.mark.parametrize("line", [b"", b"  ", b'{"method": "notifications/cancelled", "id": 1}'])
def test_nothing_is_said_to_whom_no_reply_is_due(line: bytes) -> None:
    assert local.failure_line(line, Busy("x")) == b""


def test_a_failure_keeps_the_requests_id() -> None:
    reply = json.loads(local.failure_line(b'{"id": "a", "method": "tools/call"}', Busy("Later.")))

    assert (reply["id"], reply["error"]["message"]) == ("a", "Later.")


def test_progress_is_told_to_whom_it_was_promised() -> None:
    asking = b'{"id": 1, "method": "x", "params": {"_meta": {"progressToken": 5}}}'

    assert json.loads(local.progress_line(asking, 1.5, "on"))["params"] == {
        "progressToken": 5,
        "progress": 1.5,
        "message": "on",
    }
    assert local.progress_line(b'{"id": 1, "method": "x"}', 1.5, "on") == b""


def test_a_line_that_is_too_long_is_refused_by_name_and_size() -> None:
    scanner = local.scanner_of([b'{"id": 9, "x": "', b'yyyy"}'])
    reply = json.loads(local.too_large_line(scanner.request_id(), 4096))

    assert reply["id"] == 9
    assert reply["error"]["data"]["palace"] == "too_large"
    assert "more than 4096 bytes" in reply["error"]["message"]
