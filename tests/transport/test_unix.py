"""Lines over a real AF_UNIX socket: what leaves at once, what waits, where a slow peer is cut."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from palace.protocol.errors import WireError
from palace.transport import unix
from palace.transport.unix import LineStream, accept_nowait, accept_one

LIMIT = 1 << 20
MORE_THAN_THE_KERNEL_TAKES = 4 << 20
PATIENCE_S = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[LineStream, socket.socket]]:
    """A stream, and its peer's end, which doesn't block either."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    yield LineStream(ours, line_bytes_max=LIMIT), theirs
    theirs.close()
    ours.close()


@asynccontextmanager
async def flushing(stream: LineStream) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.flush_forever)
        yield
        nursery.cancel_scope.cancel()


async def read_all(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    with trio.fail_after(PATIENCE_S):
        while len(data) < size:
            await trio.lowlevel.wait_readable(peer)
            data += peer.recv(1 << 20)
    return bytes(data)


async def test_lines_come_in_order_and_an_end_is_no_line(
    pair: tuple[LineStream, socket.socket],
) -> None:
    stream, peer = pair
    peer.send(b"one\ntwo\nthr")
    first = await stream.receive_lines()
    peer.send(b"ee\nhalf a line")
    second = await stream.receive_lines()
    peer.close()

    assert (first, second) == ([b"one", b"two"], [b"three"])
    assert await stream.receive_lines() == []


async def test_what_was_put_back_comes_first(pair: tuple[LineStream, socket.socket]) -> None:
    stream, peer = pair
    peer.send(b"later\n")
    stream.unread([b"b"])
    stream.unread([b"a"])

    assert await stream.receive_lines() == [b"a", b"b"]
    assert await stream.receive_lines() == [b"later"]


async def test_a_line_that_never_ends_is_refused(pair: tuple[LineStream, socket.socket]) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        stream = LineStream(ours, line_bytes_max=10)
        peer.send(b"x" * 11)
        with pytest.raises(WireError):
            await stream.receive_lines()


async def test_others_have_their_turn_between_two_pieces_of_a_long_line(
    pair: tuple[LineStream, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends faster than it is read would keep the loop to itself."""
    monkeypatch.setattr(unix, "READ_BYTES", 1000)
    stream, peer = pair
    peer.send(b"x" * 39_999 + b"\n")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        assert [len(line) for line in await stream.receive_lines()] == [39_999]
        nursery.cancel_scope.cancel()

    assert turns >= 40 // unix.TURN_READS // 2  # whose turn comes first is left to chance


async def test_each_piece_of_a_very_long_line_waits_a_little(
    pair: tuple[LineStream, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    monkeypatch.setattr(unix, "READ_BYTES", 1000)
    monkeypatch.setattr(unix, "PACED_BYTES", 10_000)
    stream, peer = pair
    peer.send(b"x" * 39_999 + b"\n")

    assert [len(line) for line in await stream.receive_lines()] == [39_999]
    assert trio.current_time() >= 29 * unix.PACE_S


async def test_what_the_kernel_takes_leaves_without_a_task(
    pair: tuple[LineStream, socket.socket],
) -> None:
    stream, peer = pair
    stream.send_soon(b"reply\n")

    assert peer.recv(100) == b"reply\n"


async def test_what_the_kernel_does_not_take_waits_whole_and_in_order(
    pair: tuple[LineStream, socket.socket],
) -> None:
    stream, peer = pair
    large = bytes(range(256)) * (MORE_THAN_THE_KERNEL_TAKES // 256)
    stream.send_soon(large)
    received = peer.recv(1 << 20)
    stream.send_soon(b"small")  # for which the kernel has room by now
    async with flushing(stream):
        received += await read_all(peer, len(large) + 5 - len(received))

    assert received == large + b"small"


async def test_flushed_is_when_everything_was_handed_on(
    pair: tuple[LineStream, socket.socket],
) -> None:
    stream, peer = pair
    read_when_flushed: list[int] = []
    read = bytearray()

    async def wait() -> None:
        await stream.flushed()
        read_when_flushed.append(len(read))

    with trio.fail_after(PATIENCE_S):
        async with flushing(stream), trio.open_nursery() as nursery:
            stream.send_soon(b"x" * MORE_THAN_THE_KERNEL_TAKES)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            while len(read) < MORE_THAN_THE_KERNEL_TAKES:
                await trio.lowlevel.wait_readable(peer)
                read += peer.recv(1 << 20)

    assert read_when_flushed[0] > MORE_THAN_THE_KERNEL_TAKES // 2


async def test_a_peer_that_never_reads_is_cut_off(
    pair: tuple[LineStream, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, peer = pair
    monkeypatch.setattr(unix, "OUTBOX_BYTES_MAX", MORE_THAN_THE_KERNEL_TAKES)
    stream.send_soon(b"x" * MORE_THAN_THE_KERNEL_TAKES)
    kept = stream.broken
    stream.send_soon(b"x" * MORE_THAN_THE_KERNEL_TAKES)

    assert (kept, stream.broken) == (False, True)
    with trio.fail_after(PATIENCE_S):
        await stream.flushed()
        assert await stream.receive_lines() == []
    while peer.recv(1 << 20):  # what the kernel had, and then the end
        continue


async def test_a_peer_that_is_gone_breaks_the_stream_and_raises_nothing(
    pair: tuple[LineStream, socket.socket],
) -> None:
    stream, peer = pair
    peer.close()
    stream.send_soon(b"reply\n")

    assert stream.broken
    assert await stream.receive_lines() == []


async def test_a_reset_is_an_end(pair: tuple[LineStream, socket.socket]) -> None:
    stream, peer = pair
    stream.send_soon(b"a reply that nobody reads\n")
    peer.close()

    assert await stream.receive_lines() == []


@pytest.mark.parametrize("read_before", [False, True])
async def test_a_stream_that_is_closed_brings_no_more_lines(
    pair: tuple[LineStream, socket.socket], read_before: bool
) -> None:
    stream, peer = pair
    peer.send(b"one\n")
    if read_before:
        assert await stream.receive_lines() == [b"one"]
    stream.close()

    with trio.fail_after(PATIENCE_S):
        assert await stream.receive_lines() == []


@pytest.mark.parametrize("size", [unix.READ_BYTES - 1, unix.READ_BYTES, unix.READ_BYTES + 1])
async def test_what_comes_in_one_piece_or_two_is_read_whole(
    pair: tuple[LineStream, socket.socket], size: int
) -> None:
    stream, peer = pair
    for _ in range(3):
        peer.send(b"x" * (size - 1) + b"\n")
        with trio.fail_after(PATIENCE_S):
            assert await stream.receive_lines() == [b"x" * (size - 1)]


async def test_closing_wakes_who_receives_and_may_be_done_twice(
    pair: tuple[LineStream, socket.socket],
) -> None:
    stream, peer = pair
    received: list[list[bytes]] = []

    async def receive() -> None:
        received.append(await stream.receive_lines())

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            stream.close()
            stream.close()

    assert received == [[]]
    assert peer.recv(1) == b""


async def test_a_detached_socket_outlives_its_stream(
    pair: tuple[LineStream, socket.socket],
) -> None:
    stream, peer = pair
    sock = stream.detach()
    stream.close()

    sock.send(b"still here")
    assert peer.recv(100) == b"still here"


async def test_connections_are_accepted_as_they_come(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "sock"))
        listener.listen(1)
        listener.setblocking(False)
        nothing = accept_nowait(listener)
        accepted: list[socket.socket] = []

        async def accept() -> None:
            accepted.append(await accept_one(listener))

        with trio.fail_after(PATIENCE_S), socket.socket(socket.AF_UNIX) as dialled:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                dialled.connect(listener.getsockname())
            with accepted[0] as sock:
                sock.send(b"hello")
                assert dialled.recv(10) == b"hello"

    assert nothing is None
