"""Requests that come one by one over HTTP, each of which waits for its own reply."""

from collections import deque

import attrs
import trio

from palace.protocol import wire
from palace.protocol.errors import Draining, OutcomeUnknown, PalaceError
from palace.protocol.request import Request

LEAVING = "The broker is leaving, and this was not begun: ask again, and a new one will answer."
LOST = "The session broke: it may or may not have been carried out. Look before you repeat it."


@attrs.define(eq=False)
class PendingRequest:
    """One request on its way.  `payload` is its reply, empty where the client gets none.

    `progress` says how it comes on, if its client asked for that and it takes long.
    `problem` is set instead of a reply where the session ended before it had one.
    """

    ordinal: int
    payload: bytes = b""
    progress: str = ""
    problem: PalaceError | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)


class PendingRequests:
    """A session's connection (palace/transport/lines.py) whose client has none of its own.

    It ends by itself where nothing is posted for `quiet_s` seconds.
    """

    def __init__(self, quiet_s: float) -> None:
        self.broken = False
        self._quiet_s = quiet_s
        self._inbox: deque[Request] = deque()
        self._waiting: dict[int, PendingRequest] = {}
        self._count = 0
        self._ended = False
        self._arrived = trio.Event()

    def post(self, request: Request) -> PendingRequest:
        """Hand in one request; raises ClosedResourceError after the end."""
        if self._ended:
            raise trio.ClosedResourceError
        pending = PendingRequest(self._count)
        self._waiting[pending.ordinal] = pending
        self._count += 1
        self._inbox.append(request)
        self._arrived.set()
        return pending

    def end(self) -> None:
        """Let nothing more come; what came is answered."""
        self._ended = True
        self._arrived.set()

    @property
    def waiting(self) -> int:
        """How many requests are not answered yet."""
        return len(self._waiting)

    @property
    def unsent(self) -> int:
        return 0  # each reply belongs to a request, whose connection is bounded

    @property
    def gone(self) -> bool:
        return self.broken

    @property
    def settled(self) -> int:
        """The ordinal below which all requests are answered."""
        return min(self._waiting, default=self._count)

    async def receive_lines(self) -> list[Request]:
        while not self._inbox:
            if self._ended:
                return []
            self._arrived = trio.Event()
            with trio.move_on_after(self._quiet_s) as quiet:
                await self._arrived.wait()
            if quiet.cancelled_caught and not self._inbox:
                self._ended = True
        requests = list(self._inbox)
        self._inbox.clear()
        return requests

    def send_reply(self, ordinal: int, payload: bytes | None) -> None:
        self._answer(ordinal, payload or b"")

    def send_header(self, kind: str, fields: dict[str, str]) -> None:
        if kind == wire.PROGRESS:
            pending = self._waiting.get(wire.number_of(fields, "ordinal"))
            if pending is not None:
                pending.progress = fields["text"]
        if kind != wire.GOODBYE:  # an HTTP client has no use for the others
            return
        self._ended = True
        unrun = set(wire.decode_ordinals(fields["unrun"]))
        read_upto = wire.decode_read_upto(fields)
        for ordinal in tuple(self._waiting):
            if ordinal > read_upto or ordinal in unrun:
                self._answer(ordinal, b"", Draining(LEAVING))

    def _answer(self, ordinal: int, payload: bytes, problem: PalaceError | None = None) -> None:
        pending = self._waiting.pop(ordinal, None)
        if pending is not None:
            pending.payload = payload
            pending.problem = problem
            pending.answered.set()

    async def flushed(self) -> None:
        return

    def close(self) -> None:
        """Cut it: requests that still wait learn that nothing more is known."""
        self.broken = True
        self.end()
        for ordinal in tuple(self._waiting):
            self._answer(ordinal, b"", OutcomeUnknown(LOST))
