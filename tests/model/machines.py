"""The product's own pure machines, driven by the model.

Each is made from a snapshot (a tuple), fed one event, and read back; transitions are remembered, so
that a search runs each of them once.  Time is abstract: an event comes early or late.
"""

from functools import cache
from typing import Any

from palace.journal import record as words
from palace.journal.record import Draft
from palace.journal.tail import Tail
from palace.protocol import election, wire
from palace.protocol.admission import Admission, Job, Offer
from palace.protocol.deaths import LEFT, Seen, Witness
from palace.protocol.election import Election
from palace.protocol.ledger import Ledger
from palace.protocol.lifecycle import EngineState, Lifecycle, Phase, Reason
from palace.protocol.request import ToolCall
from palace.protocol.resend import Trace, Verdict, judge
from palace.protocol.tools import TOOLS, Lane, Tool

TOOL: dict[str, Tool] = {
    "M": TOOLS["mempalace_add_drawer"],
    "Q": TOOLS["mempalace_search"],
    "E": TOOLS["mempalace_hook_settings"],
    "P": TOOLS["mempalace_event_wait"],
}
LETTER = {id(tool): letter for letter, tool in TOOL.items()}
NOW = 1000.0
Snap = tuple[Any, ...]


# Election: (child alive, direct, spawned lately, silent deaths, may spawn, may direct).


def election_start(*, may_spawn: bool, may_direct: bool) -> Snap:
    return False, False, False, 0, may_spawn, may_direct


@cache
def elect(snap: Snap, event: tuple[Any, ...], late: str) -> tuple[Snap, tuple[Any, ...]]:
    """Feed an event; `late` is "" (at once), "respawn" or "deadline"."""
    child, direct, lately, deaths, may_spawn, may_direct = snap
    machine = Election(
        deadline_s=NOW if late == "deadline" else NOW + 60.0,
        random=lambda: 0.5,
        may_spawn=may_spawn,
        may_direct=may_direct,
    )
    machine._child_alive, machine._direct, machine._silent_deaths = child, direct, deaths
    pause_s = election.RESPAWN_AFTER_S if late else 1.0
    machine._spawned_s = NOW - pause_s if lately else -1e9
    actions = tuple(
        (action[0],) if action[0] == election.SLEEP else action
        for action in machine.handle(event, NOW)
    )
    lately = machine._spawned_s > NOW - election.RESPAWN_AFTER_S or (lately and not late)
    if machine._spawned_s == -1e9:
        lately = False
    after = (
        machine._child_alive,
        machine._direct,
        lately,
        machine._silent_deaths,
        may_spawn,
        may_direct,
    )
    return after, actions


# The canary's witness: what it was told, and whether its owner lives.


@cache
def end_of(told: tuple[str, ...], *, alive: bool) -> str:
    """Return what a canary makes of an end: silent, lost, unserved or death."""
    machine = Witness()
    for word in told:
        fields = {"reason": "stop"} if word == LEFT else {"pid": "1"}
        machine.hear(wire.encode_header(word, fields))
    machine.ended(NOW)
    return machine.judge(Seen(alive=alive))[0]


# Ledger: (((ordinal, sent, deaths), ...), next ordinal).


def _ledger(snap: Snap) -> Ledger:
    machine = Ledger()
    for ordinal, sent, deaths in snap[0]:
        machine._lines[ordinal] = b"."
        machine.bytes += 1
        if sent:
            machine._sent.add(ordinal)
        if deaths:
            machine._deaths[ordinal] = deaths
    machine.next_ordinal = snap[1]
    return machine


def _ledger_snap(machine: Ledger) -> Snap:
    lines = tuple(
        (ordinal, ordinal in machine._sent, machine._deaths.get(ordinal, 0))
        for ordinal in machine._lines
    )
    return lines, machine.next_ordinal


@cache
def ledger(snap: Snap, event: str, *arguments: Any) -> tuple[Snap, Any]:
    """Call a method of the ledger; return its new snapshot and what the method returned."""
    machine = _ledger(snap)
    if event == "accept":
        result: Any = machine.accept(b".")
    elif event == "goodbye":
        result = None
        machine.goodbye(arguments[0], list(arguments[1]))
    else:
        result = getattr(machine, event)(*arguments)
    if isinstance(result, list):
        result = tuple(result)
    return _ledger_snap(machine), result


# Lifecycle: (phase, engine, reason).


def _life(snap: Snap) -> Lifecycle:
    machine = Lifecycle(idle_s=10.0, grace_s=10.0)
    machine.begin(NOW)
    if snap[1] == "failed":
        machine.load_failed("it won't open", NOW)
    machine.engine = EngineState(snap[1])
    if snap[0] == "draining":
        machine.stop(Reason(snap[2]))
    return machine


@cache
def life(snap: Snap, event: str, argument: Any = None) -> Snap:
    """Feed an event: tick (all clocks ran out, the argument is `busy`), stop, loaded, failed."""
    machine = _life(snap)
    if event == "tick":
        machine.tick(NOW + 1000.0, busy=argument)
    elif event == "stop":
        machine.stop(Reason(argument))
    elif event == "loaded":
        machine.loaded(NOW)
    else:
        machine.load_failed("it won't open", NOW)
    reason = machine.drain.reason.value if machine.drain else ""
    assert (machine.phase is Phase.DRAINING) == bool(reason)
    return machine.phase.value, machine.engine.value, reason


# Admission: (waiting by session, turns, running, ready, draining); a job is (session, ordinal,
# letter, maybe ran), and a running one says whether it was cancelled, too.


def _job(session: int, ordinal: int, letter: str, maybe: bool) -> Job:
    call = ToolCall(message=None, tool=TOOL[letter])
    return Job(session=str(session), ordinal=ordinal, request=call, maybe_ran=maybe)


def _admission(snap: Snap, limits: tuple[int, int]) -> Admission:
    waiting, turns, running, ready, draining = snap
    machine = Admission(
        capacity={
            Lane.WRITER: 1,
            Lane.READER: limits[1],
            Lane.POLL: 1,
            Lane.BULK: 1,
            Lane.LONG: 1,
            Lane.LARGE: 1,
            Lane.REMOTE: 1,
        },
        queue_depth_max=limits[0] + 1,
        session_depth_max=limits[0],
    )
    machine.ready = True
    for session, ordinal, letter, maybe, cancelled in running:
        job = _job(session, ordinal, letter, maybe)
        machine.offer(job)
        queue = machine._queues[str(session)]
        machine._start(job)
        assert queue is machine._queues[str(session)]
        if cancelled:
            machine.cancel(str(session), ordinal)
    for session, jobs in waiting:
        for ordinal, letter, maybe in jobs:
            machine.offer(_job(session, ordinal, letter, maybe))
    machine._turns.clear()
    machine._turns.extend(map(str, turns))
    machine._asked = {str(session): turn for turn, session in enumerate(turns)}
    machine._turn = len(turns)
    machine.ready, machine.draining = ready, draining
    return machine


def _admission_snap(machine: Admission) -> Snap:
    waiting = tuple(
        (int(name), tuple((j.ordinal, LETTER[id(j.tool)], j.maybe_ran) for j in queue.waiting))
        for name, queue in sorted(machine._queues.items())
        if queue.waiting
    )
    running = tuple(
        sorted(
            (int(j.session), j.ordinal, LETTER[id(j.tool)], j.maybe_ran, j.cancelled)
            for j in machine.running
        )
    )
    return waiting, tuple(map(int, machine._turns)), running, machine.ready, machine.draining


@cache
def admission(snap: Snap, limits: tuple[int, int], event: str, *arguments: Any) -> tuple[Snap, Any]:
    """Feed an event, then start what may run; return the snapshot and what came of it.

    `offer` returns (offer, started); `ready` and `finish` return started; `withdraw` returns the
    jobs taken back; `drain` and `cancel` nothing.  Jobs are (session, ordinal, letter, maybe).
    """
    machine = _admission(snap, limits)
    result: Any = ()
    if event == "offer":
        offer = machine.offer(_job(*arguments))
        started = machine.take_ready() if offer is Offer.ADMITTED else []
        result = offer, _jobs(started)
    elif event == "ready":
        machine.ready = True
        result = _jobs(machine.take_ready())
    elif event == "finish":
        session, ordinal = arguments
        machine.finish(machine._running[str(session), ordinal])
        result = _jobs(machine.take_ready())
    elif event == "withdraw":
        taken = [j for q in machine._queues.values() for j in q.waiting if not arguments[0]]
        if arguments[0]:  # what an earlier version did: queries stay
            taken = [j for q in machine._queues.values() for j in q.waiting if j.exclusive]
        for job in taken:
            machine._remove(job)
        result = _jobs(taken)
    elif event == "cancel":
        machine.cancel(str(arguments[0]), arguments[1])
    else:
        assert event == "drain"
        machine.draining = True
    return _admission_snap(machine), result


@cache
def is_busy(snap: Snap, limits: tuple[int, int]) -> bool:
    return _admission(snap, limits).busy


def _jobs(jobs: list[Job]) -> tuple[tuple[int, int, str, bool], ...]:
    return tuple((int(j.session), j.ordinal, LETTER[id(j.tool)], j.maybe_ran) for j in jobs)


# The journal: records are (letter, key, epoch, argument).

_ACTIONS = {
    "P": words.PUT,
    "O": words.OUTCOME,
    "T": words.ATTEMPT,
    "L": words.LEAVE,
    "U": words.UNDO,
    "A": words.ABORT,
    "Q": words.QUARANTINE,
    "S": words.STATE,
}
TORN = ("~", 0, 0, 0)


def call_key(key: int) -> str:
    return f"{key // 16}:{key % 16}"


def _draft(record: Snap, tail: Tail) -> Draft:
    letter, key, _, argument = record
    name = call_key(key) if letter not in "SL" else ""
    payload: Any = None
    if letter in "OAS":
        quiet = not (tail.open.keys() - {name})
        payload = {"reply": str(argument)} | ({"at": {}} if quiet else {})
    entity = letter in "PU"
    return Draft(
        action=_ACTIONS[letter],
        key=name,
        kind="drawer" if entity else "",
        id=name if entity else "",
        payload=1 if letter == "P" else payload,
        deleted=letter == "U",
    )


@cache
def tail_of(journal: tuple[Snap, ...], ops: tuple[Snap, ...] = ()) -> Tail:
    """Fold a journal, and what its reader was told to forget after which record.  Don't change it.

    A segment's header (G) stands for all before it, as its writer's memory had it.  That of an
    owner who found the note of one without a journal (H) says that no outcome before it is known.
    """
    start = max((n for n, record in enumerate(journal) if record[0] == "G"), default=-1)
    if start >= 0 and not any(op[0] <= start for op in ops):
        writer = tail_of(journal[:start], journal[start][3])
        tail = Tail.from_header(writer.header(), writer.seq, writer.epoch)
    else:
        start, tail = -1, Tail()
    for n in range(start + 1, len(journal) + 1):
        for place, what, session, upto in ops:
            if place == n and what == "end":
                tail.end_session(str(session))
            elif place == n:
                tail.acknowledge(str(session), upto)
        if n < len(journal) and journal[n][0] == "H":
            tail.forget_sessions(journal[n][2])
        elif n < len(journal) and journal[n][0] not in "~G":
            tail.note(_draft(journal[n], tail), tail.seq + 1, journal[n][2])
    return tail


@cache
def verdict(letter: str, maybe: bool, tail_key: Snap, call: tuple[int, int, int]) -> Snap:
    """Judge a line by what its owner remembers; return (verdict, what the recorded reply saw).

    `tail_key` is (journal, ops), or () where there is no journal.
    """
    if not tail_key or not maybe:
        return judge(TOOL[letter].kind, maybe_ran=maybe, trace=Trace()), 0
    tail = tail_of(*tail_key)
    session, ordinal, epoch = call
    known = tail.reply(str(session), ordinal)
    trace = Trace(
        kept=not tail.is_forgotten(str(session), ordinal, epoch),
        recorded=known is not None,
        crashes=tail.attempts.get(f"{session}:{ordinal}", 0),
    )
    return judge(TOOL[letter].kind, maybe_ran=True, trace=trace), int(known or 0)


__all__ = ["Offer", "Verdict", "admission", "elect", "ledger", "life", "tail_of", "verdict"]
