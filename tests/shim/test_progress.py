"""What a client is told of a call that has no reply yet, and when."""

import json
from typing import Any

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol.ledger import Ledger
from palace.shim.progress import SEEKING, TELL_S, WATCHED_MAX, ProgressNotes


class Clock(Kernel):
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Notes:
    """Notes of a session, its ledger, and the clock."""

    def __init__(self) -> None:
        self.clock, self.ledger = Clock(), Ledger()
        self.notes = ProgressNotes(self.clock, self.ledger)

    def call(self, token: object = None, method: str = "tools/call") -> int:
        meta = {} if token is None else {"_meta": {"progressToken": token}}
        line = json.dumps({"id": 1, "method": method, "params": meta}).encode()
        ordinal = self.ledger.accept(line)
        self.notes.watch(ordinal, line)
        return ordinal


@pytest.fixture
def session() -> Notes:
    return Notes()


def told(line: bytes) -> list[Any]:
    return [json.loads(one)["params"] for one in line.splitlines()]


def test_a_call_that_asks_is_told_how_long_it_has_waited(session: Notes) -> None:
    ordinal = session.call("t")
    session.clock.now_s += 3.5

    assert told(session.notes.note(ordinal, "half of it")) == [
        {"progressToken": "t", "progress": 3.5, "message": "half of it"}
    ]


def test_who_asks_for_nothing_is_told_nothing(session: Notes) -> None:
    ordinal = session.call()
    quoting = session.ledger.accept(b'{"id":1,"x":"\\"progressToken\\""}')
    session.notes.watch(quoting, session.ledger.line(quoting))

    assert session.notes.note(ordinal, "x") == b""
    assert session.notes.note(quoting, "x") == b""
    assert session.notes.note(99, "x") == b""


def test_a_call_that_was_answered_is_told_nothing_more(session: Notes) -> None:
    ordinal = session.call("t")
    session.ledger.settle(ordinal)

    assert session.notes.note(ordinal, "x") == b""
    assert session.notes.seeking() == b""
    assert session.notes.timeout_s(60.0) == 60.0, "and nothing is due"


def test_while_there_is_no_broker_all_are_told_now_and_then(session: Notes) -> None:
    session.call("a")
    assert session.notes.seeking() == b"", "it is too early"
    assert session.notes.timeout_s(60.0) == TELL_S
    assert session.notes.timeout_s(1.0) == 1.0
    session.clock.now_s += TELL_S
    session.call("b")
    assert session.notes.timeout_s(60.0) == 0.0
    both = told(session.notes.seeking())
    assert [(one["progressToken"], one["progress"]) for one in both] == [("a", TELL_S), ("b", 0.0)]
    assert {one["message"] for one in both} == {SEEKING}
    assert session.notes.seeking() == b"", "it was said just now"
    session.clock.now_s += TELL_S / 2
    assert session.notes.timeout_s(60.0) == TELL_S / 2
    session.clock.now_s += TELL_S
    assert session.notes.timeout_s(60.0) == 0.0
    assert len(told(session.notes.seeking())) == 2


def test_nobody_waits_where_nobody_asks(session: Notes) -> None:
    session.call()
    session.clock.now_s += 100

    assert session.notes.seeking() == b""
    assert session.notes.timeout_s(7.0) == 7.0


def test_answered_calls_are_forgotten_once_there_are_many(session: Notes) -> None:
    for _ in range(WATCHED_MAX):
        session.ledger.settle(session.call("t"))
    waiting = session.call("last")
    session.clock.now_s += TELL_S

    assert len(session.notes._since_s) == 1
    assert [one["progressToken"] for one in told(session.notes.seeking())] == ["last"]
    assert session.notes.note(waiting, "x") != b""
