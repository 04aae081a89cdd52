"""A tunnel to a broker that no socket of this kernel leads to, carried by a thread of its own.

The relay knows one thing only: a connected stream socket.  So a tunnel hands out one end of a
socket pair at once, and its thread finds the broker meanwhile and then carries bytes between the
other end and whatever leads there.  Where that fails, the socket ends, and `problem` says why.

Loaded only by shims that need one.  Standard library only.
"""

import select
import socket
import threading
from collections.abc import Callable
from typing import Protocol

BUFFER_BYTES_MAX = 1 << 20
READ_BYTES = 65_536


class TunnelProblem(Exception):
    """Why a tunnel leads nowhere; `final` where trying again at once would end the same."""

    def __init__(self, name: str, text: str, *, final: bool = True) -> None:
        super().__init__(text)
        self.name = name
        self.text = text
        self.final = final


class TokenRefused(TunnelProblem):
    """The broker is there, and the token that was shown is not its own."""


class RemoteEnd(Protocol):
    """The remote end of a tunnel: what leads to the broker.  None of these waits."""

    def fileno(self) -> int: ...

    def wants_write(self) -> bool:
        """Tell whether `receive` or `send` could not go on for want of room."""
        ...

    def receive(self) -> bytes | None:
        """Return what came, None where nothing did, b"" at the end."""
        ...

    def send(self, data: bytes) -> int:
        """Return how much of it was taken, 0 where nothing can be just now."""
        ...

    def finish(self) -> None:
        """Say that nothing more will be sent; what comes is still received."""
        ...


class Tunnel:
    """One connection on its way: `sock` is the relay's end, which the relay closes.

    `work` runs in the thread with the other end; it returns or raises TunnelProblem.
    """

    def __init__(self, work: Callable[[socket.socket], None]) -> None:
        self.sock, self._inner = socket.socketpair()
        self.problem: TunnelProblem | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name="palace-tunnel", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work(self._inner)
        except TunnelProblem as problem:
            self.problem = problem
        except OSError as error:
            self.problem = TunnelProblem("broker_unreachable", f"{error}", final=False)
        except Exception as error:  # the thread's end: its relay waits for a reason
            self.problem = TunnelProblem("broker_unreachable", f"{error!r}")
        finally:
            self._inner.close()  # the relay sees the end after the reason stands

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait until nothing of it is left; close `sock` first."""
        self._thread.join(timeout_s)


def carry(near: socket.socket, remote: RemoteEnd, first: bytes = b"") -> None:
    """Carry bytes both ways until one side is gone; `first` goes to the remote end before all else.

    A relay that has said its last word (half a close) still gets what the remote end sends.
    """
    near.setblocking(False)
    to_remote, to_near = bytearray(first), bytearray()
    near_open, finished, paused = True, False, False
    while True:
        gone = _wait(
            near, remote, near_open=near_open, sizes=(len(to_remote), len(to_near)), now=paused
        )
        if near_open:
            near_open = _read_near(near, to_remote)
        if to_remote:
            del to_remote[: remote.send(bytes(to_remote[:READ_BYTES]))]
        if not near_open and not to_remote and not finished:
            finished = True
            remote.finish()
        paused = len(to_near) >= BUFFER_BYTES_MAX  # then TLS may hold what no poll tells of
        if not paused and not _read_remote(remote, to_near):
            _send_rest(near, to_near)
            return
        if (to_near and not _send_near(near, to_near)) or (gone and finished):
            return


def _wait(
    near: socket.socket, remote: RemoteEnd, *, near_open: bool, sizes: tuple[int, int], now: bool
) -> bool:
    """Wait until something can be done; True where the relay has hung up for good."""
    to_remote, to_near = sizes
    poll = select.poll()
    events = select.POLLIN if near_open and to_remote < BUFFER_BYTES_MAX else 0
    poll.register(near, events | (select.POLLOUT if to_near else 0))
    events = select.POLLIN if to_near < BUFFER_BYTES_MAX else 0
    poll.register(
        remote.fileno(), events | (select.POLLOUT if to_remote or remote.wants_write() else 0)
    )
    found = dict(poll.poll(0 if now else None))
    return bool(found.get(near.fileno(), 0) & (select.POLLHUP | select.POLLERR))


def _read_near(near: socket.socket, to_remote: bytearray) -> bool:
    """Take what the relay sent; False at its end."""
    if len(to_remote) >= BUFFER_BYTES_MAX:
        return True
    try:
        data = near.recv(READ_BYTES)
    except BlockingIOError:
        return True
    except OSError:
        return False
    to_remote += data
    return bool(data)


def _read_remote(remote: RemoteEnd, to_near: bytearray) -> bool:
    """Take all that has come; False at the end."""
    while len(to_near) < BUFFER_BYTES_MAX:
        data = remote.receive()
        if data is None:
            return True
        if not data:
            return False
        to_near += data
    return True


def _send_near(near: socket.socket, to_near: bytearray) -> bool:
    try:
        del to_near[: near.send(to_near[:READ_BYTES])]
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _send_rest(near: socket.socket, to_near: bytearray) -> None:
    near.settimeout(1.0)
    try:
        near.sendall(to_near)
    except OSError:
        return


class SocketEnd:
    """A plain stream socket as the remote end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def wants_write(self) -> bool:
        return False

    def receive(self) -> bytes | None:
        try:
            return self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def finish(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
