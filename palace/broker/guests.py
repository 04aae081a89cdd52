"""Guests: clients behind another kernel, which come over a TLS websocket and log in with a token.

Once logged in they are served like any other client (connections.py).  Before that they get little:
a bounded number of handshakes, each of bounded time, of which the oldest of the busiest address
makes room for the next one; their mistakes are counted, and not logged.
"""

import logging
import ssl
from collections.abc import Iterator
from functools import partial

import attrs
import trio

from palace.broker.certificate import Identity, make_identity
from palace.broker.connections import serve_connection
from palace.broker.places import Places
from palace.broker.state import BrokerState
from palace.ownership.record import Remote
from palace.protocol.budget import Budget
from palace.protocol.errors import ConfigError
from palace.protocol.rights import GUEST
from palace.settings.checks import is_anywhere
from palace.transport.accepting import accept_forever
from palace.transport.websocket import TokenGate, open_lines

STRANGERS_MAX = 64  # connections that have not shown the token yet
BACKLOG = 128

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False, kw_only=True)
class Guests:
    """Where guests come in.  `remote` is what the record says of it, None while it isn't open."""

    state: BrokerState
    identity: Identity
    token: str
    remote: Remote | None = None
    _gate: TokenGate = attrs.field(init=False)
    _listeners: list[trio.SocketListener] = attrs.field(factory=list)
    _strangers: Places = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._strangers = Places(Budget("guest_strangers", STRANGERS_MAX))
        self.state.telemetry.budgets.append(self._strangers.budget)
        self._gate = TokenGate(self.token, trio.current_time)

    @classmethod
    def of(cls, state: BrokerState) -> "Guests":
        """Return what palace.toml wants; raises ConfigError."""
        identity = make_identity(state.services.config, state.services.kernel)
        return cls(state=state, identity=identity, token=state.services.kernel.token(32))

    async def listen(self) -> bool:
        """Bind; False where that is not possible now, which must not keep neighbours waiting."""
        host, _, port = self.state.services.config.listen.rpartition(":")
        try:
            self._listeners = await trio.open_tcp_listeners(
                int(port), host=host.strip("[]"), backlog=BACKLOG
            )
            self._check_bound()
        except (OSError, ConfigError) as error:
            text = f"guests can't be served at {self.state.services.config.listen}: {error}"
            if self.state.telemetry.errors.last != text:
                logger.warning("%s", text)
            self.state.telemetry.note_error(text)
            return False
        self.remote = Remote(
            urls=tuple(self._urls()), token=self.token, fingerprint=self.identity.fingerprint
        )
        return True

    def _check_bound(self) -> None:
        """Raise ConfigError, and listen nowhere, where a name has turned out a wildcard address."""
        bound = [listener.socket.getsockname()[0] for listener in self._listeners]
        if self.state.services.config.listen_anywhere or not any(map(is_anywhere, bound)):
            return
        for listener in self._listeners:
            listener.socket.close()
        self._listeners = []
        raise ConfigError(
            f"it is {', '.join(bound)}, which can be reached from every network. Name one address, "
            "or say listen_anywhere = true, too"
        )

    def _urls(self) -> Iterator[str]:
        for address in self.state.services.config.advertise or (self.state.services.config.listen,):
            yield f"wss://{address}"

    async def accept(self, sessions: trio.Nursery) -> None:
        """Let guests in until cancelled; they are served in `sessions`."""
        take = partial(self._take, sessions)
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(accept_forever, listener.accept, take, logger)

    def _take(self, sessions: trio.Nursery, stream: trio.SocketStream) -> None:
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:  # it has hung up
            stream.socket.close()
            return
        sessions.start_soon(self._serve, stream, address)

    async def _serve(self, stream: trio.SocketStream, address: str) -> None:
        limit = self.state.services.config.line_bytes_max
        handshake = trio.CancelScope()
        place = self._strangers.enter(address, handshake.cancel)
        try:
            with handshake:
                async with open_lines(
                    stream,
                    self.identity.context,
                    self._gate,
                    line_bytes_max=limit,
                    secured=place.note_heard,
                ) as lines:
                    self._strangers.leave(place)
                    if lines is not None:
                        await serve_connection(
                            self.state, lines, attrs.evolve(GUEST, address=address)
                        )
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self.state.telemetry.counters.refused += 1  # gone in the middle of it
        finally:
            self._strangers.leave(place)

    async def close(self) -> None:
        """Stop listening; what waits to be accepted is reset, and dials again."""
        for listener in self._listeners:
            await trio.aclose_forcefully(listener)
        self._listeners = []
