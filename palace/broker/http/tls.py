"""`serve_http`: the memory contract over TLS, for programs elsewhere with tokens of their own.

Whoever comes is a stranger until a token is shown; the palace's own token counts nowhere but on
its machine (app.py).  Imported only where the setting names an address.
"""

import logging
import socket
from collections.abc import Callable
from functools import partial

import attrs
import trio

from palace.broker.certificate import Identity, keep_door_identity
from palace.broker.state import BrokerState
from palace.broker.telemetry.telemetry import HttpCounters
from palace.protocol import wire
from palace.protocol.errors import ConfigError
from palace.settings.checks import is_anywhere
from palace.transport.accepting import accept_forever

BACKLOG = 128
AGAIN_S = 5.0

Take = Callable[[socket.socket, str], None]

logger = logging.getLogger("palace.http")


@attrs.frozen(kw_only=True)
class TlsDoor:
    """One owner's; `take` serves a connection that has come from an address, and closes it."""

    state: BrokerState
    counters: HttpCounters
    certificate: str
    take: Take

    async def serve(self) -> None:
        """Listen until cancelled; where the address is taken, try again."""
        while True:
            try:
                listeners = await self._listen()
            except (OSError, ConfigError) as error:
                text = f"the memory contract is not served over TLS: {error}"
                if self.state.telemetry.errors.last != text:
                    logger.warning("%s", text)
                self.state.telemetry.note_error(text)
                await trio.sleep(AGAIN_S)
                continue
            await self._accept(listeners)

    async def _listen(self) -> list[trio.SocketListener]:
        config = self.state.services.config
        host, _, port = config.serve_http.rpartition(":")
        listeners = await trio.open_tcp_listeners(
            wire.whole_number(port, most=65_535), host=host.strip("[]"), backlog=BACKLOG
        )
        bound = [listener.socket.getsockname()[0] for listener in listeners]
        if any(map(is_anywhere, bound)) and not config.listen_anywhere:
            for listener in listeners:
                listener.socket.close()
            raise ConfigError(
                f"serve_http is {', '.join(bound)}, which can be reached from every network. Name "
                "one address, or say listen_anywhere = true, too"
            )
        return listeners

    async def _accept(self, listeners: list[trio.SocketListener]) -> None:
        self.counters.tls = f"https://{self.state.services.config.serve_http}"
        self.counters.certificate = self.certificate
        logger.info("the memory contract is served at %s", self.counters.tls)
        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    accept = partial(_accepted, listener)
                    nursery.start_soon(accept_forever, accept, self._take, logger)
        finally:
            self.counters.tls = self.counters.certificate = ""
            for listener in listeners:
                listener.socket.close()

    def _take(self, sock: socket.socket) -> None:
        try:
            address = str(sock.getpeername()[0])
        except OSError:  # it has hung up
            sock.close()
            return
        self.take(sock, address)


async def _accepted(listener: trio.SocketListener) -> socket.socket:
    stream = await listener.accept()
    return socket.socket(fileno=stream.socket.detach())


def tls_identity(state: BrokerState) -> tuple[Identity, str]:
    """Return what is shown over TLS, and the certificate's file.  Blocks.

    Raises ConfigError and OSError.
    """
    services = state.services
    if not services.guests_directory:
        raise ConfigError("there is no state directory to keep a certificate in")
    host = services.config.serve_http.rpartition(":")[0].strip("[]")
    return keep_door_identity(services.config, services.kernel, services.guests_directory, host)
