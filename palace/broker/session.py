"""One client's life at the broker: its lines in, its replies out, over one or more connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from palace.protocol import jsonrpc, wire
from palace.protocol.admission import Job, Offer
from palace.protocol.errors import Busy, Draining, OutcomeUnknown
from palace.protocol.tools import Kind, classify_call

if TYPE_CHECKING:
    from palace.broker.broker import Broker
    from palace.transport.unix import LineStream

UNDELIVERED_MAX = 1024


@attrs.define(eq=False, kw_only=True)
class Session:
    """One shim life.  `stream` is None between two connections."""

    id: str
    pid: int
    read_only: bool
    client: str
    since_s: float
    stream: LineStream | None = None
    next_ordinal: int = 0
    resend: list[tuple[int, bool]] = attrs.field(factory=list)
    jobs: dict[int, Job] = attrs.field(factory=dict)
    ids: dict[str, int] = attrs.field(factory=dict)  # request id of a job -> its ordinal
    early: list[tuple[int, object]] = attrs.field(factory=list)  # lines that wait for a catalogue
    undelivered: dict[int, bytes] = attrs.field(factory=dict)
    offering: int | None = None  # the ordinal that waits outside of a full queue
    closing: bool = False  # goodbye was said
    finishing: bool = False  # the client has said its last word
    lost_s: float = 0.0  # when the connection ended
    reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    requests: int = 0
    settled: trio.Event = attrs.field(factory=trio.Event)

    def reply(self, ordinal: int, payload: bytes | None) -> None:
        """Send a line's reply, or keep it for the session's next connection."""
        line = wire.encode_reply(ordinal, payload)
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

    def connect(self, stream: LineStream) -> None:
        """Bind the session to a connection; an older one is closed, since a shim has only one."""
        if self.stream is not None:
            self.stream.close()
        self.settled.set()
        self.settled = trio.Event()
        self.reading = trio.CancelScope()
        self.finishing = False
        self.stream = stream

    def take_ordinal(self) -> tuple[int, bool]:
        """Number the line that has just come: resent lines first, then new ones."""
        if self.resend:
            return self.resend.pop(0)
        ordinal = self.next_ordinal
        self.next_ordinal += 1
        return ordinal, False


async def serve_lines(broker: Broker, session: Session, stream: LineStream) -> None:
    """Handle a session's lines until its connection ends or the broker says goodbye."""
    with session.reading:
        while not session.closing:
            lines = await stream.receive_lines()
            if not lines:
                return
            for line in lines:
                if session.reading.cancel_called:  # said goodbye: the rest is sent elsewhere
                    return
                ordinal, maybe_ran = session.take_ordinal()
                await _handle_line(broker, session, ordinal, maybe_ran=maybe_ran, line=line)


async def _handle_line(
    broker: Broker, session: Session, ordinal: int, *, maybe_ran: bool, line: bytes
) -> None:
    if maybe_ran and _known(session, ordinal):
        return
    broker.note_activity()
    try:
        message = jsonrpc.parse(line)
    except (ValueError, RecursionError, MemoryError):
        text = jsonrpc.encode(jsonrpc.error(None, jsonrpc.PARSE_ERROR, "Parse error"))
        session.reply(ordinal, text)
        return
    session.requests += 1
    _note_client(session, message)
    reply = jsonrpc.inline_reply(message, broker.catalogue, read_only=session.read_only)
    if reply is not jsonrpc.NOT_INLINE:
        _note_cancelled(broker, session, message)
        session.reply(ordinal, None if reply is None else jsonrpc.encode(reply))
    elif not jsonrpc.is_tool_call(message):
        session.early.append((ordinal, message))
    else:
        await _handle_call(broker, session, ordinal, maybe_ran=maybe_ran, message=message)


def _known(session: Session, ordinal: int) -> bool:
    """Tell whether this incarnation still has, or had, the line: then it answers by itself."""
    kept = session.undelivered.pop(ordinal, None)
    if kept is not None and session.stream is not None:
        session.stream.send_soon(kept)
        return True
    return ordinal in session.jobs


async def _handle_call(
    broker: Broker, session: Session, ordinal: int, *, maybe_ran: bool, message: object
) -> None:
    tool = classify_call(message)
    name = jsonrpc.params_of(message).get("name")
    if maybe_ran and tool.kind is not Kind.QUERY:
        problem = OutcomeUnknown(
            f"The broker ended while {name} was under way: it may or may not have been carried "
            "out. Look before you repeat it."
        )
        _refuse(session, ordinal, message, problem)
        return
    now_s = trio.current_time()
    job = Job(
        session=session.id,
        ordinal=ordinal,
        tool=tool,
        message=message,
        name=name if isinstance(name, str) else "",
        admitted_s=now_s,
        deadline_s=now_s + broker.config.queue_wait_s,
    )
    await _admit(broker, session, job)


async def _admit(broker: Broker, session: Session, job: Job) -> None:
    """Offer a job until it is admitted; meanwhile the session reads no further line."""
    offer = broker.admission.offer(job)
    busy_from_s = trio.current_time() + broker.config.admission_wait_s
    session.offering = job.ordinal
    while offer in (Offer.SESSION_FULL, Offer.FULL):
        patience_s = float("inf") if offer is Offer.SESSION_FULL else busy_from_s
        with trio.move_on_at(patience_s) as waited:
            await broker.wait_for_room()
        offer = broker.admission.offer(job)
        if waited.cancelled_caught and offer is Offer.FULL:
            break
    session.offering = None
    if offer is Offer.ADMITTED:
        session.jobs[job.ordinal] = job
        session.ids[jsonrpc.id_key(jsonrpc.request_id(job.message))] = job.ordinal
        broker.start_ready()
    elif offer is Offer.DRAINING:
        if not session.closing:
            problem = Draining("The broker is leaving; ask again and a new one will answer.")
            _refuse(session, job.ordinal, job.message, problem)
    else:
        broker.counters.busy += 1
        text = (
            f"The palace's queue ({broker.config.queue_depth_max} requests) was full for "
            f"{broker.config.admission_wait_s:.0f} s. Nothing was done; ask again later."
        )
        _refuse(session, job.ordinal, job.message, Busy(text))


def _refuse(session: Session, ordinal: int, message: object, problem: Exception) -> None:
    ident = jsonrpc.request_id(message)
    session.reply(ordinal, jsonrpc.encode(jsonrpc.failure(ident, problem)))  # type: ignore[arg-type]


def _note_client(session: Session, message: object) -> None:
    if jsonrpc.method_of(message) == "initialize":
        session.client = " ".join(part for part in jsonrpc.client_of(message) if part)
        session.header(wire.CLIENT, {"client": session.client})


def _note_cancelled(broker: Broker, session: Session, message: object) -> None:
    key = jsonrpc.cancelled_id(message)
    ordinal = session.ids.get(key) if key is not None else None
    if ordinal is not None:
        broker.cancel(session, ordinal)
