"""Lines out of bytes, and the interface of the connections that carry them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from palace.protocol import wire
from palace.protocol.errors import WireError
from palace.protocol.request import Request

OUTBOX_BYTES_MAX = 256 << 20  # a client that never reads is cut off here
UNSENT_MAX = 4 << 20  # beyond it no further call of its begins, and none is read


def nothing() -> None:
    """Stand for a callback that was not given."""


class LineSplitter:
    """Cuts a stream of bytes into lines.

    Half a line before the end of the stream is dropped: it was never sent whole.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._buffer = bytearray()
        self._searched = 0

    @property
    def held(self) -> int:
        """Return how many bytes of an unfinished line are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now, newlines excluded; maybe none.

        Raises WireError when a line exceeds its limit.
        """
        if not self._buffer and data.endswith(b"\n") and len(data) <= self._line_bytes_max:
            return data[:-1].split(b"\n")  # as most requests come: whole
        self._buffer += data
        end = self._buffer.rfind(b"\n", self._searched)
        if end >= 0:
            is_one = self._buffer.find(b"\n", self._searched) == end
            with memoryview(self._buffer) as view:  # copied once: the line may be a long one
                whole = bytes(view[:end])
            lines = [whole] if is_one else whole.split(b"\n")
            del self._buffer[: end + 1]
            self._searched = 0
        else:
            lines = []
            self._searched = len(self._buffer)
        if max(map(len, (*lines, self._buffer))) > self._line_bytes_max:
            raise WireError(f"a line of more than {self._line_bytes_max} bytes")
        return lines


class Connection(Protocol):
    """A session's connection: it brings lines, and takes replies and headers."""

    broken: bool

    @property
    def waiting(self) -> int:
        """Return how many requests came that are not answered, as far as this side knows."""
        ...

    @property
    def unsent(self) -> int:
        """Return how many bytes the other side has not taken yet."""
        ...

    @property
    def gone(self) -> bool:
        """Tell whether the other side is known to read no more, as far as that can be seen."""
        ...

    async def receive_lines(self) -> Sequence[bytes | Request]:
        """Return at least one whole line, parsed or not; nothing at the end."""
        ...

    def send_reply(self, ordinal: int, payload: bytes | None) -> None:
        """Send a line's reply, None for none, as soon as the other side takes it; never waits."""
        ...

    def send_header(self, kind: str, fields: dict[str, str]) -> None:
        """Send a header as soon as the other side takes it; never waits."""
        ...

    async def flushed(self) -> None:
        """Return when everything was handed on, or is not wanted any more."""
        ...

    def close(self) -> None:
        """Cut the connection; safe to call twice."""
        ...


class Lines(Connection, Protocol):
    """A connection that carries bytes: a socket's, whatever is between.

    One task receives; any may send; `flush_forever` must run beside them.  The caller who opened it
    closes it.  `eased` is called when all has gone of what were more than UNSENT_MAX bytes.
    """

    eased: Callable[[], None]

    @property
    def waiting(self) -> int:
        return 0  # the session counts them

    @property
    def held_bytes(self) -> int:
        """Return how many bytes are kept for it, in both directions."""
        ...

    @property
    def gone(self) -> bool:
        return self.broken

    async def receive_lines(self) -> list[bytes]:
        """Return at least one whole line, newlines excluded; an empty list at the end."""
        ...

    def unread(self, lines: list[bytes]) -> None:
        """Put lines back: the next `receive_lines` returns them."""
        ...

    def send_soon(self, data: bytes) -> None:
        """Send as soon as the other side takes it; never waits."""
        ...

    def send_reply(self, ordinal: int, payload: bytes | None) -> None:
        self.send_soon(wire.encode_reply(ordinal, payload))

    def send_header(self, kind: str, fields: dict[str, str]) -> None:
        self.send_soon(wire.encode_header(kind, fields))

    async def flush_forever(self) -> None:
        """Send what `send_soon` could not; runs until cancelled."""
        ...
