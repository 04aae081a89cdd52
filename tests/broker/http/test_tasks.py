"""Tasks over HTTP: each request stands for itself, and the task's id is all that leads to it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from palace.broker.http import app
from palace.broker.http.sessions import name_of
from palace.protocol import jsonrpc, tasks
from tests.broker.http.test_http import Dial, dial, home, open_web
from tests.broker.http.test_modern import ask
from tests.protocol.test_tasks import DECLARED
from tests.support.brokers.http import Caller, call, request
from tests.support.brokers.owner import Running, until

__all__ = ["dial", "home"]  # fixtures


@pytest.fixture(autouse=True)
def hurry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "AFTER_S", 0.2)
        yield


async def about(caller: Caller, method: str, ident: str, meta: Any = DECLARED) -> Any:
    answer = await ask(caller, request(method, "q", taskId=ident), meta, mcp_name=ident)
    assert answer.status in (200, 400)
    return answer.json()


async def begun(caller: Caller, meta: Any = DECLARED, **headers: str) -> Any:
    """Return what a client is told of an add that waits for the gate."""
    message = call("add_drawer", "c", name="one", hold="w")
    answer = await ask(caller, message, meta, **headers)
    events = answer.headers["content-type"] == "text/event-stream"
    return answer.events()[-1] if events else answer.json()


async def ended(caller: Caller, ident: str) -> Any:
    told: Any = {"status": "working"}
    with trio.fail_after(30):
        while told["status"] == "working":
            told = (await about(caller, "tasks/get", ident))["result"]
    return told


@pytest.mark.parametrize("accept", ["", "application/json", "text/event-stream"])
async def test_a_call_that_takes_long_is_a_task(home: Path, dial: Dial, accept: str) -> None:
    async with open_web(home) as running:
        caller = await dial()
        handle = (await begun(caller, **({"accept": accept} if accept else {})))["result"]
        other = await dial()
        working = (await about(other, "tasks/get", handle["taskId"]))["result"]
        running.engine.gate("w").set()
        done = await ended(other, handle["taskId"])
        kept = len(running.state.sessions)

    assert (handle["resultType"], handle["status"]) == ("task", "working")
    assert (working["resultType"], working["status"]) == ("complete", "working")
    assert json.loads(done["result"]["content"][0]["text"]) == {"name": "one"}
    assert done["result"]["resultType"] == "complete"
    assert running.engine.written == ["one"]
    assert kept == 0


async def test_what_is_answered_in_time_is_no_task(home: Path, dial: Dial) -> None:
    async with open_web(home):
        answer = await ask(await dial(), call("add_drawer", "c", name="one"), DECLARED)

    assert answer.json()["result"]["resultType"] == "complete"


async def test_a_task_says_how_it_comes_on(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palace.broker.progress.TELL_S", 0.05)
    async with open_web(home) as running:
        caller = await dial()
        ident = (await begun(caller))["result"]["taskId"]
        with trio.fail_after(30):
            while (
                "statusMessage" not in (told := (await about(caller, "tasks/get", ident)))["result"]
            ):
                await trio.sleep(0.05)
        running.engine.gate("w").set()

    assert "has been running for" in told["result"]["statusMessage"]


async def test_an_unknown_task_and_a_client_without_tasks_are_refused(
    home: Path, dial: Dial
) -> None:
    async with open_web(home):
        caller = await dial()
        unknown = await about(caller, "tasks/get", "gone")
        undeclared = await about(
            await dial(),
            "tasks/get",
            "gone",
            DECLARED | {"io.modelcontextprotocol/clientCapabilities": {}},
        )
        unnamed = await ask(await dial(), request("tasks/get", "q", taskId="t"), DECLARED)

    assert (unknown["id"], unknown["error"]["code"]) == ("q", -32602)
    assert undeclared["error"]["code"] == -32021
    assert unnamed.json()["error"]["code"] == -32020, "its header does not name the task"


async def waiting(running: Running) -> None:
    await until(lambda: running.state.scheduler.admission.waiting)


async def test_a_task_that_has_not_begun_can_be_cancelled(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        caller = await dial()
        first = (await begun(caller))["result"]["taskId"]
        second = await ask(caller, call("add_drawer", "d", name="two", hold="w"), DECLARED)
        await waiting(running)
        heard = [
            await about(caller, "tasks/cancel", ident)
            for ident in (first, second.json()["result"]["taskId"])
        ]
        cancelled = await ended(caller, second.json()["result"]["taskId"])
        running.engine.gate("w").set()
        done = await ended(caller, first)
        late = await about(caller, "tasks/cancel", first)

    assert all(reply["result"]["resultType"] == "complete" for reply in (*heard, late))
    assert cancelled["status"] == "cancelled"
    assert done["status"] == "completed", "what had begun is carried out, and its client told"
    assert running.engine.written == ["one"]


async def test_a_broker_that_leaves_says_what_has_not_begun(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        engine = running.engine
        caller = await dial()
        await begun(caller)
        second = await ask(caller, call("add_drawer", "d", name="two"), DECLARED)
        await waiting(running)
        http = running.state.sessions
        session = next(s for s in http if s.id == name_of(second.json()["result"]["taskId"]))
        session.goodbye("stop", [0])
        told = await ended(caller, second.json()["result"]["taskId"])
        engine.gate("w").set()

    assert (told["status"], told["error"]["data"]["palace"]) == ("failed", "draining")


async def test_the_next_owner_knows_how_a_change_ended(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        recorded = jsonrpc.encode(jsonrpc.result("c", {"content": []}))
        running.engine.outcomes[name_of("of-another-owner"), 0] = recorded
        told = (await about(await dial(), "tasks/get", "of-another-owner"))["result"]
        heard = await about(await dial(), "tasks/cancel", "of-another-owner")

    assert (told["status"], told["result"]["content"]) == ("completed", [])
    assert told["result"]["resultType"] == "complete"
    assert heard["result"]["resultType"] == "complete"


async def test_the_journal_may_forget_a_task_when_the_broker_does(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ENDED_MAX", 1)
    over: list[str] = []
    async with open_web(home) as running:
        monkeypatch.setattr(running.engine, "end_session", over.append)
        caller = await dial()
        first = (await begun(caller))["result"]["taskId"]
        running.engine.gate("w").set()
        await ended(caller, first)
        assert over == []
        running.engine.gate("w").clear()
        second = (await begun(caller))["result"]["taskId"]
        running.engine.gate("w").set()
        await ended(caller, second)
        gone = await about(caller, "tasks/get", first)

    assert over == [name_of(first)]
    assert gone["error"]["code"] == -32602
