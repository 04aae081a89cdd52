"""HTTP/1.1 on accepted sockets, parsed by Hypercorn.  Sole importer of hypercorn.

Hypercorn's own `serve` accepts without a limit, and shields what it sends from cancellation, so
that a client which stops reading would keep a leaving broker.  Here its handler of one connection
is run for each accepted socket, on a stream that gives up on slow peers by itself.

Its handler costs the loop more than a silent client is worth, so it begins once a whole head has
come, and later where others without a token have just failed (palace/protocol/pace.py).

HTTP/2 is not spoken.  Nobody needs it, and its frames cost the loop much before a client has shown
anything; Hypercorn has no setting for that, so its protocol is put together here.
"""

import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import attrs
import h11
import trio

from palace.kernel.left_out import Deferred, left_out
from palace.protocol.budget import HTTP
from palace.protocol.pace import Pace

# HTTP/2, websockets and its own server, of which nothing is used here: half of its import.
UNUSED = (
    "hypercorn.protocol.h2",
    "hypercorn.protocol.ws_stream",
    "hypercorn.trio.run",
    "h2.events",
    "multiprocessing.synchronize",
)
with left_out(*map(Deferred, UNUSED)):
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.config import Config
    from hypercorn.protocol.h11 import H11Protocol
    from hypercorn.trio.task_group import TaskGroup
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import ConnectionState

LOGIN_S = 10.0  # for a client to show by a whole request that it may come in
KEEP_ALIVE_S = 75.0  # between requests: longer than clients keep their end of a connection
SEND_S = 30.0  # for a client to take a piece
SEND_BYTES = 65_536
HEAD_BYTES_MAX = 16_384
_HEAD_END = re.compile(rb"\n\r?\n")  # as h11 looks for it
_AUTHORIZATION = re.compile(rb"\r?\nauthorization:[ \t]*([^\r\n]*)", re.IGNORECASE)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("palace.http")


@attrs.define(eq=False)
class HttpConnection:
    """One connection.  The application calls `admit` once a client has shown its token.

    `heard` is called when the first byte has come, `let_in` when the client is admitted, `ended` by
    its listener at its end.  `party` is whose it is while no token says.
    """

    party: str = HTTP
    admitted: bool = False
    heard: Callable[[], None] = lambda: None
    let_in: Callable[[], None] = lambda: None
    ended: Callable[[], None] = lambda: None
    under_way: int = 0  # requests that the application answers
    hung_up: bool = False
    held_bytes: int = 0  # of the request's body, or of the answer
    connected: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def admit(self) -> None:
        """Note that its client has shown that it may come in."""
        if not self.admitted:
            self.admitted = True
            self.connected.deadline = float("inf")
            self.let_in()

    def close(self) -> None:
        """Cut it."""
        self.connected.cancel()

    @property
    def is_kept(self) -> bool:
        """Tell whether it is only open for a next request, of a client that may come in."""
        return self.admitted and not self.under_way and not self.connected.cancel_called

    def end_if_idle(self) -> None:
        """End it once its client has left: Hypercorn would wait for another request."""
        if self.hung_up and not self.under_way:
            self.connected.cancel()


class Server:
    """Runs an ASGI application on accepted sockets, over TLS where it has a context for it.

    The application finds its `HttpConnection` in `scope["state"]["connection"]`.  `is_known` tells
    of an Authorization header (empty: there is none) that its client need not wait for those who
    have failed.
    """

    def __init__(
        self,
        app: App,
        is_known: Callable[[bytes], bool] = lambda _shown: False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._inner = app
        self._tls = tls
        self._is_known = is_known
        self._pace = Pace()
        self._outside: set[HttpConnection] = set()  # no handler yet
        self._app = ASGIWrapper(self._answer)  # type: ignore[arg-type]
        self._config = Config()
        self._config.errorlog = logger
        self._config.include_server_header = False
        self._config.keep_alive_timeout = KEEP_ALIVE_S
        self._context = WorkerContext(None)

    async def serve(self, sock: socket.socket, connection: HttpConnection) -> None:
        """Serve one accepted socket to its end and close it; nothing that a peer does raises."""
        plain = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        stream = _Stream(plain, connection)
        state = ConnectionState({"connection": connection})
        connection.connected.deadline = trio.current_time() + LOGIN_S
        try:
            with connection.connected:
                if self._tls is not None:
                    stream.secure(await self._secured(plain, self._tls))
                if await self._may_begin(stream, connection):
                    await _Http1Server(self._app, self._config, self._context, state, stream)  # type: ignore[arg-type]
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has left in the middle of TLS
        except* Exception:
            # The connection's boundary: a fault in here must not end the broker.
            logger.exception("a connection failed")
        finally:
            stream.close()
            if stream.was_heard and not connection.admitted:
                self._pace.failed(trio.current_time())

    async def _secured(self, plain: trio.SocketStream, tls: ssl.SSLContext) -> trio.abc.Stream:
        """Do the handshake, once a client has spoken and strangers' failures don't put it off."""
        await trio.lowlevel.wait_readable(plain.socket)
        await trio.sleep_until(self._pace.next_s)
        secured = trio.SSLStream(plain, tls, server_side=True, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError:
            self._pace.failed(trio.current_time())
            raise
        return secured

    async def _may_begin(self, stream: "_Stream", connection: HttpConnection) -> bool:
        """Wait for a whole head, and for a stranger's turn; False where its client has left."""
        self._outside.add(connection)
        try:
            head = await stream.head()
            shown = _AUTHORIZATION.search(head)
            if not self._is_known(shown[1].strip() if shown is not None else b""):
                await trio.sleep_until(self._pace.next_s)
            return bool(head)
        finally:
            self._outside.discard(connection)

    async def hang_up(self) -> None:
        """Close connections as soon as nothing is under way on them."""
        for connection in self._outside:
            connection.close()
        await self._context.terminated.set()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: HttpConnection = scope["state"]["connection"]
        connection.under_way += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            connection.under_way -= 1
            connection.end_if_idle()


class _Connection(h11.Connection):
    """Leaves what follows a last request alone until that request is answered.

    h11 takes it for an error as soon as the answer has begun, on which Hypercorn closes the
    connection before the answer has left.
    """

    def next_event(self) -> Any:
        answering = self.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY)
        if answering and self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            return h11.PAUSED
        return super().next_event()


class _Http1(H11Protocol):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.connection = _Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def _check_protocol(self, _event: object) -> None:
        """Take a request as HTTP/1.1, whatever other protocol it asks for."""


class _Http1Server(TCPServer):
    """Hypercorn's handler of one connection, without TLS and HTTP/2."""

    async def run(self) -> None:
        names = self.stream.socket.getpeername(), self.stream.socket.getsockname()
        try:
            async with TaskGroup() as tasks:
                self._task_group = tasks
                state = ConnectionState(self.state)
                self.protocol = _Http1(  # type: ignore[assignment]
                    *(self.app, self.config, self.context, tasks, state, False),
                    *names,
                    self.protocol_send,
                )
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
        except OSError:
            return  # its client has left
        finally:
            await self._close()


class _Stream:
    """A socket's stream that knows when its client has left, or doesn't read any more."""

    def __init__(self, stream: trio.SocketStream, connection: HttpConnection) -> None:
        self._stream: trio.abc.Stream = stream
        self._connection = connection
        self._head = b""
        self._sending = trio.Lock()
        self.was_heard = False
        self.socket = stream.socket

    def secure(self, stream: trio.abc.Stream) -> None:
        """Go on over TLS, which is laid over the socket's own stream."""
        self._stream = stream

    async def head(self) -> bytes:
        """Return a request's head once it is whole, or too long; b"" where its client has left.

        `receive_some` returns it again, with what has come behind it.
        """
        head = b""
        while (end := _HEAD_END.search(head)) is None and len(head) <= HEAD_BYTES_MAX:
            try:
                data = await self.receive_some(SEND_BYTES)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                return b""
            head += data
        self._head = head
        return head[: end.end() if end is not None else HEAD_BYTES_MAX]

    async def receive_some(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            await trio.lowlevel.checkpoint()
            return data
        data = b""
        try:
            data = bytes(await self._stream.receive_some(size))
        finally:
            if data:
                self.was_heard = True
                self._connection.heard()
            else:
                self._connection.hung_up = True
                self._connection.end_if_idle()
        return data

    async def send_all(self, data: bytes) -> None:
        async with self._sending:  # an answer, and what is wrong with what came behind its request
            await self._send_all(data)

    async def _send_all(self, data: bytes) -> None:
        for start in range(0, len(data), SEND_BYTES):
            with trio.move_on_after(SEND_S) as sending:
                await self._stream.send_all(data[start : start + SEND_BYTES])
            if sending.cancelled_caught:
                self._connection.connected.cancel()
                raise trio.BrokenResourceError("the client doesn't read")

    async def send_eof(self) -> None:
        async with self._sending:
            if isinstance(self._stream, trio.abc.HalfCloseableStream):  # TLS can't
                await self._stream.send_eof()

    async def aclose(self) -> None:
        with trio.move_on_after(SEND_S) as closing:
            await self._stream.aclose()
        if closing.cancelled_caught:
            await trio.aclose_forcefully(self._stream)

    def close(self) -> None:
        self.socket.close()
