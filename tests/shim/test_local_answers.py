"""What a shim answers while no broker can be had, or before one has said welcome."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.protocol import wire
from palace.protocol.errors import BrokerFull
from palace.protocol.jsonrpc import INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR
from tests.support.brokers.scripted import ScriptedBroker, call, start_shim

BROKER_UNREACHABLE = -32053


@pytest.fixture
def palace(short_dir: Path) -> Path:
    return short_dir / "palace"


def line(**message: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n"


def cancel(ident: Any) -> bytes:
    return line(method="notifications/cancelled", params={"requestId": ident})


DISCOVER = line(id="d1", method="server/discover", params={"_meta": {"v": "2026-07-28"}})
NEEDS_NO_ENGINE = [
    (DISCOVER, "d1", METHOD_NOT_FOUND),
    (line(id=2, method="resources/list"), 2, METHOD_NOT_FOUND),
    (line(id=3, method=7), 3, METHOD_NOT_FOUND),
    (line(id=4), 4, METHOD_NOT_FOUND),
    (b"[1, 2]\n", None, INVALID_REQUEST),
    (b"no json\n", None, PARSE_ERROR),
    (b"[" * 20_000 + b"\n", None, PARSE_ERROR),
]
SILENT = line(method="notifications/roots/list_changed") + line(method="no/such") + cancel(99)


def test_what_needs_no_engine_is_answered_where_no_broker_can_be_had(palace: Path) -> None:
    with start_shim(palace, palace) as shim:
        shim.send(call("dead"))  # the shim has found out that there is no broker
        assert json.loads(shim.receive())["error"]["code"] == BROKER_UNREACHABLE
        for sent, ident, code in NEEDS_NO_ENGINE:
            shim.send(SILENT + sent)
            reply = json.loads(shim.receive())
            assert (reply["id"], reply["error"]["code"]) == (ident, code), sent


def test_what_needs_no_engine_does_not_wait_for_a_welcome(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        shim.send(call(1))
        for sent, ident, code in NEEDS_NO_ENGINE:
            shim.send(SILENT + sent)
            reply = json.loads(shim.receive())
            assert (reply["id"], reply["error"]["code"]) == (ident, code), sent
        served.welcome()
        assert served.message()["id"] == 1
        served.answer(0, 1, "and the call was only late")
        assert json.loads(shim.receive())["id"] == 1


def test_a_call_that_is_cancelled_before_it_was_sent_is_never_sent(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        shim.send(call(1) + call("1") + cancel(1) + DISCOVER)
        assert json.loads(shim.receive())["id"] == "d1"
        served.welcome()

        lines = [served.client_line() for _ in range(4)]

        assert lines[0] == lines[2] == lines[3] == b""  # counted by both sides
        assert json.loads(lines[1])["id"] == "1"
        served.answer(1, "1", "done")
        assert json.loads(shim.receive())["id"] == "1"


def test_a_cancellation_follows_the_call_that_may_have_run(palace: Path) -> None:
    with start_shim(palace, palace) as shim:
        with ScriptedBroker(palace) as broker:
            served = broker.accept()
            served.hello()
            served.welcome(epoch="1")
            shim.send(call(1))
            assert served.message()["id"] == 1
            heir = broker.succeed()
            served.close()
            with heir:
                again = heir.accept()
                assert again.hello()["resend"] == "0:1"
                shim.send(cancel(1) + DISCOVER)
                assert json.loads(shim.receive())["id"] == "d1"
                again.welcome(epoch="2")
                assert again.message()["id"] == 1
                assert again.message()["method"] == "notifications/cancelled"
                again.reply(0, None)
                again.reply(1, None)


def test_a_client_that_a_full_broker_refuses_is_told_so_at_once(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        for number in range(2):  # at its start, and when its client asks
            served = broker.accept()
            served.hello()
            served.header(
                wire.REFUSED, code="broker_full", text="240 connections are open: end one."
            )
            served.close()
            if number == 0:
                assert b"240 connections" in shim.process.stderr.readline()  # type: ignore[union-attr]
                shim.send(call(1))

        error = json.loads(shim.receive())["error"]

    assert error["code"] == BrokerFull.wire_code
    assert error["message"] == "240 connections are open: end one."
