"""The loopback HTTP listener: when it serves, for whom stock finds it, and how it ends.

It begins once the engine has loaded, so that it delays no first call, or once queries are answered
from a copy, beside a program that has mempalace's lock.  Stock is told of it when the engine is
there, which may be the step in which it listens.  Stock is told otherwise in the step in which the
record goes (`Leaving.stop`): no client finds a leaving broker.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from palace.broker.http.door import Door
from palace.broker.http.serverinfo import ServerInfo
from palace.broker.places import Place, Places
from palace.broker.state import BrokerState
from palace.broker.telemetry.telemetry import HttpCounters
from palace.protocol.budget import HTTP, Budget, Use
from palace.protocol.errors import PalaceError
from palace.protocol.lifecycle import Phase
from palace.transport.accepting import accept_forever
from palace.transport.unix import accept_one

if TYPE_CHECKING:
    from collections.abc import Iterable

    from palace.broker.http.app import HttpApp
    from palace.transport.http import HttpConnection, Server

ADDRESS = "127.0.0.1"
BACKLOG = 128
CONNECTIONS_MAX = 128  # at the loopback address, and over TLS
SOCKET_CONNECTIONS_MAX = 256  # at http.sock, whose clients are the owner's own programs
STRANGERS_MAX = 32  # connections that have not shown the token yet
AGAIN_S = 5.0  # after which a port that is taken is tried again

T = TypeVar("T")

logger = logging.getLogger("palace.http")


@attrs.define(eq=False, kw_only=True)
class HttpListener:
    """HTTP for one owner; `engine_ready` lets stock be told."""

    state: BrokerState
    info: ServerInfo
    counters: HttpCounters
    engine_ready: trio.Event = attrs.field(factory=trio.Event)
    _strangers: Places = attrs.field(init=False)
    _server: "Server | None" = None
    _unix_server: "Server | None" = None
    _door: Door | None = None
    _listener: socket.socket | None = None
    _tls_server: "Server | None" = None
    _app: "HttpApp | None" = None
    _by_server: "dict[Server, set[HttpConnection]]" = attrs.field(factory=dict)
    _at_socket: Places = attrs.field(init=False)
    _over_tls: Places = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._strangers = Places(Budget("http_strangers", STRANGERS_MAX))
        self._at_socket = Places(Budget("http_socket", SOCKET_CONNECTIONS_MAX))
        self._over_tls = Places(Budget("http_tls", CONNECTIONS_MAX))
        for places in (self._strangers, self._at_socket, self._over_tls):
            self.state.telemetry.budgets.append(places.budget)

    @classmethod
    def of(cls, state: BrokerState) -> "HttpListener | None":
        """Return what the settings want, and remove what a killed owner told stock."""
        services = state.services
        if not services.home:
            return None
        info = ServerInfo(
            home=services.home, palace=services.ownership.paths.root, kernel=services.kernel
        )
        try:
            info.remove_dead()
        except OSError as error:
            logger.warning("%s was not removed: %s", info.path, error)
        if services.config.http is False:
            return None
        counters = HttpCounters(token_file=info.token_path)
        return cls(state=state, info=info, counters=counters)

    async def serve(self, sessions: trio.Nursery) -> None:
        """Serve until cancelled, each connection in `sessions`; `hang_up` comes after it."""
        await self.state.scheduler.may_answer.wait()
        if self.info.is_anothers():  # a server of stock's that has the lock, and its own token
            await self.engine_ready.wait()
        listener = await self._until_done(partial(self._open, sessions))
        assert self._server is not None
        assert self._door is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_stock)
            nursery.start_soon(self._door.serve)
            nursery.start_soon(self._serve_tls, sessions)
            await accept_forever(
                partial(accept_one, listener),
                partial(self._take, self._server, sessions),
                logger,
                self._strangers.is_full,
            )

    async def _serve_tls(self, sessions: trio.Nursery) -> None:
        """Serve the memory contract over TLS, where the settings say so."""
        if not self.state.services.config.serve_http:
            return
        from palace.broker.http.tls import TlsDoor, tls_identity
        from palace.transport.http import Server

        assert self._app is not None, "it listens on loopback by now"
        identity, certificate = await self._until_done(
            partial(trio.to_thread.run_sync, tls_identity, self.state)
        )
        self._tls_server = Server(
            self._app.serve_tls, self._app.comes_from_elsewhere, identity.context
        )
        door = TlsDoor(
            state=self.state,
            counters=self.counters,
            certificate=certificate,
            take=partial(self._take, self._tls_server, sessions),
        )
        await door.serve()

    async def _until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it again while it fails: its port is taken, by an owner that leaves, say."""
        while True:
            try:
                return await work()
            except (OSError, ImportError, PalaceError) as error:
                text = f"HTTP is not served: {error}"
                if self.state.telemetry.errors.last != text:
                    logger.warning("%s", text)
                self.state.telemetry.note_error(text)
            await trio.sleep(AGAIN_S)

    async def _tell_stock(self) -> None:
        await self.engine_ready.wait()
        await self._until_done(self._publish)

    async def hang_up(self) -> None:
        """Stop listening; connections end once nothing is under way on them."""
        if self._listener is not None:
            trio.lowlevel.notify_closing(self._listener)
            self._listener.close()
            self._listener = None
        if self._door is not None:
            self._door.close()
        for server in filter(None, (self._server, self._unix_server, self._tls_server)):
            await server.hang_up()

    def withdraw(self) -> None:
        """Tell stock that there is no server any more; raises OSError."""
        self.info.withdraw()

    async def _open(self, sessions: trio.Nursery) -> socket.socket:
        """Listen; where the engine is there by now, stock is told in the same step."""
        # Some 100 modules: while they are imported, shims are served.
        await trio.to_thread.run_sync(_import)
        ready = self.engine_ready.is_set()
        fingerprint = await self._fingerprint() if ready else ""
        mesh, stocks = self.state.mesh, b""
        if mesh.is_served:  # before our token takes the place of stock's
            stocks = self.state.services.kernel.read_hint(self.info.token_path, 4096) or b""
        mesh.begin_serving(stocks.decode(errors="replace").strip())
        token = await trio.to_thread.run_sync(self.info.token)
        self._listen(sessions, token)
        assert self._listener is not None
        if ready:
            self._tell(fingerprint)
        logger.info("HTTP at %s", self.counters.url)
        await mesh.settle()
        return self._listener

    async def _fingerprint(self) -> str:
        return await trio.to_thread.run_sync(self.state.services.engine.search_fingerprint)

    async def _publish(self) -> None:
        if not self.info.is_published:
            self._tell(await self._fingerprint())

    def _tell(self, fingerprint: str) -> None:
        """Tell stock where to find this server; raises OSError.

        Not once this owner leaves: it has told stock otherwise, and won't again.
        """
        if self._listener is None or self.state.lifecycle.phase is not Phase.SERVING:
            return
        self.info.publish(port=self._listener.getsockname()[1], fingerprint=fingerprint)
        for holding in self.info.holdings():
            self.state.watch.add(holding)

    def _listen(self, sessions: trio.Nursery, token: str) -> None:
        from palace.broker.http.app import HttpApp
        from palace.broker.http.sessions import HttpSessions
        from palace.transport.http import Server

        if self._listener is None:
            self._listener = self._bind()
        port: int = self._listener.getsockname()[1]
        self.counters.url = f"http://{ADDRESS}:{port}/mcp"
        http_sessions = HttpSessions(state=self.state, counters=self.counters, nursery=sessions)
        app = HttpApp(
            state=self.state,
            sessions=http_sessions,
            token=token,
            port=port,
            answers=self.counters.answers,
        )
        self._app = app
        self._server = Server(app, app.is_known)
        # Whoever could connect is the owner's: nobody has to wait for others' failures.
        self._unix_server = Server(app.serve_unix, lambda _shown: True)
        self._door = Door(
            state=self.state,
            counters=self.counters,
            take=partial(self._take, self._unix_server, sessions),
        )

    def _bind(self) -> socket.socket:
        """Return a listening socket, where peers look for this palace if it has any.

        Raises OSError where the port that is set is taken.
        """
        wanted, mesh = self.state.services.config.http, self.state.mesh
        if wanted is not True:
            port = int(wanted)
            listener = _bound(port)
            mesh.note_port(port)
            return listener
        for port in mesh.ports():
            try:
                listener = _bound(port)
            except OSError as error:
                logger.warning("peers look for this palace at port %d: %s", port, error)
                continue
            mesh.note_port(port)
            return listener
        return _bound(0)

    def _take(
        self,
        server: "Server",
        sessions: trio.Nursery,
        sock: socket.socket,
        address: str = "",
    ) -> None:
        """Serve a connection: one without the token may have to make room, none with it does.

        So only clients with the token meet the limits, and the oldest of those without.  Each
        server has as many connections, whatever others have; where it is told whose they are, the
        heaviest party gives way.  `address` says whose it is: a process at http.sock, an address
        over TLS.
        """
        from palace.transport.http import HttpConnection

        party = address or HTTP
        connection = HttpConnection(party=party)
        place = Place(
            address or ADDRESS,
            connection.connected.cancel,
            is_kept=lambda: connection.is_kept,
        )
        if server is not self._unix_server:  # where the kernel has said whose they are
            self._strangers.add(place)
        connection.heard = place.note_heard
        connection.let_in = partial(self._strangers.leave, place)
        counted = self.state.connections.enter(party, connection.close)
        counted.use = partial(_use_of, connection)
        theirs = self._by_server.setdefault(server, set())
        if not self._has_room(server, place):
            self.state.connections.leave(counted)
            self._leave(place)
            sock.close()
            self.counters.refused += 1
            return
        theirs.add(connection)
        self.state.memory.watch(connection, party)
        self._count()
        connection.ended = partial(self.state.connections.leave, counted)
        sessions.start_soon(self._serve, server, sock, connection, place)

    def _has_room(self, server: "Server", place: Place) -> bool:
        """Take one of a server's places; False where this is the one that would have to go."""
        theirs = self._by_server[server]
        is_full = self.state.connections.is_over
        if server is self._unix_server or server is self._tls_server:
            places = self._at_socket if server is self._unix_server else self._over_tls
            places.add(place)
            if not places.has(place):
                return False
        else:  # of these nothing is known but that they are of this machine
            is_full = is_full or len(theirs) >= CONNECTIONS_MAX
        return not is_full or _end_idle(theirs)

    def _leave(self, place: Place) -> None:
        for places in (self._strangers, self._at_socket, self._over_tls):
            places.leave(place)

    def _count(self) -> None:
        self.counters.connections = sum(map(len, self._by_server.values()))

    async def _serve(
        self, server: "Server", sock: socket.socket, connection: "HttpConnection", place: Place
    ) -> None:
        try:
            await server.serve(sock, connection)
        finally:
            self._leave(place)
            self._by_server[server].discard(connection)
            self.state.memory.forget(connection)
            self._count()
            connection.ended()


def _end_idle(connections: "Iterable[HttpConnection]") -> bool:
    """End a connection that is only kept for a next request, if there is one."""
    for connection in connections:
        if connection.is_kept:
            connection.connected.cancel()
            return True
    return False


def _use_of(connection: "HttpConnection") -> Use:
    if not connection.admitted:
        return Use.UNUSED
    return Use.RENEWED if connection.is_kept else Use.BUSY


def _import() -> None:
    import palace.broker.http.app  # noqa: F401


def _bound(port: int) -> socket.socket:
    """Return a listening socket; raises OSError where the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
