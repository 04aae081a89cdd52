"""What connections that carry lines share: lines put back, and bytes that wait to be sent."""

import trio

from palace.transport.lines import UNSENT_MAX, Lines, LineSplitter, nothing


class BufferedLines(Lines):
    """A connection whose bytes wait in an outbox until the other side takes them (see `Lines`)."""

    def __init__(self, line_bytes_max: int) -> None:
        self._splitter = LineSplitter(line_bytes_max)
        self._unread: list[bytes] = []
        self._outbox = bytearray()
        self._wakeup = trio.Event()
        self._drained = trio.Event()
        self._choked = False
        self.eased = nothing
        self.broken = False

    @property
    def unsent(self) -> int:
        return len(self._outbox)

    @property
    def held_bytes(self) -> int:
        unread = sum(map(len, self._unread)) if self._unread else 0
        return len(self._outbox) + self._splitter.held + unread

    def unread(self, lines: list[bytes]) -> None:
        self._unread = lines + self._unread

    async def flushed(self) -> None:
        while self._outbox and not self.broken:
            await self._drained.wait()

    def _put(self, data: bytes) -> int:
        """Add to the outbox; return how many bytes are in it."""
        self._outbox += data
        self._choked = self._choked or len(self._outbox) > UNSENT_MAX
        return len(self._outbox)

    def _note_drained(self) -> None:
        """Note that nothing is in the outbox."""
        self._drained.set()
        self._drained = trio.Event()
        if self._choked:
            self._choked = False
            self.eased()
