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
from palace.ownership.book import Watched, whose_token
from palace.ownership.guest_book import Guest, book_path, read_guests
from palace.ownership.record import Remote
from palace.protocol.budget import Budget
from palace.protocol.errors import ConfigError
from palace.protocol.pace import Pace
from palace.protocol.rights import GUEST
from palace.settings.checks import is_anywhere
from palace.transport.accepting import accept_forever
from palace.transport.websocket import TokenGate, WebSocketLines, open_lines, speaks

STRANGERS_MAX = 64  # connections that have not shown a token yet
RECORDS = "the palace's record"  # whoever read its token there
LOOK_S = 1.0  # for guests whose token was revoked
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
    _book: Watched[Guest] = attrs.field(init=False)
    _live: dict[WebSocketLines, Guest] = attrs.field(factory=dict)
    _pace: Pace = attrs.field(factory=Pace)

    def __attrs_post_init__(self) -> None:
        self._strangers = Places(Budget("guest_strangers", STRANGERS_MAX))
        self.state.telemetry.budgets.append(self._strangers.budget)
        self._gate = TokenGate(self.token, trio.current_time, self._named)
        services = self.state.services
        directory = services.guests_directory
        known = (directory, services.ownership.palace_id, services.kernel)
        self._book = Watched(
            path=book_path(directory) if directory else "",
            read=partial(read_guests, *known),
            kernel=services.kernel,
            note=self._note_broken,
        )

    @classmethod
    def of(cls, state: BrokerState) -> "Guests":
        """Return what the settings want; raises ConfigError."""
        services = state.services
        identity = make_identity(services.config, services.kernel, services.guests_directory)
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

    # Guests with tokens of their own.

    def _note_broken(self, text: str) -> None:
        logger.warning("%s", text)
        self.state.telemetry.note_error(text)

    def _named(self, token: str) -> str | None:
        found = whose_token(token, self._book.look())
        return found.name if found is not None else None

    async def _end_revoked(self) -> None:
        """Hang up on guests whose token is not theirs any more."""
        while True:
            await trio.sleep(LOOK_S)
            known = self._book.look()
            for lines, guest in tuple(self._live.items()):
                if known.get(guest.name) != guest:
                    logger.info("guest %s: its token was revoked", guest.name)
                    lines.close()

    async def accept(self, sessions: trio.Nursery) -> None:
        """Let guests in until cancelled; they are served in `sessions`."""
        take = partial(self._take, sessions)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_revoked)
            for listener in self._listeners:
                is_full = self._strangers.is_full
                nursery.start_soon(accept_forever, listener.accept, take, logger, is_full)

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
        has_spoken = is_in = False
        try:
            with handshake:
                # TLS costs more than a silent client is worth, and strangers' failures put it off.
                has_spoken = await speaks(stream)
                if not has_spoken:
                    return
                await trio.sleep_until(self._pace.next_s)
                async with open_lines(
                    stream,
                    self.identity.context,
                    self._gate,
                    line_bytes_max=limit,
                    secured=place.note_heard,
                ) as lines:
                    self._strangers.leave(place)
                    is_in = lines is not None
                    if lines is not None:
                        await self._serve_lines(lines, address)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self.state.telemetry.counters.refused += 1  # gone in the middle of it
        finally:
            self._strangers.leave(place)
            if has_spoken and not is_in:
                self._pace.failed(trio.current_time())
            stream.socket.close()

    async def _serve_lines(self, lines: WebSocketLines, address: str) -> None:
        peer = attrs.evolve(GUEST, address=address, guest=RECORDS)
        if not lines.token_of:
            await serve_connection(self.state, lines, peer)
            return
        guest = self._book.look().get(lines.token_of)
        if guest is None:
            return  # revoked in the middle of it
        logger.info("guest %s has connected", guest.name)
        self._live[lines] = guest
        peer = attrs.evolve(peer, guest=guest.name, read_only=guest.read_only)
        try:
            await serve_connection(self.state, lines, peer)
        finally:
            del self._live[lines]

    async def close(self) -> None:
        """Stop listening; what waits to be accepted is reset, and dials again."""
        for listener in self._listeners:
            await trio.aclose_forcefully(listener)
        self._listeners = []
