"""A session's machine, as transcripts: what comes, what is said, and what is still owed."""

from typing import Any

import pytest

from palace.protocol import session as machine
from palace.protocol.errors import WireError
from palace.protocol.request import Request, ToolCall, read_request
from palace.protocol.session import (
    KEPT_BYTES_MAX,
    Arrival,
    Fate,
    Goodbye,
    Hello,
    Phase,
    Session,
)
from palace.protocol.wire import SESSION_MAX, TEXT_MAX

PING = read_request(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')


def hello(resend: str = "", **fields: Any) -> Hello:
    return Hello.read({"session": "s", "resend": resend, **fields})


def call(ident: Any = 1) -> ToolCall:
    return ToolCall(message={}, id=ident)


def cancellation(ident: Any = 1) -> Request:
    params = {"requestId": ident}
    return Request(message={"method": "notifications/cancelled", "params": params})


def opened(resend: str = "", **fields: Any) -> Session:
    session = Session()
    session.connect(hello(resend, **fields))
    return session


def admitted(session: Session, ident: Any = 1) -> int:
    """Let a call come and be admitted; return its ordinal."""
    arrival = session.take_line()
    assert arrival.fate is Fate.HANDLE
    session.begin_offer(arrival)
    session.end_offer(arrival.ordinal)
    session.admit(arrival.ordinal, call(ident))
    return arrival.ordinal


def new(ordinal: int, *, maybe_ran: bool = False) -> Arrival:
    return Arrival(ordinal=ordinal, maybe_ran=maybe_ran)


# Lines.


def test_new_lines_are_numbered_from_what_the_hello_says() -> None:
    session = opened(next="7")

    assert [session.take_line(), session.take_line()] == [new(7), new(8)]
    assert session.next_ordinal == 9


def test_resent_lines_come_first_with_their_own_numbers() -> None:
    session = opened("3:0,5:1", next="6")

    assert session.awaits_resends
    assert [session.take_line() for _ in range(3)] == [new(3), new(5, maybe_ran=True), new(6)]
    assert not session.awaits_resends


def test_a_reply_that_found_no_connection_goes_out_when_its_line_comes_again() -> None:
    session = opened()
    ordinal = admitted(session)
    session.settle(ordinal)
    assert not session.answer(ordinal, b"done", reachable=False)
    assert not session.owes_nothing

    session.connect(hello("0:1", next="1"))

    assert session.take_line() == Arrival(ordinal=0, fate=Fate.REPEAT, payload=b"done")
    assert session.owes_nothing


def test_silence_is_kept_and_repeated_like_any_reply() -> None:
    session = opened()
    session.answer(session.take_line().ordinal, None, reachable=False)
    session.connect(hello("0:1", next="1"))

    assert session.take_line() == Arrival(ordinal=0, fate=Fate.REPEAT, payload=None)


def test_a_line_that_is_still_under_way_is_not_handled_twice() -> None:
    session = opened()
    admitted(session)

    session.connect(hello("0:1", next="1"))

    assert session.take_line() == Arrival(ordinal=0, fate=Fate.IGNORE)
    assert list(session.calls) == [0]


def test_a_line_answered_on_this_connection_before_it_came_again_is_not_handled_twice() -> None:
    session = opened()
    assert [admitted(session, ident) for ident in (1, 2)] == [0, 1]

    session.connect(hello("0:1,1:1", next="2"))
    session.settle(1)
    assert session.answer(1, b"done", reachable=True)

    assert [session.take_line().fate for _ in range(2)] == [Fate.IGNORE, Fate.IGNORE]


def test_what_was_answered_on_an_older_connection_is_the_journals_to_judge() -> None:
    session = opened("0:1,1:0", next="2")
    assert session.answer(0, b"done", reachable=True)  # while line 1 is still to come

    session.connect(hello("0:1", next="2"))

    assert session.take_line() == new(0, maybe_ran=True)


def test_a_line_that_never_ran_is_handled_whatever_is_known_of_its_number() -> None:
    session = opened()
    session.answer(session.take_line().ordinal, b"old", reachable=False)

    session.connect(hello("0:0", next="1"))

    assert session.take_line() == new(0)


def test_no_more_replies_are_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "KEPT_MAX", 1)
    session = opened()
    for payload in (b"first", b"second"):
        assert not session.answer(session.take_line().ordinal, payload, reachable=False)

    session.connect(hello("0:1,1:1", next="2"))

    assert session.take_line().payload == b"first"
    assert session.take_line() == new(1, maybe_ran=True)


# Acknowledgements.


def test_acknowledgements_only_rise() -> None:
    session = opened(next="4")
    for upto, after in ((2, 2), (1, 2), (-5, 2), (4, 4)):
        session.acknowledge(upto)
        assert session.acknowledged == after
    assert session.is_acknowledged
    session.take_line()
    assert not session.is_acknowledged


def test_lines_that_never_came_can_not_be_acknowledged() -> None:
    session = opened(next="4")

    with pytest.raises(WireError, match="an ack up to 5, but only 4 lines came"):
        session.acknowledge(5)
    assert session.acknowledged == 0


# Calls.


def test_a_cancellation_finds_the_latest_call_of_its_id() -> None:
    session = opened()
    assert [admitted(session, "same") for _ in range(2)] == [0, 1]

    assert session.cancelled_call(cancellation("same")) == 1
    session.settle(0)
    assert session.cancelled_call(cancellation("same")) == 1
    session.settle(1)
    assert session.cancelled_call(cancellation("same")) is None


def test_ids_of_other_types_are_other_ids() -> None:
    session = opened()
    admitted(session, 1)

    assert session.cancelled_call(cancellation("1")) is None
    assert session.cancelled_call(PING) is None
    assert session.cancelled_call(cancellation(1)) == 0


def test_a_call_is_offered_once() -> None:
    session = opened()
    admitted(session)

    with pytest.raises(AssertionError, match="offered once"):
        session.begin_offer(new(0))


def test_lines_that_wait_for_the_catalogue_come_back_in_order_and_once() -> None:
    session = opened()
    for _ in range(2):
        session.wait_for_catalogue(session.take_line().ordinal, PING)

    assert session.take_early() == [(0, PING), (1, PING)]
    assert session.take_early() == []


# Ends.


def test_a_connection_without_more_lines_is_settled_with_the_last_reply() -> None:
    session = opened()
    ordinal = admitted(session)
    assert not session.is_settled

    session.finish()
    assert (session.phase, session.is_settled) == (Phase.FINISHING, False)
    session.settle(ordinal)
    assert session.is_settled
    session.connect(hello(next="1"))
    assert (session.phase, session.is_settled) == (Phase.OPEN, False)


def test_a_goodbye_names_all_that_is_known_not_to_have_run() -> None:
    session = opened("0:0,1:1,2:0,3:1,4:0", next="5")
    session.admit(session.take_line().ordinal, call("runs"))
    session.wait_for_catalogue(session.take_line().ordinal, PING)
    session.begin_offer(session.take_line())  # waits for room

    session.leave()
    goodbye = session.say_goodbye("stop", [])

    assert goodbye == Goodbye(reason="stop", read_upto=4, unrun=(1, 2, 4))
    assert goodbye.fields() == {"reason": "stop", "read_upto": "4", "unrun": "1,2,4"}
    assert not session.is_settled  # line 0 still runs


def test_a_goodbye_takes_calls_back_that_were_admitted_and_not_begun() -> None:
    session = opened()
    ordinals = [admitted(session, ident) for ident in (1, 2)]
    for ordinal in ordinals:
        session.settle(ordinal)

    assert session.say_goodbye("upgrade", ordinals).unrun == (0, 1)
    assert session.is_settled


def test_an_offer_of_what_may_have_run_is_not_said_to_be_unrun() -> None:
    session = opened("0:1", next="1")
    session.begin_offer(session.take_line())

    assert session.offering is None
    assert session.say_goodbye("stop", []).unrun == ()


def test_a_goodbye_says_where_else_to_ask() -> None:
    session = Session()
    assert "away" not in session.say_goodbye("stop", []).fields()
    assert session.say_goodbye("away", [], "a" * 32).fields()["away"] == "a" * 32


def test_the_end_of_an_older_connections_offer_leaves_the_new_one_alone() -> None:
    session = opened()
    session.begin_offer(session.take_line())
    session.connect(hello("0:1", next="1"))
    assert session.offering is None
    session.take_line()
    later = session.take_line()
    session.begin_offer(later)

    session.end_offer(0)

    assert session.offering == later.ordinal


def test_a_goodbye_is_the_last_word_of_a_connection_that_ends() -> None:
    session = opened()
    session.say_goodbye("idle", [])

    session.finish()

    assert session.phase is Phase.LEAVING


# What a shim says of itself.


def test_a_hello_is_read_with_its_defaults() -> None:
    assert Hello.read({"session": "s"}) == Hello(session="s")


def test_a_hello_is_read_whole() -> None:
    fields = {
        "session": "s",
        "secret": "x",
        "palace_id": "p",
        "client": "pi 1",
        "version": "2",
        "read_only": "1",
        "next": "3",
        "resend": "1:0,2:1",
        "epoch": "9",
        "cwd": "/w",
        "place": "here",
    }

    assert Hello.read(fields) == Hello(
        session="s",
        secret="x",
        palace_id="p",
        client="pi 1",
        version="2",
        read_only=True,
        next_ordinal=3,
        resend=((1, False), (2, True)),
        epoch=9,
        cwd="/w",
        place="here",
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "names its session"),
        ({"session": ""}, "names its session"),
        ({"session": "s", "next": "x"}, "hello's next is no number: 'x'"),
        ({"session": "s", "epoch": ""}, "hello's epoch is no number"),
        ({"session": "s", "resend": "2:1,1:1"}, "out of order"),
    ],
)
def test_a_broken_hello_is_refused(fields: dict[str, str], words: str) -> None:
    with pytest.raises(WireError, match=words):
        Hello.read(fields)


def test_a_hello_whose_words_are_too_long_is_refused() -> None:
    with pytest.raises(WireError, match="cwd is too long"):
        Hello.read({"session": "s", "cwd": "x" * (TEXT_MAX + 1)})
    with pytest.raises(WireError, match="session is too long"):
        Hello.read({"session": "s" * (SESSION_MAX + 1)})
    assert len(Hello.read({"session": "s" * SESSION_MAX, "cwd": "x" * TEXT_MAX}).cwd) == TEXT_MAX
    more = ",".join(f"{ordinal}:0" for ordinal in range(TEXT_MAX))
    assert len(Hello.read({"session": "s", "resend": more}).resend) == TEXT_MAX


def test_replies_for_nobody_are_bounded_in_bytes_and_short_ones_are_kept() -> None:
    machine = Session()
    long, short = b"x" * (KEPT_BYTES_MAX // 2 + 1), b"y"

    assert machine.answer(0, long, reachable=False) is False
    assert not machine.dropped
    machine.answer(1, long, reachable=False)
    assert machine.dropped
    machine.answer(2, short, reachable=False)
    machine.answer(3, None, reachable=False)
    assert machine.kept_bytes == len(long) + len(short)
    assert not machine.owes_nothing

    machine.drop_kept()
    assert machine.owes_nothing
    assert machine.kept_bytes == 0


def test_a_session_is_idle_when_nobody_waits_for_anything() -> None:
    machine = Session()
    assert machine.is_idle

    machine.wait_for_catalogue(0, Request(message={}))
    assert not machine.is_idle
    machine.take_early()
    machine.begin_offer(Arrival(ordinal=1))
    assert not machine.is_idle
    machine.end_offer(1)
    machine.answer(1, b"x", reachable=False)
    assert not machine.is_idle
    machine.drop_kept()
    assert machine.is_idle


def test_an_owner_that_leaves_is_leaving() -> None:
    session = opened()
    session.leave()

    assert session.phase is Phase.LEAVING
    session.finish()
    assert session.phase is Phase.LEAVING, "which a finished connection doesn't change"


def test_replies_for_nobody_are_kept_up_to_the_limits_and_no_byte_more() -> None:
    session = opened()
    session.answer(0, b"x" * KEPT_BYTES_MAX, reachable=False)
    assert not session.dropped, "one that fills it"
    session.answer(1, b"x" * machine.SMALL_BYTES, reachable=False)
    assert not session.dropped, "a small one"
    session.answer(2, b"x" * (machine.SMALL_BYTES + 1), reachable=False)
    assert session.dropped


def test_a_cancellation_that_names_nothing_finds_nothing() -> None:
    session = opened()
    session._ordinals[None] = 3  # type: ignore[index]

    assert session.cancelled_call(PING) is None


def test_a_new_connection_has_dropped_nothing() -> None:
    session = opened()
    session.answer(0, b"x" * (KEPT_BYTES_MAX + 1), reachable=False)
    assert session.dropped
    session.connect(hello())

    assert not session.dropped
