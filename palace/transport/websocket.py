"""Lines over a TLS websocket, for clients behind another kernel.  Sole importer of trio_websocket.

The websocket carries a stream of bytes in binary messages; where a message ends means nothing.
A text message says that the client has said its last word, and still listens.
A client logs in with `Authorization: Bearer TOKEN` in its handshake: what is wrong with it is
answered in HTTP, before the websocket exists, and nothing of it is written to a log.
"""

import hmac
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
import trio_websocket

from palace.protocol.wire import WEBSOCKET_PATH
from palace.transport.buffered import BufferedLines
from palace.transport.lines import OUTBOX_BYTES_MAX

MESSAGE_BYTES_MAX = 1 << 20  # of a client's message; longer lines come in several
SEND_BYTES = 65_536
HANDSHAKE_S = 10.0  # TLS and HTTP together
GOODBYE_S = 1.0
TOKEN_BYTES_MAX = 256

# What an HTTP answer says instead of a websocket.
UNAUTHORIZED, NOT_FOUND, TOO_MANY = 401, 404, 429


class WebSocketLines(BufferedLines):
    """A websocket that receives lines and sends without waiting (palace/transport/lines.py).

    `token_of` names the one whose token it has shown, "" for that in the record.
    """

    token_of = ""

    def __init__(self, connection: trio_websocket.WebSocketConnection, line_bytes_max: int) -> None:
        self._connection = connection
        super().__init__(line_bytes_max)
        self._cut = trio.CancelScope()

    async def receive_lines(self) -> list[bytes]:
        if self._unread:
            lines, self._unread = self._unread, []
            return lines
        while not self.broken:
            try:
                message = await self._connection.get_message()
            except trio_websocket.ConnectionClosed:
                break
            if isinstance(message, str):  # half a close, for which websockets have no other word
                break
            lines = self._splitter.feed(message)
            if lines:
                return lines
        return []

    def send_soon(self, data: bytes) -> None:
        if self.broken:
            return
        if self._put(data) > OUTBOX_BYTES_MAX:
            self.close()
        self._wakeup.set()

    async def flush_forever(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            while self._outbox and not self.broken:
                piece = bytes(self._outbox[:SEND_BYTES])
                try:
                    await self._connection.send_message(piece)
                except trio_websocket.ConnectionClosed:
                    self.close()
                    break
                del self._outbox[: len(piece)]
            self._note_drained()

    def close(self) -> None:
        """Cut the connection: `open_lines` closes it."""
        self.broken = True
        self._outbox.clear()
        self._drained.set()
        self._cut.cancel()

    async def watch_cut(self) -> None:
        """Return when `close` was called."""
        with self._cut:
            await trio.sleep_forever()


def _nobody(_token: str) -> None:
    return None


class TokenGate:
    """Checks tokens, and tells an address that keeps guessing no more than that it does.

    The right token is let in before any limit counts: guests behind one address (a proxy, a NAT)
    must not answer for each other.  `now_s` is a monotonic clock.  Only failures are remembered,
    of at most `ADDRESSES_MAX`.  `named` returns whose token another one is, None for nobody's.
    """

    FAILURES_MAX = 10  # of one address within FAILURES_S
    FAILURES_S = 60.0
    ADDRESSES_MAX = 1024

    def __init__(
        self,
        token: str,
        now_s: Callable[[], float],
        named: Callable[[str], str | None] = _nobody,
    ) -> None:
        self._expected = f"Bearer {token}".encode()
        self._named = named
        self._now_s = now_s
        self._failures: dict[str, list[float]] = {}
        self.refused = 0

    def admit(self, address: str, path: str, authorization: bytes) -> int:
        """Return 0, or the HTTP status that says why not."""
        if path != WEBSOCKET_PATH:
            self.refused += 1
            return NOT_FOUND
        if self.who(authorization) is not None:
            self._failures.pop(address, None)
            return 0
        since_s = self._now_s() - self.FAILURES_S
        recent = [at_s for at_s in self._failures.pop(address, []) if at_s >= since_s]
        status = TOO_MANY if len(recent) >= self.FAILURES_MAX else UNAUTHORIZED
        recent.append(self._now_s())
        del recent[: -self.FAILURES_MAX]
        self.refused += 1
        self._failures[address] = recent
        while len(self._failures) > self.ADDRESSES_MAX:
            del self._failures[next(iter(self._failures))]
        return status

    def who(self, authorization: bytes) -> str | None:
        """Return whose token it is, "" for the one in the record, None for nobody's."""
        if hmac.compare_digest(authorization, self._expected):
            return ""
        scheme, _, token = authorization.partition(b" ")
        is_token = scheme == b"Bearer" and len(token) <= TOKEN_BYTES_MAX
        return self._named(token.decode(errors="replace")) if is_token else None


async def speaks(stream: trio.SocketStream) -> bool:
    """Wait for a client's first byte, or its end; False where nothing comes in time."""
    with trio.move_on_after(HANDSHAKE_S):
        await trio.lowlevel.wait_readable(stream.socket)
        return True
    return False


@asynccontextmanager
async def open_lines(
    stream: trio.SocketStream,
    context: ssl.SSLContext,
    gate: TokenGate,
    *,
    line_bytes_max: int,
    secured: Callable[[], None] = lambda: None,
) -> AsyncIterator[WebSocketLines | None]:
    """Do the handshakes on an accepted connection; yield its lines, None where it is refused.

    `secured` is called between the two: after TLS, before the token.  The stream is closed at the
    end, and nothing that a peer does raises.
    """
    tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        async with trio.open_nursery() as nursery:
            admitted = await _handshake(nursery, tls, gate, secured)
            if admitted is None:
                yield None
            else:
                connection, token_of = admitted
                lines = WebSocketLines(connection, line_bytes_max)
                lines.token_of = token_of
                nursery.start_soon(_close_when_cut, lines, connection)
                yield lines
                lines.close()
                with trio.move_on_after(GOODBYE_S):
                    await connection.aclose()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(tls)


async def _handshake(
    nursery: trio.Nursery,
    tls: "trio.SSLStream[trio.SocketStream]",
    gate: TokenGate,
    secured: Callable[[], None],
) -> tuple[trio_websocket.WebSocketConnection, str] | None:
    with trio.move_on_after(HANDSHAKE_S):
        try:
            address = str(tls.transport_stream.socket.getpeername()[0])
            await tls.do_handshake()
            secured()
            request = await trio_websocket.wrap_server_stream(
                nursery, tls, max_message_size=MESSAGE_BYTES_MAX, receive_buffer_size=SEND_BYTES
            )
            headers = dict(request.headers)
            shown = headers.get(b"authorization", b"")
            token_of = gate.who(shown) or ""
            status = gate.admit(address, request.path, shown)
            if status:
                await request.reject(status)
                return None
            return await request.accept(), token_of
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return None
        except (trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
            return None
    return None


async def _close_when_cut(
    lines: WebSocketLines, connection: trio_websocket.WebSocketConnection
) -> None:
    await lines.watch_cut()
    with trio.move_on_after(GOODBYE_S):
        await connection.aclose()
