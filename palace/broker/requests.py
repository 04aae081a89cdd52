"""A session's lines: parsed, answered if no engine is needed, and offered to admission."""

import trio

from palace.broker.desk import Desk, refusal_of
from palace.broker.session import Session
from palace.protocol import jsonrpc, wire
from palace.protocol.admission import Job, Offer
from palace.protocol.errors import Busy, Draining, PalaceError, PathUnknown, WireError
from palace.protocol.pathmap import translate
from palace.protocol.tools import classify_call, group_key
from palace.transport.lines import Lines


async def serve_lines(desk: Desk, session: Session, stream: Lines) -> None:
    """Handle a session's lines until its connection ends or the broker says goodbye."""
    reading = session.reading
    with reading:
        while not session.closing:
            lines = await stream.receive_lines()
            if not lines:
                return
            for line in lines:
                if reading.cancel_called:  # said goodbye: the rest is sent elsewhere
                    return
                if line.startswith(wire.PREFIX):
                    _take_header(desk, session, line)
                    continue
                ordinal, maybe_ran = session.take_ordinal()
                await _handle_line(desk, session, ordinal, maybe_ran=maybe_ran, line=line)


def _take_header(desk: Desk, session: Session, line: bytes) -> None:
    """Take the shim's own word, which is no line of its client and takes no ordinal."""
    _, kind, fields = wire.decode_header(line)
    if kind != wire.ACK:
        raise WireError(f"a session's shim says ack, not {kind[:40]!r}")
    try:
        upto = int(fields.get("upto", ""))
    except ValueError:
        raise WireError(f"ack's upto is no number: {fields.get('upto', '')[:40]!r}") from None
    if upto > session.next_ordinal:  # an outcome forgotten too early lets its line run twice
        raise WireError(f"an ack up to {upto}, but only {session.next_ordinal} lines came")
    session.acknowledged = max(session.acknowledged, upto)
    desk.engine.acknowledge(session.id, upto)


async def _handle_line(
    desk: Desk, session: Session, ordinal: int, *, maybe_ran: bool, line: bytes
) -> None:
    if maybe_ran and _known(session, ordinal):
        return
    desk.note_activity()
    try:
        message = jsonrpc.parse(line)
    except (ValueError, RecursionError, MemoryError):
        text = jsonrpc.encode(jsonrpc.error(None, jsonrpc.PARSE_ERROR, "Parse error"))
        session.reply(ordinal, text)
        return
    session.requests += 1
    session.active_s = trio.current_time()
    _note_client(session, message)
    reply = jsonrpc.inline_reply(message, desk.catalogue, read_only=session.read_only)
    if reply is not jsonrpc.NOT_INLINE:
        _note_cancelled(desk, session, message)
        session.reply(ordinal, None if reply is None else jsonrpc.encode(reply))
    elif not jsonrpc.is_tool_call(message):
        session.early.append((ordinal, message))
    else:
        await _handle_call(desk, session, ordinal, maybe_ran=maybe_ran, message=message)


def _known(session: Session, ordinal: int) -> bool:
    """Tell whether this incarnation still has, or had, the line: then it answers by itself."""
    kept = session.undelivered.pop(ordinal, None)
    if kept is not None and session.stream is not None:
        session.stream.send_soon(kept)
        return True
    return ordinal in session.jobs or ordinal in session.answered


async def _handle_call(
    desk: Desk, session: Session, ordinal: int, *, maybe_ran: bool, message: object
) -> None:
    tool = classify_call(message)
    name = jsonrpc.params_of(message).get("name")
    now_s = trio.current_time()
    job = Job(
        session=session.id,
        ordinal=ordinal,
        tool=tool,
        message=message,
        name=name if isinstance(name, str) else "",
        admitted_s=now_s,
        deadline_s=now_s + desk.config.queue_wait_s,
        maybe_ran=maybe_ran,
    )
    if desk.config.batch_max > 1 and not maybe_ran:
        job.group = group_key(message)
    try:
        job.message = translate(message, session.where, desk.config.path_map)
    except PathUnknown as problem:
        _refuse(session, job, problem)
        return
    await _admit(desk, session, job)


async def _admit(desk: Desk, session: Session, job: Job) -> None:
    """Offer a job until it is admitted; meanwhile the session reads no further line."""
    assert job.ordinal not in session.jobs, "a line is offered once"
    offer = desk.admission.offer(job)
    busy_from_s = trio.current_time() + desk.config.admission_wait_s
    session.offering = None if job.maybe_ran else job.ordinal
    try:
        while offer in (Offer.SESSION_FULL, Offer.FULL):
            patience_s = float("inf") if offer is Offer.SESSION_FULL else busy_from_s
            with trio.move_on_at(patience_s) as waited:
                await desk.wait_for_room()
            offer = desk.admission.offer(job)
            if waited.cancelled_caught and offer is Offer.FULL:
                break
    finally:
        if session.offering == job.ordinal:
            session.offering = None
    if offer is Offer.ADMITTED:
        session.jobs[job.ordinal] = job
        session.ids[jsonrpc.id_key(jsonrpc.request_id(job.message))] = job.ordinal
        desk.start_ready()
    elif offer is Offer.DRAINING:
        if not session.closing:
            problem = Draining("The broker is leaving; ask again and a new one will answer.")
            _refuse(session, job, problem)
    else:
        desk.counters.busy += 1
        text = (
            f"The palace's queue ({desk.config.queue_depth_max} requests) was full for "
            f"{desk.config.admission_wait_s:.0f} s. Nothing was done; ask again later."
        )
        _refuse(session, job, Busy(text))


def _refuse(session: Session, job: Job, problem: PalaceError) -> None:
    ident = jsonrpc.request_id(job.message)
    reply = jsonrpc.failure(ident, refusal_of(job, problem))
    session.reply(job.ordinal, jsonrpc.encode(reply))


def _note_client(session: Session, message: object) -> None:
    if jsonrpc.method_of(message) == "initialize":
        session.client = jsonrpc.client_of(message)
        session.header(wire.CLIENT, {"client": session.client})


def _note_cancelled(desk: Desk, session: Session, message: object) -> None:
    key = jsonrpc.cancelled_id(message)
    ordinal = session.ids.get(key) if key is not None else None
    if ordinal is not None:
        desk.cancel(session, ordinal)
