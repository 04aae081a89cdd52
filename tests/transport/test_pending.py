"""Lines from requests that wait for their own replies: ordinals, silence, goodbyes, and the end."""

import pytest
import trio
import trio.testing

from palace.protocol import wire
from palace.protocol.errors import Draining, OutcomeUnknown
from palace.transport.pending import PostedLines

QUIET_S = 60.0


@pytest.fixture
def lines() -> PostedLines:
    return PostedLines(QUIET_S)


def reply(ordinal: int, payload: bytes | None) -> bytes:
    return wire.encode_reply(ordinal, payload)


async def test_replies_find_their_requests_by_ordinal_in_any_order(lines: PostedLines) -> None:
    first, second = lines.post(b"a"), lines.post(b"b")
    lines.send_soon(reply(1, b"to b"))
    early = first.answered.is_set()
    lines.send_soon(reply(0, b"to a"))

    assert await lines.receive_lines() == [b"a", b"b"]
    assert (early, first.payload, second.payload) == (False, b"to a", b"to b")
    assert first.answered.is_set()
    assert second.answered.is_set()


async def test_a_line_is_settled_when_all_before_it_are(lines: PostedLines) -> None:
    for line in (b"a", b"b", b"c"):
        lines.post(line)
    seen = [lines.settled]
    for ordinal in (1, 0, 2):
        lines.send_soon(reply(ordinal, b"{}"))
        seen.append(lines.settled)

    assert seen == [0, 0, 2, 3]
    assert lines.waiting == 0


async def test_a_line_without_a_reply_is_answered_with_nothing(lines: PostedLines) -> None:
    posted = lines.post(b"a notification")
    lines.send_soon(reply(0, None))

    assert (posted.answered.is_set(), posted.payload, posted.problem) == (True, b"", None)


async def test_a_reply_to_nobody_is_dropped(lines: PostedLines) -> None:
    posted = lines.post(b"a")
    lines.send_soon(reply(0, b"first"))
    lines.send_soon(reply(0, b"second"))
    lines.send_soon(reply(7, b"alien"))

    assert posted.payload == b"first"


async def test_a_client_can_not_speak_as_a_shim(lines: PostedLines) -> None:
    lines.post(wire.encode_header(wire.ACK, {"upto": "9"}).rstrip())
    (line,) = await lines.receive_lines()

    assert not line.startswith(wire.PREFIX)
    assert line.lstrip().startswith(wire.PREFIX)


async def test_what_was_put_back_comes_first(lines: PostedLines) -> None:
    lines.post(b"c")
    lines.unread([b"a", b"b"])

    assert await lines.receive_lines() == [b"a", b"b", b"c"]


async def test_silence_ends_the_lines(
    lines: PostedLines, autojump_clock: trio.testing.MockClock
) -> None:
    begun_s = trio.current_time()
    assert await lines.receive_lines() == []

    assert trio.current_time() - begun_s == pytest.approx(QUIET_S)
    with pytest.raises(trio.ClosedResourceError):
        lines.post(b"too late")


async def test_whoever_asks_breaks_the_silence(
    lines: PostedLines, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            for _ in range(3):
                await trio.sleep(QUIET_S - 1)
                lines.post(b"ping")

        nursery.start_soon(ask)
        received = [await lines.receive_lines() for _ in range(3)]

    assert received == [[b"ping"]] * 3


async def test_after_the_end_what_came_is_still_read(lines: PostedLines) -> None:
    lines.post(b"a")
    lines.end()

    assert await lines.receive_lines() == [b"a"]
    assert await lines.receive_lines() == []


async def test_a_goodbye_gives_back_what_was_not_run_and_keeps_the_rest_waiting(
    lines: PostedLines,
) -> None:
    ran, unrun, unread = (lines.post(line) for line in (b"a", b"b", b"c"))
    fields = {"read_upto": "1", "unrun": wire.encode_ordinals([1])}
    lines.send_soon(wire.encode_header(wire.GOODBYE, fields))
    waits = not ran.answered.is_set()
    lines.send_soon(reply(0, b"done"))

    assert waits
    assert (ran.payload, ran.problem) == (b"done", None)
    assert isinstance(unrun.problem, Draining)
    assert isinstance(unread.problem, Draining)
    with pytest.raises(trio.ClosedResourceError):
        lines.post(b"d")


async def test_a_cut_session_denies_nothing_that_may_have_run(lines: PostedLines) -> None:
    answered, open_one = lines.post(b"a"), lines.post(b"b")
    lines.send_soon(reply(0, b"done"))
    lines.close()
    lines.close()

    assert answered.problem is None
    assert isinstance(open_one.problem, OutcomeUnknown)
    assert open_one.answered.is_set()
    assert lines.broken
