"""Requests that wait for their own replies: ordinals, silence, goodbyes, and the end."""

import pytest
import trio
import trio.testing

from palace.protocol import wire
from palace.protocol.errors import Draining, OutcomeUnknown
from palace.protocol.request import Request, read_request
from palace.transport.pending import PendingRequests

QUIET_S = 60.0


@pytest.fixture
def lines() -> PendingRequests:
    return PendingRequests(QUIET_S)


def ids(requests: list[Request]) -> list[object]:
    return [request.id for request in requests]


def request(name: str) -> Request:
    return read_request(f'{{"jsonrpc": "2.0", "id": "{name}", "method": "ping"}}'.encode())


async def test_replies_find_their_requests_by_ordinal_in_any_order(lines: PendingRequests) -> None:
    first, second = lines.post(request("a")), lines.post(request("b"))
    lines.send_reply(1, b"to b")
    early = first.answered.is_set()
    lines.send_reply(0, b"to a")

    assert ids(await lines.receive_lines()) == ["a", "b"]
    assert (early, first.payload, second.payload) == (False, b"to a", b"to b")
    assert first.answered.is_set()
    assert second.answered.is_set()


async def test_a_line_is_settled_when_all_before_it_are(lines: PendingRequests) -> None:
    for name in ("a", "b", "c"):
        lines.post(request(name))
    seen = [lines.settled]
    for ordinal in (1, 0, 2):
        lines.send_reply(ordinal, b"{}")
        seen.append(lines.settled)

    assert seen == [0, 0, 2, 3]
    assert lines.waiting == 0


async def test_a_line_without_a_reply_is_answered_with_nothing(lines: PendingRequests) -> None:
    posted = lines.post(request("a notification"))
    lines.send_reply(0, None)

    assert (posted.answered.is_set(), posted.payload, posted.problem) == (True, b"", None)


async def test_a_reply_to_nobody_is_dropped(lines: PendingRequests) -> None:
    posted = lines.post(request("a"))
    lines.send_reply(0, b"first")
    lines.send_reply(0, b"second")
    lines.send_reply(7, b"alien")

    assert posted.payload == b"first"


async def test_silence_ends_the_lines(
    lines: PendingRequests, autojump_clock: trio.testing.MockClock
) -> None:
    begun_s = trio.current_time()
    assert await lines.receive_lines() == []

    assert trio.current_time() - begun_s == pytest.approx(QUIET_S)
    with pytest.raises(trio.ClosedResourceError):
        lines.post(request("too late"))


async def test_whoever_asks_breaks_the_silence(
    lines: PendingRequests, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            for _ in range(3):
                await trio.sleep(QUIET_S - 1)
                lines.post(request("ping"))

        nursery.start_soon(ask)
        received = [ids(await lines.receive_lines()) for _ in range(3)]

    assert received == [["ping"]] * 3


async def test_after_the_end_what_came_is_still_read(lines: PendingRequests) -> None:
    lines.post(request("a"))
    lines.end()

    assert ids(await lines.receive_lines()) == ["a"]
    assert await lines.receive_lines() == []


async def test_a_goodbye_gives_back_what_was_not_run_and_keeps_the_rest_waiting(
    lines: PendingRequests,
) -> None:
    ran, unrun, unread = (lines.post(request(name)) for name in ("a", "b", "c"))
    fields = {"read_upto": "1", "unrun": wire.encode_ordinals([1])}
    lines.send_header(wire.GOODBYE, fields)
    waits = not ran.answered.is_set()
    lines.send_reply(0, b"done")

    assert waits
    assert (ran.payload, ran.problem) == (b"done", None)
    assert isinstance(unrun.problem, Draining)
    assert isinstance(unread.problem, Draining)
    with pytest.raises(trio.ClosedResourceError):
        lines.post(request("d"))


async def test_a_cut_session_denies_nothing_that_may_have_run(lines: PendingRequests) -> None:
    answered, open_one = lines.post(request("a")), lines.post(request("b"))
    lines.send_reply(0, b"done")
    lines.close()
    lines.close()

    assert answered.problem is None
    assert isinstance(open_one.problem, OutcomeUnknown)
    assert open_one.answered.is_set()
    assert lines.broken


async def test_the_last_line_that_a_leaving_broker_has_read_may_have_run(
    lines: PendingRequests,
) -> None:
    read, unread = lines.post(request("a")), lines.post(request("b"))
    lines.send_header(wire.GOODBYE, {"read_upto": "0", "unrun": ""})

    assert not read.answered.is_set()
    assert isinstance(unread.problem, Draining)
