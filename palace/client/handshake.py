"""Opening a conversation with a broker: connect, check who serves, say one line, read one line.

Whoever can wait uses `Conversation`.  The connector must not, so it drives the same pieces
from the relay's poll loop.

Rule for this file: light, since every shim imports it.
"""

import errno
import os
import select
from _socket import AF_UNIX, SOCK_STREAM, socket

from palace.kernel.kernel import Kernel, peer_of
from palace.protocol import wire
from palace.protocol.errors import WireError
from palace.settings.paths import Paths

READ_BYTES = 65_536
# What connect(2) says where nothing listens.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED)
# The same, of a palace on a mount: another kernel's socket is a file that can't be dialled.
UNSERVED = (*ABSENT, errno.EOPNOTSUPP)


class StrangerError(PermissionError):
    """A socket is served by a user whom the palace does not belong to."""

    def __init__(self, uid: int) -> None:
        super().__init__(errno.EPERM, f"it is served by uid {uid}, not by the palace's owner")
        self.uid = uid


class Response:
    """A broker's first line: `kind` is WELCOME, REFUSED, ANSWER ...; `epoch` is 0 where unsaid."""

    __slots__ = ("epoch", "fields", "kind")

    def __init__(self, kind: str, fields: "dict[str, str]", epoch: int) -> None:
        self.kind = kind
        self.fields = fields
        self.epoch = epoch


def decode_response(line: bytes) -> Response:
    """Return what a line says; raises WireError where it isn't a broker's."""
    _, kind, fields = wire.decode_header(line)
    try:
        return Response(kind, fields, wire.whole_number(fields.get("epoch", "0")))
    except ValueError:
        raise WireError(f"not an epoch: {fields['epoch'][:60]!r}") from None


class LineBuffer:
    """Bytes that came, and the lines in them; `rest` is what no line has been made of yet."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> None:
        self.rest += data

    def take(self) -> "bytes | None":
        """Return the next line without its newline, None where it is not complete."""
        line, newline, rest = self.rest.partition(b"\n")
        if not newline:
            return None
        self.rest = rest
        return line


def open_socket(path: str) -> socket:
    """Connect without waiting; the caller closes it.  Raises OSError, with an errno always."""
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError as error:
        sock.close()
        # Python refuses a path that is too long by itself, and names no errno.
        raise OSError(error.errno or errno.ENAMETOOLONG, error.strerror or f"{error}") from None
    return sock


def check_peer(sock: socket, paths: Paths) -> None:
    """Refuse a socket of another user than root, ourselves and the palace's owner.

    A user of `allow_uids` talks to a broker of the palace's owner; the socket's directory alone
    proves nothing where it is world-writable (/tmp).  Raises StrangerError.
    """
    uid = peer_of(sock)[1]
    if uid not in (0, os.geteuid()) and uid != _owner_of(paths.root):
        raise StrangerError(uid)


def _owner_of(root: str) -> int:
    try:
        return os.stat(root).st_uid
    except OSError:
        return -1


def say(sock: socket, header: bytes) -> None:
    """Send one header; raises OSError.

    Not where the other side has hung up: it may have said why, and that, or its end, is read next.
    """
    try:
        sock.send(header)  # in one piece: no header is as long as an idle socket's buffer
    except (BrokenPipeError, ConnectionResetError):
        return


def receive(sock: socket) -> "bytes | None":
    """Return what came, None where nothing did yet, b"" at the end."""
    try:
        return sock.recv(READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class Conversation:
    """A connection of a caller that can wait, with a trusted peer; `close` it.

    Raises StrangerError at once, TimeoutError where no line comes in time, and ConnectionError
    where the other side hangs up instead.
    """

    def __init__(self, sock: socket, paths: Paths, kernel: Kernel) -> None:
        try:
            check_peer(sock, paths)
        except StrangerError:
            sock.close()
            raise
        sock.setblocking(False)
        self._sock = sock
        self._kernel = kernel
        self._buffer = LineBuffer()

    def ask(self, header: bytes, timeout_s: float) -> Response:
        """Send a header and return the one that answers it; raises WireError, too."""
        say(self._sock, header)
        return decode_response(self.read_line(timeout_s))

    def read_line(self, timeout_s: float) -> bytes:
        """Return the next line without its newline."""
        deadline_s = self._kernel.monotonic() + timeout_s
        while (line := self._buffer.take()) is None:
            data = receive(self._sock)
            if data is None:
                self._wait(deadline_s - self._kernel.monotonic())
            elif not data:
                raise ConnectionResetError(errno.ECONNRESET, "it hung up")
            else:
                self._buffer.feed(data)
        return line

    def _wait(self, left_s: float) -> None:
        if left_s <= 0 or not self.has_more(left_s):
            raise TimeoutError

    def has_more(self, timeout_s: float) -> bool:
        """Wait for more to read, which a connection's end is, too; False where none came."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        self._sock.close()
