"""A session's lines: parsed, answered if no engine is needed, and offered to admission."""

from collections.abc import Mapping
from weakref import WeakValueDictionary

import trio

from palace.broker.principals import catalogue_for, lane_of
from palace.broker.scheduling import refusal_of
from palace.broker.session import LiveSession
from palace.broker.state import BrokerState
from palace.protocol import extra_names, jsonrpc, modern, tasks, wire
from palace.protocol.admission import Job, Offer
from palace.protocol.errors import (
    Busy,
    Draining,
    Forbidden,
    OutcomeUnknown,
    PalaceError,
    PathUnknown,
    TooLarge,
    WireError,
)
from palace.protocol.pathmap import NAMES_PATHS, Whereabouts, beneath, translate
from palace.protocol.request import (
    PARSE_ERROR_REPLY,
    TOO_MUCH,
    UNREADABLE,
    Request,
    ToolCall,
    extra_call,
    read_request,
    translated,
)
from palace.protocol.resend import in_doubt
from palace.protocol.rights import is_out_of_place, right_of
from palace.protocol.session import Arrival, Fate
from palace.protocol.weight import VALUES_MAX, is_light
from palace.transport.lines import UNSENT_MAX, Connection

APART = (
    "This client has not shown that the session which it names is its own, so the broker doesn't "
    "say what became of this line: it may or may not have been carried out. Look before you "
    "repeat it; a newer `palace shim` proves its session."
)


TOLD_BY_CATALOGUE = extra_names.METHODS.union(jsonrpc.LISTING)
TURN_LINES = 64  # that one connection has handled before others have their turn
_LONG_LINES = trio.CapacityLimiter(1)  # each takes several times its size while it is parsed
_PARTYS_TURN: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()


async def parsed(line: bytes, party: str) -> Request:
    """Parse a line; where that takes long in a thread, so that the loop goes on meanwhile.

    One of each party waits for its turn, however many connections send long ones.
    """
    if is_light(line):
        return read_request(line, light=True)
    turn = _PARTYS_TURN.setdefault(party, trio.CapacityLimiter(1))
    async with turn:
        return await trio.to_thread.run_sync(
            read_request, line, limiter=_LONG_LINES, abandon_on_cancel=True
        )


async def serve_lines(state: BrokerState, session: LiveSession, stream: Connection) -> None:
    """Handle a session's lines until its connection ends or the broker says goodbye."""
    reading = session.reading
    with reading:
        while not session.is_leaving:
            if stream.unsent > UNSENT_MAX:
                await stream.flushed()
            lines = await stream.receive_lines()
            if not lines:
                return
            for number, line in enumerate(lines, 1):
                if number % TURN_LINES == 0:
                    await trio.lowlevel.checkpoint()
                is_header = isinstance(line, bytes) and line.startswith(wire.PREFIX)
                # Before it has an ordinal: a goodbye that comes meanwhile says nothing of it.
                request = line
                if not (is_header or isinstance(line, Request)):
                    request = await parsed(line, session.party)
                if reading.cancel_called:  # said goodbye: the rest is sent elsewhere
                    return
                if isinstance(request, Request):
                    await _take_line(state, session, request)
                else:
                    _take_header(state, session, request)


def _take_header(state: BrokerState, session: LiveSession, line: bytes) -> None:
    """Take the shim's own word, which is no line of its client and takes no ordinal."""
    _, kind, fields = wire.decode_header(line)
    if kind != wire.ACK:
        raise WireError(f"a session's shim says ack, not {kind[:40]!r}")
    try:
        upto = wire.whole_number(fields.get("upto", ""))
    except ValueError:
        raise WireError(f"ack's upto is no number: {fields.get('upto', '')[:40]!r}") from None
    session.machine.acknowledge(upto)
    state.services.engine.acknowledge(session.id, upto)


async def _take_line(state: BrokerState, session: LiveSession, request: Request) -> None:
    arrival = session.machine.take_line()
    if arrival.fate is Fate.REPEAT:
        session.repeat(arrival.ordinal, arrival.payload)
    elif arrival.fate is Fate.HANDLE:
        session.active_s = trio.current_time()
        if not session.is_own:  # which nobody has asked for: it keeps no broker alive
            state.telemetry.counters.requests += 1
            state.lifecycle.active(session.active_s)
        await _handle(state, session, arrival, request)


async def _handle(
    state: BrokerState, session: LiveSession, arrival: Arrival, request: Request
) -> None:
    if request.message is UNREADABLE:
        session.reply(arrival.ordinal, PARSE_ERROR_REPLY)
        return
    session.requests += 1
    if request.message is TOO_MUCH:
        problem = TooLarge(
            f"The request holds more than {VALUES_MAX} values, which nothing that the palace takes "
            "needs. Nothing was done; send it in parts, or as text."
        )
        told = in_doubt("this request", problem) if arrival.maybe_ran else problem
        failure = jsonrpc.failure(request.id, told)
        session.reply(arrival.ordinal, jsonrpc.encode(failure))
        return
    _note_client(session, request)
    reply = jsonrpc.NOT_INLINE
    if request.modern or not isinstance(request, ToolCall):
        lists = request.modern or request.method in TOLD_BY_CATALOGUE
        era = modern if lists else jsonrpc
        reply = era.inline_reply(
            request.message,
            catalogue_for(state.services, session) if lists else None,
            read_only=session.hello.read_only,
        )
    if reply is jsonrpc.NOT_INLINE:
        if isinstance(request, ToolCall):
            session.called = True
            await _handle_call(state, session, arrival, request)
        elif request.method in extra_names.METHODS:
            await _handle_call(state, session, arrival, extra_call(request))
        else:
            session.machine.wait_for_catalogue(arrival.ordinal, request)
        return
    cancelled = session.machine.cancelled_call(request)
    if cancelled is not None:
        unbegun = tasks.spares_what_began(request.message)
        state.scheduler.cancel(session, cancelled, unbegun=unbegun)
    session.reply(arrival.ordinal, None if reply is None else jsonrpc.encode(reply))


def _note_client(session: LiveSession, request: Request) -> None:
    if request.modern:
        client = modern.client_of(request.message) or session.client
    elif request.method == "initialize":
        client = jsonrpc.client_of(request.message)
    else:
        return
    # Its shim repeats it to the next owner; a modern client says it with each request.
    if client != session.client or not request.modern:
        session.client = client
        session.header(wire.CLIENT, {"client": client})


async def _handle_call(
    state: BrokerState, session: LiveSession, arrival: Arrival, call: ToolCall
) -> None:
    config = state.services.config
    now_s = session.active_s
    if config.memory_cutover:
        call = lane_of(state.services, session, call)
    if arrival.maybe_ran and session.is_apart:
        reply = jsonrpc.failure(call.id, OutcomeUnknown(APART))
        session.reply(arrival.ordinal, jsonrpc.encode(reply))
        return
    job = Job(
        session=session.id,
        ordinal=arrival.ordinal,
        request=call,
        party=session.party,
        admitted_s=now_s,
        deadline_s=now_s + config.queue_wait_s,
        maybe_ran=arrival.maybe_ran,
        group=call.group if config.batch_max > 1 and not arrival.maybe_ran else "",
        own=session.is_own,
    )
    try:
        _check_right(session, call)
        job.request = _found_here(call, session.where, config.path_map)
    except (Forbidden, PathUnknown) as problem:
        _refuse(session, job, problem)
        return
    session.machine.begin_offer(arrival)
    try:
        offer = await _offer(state, job)
    finally:
        session.machine.end_offer(job.ordinal)
    if offer is Offer.ADMITTED:
        state.scheduler.admit(session, job)
    elif offer is Offer.DRAINING:
        if not session.is_leaving:  # else the goodbye has said so
            text = "The broker is leaving; ask again and a new one will answer."
            _refuse(session, job, Draining(text))
    else:
        state.telemetry.counters.busy += 1
        text = (
            f"The palace's queue ({config.queue_depth_max} requests) was full for "
            f"{config.admission_wait_s:.0f} s. Nothing was done; ask again later."
        )
        _refuse(session, job, Busy(text))


def _check_right(session: LiveSession, call: ToolCall) -> None:
    """Raise Forbidden for a tool that this client may not use."""
    hello = session.hello
    if is_out_of_place(
        call,
        from_command=hello.is_command,
        from_contract=hello.is_contract,
        from_mesh=hello.is_mesh,
    ):
        raise Forbidden(
            f"{call.name[:80]} is not for this client: palace's own commands ask for what is the "
            "owner's (palace workspace), and for nothing else. Nothing was done."
        )
    right = right_of(call)
    if not session.peer.may(right):
        raise Forbidden(
            f"{call.name} takes the right {right.value!r}, which {session.peer.called} doesn't "
            "have (docs/security.md). Nothing was done; ask the palace's owner to do it."
        )


def _found_here(call: ToolCall, where: Whereabouts, path_map: Mapping[str, str]) -> ToolCall:
    """Return a call whose paths are ours, and the directory that it must not leave by a link."""
    if call.name not in NAMES_PATHS:
        return call
    message = translate(call.message, where, path_map)
    return translated(call, message, beneath=beneath(call.message, where, path_map))


async def _offer(state: BrokerState, job: Job) -> Offer:
    """Offer a job until it is admitted; meanwhile the session reads no further line."""
    scheduler = state.scheduler
    offer = scheduler.admission.offer(job)
    if offer is Offer.ADMITTED:
        return offer
    busy_from_s = trio.current_time() + state.services.config.admission_wait_s
    while offer in (Offer.SESSION_FULL, Offer.FULL):
        patience_s = float("inf") if offer is Offer.SESSION_FULL else busy_from_s
        with trio.move_on_at(patience_s) as waited:
            await scheduler.wait_for_room()
        offer = scheduler.admission.offer(job)
        if waited.cancelled_caught and offer is Offer.FULL:
            break
    return offer


def _refuse(session: LiveSession, job: Job, problem: PalaceError) -> None:
    reply = jsonrpc.failure(job.request.id, refusal_of(job, problem))
    session.reply(job.ordinal, jsonrpc.encode(reply))
