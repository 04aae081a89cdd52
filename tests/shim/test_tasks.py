"""A call that takes long is answered with a handle, which outlives every broker."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol import tasks as machine
from palace.protocol import wire
from palace.protocol.ledger import Ledger
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from palace.shim.progress import ProgressNotes
from palace.shim.tasks import AFTER_S, WATCHED_MAX, Tasks
from tests.broker.http.test_modern import enveloped
from tests.protocol.test_tasks import DECLARED
from tests.support.brokers.http import call, request
from tests.support.brokers.scripted import Connection, ScriptedBroker, start_shim
from tests.support.processes.clients import Client

DONE = {"content": [{"type": "text", "text": "done"}], "resultType": "complete"}


class Clock(Kernel):
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Life:
    """One session's tasks, its ledger and clock, and what it has sent by itself."""

    def __init__(self, root: Path) -> None:
        self.clock, self.ledger = Clock(), Ledger()
        self.sent: list[Any] = []
        self.progress = ProgressNotes(self.clock, self.ledger)
        site = Site(self.clock, Paths(str(root)), ShimEnvironment({}))
        self.tasks = Tasks(
            site, self.ledger, self.progress, lambda line: self.sent.append(json.loads(line))
        )

    def call(self, ident: Any, meta: Any = DECLARED) -> int:
        line = json.dumps(enveloped(call("mine", ident), meta)).encode()
        ordinal = self.ledger.accept(line)
        self.progress.watch(ordinal, line)
        self.tasks.watch(ordinal, line)
        return ordinal

    def begin(self) -> list[Any]:
        self.clock.now_s += AFTER_S
        return [json.loads(line) for line in self.tasks.begin_due().splitlines()]

    def ask(self, method: str, ident: str, meta: Any = DECLARED) -> Any:
        line = json.dumps(enveloped(request(method, "q", taskId=ident), meta)).encode()
        told = self.tasks.answer(line)
        return json.loads(told) if told else None


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def reply(ident: Any, **more: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": ident, "result": DONE} | more).encode()


def test_both_wait_as_long() -> None:
    assert AFTER_S == machine.AFTER_S


def test_a_call_that_is_answered_in_time_is_none(life: Life) -> None:
    quick, slow = life.call(1), life.call(2)
    undeclared = {"extensions": {"io.modelcontextprotocol/tasks": None}}
    life.call(3, DECLARED | {"io.modelcontextprotocol/clientCapabilities": undeclared})
    assert life.tasks.begin_due() == b""
    life.ledger.settle(quick)

    handed = life.begin()

    assert [reply["id"] for reply in handed] == [2]
    assert handed[0]["result"]["resultType"] == "task"
    assert life.tasks.kept(quick, b"x") == b"x"
    assert life.tasks.kept(slow, reply(2)) == b""
    assert life.tasks.begin_due() == b"", "and only once"


def test_the_loop_wakes_when_one_is_due(life: Life) -> None:
    assert life.tasks.timeout_ms(None) is None
    assert life.tasks.timeout_ms(7.0) == 7.0
    life.call(1)
    assert life.tasks.timeout_ms(None) == AFTER_S * 1000 + 1
    assert life.tasks.timeout_ms(7.0) == 7.0
    life.clock.now_s += AFTER_S + 1
    assert life.tasks.timeout_ms(None) == 1
    life.tasks.begin_due()
    assert life.tasks.timeout_ms(None) is None


def test_a_task_is_asked_for_until_it_has_ended(life: Life) -> None:
    ordinal = life.call("c", DECLARED | {"progressToken": "p"})
    ident = life.begin()[0]["result"]["taskId"]
    assert life.tasks.note(ordinal, "three files")
    assert life.progress.note(ordinal, "three files") == b"", "there are no notes besides"
    working = life.ask("tasks/get", ident)["result"]
    life.ledger.settle(ordinal)
    life.tasks.kept(ordinal, reply("c"))
    done = life.ask("tasks/get", ident)["result"]

    assert (working["status"], working["statusMessage"]) == ("working", "three files")
    assert working["resultType"] == done["resultType"] == "complete"
    assert (done["status"], done["result"]) == ("completed", DONE)


def test_what_is_not_known_here_is_left_to_others(life: Life) -> None:
    life.call(1)
    ident = life.begin()[0]["result"]["taskId"]

    assert life.ask("tasks/get", "other") is None
    assert life.ask("tasks/get", ident, DECLARED | {"io.modelcontextprotocol/x": 1}) is not None
    assert life.ask("tools/list", ident) is None
    undeclared = DECLARED | {"io.modelcontextprotocol/clientCapabilities": {}}
    assert life.ask("tasks/get", ident, undeclared) is None
    assert life.tasks.note(99, "x") is False
    padded = enveloped(request("tasks/get", 1, taskId=ident, x="x" * 70_000), DECLARED)
    assert life.tasks.answer(json.dumps(padded).encode()) == b""


def test_a_cancelled_task_is_asked_of_the_broker_and_ends_when_that_has_answered(
    life: Life,
) -> None:
    ordinal = life.call("c")
    ident = life.begin()[0]["result"]["taskId"]
    acknowledged = life.ask("tasks/cancel", ident)
    before = life.ask("tasks/get", ident)["result"]["status"]
    life.ledger.settle(ordinal)
    life.tasks.kept(ordinal, b"")
    life.ask("tasks/cancel", ident)

    assert acknowledged["result"].keys() == {"resultType", "_meta"}
    assert before == "working"
    assert [message["params"]["requestId"] for message in life.sent] == ["c"]
    assert life.ask("tasks/get", ident)["result"]["status"] == "cancelled"


def test_a_call_that_was_dropped_without_a_broker_was_cancelled(life: Life) -> None:
    ordinal = life.call("c")
    ident = life.begin()[0]["result"]["taskId"]
    life.ledger.settle(ordinal)

    assert life.ask("tasks/get", ident)["result"]["status"] == "cancelled"


def test_an_update_of_what_asks_for_nothing_is_acknowledged(life: Life) -> None:
    life.call("c")
    ident = life.begin()[0]["result"]["taskId"]

    assert life.ask("tasks/update", ident)["result"]["resultType"] == "complete"


def test_those_that_have_ended_are_forgotten_one_day(life: Life) -> None:
    idents = []
    for number in range(machine.ENDED_MAX + 1):
        ordinal = life.call(number)
        idents.append(life.begin()[0]["result"]["taskId"])
        life.ledger.settle(ordinal)
        life.tasks.kept(ordinal, reply(number))

    assert life.ask("tasks/get", idents[0]) is None
    assert life.ask("tasks/get", idents[1]) is not None
    for number in range(3 * WATCHED_MAX):
        life.ledger.settle(life.call(number))
    assert len(life.tasks._due_s) <= WATCHED_MAX


def task_of(shim: Client) -> Any:
    """Return the handle that a shim gives for the call that it was sent."""
    handed = json.loads(shim.receive())
    assert handed["result"]["resultType"] == "task"
    return handed["result"]["taskId"]


def ask(shim: Client, method: str, ident: str) -> Any:
    message = enveloped(request(method, os.urandom(4).hex(), taskId=ident), DECLARED)
    shim.send(json.dumps(message).encode() + b"\n")
    return json.loads(shim.receive())


def mine(shim: Client, served: Connection) -> str:
    """Let a shim ask for what takes long; return the task that it becomes."""
    shim.send(json.dumps(enveloped(call("mine", "m"), DECLARED)).encode() + b"\n")
    assert served.message()["id"] == "m"
    return str(task_of(shim))


def test_a_task_is_worked_on_by_the_next_broker(short_dir: Path) -> None:
    palace = short_dir / "palace"
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        served = broker.accept()
        served.hello()
        served.welcome(epoch="4")
        ident = mine(shim, served)
        served.header(wire.PROGRESS, ordinal="0", text="two files")
        next_broker = broker.succeed()
        served.close()
        with next_broker as heir:
            again = heir.accept()
            hello = again.hello()
            again.welcome(epoch="5")
            assert again.message()["id"] == "m"
            told = ask(shim, "tasks/get", ident)
            again.reply(0, reply("m"))
            while (done := ask(shim, "tasks/get", ident))["result"]["status"] == "working":
                continue

    assert hello["resend"] == "0:1"
    assert told["result"]["statusMessage"] == "two files"
    assert (done["result"]["status"], done["result"]["result"]) == ("completed", DONE)


def test_a_task_that_no_broker_can_answer_has_failed(short_dir: Path) -> None:
    palace = short_dir / "palace"
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome(epoch="4")
        ident = mine(shim, served)
        broker.close()
        while (told := ask(shim, "tasks/get", ident))["result"]["status"] == "working":
            continue

    assert (told["result"]["status"], told["result"]["error"]["code"]) == ("failed", -31045)


def test_a_task_is_cancelled_by_a_word_to_the_broker(short_dir: Path) -> None:
    palace = short_dir / "palace"
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome(epoch="4")
        ident = mine(shim, served)
        ask(shim, "tasks/cancel", ident)
        word = served.message()
        served.reply(1, None)
        served.reply(0, None)
        while (told := ask(shim, "tasks/get", ident))["result"]["status"] == "working":
            continue

    assert word["params"] == {"requestId": "m", "_meta": {"palace/unbegun": True}}
    assert told["result"]["status"] == "cancelled"
