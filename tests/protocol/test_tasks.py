"""Tasks: what a client that declares them is given for a call that takes long."""

import json
from typing import Any

import pytest

from palace.protocol import jsonrpc, modern, tasks
from palace.protocol.request import ToolCall, read_request
from palace.protocol.tasks import ENDED_BYTES_MAX, ENDED_MAX, Task
from tests.protocol.test_jsonrpc import CATALOGUE
from tests.protocol.test_modern import META, request

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
EXTENSION = "io.modelcontextprotocol/tasks"
DECLARED = META | {CAPABILITIES: {"extensions": {EXTENSION: {}}}}
HEAD = {"resultType": "complete"}


def result(text: str) -> bytes:
    return jsonrpc.encode(jsonrpc.result(1, {"content": [{"type": "text", "text": text}]}))


def inline(message: object) -> Any:
    return modern.inline_reply(message, CATALOGUE, read_only=False)


def test_the_extension_is_told_of_in_the_discovery() -> None:
    capabilities = inline(request("server/discover"))["result"]["capabilities"]

    assert capabilities == {"tools": {}, "extensions": {EXTENSION: {}}}


@pytest.mark.parametrize(
    "capabilities",
    [{}, {"extensions": []}, {"extensions": {EXTENSION: None}}, {"tasks": {}}],
)
def test_only_a_request_that_declares_tasks_may_become_one(capabilities: object) -> None:
    for meta, may in ((META | {CAPABILITIES: capabilities}, False), (DECLARED, True)):
        line = json.dumps(request("tools/call", meta=meta, name="mempalace_mine")).encode()
        call = read_request(line)
        assert isinstance(call, ToolCall)
        assert call.may_be_task is may

    legacy = read_request(b'{"id": 1, "method": "tools/call", "params": {"_meta": {}}}')
    assert isinstance(legacy, ToolCall)
    assert not legacy.may_be_task


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_who_does_not_declare_tasks_is_told_what_it_lacks(method: str) -> None:
    error = inline(request(method, 5, taskId="t"))["error"]

    assert error["code"] == -32021
    assert error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


@pytest.mark.parametrize("params", [{}, {"taskId": 7}, {"taskId": "gone"}])
def test_a_task_that_is_not_named_or_not_known_is_an_invalid_parameter(params: Any) -> None:
    reply = inline(request("tasks/get", 5, DECLARED, **params))

    assert (reply["id"], reply["error"]["code"]) == (5, -32602)
    assert ("taskId" in reply["error"]["message"]) is (params != {"taskId": "gone"})


def test_there_is_no_list_of_tasks() -> None:
    assert inline(request("tasks/list", 5, DECLARED))["error"]["code"] == -32601
    assert inline(request("tasks/result", 5, DECLARED))["error"]["code"] == -32601


def test_a_task_is_handed_out_and_says_how_it_comes_on() -> None:
    task = Task("t", "then")
    task.note("half of it", "now")
    task.note("half of it", "later")

    seen = {
        "taskId": "t",
        "status": "working",
        "statusMessage": "half of it",
        "createdAt": "then",
        "lastUpdatedAt": "now",
        "ttlMs": 86_400_000,
        "pollIntervalMs": 2000,
    }
    assert task.created_reply(9, HEAD)["result"] == {**seen, "resultType": "task"}
    assert task.shown_reply(9, HEAD) == jsonrpc.result(9, {**seen, **HEAD})


def test_its_end_is_what_the_call_would_have_said() -> None:
    done, failed, cancelled = Task("a", "0"), Task("b", "0"), Task("c", "0")
    done.end(result("four"), "1")
    done.end(b"", "2")
    done.note("running", "3")
    failed.end(jsonrpc.encode(jsonrpc.error(1, -31045, "unknown")), "1")
    cancelled.end(b"", "1")
    shown = [task.shown_reply(9, HEAD)["result"] for task in (done, failed, cancelled)]

    assert [told["status"] for told in shown] == ["completed", "failed", "cancelled"]
    assert [told["lastUpdatedAt"] for told in shown] == ["1", "1", "1"]
    assert shown[0]["result"] == {"content": [{"type": "text", "text": "four"}]}
    assert shown[1]["error"] == {"code": -31045, "message": "unknown"}
    assert shown[1]["statusMessage"] == "unknown"
    assert not {"result", "error"} & shown[2].keys()
    assert "statusMessage" not in shown[0]


def test_what_has_ended_is_kept_within_bounds_and_the_newest_always() -> None:
    small, large = Task("s", "0"), Task("l", "0")
    small.end(result("x"), "1")
    large.end(result("x" * ENDED_BYTES_MAX), "1")

    assert tasks.too_many([]) == []
    assert tasks.too_many([small] * ENDED_MAX) == []
    assert tasks.too_many([small] * (ENDED_MAX + 1)) == [small]
    assert tasks.too_many([large, *[small] * ENDED_MAX]) == [large]
    assert tasks.too_many([small, large]) == [small]
    assert tasks.too_many([large, small]) == [large]


def test_a_cancelled_task_spares_what_has_begun() -> None:
    asked = jsonrpc.parse(tasks.cancelled_line("c"))

    assert jsonrpc.cancelled_id(asked) == jsonrpc.id_key("c")
    assert tasks.spares_what_began(asked)
    assert not tasks.spares_what_began({"method": "notifications/cancelled", "params": {}})
