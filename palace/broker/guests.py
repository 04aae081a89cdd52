"""Guests: clients behind another kernel, who come over a TLS websocket and log in with a token.

They are served like everybody else once they are in (connections.py).  Before, they get little:
a bounded number of handshakes, each of bounded time; what they do wrong is counted, never logged.
"""

import logging
import ssl
from collections.abc import Iterator

import attrs
import trio

from palace.broker.certificate import Identity, make_identity
from palace.broker.connections import GUEST, serve_connection
from palace.broker.desk import Desk
from palace.broker.endpoint import Remote
from palace.transport.websocket import Door, open_lines

HANDSHAKES_MAX = 64
BACKLOG = 128

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False, kw_only=True)
class Guests:
    """Where guests come in.  `remote` is what the record says of it, None while nobody listens."""

    desk: Desk
    identity: Identity
    token: str
    remote: Remote | None = None
    _door: Door = attrs.field(init=False)
    _listeners: list[trio.SocketListener] = attrs.field(factory=list)
    _handshakes: int = 0

    def __attrs_post_init__(self) -> None:
        self._door = Door(self.token, trio.current_time)

    @classmethod
    def of(cls, desk: Desk) -> "Guests":
        """Return what palace.toml wants; raises ConfigError."""
        identity = make_identity(desk.config, desk.kernel)
        return cls(desk=desk, identity=identity, token=desk.kernel.token(32))

    async def listen(self) -> bool:
        """Bind; False where that is not possible now, which must not keep neighbours waiting."""
        host, _, port = self.desk.config.listen.rpartition(":")
        try:
            self._listeners = await trio.open_tcp_listeners(
                int(port), host=host.strip("[]"), backlog=BACKLOG
            )
        except OSError as error:
            text = f"guests can't be served at {self.desk.config.listen}: {error}"
            if self.desk.troubles.last != text:
                logger.warning("%s", text)
            self.desk.trouble(text)
            return False
        self.remote = Remote(
            urls=tuple(self._urls()), token=self.token, fingerprint=self.identity.fingerprint
        )
        return True

    def _urls(self) -> Iterator[str]:
        for address in self.desk.config.advertise or (self.desk.config.listen,):
            yield f"wss://{address}"

    async def accept(self, sessions: trio.Nursery) -> None:
        """Let guests in until cancelled; they are served in `sessions`."""
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(self._accept, listener, sessions)

    async def _accept(self, listener: trio.SocketListener, sessions: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:  # EMFILE, ENFILE, ENOMEM: those connected go on
                logger.warning("accept failed: %s", error)
                await trio.sleep(0.1)
                continue
            if self._handshakes >= HANDSHAKES_MAX:
                await trio.aclose_forcefully(stream)
                continue
            self._handshakes += 1
            sessions.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        limit = self.desk.config.line_bytes_max
        knocking = True
        try:
            async with open_lines(
                stream, self.identity.context, self._door, line_bytes_max=limit
            ) as lines:
                knocking = False
                self._handshakes -= 1
                if lines is not None:
                    await serve_connection(self.desk, lines, GUEST)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self.desk.counters.refused += 1  # gone in the middle of it
        finally:
            if knocking:
                self._handshakes -= 1

    async def close(self) -> None:
        """Stop listening; who waits to be accepted is reset, and comes again."""
        for listener in self._listeners:
            await trio.aclose_forcefully(listener)
        self._listeners = []

    def status(self) -> dict[str, object]:
        """Return what `palace status` shows, without the token."""
        return {
            "urls": list(self.remote.urls) if self.remote else [],
            "fingerprint": self.identity.fingerprint,
            "refused": self._door.refused,
        }
