"""HTTP on real sockets, without a broker: when a connection ends, and what a bad client costs."""

import importlib
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import pytest
import trio
import trio.testing

from palace.kernel.left_out import Deferred
from palace.protocol import pace
from palace.transport import http
from palace.transport.http import HttpConnection, Receive, Scope, Send, Server

PATIENCE_S = 10.0
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@attrs.define(eq=False)
class App:
    """Admits whoever asks, and answers once `may_answer` is set."""

    body: bytes = b"answer"
    admits: bool = True
    asked: int = 0
    may_answer: trio.Event = attrs.field(factory=trio.Event)
    begun: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.may_answer.set()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if self.admits:
            scope["state"]["connection"].admit()
        self.asked += 1
        self.begun.set()
        if scope["path"] == "/fault":
            raise LookupError("a fault of the application")
        await self.may_answer.wait()
        headers = [(b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@attrs.define(eq=False)
class Connection:
    stream: trio.SocketStream
    visit: HttpConnection
    ended: trio.Event

    async def read(self) -> bytes:
        """Return what came and, where nothing comes any more, nothing."""
        with trio.fail_after(PATIENCE_S):
            try:
                return bytes(await self.stream.receive_some())
            except trio.BrokenResourceError:
                return b""

    async def read_to_end(self) -> bytes:
        data = b""
        while piece := await self.read():
            data += piece
        return data

    async def read_answer(self) -> bytes:
        data = b""
        while not data.endswith(b"answer"):
            data += await self.read() or b"(the end) answer"
        return data

    async def ends(self) -> None:
        with trio.fail_after(PATIENCE_S):
            await self.ended.wait()


Open = Callable[[], Any]


@asynccontextmanager
async def served(app: App) -> AsyncIterator[tuple[Server, Open]]:
    """Yield a server, and what opens a connection to it."""
    server = Server(app)
    opened: list[Connection] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        async with trio.open_nursery() as nursery:

            async def connect() -> Connection:
                stream = await trio.open_tcp_stream(*listener.getsockname())
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                connection = Connection(stream, HttpConnection(), trio.Event())
                opened.append(connection)

                async def serve() -> None:
                    await server.serve(accepted, connection.visit)
                    connection.ended.set()

                nursery.start_soon(serve)
                return connection

            yield server, connect
            nursery.cancel_scope.cancel()
    for connection in opened:
        connection.stream.socket.close()


async def test_a_connection_serves_one_request_after_another_until_its_client_leaves() -> None:
    async with served(App()) as (_, connect):
        connection = await connect()
        for _ in range(2):
            await connection.stream.send_all(REQUEST)
            assert (await connection.read_answer()).startswith(b"HTTP/1.1 200")
        await connection.stream.aclose()
        await connection.ends()


async def test_whoever_shows_nothing_in_time_is_turned_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "LOGIN_S", 0.1)
    async with served(App(admits=False)) as (_, connect):
        silent, refused = await connect(), await connect()
        await refused.stream.send_all(REQUEST)
        await silent.ends()
        await refused.ends()

        assert await silent.read() == b""
        assert b"answer" in await refused.read_to_end()


async def test_whoever_was_admitted_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LOGIN_S", 0.1)
    async with served(App()) as (_, connect):
        connection = await connect()
        await connection.stream.send_all(REQUEST)
        await connection.read()
        await trio.sleep(0.3)

        assert not connection.ended.is_set()


async def test_an_answer_and_a_refusal_behind_it_are_sent_one_after_the_other() -> None:
    """Of a broken body Hypercorn says so by itself, while the application answers."""
    ours, theirs = trio.socket.socketpair()
    size = 4 << 20  # more than the kernel takes
    received = b""
    with ours, theirs:
        stream = http._Stream(trio.SocketStream(ours), HttpConnection())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"a" * size)
            nursery.start_soon(stream.send_all, b"b" * size)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(stream.send_eof)
            while piece := await theirs.recv(1 << 20):
                received += piece

    assert received in (b"a" * size + b"b" * size, b"b" * size + b"a" * size)


async def test_a_handler_begins_once_a_whole_head_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler costs the loop more than a client is worth that says nothing, or half of it."""
    begun: list[object] = []
    stock = http._Http1Server.run

    async def run(handler: Any) -> None:
        begun.append(handler)
        await stock(handler)

    monkeypatch.setattr(http._Http1Server, "run", run)
    async with served(App()) as (_, connect):
        silent, slow = await connect(), await connect()
        for piece in (REQUEST[:10], REQUEST[10:-2]):
            await slow.stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert begun == []
        await slow.stream.send_all(REQUEST[-2:] + REQUEST)
        assert (await slow.read_answer()).count(b"answer") >= 1
        assert len(begun) == 1
        await silent.stream.aclose()
        await silent.ends()
        assert len(begun) == 1


async def test_strangers_failures_put_the_next_off_and_nobody_with_a_token() -> None:
    app = App(admits=False)
    async with served(app) as (server, connect):
        server._is_known = lambda shown: shown == b"Bearer right"
        for _ in range(3):
            failed = await connect()
            await failed.stream.send_all(REQUEST)
            await failed.read_answer()
            await failed.stream.aclose()
            await failed.ends()
        put_off_s = server._pace.next_s
        assert put_off_s > trio.current_time() - pace.MOST_S
        server._pace.next_s = trio.current_time() + 3600
        asked = app.asked
        next_one, known = await connect(), await connect()
        await next_one.stream.send_all(REQUEST)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert app.asked == asked, "its turn has not come"
        await known.stream.send_all(
            b"GET / HTTP/1.1\r\nhost: x\r\nAuthorization: Bearer right\r\n\r\n"
        )

        assert (await known.read_answer()).startswith(b"HTTP/1.1 200")
        assert not next_one.ended.is_set()
        await server.hang_up()
        await next_one.ends()


async def test_a_client_that_hangs_up_is_still_worked_for_and_then_let_go() -> None:
    app = App()
    app.may_answer = trio.Event()
    async with served(app) as (_, connect):
        connection = await connect()
        await connection.stream.send_all(REQUEST)
        await app.begun.wait()
        await connection.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked(0.05)
        worked_for = (connection.visit.hung_up, connection.visit.under_way)
        app.may_answer.set()
        await connection.ends()

    assert worked_for == (True, 1)


async def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SEND_S", 0.2)
    async with served(App(body=b"x" * (64 << 20))) as (_, connect):
        connection = await connect()
        await connection.stream.send_all(REQUEST)

        await connection.ends()


async def test_a_fault_ends_its_request_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(App()) as (_, connect):
        other, faulty = await connect(), await connect()
        with caplog.at_level(logging.CRITICAL, "palace.http"):
            await faulty.stream.send_all(REQUEST.replace(b"/ ", b"/fault ", 1))
            said = await faulty.read()
        await other.stream.send_all(REQUEST)

        assert said == b"" or said.startswith(b"HTTP/1.1 500")
        assert (await other.read_answer()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000])
async def test_what_is_no_request_is_refused_and_the_connection_ends(data: bytes) -> None:
    app = App()
    async with served(app) as (_, connect):
        connection = await connect()
        await connection.stream.send_all(data)
        said = await connection.read_to_end()
        await connection.ends()

    assert said == b"" or said.startswith(b"HTTP/1.1 4")
    assert not app.begun.is_set()


async def test_hanging_up_ends_what_is_idle_and_lets_the_rest_be_answered() -> None:
    app = App()
    app.may_answer = trio.Event()
    async with served(app) as (server, connect):
        busy = await connect()
        await busy.stream.send_all(REQUEST)
        await app.begun.wait()
        await server.hang_up()
        app.may_answer.set()
        answer = await busy.read_to_end()
        await busy.ends()

    assert answer.endswith(b"answer")


def test_what_follows_a_last_request_waits_for_its_answer() -> None:
    connection = http._Connection(h11.SERVER)
    connection.receive_data(REQUEST + b"what is no request\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    connection.send(h11.Response(status_code=403, headers=headers))

    assert connection.next_event() is h11.PAUSED
    connection.send(h11.EndOfMessage())
    with pytest.raises(h11.RemoteProtocolError):
        connection.next_event()


def test_the_end_of_a_client_is_seen_while_its_last_request_is_answered() -> None:
    connection = http._Connection(h11.SERVER)
    connection.receive_data(REQUEST)
    connection.next_event()
    connection.next_event()
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    connection.send(h11.Response(status_code=403, headers=headers))

    assert connection.next_event() is h11.NEED_DATA
    connection.receive_data(b"")
    assert isinstance(connection.next_event(), h11.ConnectionClosed)


async def test_a_connection_is_kept_only_while_its_client_waits_for_nothing() -> None:
    connection = HttpConnection()
    assert not connection.is_kept, "nobody knows whose it is"
    connection.admit()
    assert connection.is_kept
    connection.under_way = 1
    assert not connection.is_kept
    connection.under_way = 0
    connection.close()
    assert not connection.is_kept


@attrs.define(eq=False)
class Doorkeeper(App):
    """Turns websockets away, as the broker's application does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["connection"].admit()
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.close"})


async def test_a_websocket_is_answered_though_nothing_of_it_was_imported_at_the_start() -> None:
    asked = (
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with served(Doorkeeper()) as (_, connect):
        connection = await connect()
        await connection.stream.send_all(asked)

        assert (await connection.read()).startswith(b"HTTP/1.1 403")
    assert sys.modules["hypercorn.protocol.ws_stream"].__file__


def test_no_stand_in_is_left_where_others_import_what_it_stood_for() -> None:
    for name in http.UNUSED:
        assert not isinstance(importlib.import_module(name), Deferred)
    assert callable(importlib.import_module("hypercorn.trio").serve)
