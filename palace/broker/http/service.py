"""The loopback HTTP listener: when it serves, for whom stock finds it, and how it ends.

It begins once the engine has loaded, so that it delays nobody's first call, and stock is told of it
in the step in which it listens.  Stock is told otherwise in the step in which the record goes
(`Desk.drain`): a leaving broker is found by nobody.
"""

import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import trio

from palace.broker.desk import Desk
from palace.broker.http.serverinfo import ServerInfo
from palace.protocol.errors import PalaceError
from palace.transport.unix import accept_one

if TYPE_CHECKING:
    from palace.broker.http.sessions import HttpSessions
    from palace.transport.http import Server, Visit

ADDRESS = "127.0.0.1"
BACKLOG = 128
CONNECTIONS_MAX = 128
STRANGERS_MAX = 32  # that have not shown the token yet
AGAIN_S = 5.0  # after which a port that is taken is tried again

logger = logging.getLogger("palace.http")


@attrs.define(eq=False, kw_only=True)
class Web:
    """HTTP for one owner.  `answers` counts statuses; `port` is 0 while nobody listens."""

    desk: Desk
    info: ServerInfo
    port: int = 0
    answers: Counter[int] = attrs.field(factory=Counter)
    refused: int = 0
    engine_ready: trio.Event = attrs.field(factory=trio.Event)
    _sessions: "HttpSessions | None" = None
    _server: "Server | None" = None
    _listener: socket.socket | None = None
    _visits: "set[Visit]" = attrs.field(factory=set)

    @classmethod
    def of(cls, desk: Desk) -> "Web | None":
        """Return what palace.toml wants, and remove what a killed owner told stock."""
        if not desk.home:
            return None
        info = ServerInfo(home=desk.home, palace=desk.owner.paths.root, kernel=desk.kernel)
        try:
            info.remove_dead()
        except OSError as error:
            logger.warning("%s was not removed: %s", info.path, error)
        return cls(desk=desk, info=info) if desk.config.http is not False else None

    async def serve(self, sessions: trio.Nursery) -> None:
        """Serve until cancelled, each connection in `sessions`; `hang_up` comes after it."""
        await self.engine_ready.wait()
        listener = await self._open(sessions)
        while listener is None:  # its port is taken, by an owner that leaves, say
            await trio.sleep(AGAIN_S)
            listener = await self._open(sessions)
        while True:
            try:
                sock = await accept_one(listener)
            except OSError as error:  # EMFILE, ENFILE, ENOMEM: those connected go on
                logger.warning("accept failed: %s", error)
                await trio.sleep(0.1)
                continue
            self._take(sock, sessions)
            await trio.lowlevel.checkpoint()

    async def hang_up(self) -> None:
        """Stop listening; connections end once nothing is under way on them."""
        if self._listener is not None:
            trio.lowlevel.notify_closing(self._listener)
            self._listener.close()
            self._listener = None
        if self._server is not None:
            await self._server.hang_up()

    def withdraw(self) -> None:
        """Tell stock that nobody is here; raises OSError."""
        self.info.withdraw()

    def status(self) -> dict[str, object]:
        """Return what `palace status` shows; the token's file, not the token."""
        return {
            "url": f"http://{ADDRESS}:{self.port}/mcp" if self.port else "",
            "token_file": self.info.token_path,
            "connections": len(self._visits),
            "sessions": len(self._sessions.lasting) if self._sessions else 0,
            "refused": self.refused,
        }

    async def _open(self, sessions: trio.Nursery) -> socket.socket | None:
        """Listen and tell stock; None where that is not possible now."""
        try:
            # Some 100 modules: while they are imported, shims are served.
            await trio.to_thread.run_sync(_import)
            fingerprint = await trio.to_thread.run_sync(self.desk.engine.search_fingerprint)
            token = await trio.to_thread.run_sync(self.info.token)
            self._listen(sessions, token)
            self.info.publish(port=self.port, fingerprint=fingerprint)
        except (OSError, ImportError, PalaceError) as error:
            text = f"HTTP is not served: {error}"
            if self.desk.troubles.last != text:
                logger.warning("%s", text)
            self.desk.trouble(text)
            return None
        logger.info("HTTP at %s:%d", ADDRESS, self.port)
        return self._listener

    def _listen(self, sessions: trio.Nursery, token: str) -> None:
        from palace.broker.http.app import HttpApp
        from palace.broker.http.sessions import HttpSessions
        from palace.transport.http import Server

        if self._listener is None:
            wanted = self.desk.config.http
            self._listener = _bound(0 if wanted is True else int(wanted))
        self.port = self._listener.getsockname()[1]
        self._sessions = HttpSessions(desk=self.desk, nursery=sessions)
        app = HttpApp(
            desk=self.desk,
            sessions=self._sessions,
            token=token,
            port=self.port,
            answers=self.answers,
        )
        self._server = Server(app)

    def _take(self, sock: socket.socket, sessions: trio.Nursery) -> None:
        from palace.transport.http import Visit

        strangers = sum(not visit.admitted for visit in self._visits)
        if (
            strangers >= STRANGERS_MAX
            or len(self._visits) >= CONNECTIONS_MAX
            or self.desk.open_connections >= self.desk.connections_max
        ):
            sock.close()
            self.refused += 1
            return
        visit = Visit()
        self._visits.add(visit)
        self.desk.open_connections += 1
        sessions.start_soon(self._serve, sock, visit)

    async def _serve(self, sock: socket.socket, visit: "Visit") -> None:
        assert self._server is not None
        try:
            await self._server.serve(sock, visit)
        finally:
            self._visits.discard(visit)
            self.desk.open_connections -= 1


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
