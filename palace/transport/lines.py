"""Lines out of bytes, and what a broker asks of whatever carries them."""

from typing import Protocol

from palace.protocol.errors import WireError

OUTBOX_BYTES_MAX = 256 << 20  # a client that never reads is cut off here


class LineSplitter:
    """Cuts a stream of bytes into lines.

    Half a line before the end of the stream is dropped: it was never sent whole.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now, newlines excluded; maybe none.

        Raises WireError when a line exceeds its limit.
        """
        self._buffer += data
        end = self._buffer.rfind(b"\n", self._searched)
        if end >= 0:
            lines = bytes(self._buffer[:end]).split(b"\n")
            del self._buffer[: end + 1]
            self._searched = 0
            return lines
        self._searched = len(self._buffer)
        if self._searched > self._line_bytes_max:
            raise WireError(f"a line of more than {self._line_bytes_max} bytes")
        return []


class Lines(Protocol):
    """One client's connection, whatever carries it.

    One task receives; anybody may `send_soon`; `flush_forever` must run beside them.  Whoever
    made it closes it.
    """

    broken: bool

    async def receive_lines(self) -> list[bytes]:
        """Return at least one whole line, newlines excluded; an empty list at the end."""
        ...

    def unread(self, lines: list[bytes]) -> None:
        """Put lines back: the next `receive_lines` returns them."""
        ...

    def send_soon(self, data: bytes) -> None:
        """Send as soon as the other side takes it; never waits."""
        ...

    async def flush_forever(self) -> None:
        """Send what `send_soon` could not; runs until cancelled."""
        ...

    async def flushed(self) -> None:
        """Return when everything was handed on, or nobody listens any more."""
        ...

    def close(self) -> None:
        """Cut the connection; safe to call twice."""
        ...
