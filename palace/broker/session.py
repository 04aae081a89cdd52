"""One client's life at the broker: what it asked and was not answered yet, on which connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from palace.protocol import wire
from palace.protocol.pathmap import Whereabouts

if TYPE_CHECKING:
    from palace.protocol.admission import Job
    from palace.transport.lines import Lines

UNDELIVERED_MAX = 1024


@attrs.define(eq=False, kw_only=True)
class Session:
    """One shim life.  `stream` is None between two connections."""

    id: str
    pid: int
    read_only: bool
    client: str
    since_s: float
    epoch: int = 0  # of its last owner before this one, 0 if unknown
    where: Whereabouts = attrs.field(factory=Whereabouts)
    stream: Lines | None = None
    next_ordinal: int = 0
    resend: list[tuple[int, bool]] = attrs.field(factory=list)
    jobs: dict[int, Job] = attrs.field(factory=dict)
    ids: dict[str, int] = attrs.field(factory=dict)  # request id of a job -> its ordinal
    early: list[tuple[int, object]] = attrs.field(factory=list)  # lines that wait for a catalogue
    undelivered: dict[int, bytes] = attrs.field(factory=dict)
    answered: set[int] = attrs.field(factory=set)  # while resent lines are still to come
    acknowledged: int = 0  # all lines below are settled at the shim
    offering: int | None = None  # the ordinal that waits outside of a full queue and never ran
    closing: bool = False  # goodbye was said
    finishing: bool = False  # the client has said its last word
    lost_s: float = 0.0  # when the connection ended
    reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    requests: int = 0
    version: str = ""  # of its shim
    active_s: float = 0.0  # when it last asked for something
    settled: trio.Event = attrs.field(factory=trio.Event)

    def reply(self, ordinal: int, payload: bytes | None) -> None:
        """Send a line's reply, or keep it for the session's next connection."""
        line = wire.encode_reply(ordinal, payload)
        if self.resend:
            self.answered.add(ordinal)
        if self.stream is None or self.stream.broken:
            if len(self.undelivered) < UNDELIVERED_MAX:
                self.undelivered[ordinal] = line
        else:
            self.stream.send_soon(line)

    def header(self, kind: str, fields: dict[str, str]) -> None:
        if self.stream is not None:
            self.stream.send_soon(wire.encode_header(kind, fields))

    def goodbye(self, reason: str, unrun: list[int]) -> None:
        """Tell the client's shim to go, and which of its lines did not run."""
        self.closing = True
        not_begun = set(unrun)
        if self.offering is not None:
            not_begun.add(self.offering)
        not_begun.update(ordinal for ordinal, _ in self.early)
        # Of resent lines that were not read yet only this is known: what was said of them.
        not_begun.update(ordinal for ordinal, maybe_ran in self.resend if not maybe_ran)
        fields = {
            "reason": reason,
            "read_upto": str(self.next_ordinal - 1),
            "unrun": wire.encode_ordinals(sorted(not_begun)),
        }
        self.header(wire.GOODBYE, fields)
        self.reading.cancel()
        self.note_settled()

    def note_settled(self) -> None:
        if (self.closing or self.finishing) and not self.jobs:
            self.settled.set()

    def connect(self, stream: Lines) -> None:
        """Bind the session to a connection; an older one is closed, since a shim has only one."""
        if self.stream is not None:
            self.stream.close()
        self.reading.cancel()  # its reader must take no ordinal of the new connection's
        self.offering = None
        self.settled.set()
        self.settled = trio.Event()
        self.reading = trio.CancelScope()
        self.finishing = False
        self.answered.clear()
        self.stream = stream

    def take_ordinal(self) -> tuple[int, bool]:
        """Number the line that has just come: resent lines first, then new ones."""
        if self.resend:
            return self.resend.pop(0)
        ordinal = self.next_ordinal
        self.next_ordinal += 1
        return ordinal, False
