"""Lines that come one by one from HTTP requests, each of which waits for its own reply."""

from collections import deque

import attrs
import trio

from palace.protocol import wire
from palace.protocol.errors import Draining, OutcomeUnknown, PalaceError

LEAVING = "The broker is leaving, and this was not begun: ask again, and a new one will answer."
LOST = "The session broke: it may or may not have been carried out. Look before you repeat it."


@attrs.define(eq=False)
class Posted:
    """One line on its way.  `payload` is its reply, empty where the client gets nothing.

    `problem` is set instead where the session ended before it had one.
    """

    ordinal: int
    payload: bytes = b""
    problem: PalaceError | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)


class PostedLines:
    """A session's lines (palace/transport/lines.py) whose client has no connection of its own.

    Nobody sends for `quiet_s` seconds: the lines end.
    """

    def __init__(self, quiet_s: float) -> None:
        self.broken = False
        self._quiet_s = quiet_s
        self._inbox: deque[bytes] = deque()
        self._waiting: dict[int, Posted] = {}
        self._count = 0
        self._ended = False
        self._arrived = trio.Event()

    def post(self, line: bytes) -> Posted:
        """Hand in one line; raises ClosedResourceError after the end."""
        if self._ended:
            raise trio.ClosedResourceError
        if line.startswith(wire.PREFIX):  # the word of a shim, which this is not: no JSON either
            line = b" " + line
        posted = Posted(self._count)
        self._waiting[posted.ordinal] = posted
        self._count += 1
        self._inbox.append(line)
        self._arrived.set()
        return posted

    def end(self) -> None:
        """Let nothing more come; what came is answered."""
        self._ended = True
        self._arrived.set()

    @property
    def waiting(self) -> int:
        """How many lines are not answered yet."""
        return len(self._waiting)

    @property
    def settled(self) -> int:
        """The ordinal below which all lines are answered."""
        return min(self._waiting, default=self._count)

    async def receive_lines(self) -> list[bytes]:
        while not self._inbox:
            if self._ended:
                return []
            self._arrived = trio.Event()
            with trio.move_on_after(self._quiet_s) as quiet:
                await self._arrived.wait()
            if quiet.cancelled_caught and not self._inbox:
                self._ended = True
        lines = list(self._inbox)
        self._inbox.clear()
        return lines

    def unread(self, lines: list[bytes]) -> None:
        self._inbox.extendleft(reversed(lines))

    def send_soon(self, data: bytes) -> None:
        line = data.removesuffix(b"\n")
        if not line.startswith(wire.PREFIX):
            ordinal, payload = wire.decode_reply(line)
            self._answer(ordinal, payload)
            return
        _, kind, fields = wire.decode_header(line)
        if kind == wire.GOODBYE:
            self._ended = True
            unrun = set(wire.decode_ordinals(fields["unrun"]))
            read_upto = int(fields["read_upto"])
            for ordinal in tuple(self._waiting):
                if ordinal > read_upto or ordinal in unrun:
                    self._answer(ordinal, b"", Draining(LEAVING))

    def _answer(self, ordinal: int, payload: bytes, problem: PalaceError | None = None) -> None:
        posted = self._waiting.pop(ordinal, None)
        if posted is not None:
            posted.payload = payload
            posted.problem = problem
            posted.answered.set()

    async def flush_forever(self) -> None:
        await trio.sleep_forever()

    async def flushed(self) -> None:
        return

    def close(self) -> None:
        """Cut it: who still waits is told that nothing more is known."""
        self.broken = True
        self._ended = True
        for ordinal in tuple(self._waiting):
            self._answer(ordinal, b"", OutcomeUnknown(LOST))
