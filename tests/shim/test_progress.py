"""What a shim tells its client of a call that has no reply yet."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.protocol import wire
from tests.support.brokers.scripted import ScriptedBroker, start_shim
from tests.support.processes.clients import Client


@pytest.fixture
def palace(short_dir: Path) -> Path:
    return short_dir / "palace"


def call(ident: Any, token: Any) -> bytes:
    params = {"name": "mempalace_add_drawer", "arguments": {}, "_meta": {"progressToken": token}}
    message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


def note(shim: Client) -> Any:
    message = json.loads(shim.receive())
    assert (message["method"], message.get("id")) == ("notifications/progress", None)
    return message["params"]


def test_progress_rises_over_the_death_of_a_broker_and_ends_with_the_reply(palace: Path) -> None:
    with start_shim(palace, palace) as shim:
        with ScriptedBroker(palace) as broker:
            served = broker.accept()
            served.hello()
            served.welcome(epoch="1")
            shim.send(call(1, "t7") + call(2, 8))
            assert [served.message()["id"] for _ in range(2)] == [1, 2]
            served.header(wire.PROGRESS, ordinal="0", text="it waits, 50 %")
            served.header(wire.PROGRESS, ordinal="1", text="it runs")
            first, other = note(shim), note(shim)
            assert (first["progressToken"], first["message"]) == ("t7", "it waits, 50 %")
            assert (other["progressToken"], other["message"]) == (8, "it runs")
            heir = broker.succeed()
            served.close()
            with heir:
                again = heir.accept()
                again.hello()
                again.welcome(epoch="2")
                assert [again.message()["id"] for _ in range(2)] == [1, 2]
                assert again.at_rest(0.2)
                again.header(wire.PROGRESS, ordinal="0", text="it runs again")
                second = note(shim)
                assert second["progress"] > first["progress"]
                again.answer(0, 1, "done")
                for ordinal in ("0", "7", "99"):
                    again.header(wire.PROGRESS, ordinal=ordinal, text="too late, or never asked")
                again.answer(1, 2, "done")

                assert [json.loads(shim.receive())["id"] for _ in range(2)] == [1, 2]


def test_a_header_of_a_later_palace_is_passed_over(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        shim.send(call(1, "t"))
        served.message()
        served.header("later", ordinal="0", text="what no shim of today knows")
        served.answer(0, 1, "done")
        assert json.loads(shim.receive())["id"] == 1


def test_a_client_hears_that_a_broker_is_looked_for(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        shim.send(call(1, "t"))
        first = note(shim)  # the broker says no welcome
        served.welcome()
        served.message()
        served.answer(0, 1, "done")
        assert json.loads(shim.receive())["id"] == 1

    assert first["message"] == "looking for the palace's broker"
    assert first["progress"] > 0
