"""Lines over a real TLS websocket: the handshake, half a close, and who may come in."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio_websocket
import trustme

from palace.protocol.errors import WireError
from palace.protocol.wire import WEBSOCKET_PATH
from palace.transport import websocket
from palace.transport.websocket import (
    NOT_FOUND,
    TOO_MANY,
    UNAUTHORIZED,
    TokenGate,
    WebSocketLines,
    open_lines,
)

TOKEN = "right"
LIMIT = 200_000
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context, and a client's that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class Listener:
    """Serves one connection after another; `lines` is what came of each of them."""

    def __init__(self, context: ssl.SSLContext, line_bytes_max: int = LIMIT) -> None:
        self.door = TokenGate(TOKEN, trio.current_time)
        self.port = 0
        self._context = context
        self._limit = line_bytes_max
        self._send, self._receive = trio.open_memory_channel[WebSocketLines | None](10)

    async def lines(self) -> WebSocketLines | None:
        with trio.fail_after(PATIENCE_S):
            return await self._receive.receive()

    async def accepted(self) -> WebSocketLines:
        lines = await self.lines()
        assert lines is not None
        return lines

    async def serve(self, stream: trio.SocketStream) -> None:
        async with open_lines(
            stream, self._context, self.door, line_bytes_max=self._limit
        ) as lines:
            await self._send.send(lines)
            if lines is not None:
                await lines.flush_forever()


@asynccontextmanager
async def listening(context: ssl.SSLContext, limit: int = LIMIT) -> AsyncIterator[Listener]:
    listener = Listener(context, limit)
    async with trio.open_nursery() as nursery:
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener.port = tcp.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, listener.serve, [tcp])
        yield listener
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def dialled(
    listener: Listener,
    context: ssl.SSLContext,
    *,
    path: str = WEBSOCKET_PATH,
    token: str = TOKEN,
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    tcp = await trio.open_tcp_stream("127.0.0.1", listener.port)
    tls = trio.SSLStream(tcp, context, server_hostname="localhost")
    with tcp.socket:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE_S):
                yield await trio_websocket.wrap_client_stream(
                    nursery, tls, "localhost", path, extra_headers=headers
                )
            nursery.cancel_scope.cancel()


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def test_lines_do_not_depend_on_where_messages_end(contexts: Contexts) -> None:
    async with listening(contexts[0]) as listener, dialled(listener, contexts[1]) as client:
        lines = await listener.accepted()
        for piece in (b"on", b"e\ntwo\nth", b"", b"ree\n"):
            await client.send_message(piece)

        assert await lines.receive_lines() == [b"one", b"two"]
        lines.unread([b"two"])
        assert await lines.receive_lines() == [b"two"]
        assert await lines.receive_lines() == [b"three"]


async def test_what_is_sent_soon_arrives_in_order_in_pieces(contexts: Contexts) -> None:
    data = bytes(range(256)) * 1000
    async with listening(contexts[0]) as listener, dialled(listener, contexts[1]) as client:
        lines = await listener.accepted()
        lines.send_soon(data)
        lines.send_soon(b"last")
        received: list[bytes] = []
        while sum(map(len, received)) < len(data) + 4:
            message = await client.get_message()
            assert isinstance(message, bytes)
            received.append(message)
        await lines.flushed()

    assert b"".join(received) == data + b"last"
    assert max(map(len, received)) <= websocket.SEND_BYTES


async def test_a_text_message_is_the_last_word_of_a_client_that_still_listens(
    contexts: Contexts,
) -> None:
    async with listening(contexts[0]) as listener, dialled(listener, contexts[1]) as client:
        lines = await listener.accepted()
        await client.send_message(b"one\nhalf")
        await client.send_message("")
        received = [await lines.receive_lines() for _ in range(2)]
        lines.send_soon(b"reply\n")

        assert received == [[b"one"], []]
        assert await client.get_message() == b"reply\n"


async def test_a_client_that_leaves_ends_the_lines(contexts: Contexts) -> None:
    async with listening(contexts[0]) as listener:
        async with dialled(listener, contexts[1]) as client:
            lines = await listener.accepted()
            await client.aclose()

            assert await lines.receive_lines() == []
            lines.send_soon(b"to nobody\n")  # raises nothing
            await lines.flushed()
            assert lines.broken


async def test_a_cut_is_seen_by_the_client(contexts: Contexts) -> None:
    async with listening(contexts[0]) as listener, dialled(listener, contexts[1]) as client:
        lines = await listener.accepted()
        lines.close()
        with pytest.raises(trio_websocket.ConnectionClosed):
            await client.get_message()

        assert await lines.receive_lines() == []


async def test_a_line_that_never_ends_is_refused(contexts: Contexts) -> None:
    async with (
        listening(contexts[0], limit=10) as listener,
        dialled(listener, contexts[1]) as client,
    ):
        lines = await listener.accepted()
        await client.send_message(b"x" * 11)
        with pytest.raises(WireError):
            await lines.receive_lines()


async def test_a_client_that_never_reads_is_cut_off(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "OUTBOX_BYTES_MAX", 1000)
    async with listening(contexts[0]) as listener, dialled(listener, contexts[1]):
        lines = await listener.accepted()
        lines.send_soon(b"x" * 1000)
        kept = lines.broken
        lines.send_soon(b"x")

    assert (kept, lines.broken) == (False, True)


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/", TOKEN, NOT_FOUND),
        (WEBSOCKET_PATH, "wrong", UNAUTHORIZED),
        (WEBSOCKET_PATH, "", UNAUTHORIZED),
    ],
)
async def test_a_refusal_is_http_and_no_lines_come_of_it(
    contexts: Contexts, path: str, token: str, status: int
) -> None:
    async with listening(contexts[0]) as listener:
        with pytest.RaisesGroup(
            pytest.RaisesExc(trio_websocket.ConnectionRejected), flatten_subgroups=True
        ) as caught:
            async with dialled(listener, contexts[1], path=path, token=token):
                raise AssertionError

        (rejected,) = caught.value.exceptions
        assert isinstance(rejected, trio_websocket.ConnectionRejected)
        assert rejected.status_code == status
        assert await listener.lines() is None
        assert listener.door.refused == 1


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_stranger_costs_no_more_than_the_time_of_a_handshake(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_S", 0.2)
    async with listening(contexts[0]) as listener:
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        async with stream:
            await stream.send_all(data)

            assert await listener.lines() is None


# Who may come in.


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def knock(door: TokenGate, address: str = "a", token: str = "wrong") -> int:
    return door.admit(address, WEBSOCKET_PATH, f"Bearer {token}".encode())


def test_whoever_guesses_is_told_less_and_the_right_token_comes_in_at_any_time() -> None:
    clock = Clock()
    door = TokenGate(TOKEN, clock)
    guesses = [knock(door) for _ in range(TokenGate.FAILURES_MAX + 2)]
    right = [knock(door, token=TOKEN), knock(door, "another", TOKEN)]

    assert guesses == [UNAUTHORIZED] * TokenGate.FAILURES_MAX + [TOO_MANY] * 2
    assert right == [0, 0]
    assert door.refused == TokenGate.FAILURES_MAX + 2
    assert knock(door) == UNAUTHORIZED  # who has come in is forgiven what was before


def test_failures_are_forgotten_after_a_while() -> None:
    clock = Clock()
    door = TokenGate(TOKEN, clock)
    for _ in range(TokenGate.FAILURES_MAX * 3):
        knock(door)
    assert knock(door) == TOO_MANY
    clock.now_s += TokenGate.FAILURES_S + 1

    assert knock(door) == UNAUTHORIZED


def test_a_wrong_path_is_no_guess() -> None:
    door = TokenGate(TOKEN, Clock())
    statuses = {door.admit("a", "/", b"") for _ in range(TokenGate.FAILURES_MAX * 2)}

    assert statuses == {NOT_FOUND}


def test_the_memory_of_guesses_is_bounded_and_the_oldest_goes() -> None:
    door = TokenGate(TOKEN, Clock())
    for _ in range(TokenGate.FAILURES_MAX):
        knock(door, "first")
    for number in range(TokenGate.ADDRESSES_MAX):
        knock(door, f"other {number}")

    assert knock(door, "first") == UNAUTHORIZED  # it was TOO_MANY
    assert len(door._failures) <= TokenGate.ADDRESSES_MAX


def test_a_token_is_shown_as_a_bearers_and_is_bounded() -> None:
    gate = TokenGate("right", lambda: 0.0, {"a guest's": "guest", "x" * 257: "long"}.get)

    assert gate.who(b"Bearer right") == ""
    assert gate.who(b"Bearer a guest's") == "guest"
    for shown in (b"Basic a guest's", b"a guest's", b"Basic right", b"Bearer " + b"x" * 257, b""):
        assert gate.who(shown) is None
