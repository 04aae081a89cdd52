"""Lines over one connected AF_UNIX socket, for Trio.

Built on the socket itself and `trio.lowlevel`, since a reply that can leave at once must not pay
for a task switch: ping through the broker is budgeted at 200 microseconds.
"""

import socket

import trio

from palace.transport.buffered import BufferedLines
from palace.transport.lines import OUTBOX_BYTES_MAX

PACED_BYTES = 4 << 20  # of one line: what is longer comes no faster than 64 MB a second
PACE_S = 0.001
TURN_READS = 4  # before others have their turn: 60 us, and a turn costs 20
READ_BYTES = 65_536  # from 128 KiB on malloc may map and unmap memory at each read: 13 us


class LineStream(BufferedLines):
    """A connected socket that receives lines and sends without waiting (see `Lines`)."""

    def __init__(self, sock: socket.socket, *, line_bytes_max: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        super().__init__(line_bytes_max)
        self._detached = False
        self._is_drained = False
        self._reads = 0  # full ones, one after the other

    @property
    def gone(self) -> bool:
        """Tell a client that has hung up from one that has only said its last word."""
        if not self.broken:
            self._try_send(b"")  # breaks it where the other side is closed, and sends nothing
        return self.broken

    async def receive_lines(self) -> list[bytes]:
        if self._unread:
            lines, self._unread = self._unread, []
            return lines
        while True:
            data = await self._receive()
            if not data:
                return []
            lines = self._splitter.feed(data)
            if lines:
                return lines

    async def _receive(self) -> bytes:
        while True:
            if self._is_drained:  # a client that waits for its reply sends nothing before
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                except (trio.ClosedResourceError, OSError, ValueError):  # one that is closed is -1
                    return b""
            try:
                data = self._sock.recv(READ_BYTES)
            except BlockingIOError:
                self._is_drained = True
            except OSError:  # reset, or closed by the session's next connection
                return b""
            else:
                self._is_drained = len(data) < READ_BYTES
                if self._is_drained:
                    self._reads = 0
                    await trio.lowlevel.checkpoint_if_cancelled()
                    return data
                self._reads += 1
                if self._splitter.held >= PACED_BYTES:
                    await trio.sleep(PACE_S)
                elif self._reads % TURN_READS:
                    await trio.lowlevel.checkpoint_if_cancelled()
                else:  # a client that sends faster than it is read would keep the loop to itself
                    await trio.lowlevel.checkpoint()
                return data

    def send_soon(self, data: bytes) -> None:
        if self.broken:
            return
        if not self._outbox:
            data = data[self._try_send(data) :]
            if not data:
                return
        if self._put(data) > OUTBOX_BYTES_MAX:
            self._break()
        self._wakeup.set()

    def _try_send(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._break()
            return len(data)

    def _break(self) -> None:
        self.broken = True
        self._outbox.clear()
        self._drained.set()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    async def flush_forever(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            while self._outbox and not self.broken:
                try:
                    await trio.lowlevel.wait_writable(self._sock)
                except (trio.ClosedResourceError, OSError):
                    self._break()
                    break
                del self._outbox[: self._try_send(self._outbox[:READ_BYTES])]
            self._note_drained()

    async def linger(self) -> None:
        """Say no more, and drop what still comes, until the other side hangs up.

        One that was writing when it was refused would otherwise die of it (EPIPE) rather than read
        why.
        """
        await self.flushed()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
        while await self._receive():
            pass

    def detach(self) -> socket.socket:
        """Give the socket away: from here on the caller closes it."""
        self._detached = True
        return self._sock

    def close(self) -> None:
        self.broken = True
        self._outbox.clear()
        self._drained.set()
        if self._sock.fileno() >= 0 and not self._detached:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


async def accept_one(listener: socket.socket) -> socket.socket:
    """Wait for a connection; raises OSError as accept(2) does (EMFILE, ENFILE, ...)."""
    while True:
        sock = accept_nowait(listener)
        if sock is not None:
            return sock
        await trio.lowlevel.wait_readable(listener)


def accept_nowait(listener: socket.socket) -> socket.socket | None:
    """Return a waiting connection, None where there is none."""
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return None
    return sock
