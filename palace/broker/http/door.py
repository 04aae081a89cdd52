"""`http.sock`, beside broker.sock: the memory contract for processes of the palace's owner.

What the contract calls a private network is a socket that only its owner can open, and whose other
end the kernel names.  It is there while the contract is served, and for nobody else: a palace
without workspaces and plugin tokens has no such file.
"""

import logging
import os
import socket
from collections.abc import Callable
from functools import partial

import attrs
import trio

from palace.broker.connections import neighbour, party_of_peer
from palace.broker.endpoint import listen_at
from palace.broker.http.contract import is_served
from palace.broker.state import BrokerState
from palace.broker.telemetry.telemetry import HttpCounters
from palace.protocol.rights import Who
from palace.transport.accepting import accept_forever
from palace.transport.unix import accept_one

NAME = "http.sock"
NEW_NAME = "http.new"
LOOK_S = 1.0  # for the first workspace, or whoever removes the socket
AGAIN_S = 5.0
OWNERS = frozenset({Who.OWNER, Who.ROOT, Who.CONTAINER})

logger = logging.getLogger("palace.http")


@attrs.define(eq=False, kw_only=True)
class Door:
    """One owner's; `take` serves a connection of a party and closes it."""

    state: BrokerState
    counters: HttpCounters
    take: Callable[[socket.socket, str], None]
    _listener: socket.socket | None = None
    _file_id: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        endpoint = self.state.services.endpoint
        return f"{os.path.dirname(endpoint.path)}/{NAME}" if endpoint is not None else ""

    async def serve(self) -> None:
        """Listen while the contract is served; until cancelled."""
        if not self.path:
            return
        self.state.services.kernel.unlink(self.path)  # of an owner that was killed
        while True:
            if is_served(self.state):
                await self._serve()
            await trio.sleep(LOOK_S)

    async def _serve(self) -> None:
        try:
            listener = self._listen()
        except OSError as error:
            logger.warning("%s can't be listened on: %s", self.path, error)
            await trio.sleep(AGAIN_S)
            return
        try:
            async with trio.open_nursery() as nursery:
                accept = partial(accept_one, listener)
                nursery.start_soon(accept_forever, accept, self._admit, logger)
                await self._until_over()
                nursery.cancel_scope.cancel()
        finally:
            self.close()

    async def _until_over(self) -> None:
        """Wait until the contract is served no more, or the socket isn't ours: somebody removed it.

        Nothing tells of either.
        """
        while True:
            await trio.sleep(LOOK_S)
            if not is_served(self.state) or not self._is_ours():
                return

    def _listen(self) -> socket.socket:
        kernel = self.state.services.kernel
        listener = listen_at(self.path, kernel, mode=0o600, by_way_of=NEW_NAME)
        self._listener, self._file_id = listener, kernel.file_id(self.path)
        self.counters.socket = self.path
        logger.info("the memory contract is served at %s", self.path)
        return listener

    def _is_ours(self) -> bool:
        return self.state.services.kernel.file_id(self.path) == self._file_id

    def _admit(self, sock: socket.socket) -> None:
        """Take a connection of the owner's; the mode of the file keeps others out as well."""
        peer = neighbour(self.state, sock)
        if peer.who not in OWNERS:
            self.counters.refused += 1
            sock.close()
            return
        sock.setblocking(False)
        self.take(sock, party_of_peer(peer))

    def close(self) -> None:
        """Listen no more, and remove the socket if it is ours; safe to call twice."""
        if self._listener is None:
            return
        trio.lowlevel.notify_closing(self._listener)
        self._listener.close()
        self._listener = None
        self.counters.socket = ""
        if self._is_ours():
            self.state.services.kernel.unlink(self.path)
