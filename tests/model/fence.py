"""Who may write the tables of a database: the state, and every step of palaces, server and world.

A model of its own: of the protocol it needs no more than that one process at a time holds a
directory's lock (I1).  The code is palace/engine/stores/pgvector_fence.py.  A step is one statement
of a session, one durable write, or what the server does by itself; all others, SIGKILL included,
may come between any two.  A process that is stopped is one that takes no step.

The tables are one number: that of the change which was written last.  A journal knows the change
that is open in it, what was there before, and the last one that it acknowledged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.model.fence_checks import committed, owner_changed, serves, sessions_ended, settled
from tests.model.fence_state import (
    ASK,
    BOTH,
    CLAIMED,
    CLAIMING,
    DONE,
    EXCLUSIVE,
    FAULTS,
    GAP,
    IDLE,
    LEAVE,
    LOAD,
    NOBODY,
    NOTE,
    OFF,
    OWN,
    READ,
    SENT,
    SERVE,
    SETTLED,
    SHARE,
    SHARED,
    STOCK,
    TERMINATE,
    WAIT,
    Journal,
    Left,
    Proc,
    Row,
    Scope,
    Session,
    State,
    Tables,
    ends,
    find,
    put,
)

Label = tuple[str, int]  # a step's name, and the directory whose process takes it
Out = Callable[[Label, State], None]
KINDS = (OWN, STOCK)


class World(NamedTuple):
    """`broken` names a broken protocol, "" is the real one."""

    scope: Scope
    broken: str = ""


def init(scope: Scope) -> State:
    count = scope.palaces + scope.copies
    exists = tuple(n < scope.palaces for n in range(count))
    return State(
        procs=(NOBODY,) * count,
        notes=((),) * count,
        journals=(Journal(),) * count,
        exists=exists,
        left=Left(**{name: getattr(scope, name) for name in Left._fields}),
    )


def next_states(s: State, w: World) -> list[tuple[Label, State]]:
    """Return every step that is possible, and where it leads."""
    steps: list[tuple[Label, State]] = []

    def out(label: Label, after: State) -> None:
        steps.append((label, after))

    for d, p in enumerate(s.procs):
        if p.at == OFF:
            _start(s, w, d, out)
        elif p.at < LOAD:
            _claim(s, w, d, p, out)
        elif p.at in (LOAD, SERVE):
            _own(s, w, d, p, out)
        else:
            _leave(s, w, d, p, out)
        if p.at != OFF and s.left.crashes:
            out(("kill", d), _killed(s, d))
    for n, session in enumerate(s.sessions):
        _serve_session(s, w, n, session, out)
    _fail(s, w, out)
    return steps


# Asking for the right.


def _start(s: State, w: World, d: int, out: Out) -> None:
    if not s.exists[d] or not s.left.claims:
        return
    t = s._replace(sessions=(*s.sessions, Session(d, OWN)))
    proc = Proc(at=READ if w.broken == "no_exclusive" else ASK, line=s.line)
    out(("start", d), t._replace(procs=put(t.procs, d, proc)))
    if s.left.forces:
        t = t._replace(left=s.left._replace(forces=s.left.forces - 1))
        out(("force", d), t._replace(procs=put(t.procs, d, proc._replace(force=True))))


def _claim(s: State, w: World, d: int, p: Proc, out: Out) -> None:
    n = find(s, d, OWN)
    if n < 0:  # the server has ended it
        out(("claim.cut", d), _gone(s, d))
    elif p.at == ASK:
        _get_alone(s, w, d, p, n, out)
    elif p.at == TERMINATE:
        out(("claim.terminate", d), _terminated(s, d, p._replace(at=ASK)))
    elif p.at == READ:
        _read_row(s, w, d, p, n, out)
    elif p.at == NOTE:
        _note(s, w, d, p, n, out)
    elif p.at == WAIT:
        _claimed(s, w, d, p, n, out)
    elif p.at == SHARE:
        t = _with(s, n, lock=SHARED)
        out(("claim.unlock", d), _moved(t, d, p, LOAD))
    elif p.at == GAP and not _alone_elsewhere(s, n):
        out(("claim.share", d), _moved(_with(s, n, lock=SHARED), d, p, LOAD))


def _get_alone(s: State, w: World, d: int, p: Proc, n: int, out: Out) -> None:
    others = [one for m, one in enumerate(s.sessions) if m != n and one.lock]
    if w.broken == "lease":  # it has run out, whatever its holder thinks
        others = [one for one in others if one.lock != SHARED]
    if w.broken == "forced_past_the_lock" and p.force:
        others = []
    if not others:
        out(("claim.alone", d), _moved(_with(s, n, lock=EXCLUSIVE), d, p, READ))
        return
    out(("claim.owned", d), _gone(s, d))  # CLAIM_S is over
    if s.tables.row.inc in _noted(s, w, d) or w.broken == "terminates_anybody":
        if w.broken == "terminates_later":
            out(("claim.aim", d), _moved(s, d, p, TERMINATE))
        elif any(one.lock == SHARED for one in others):
            out(("claim.terminate", d), _terminated(s, d, p))


def _noted(s: State, w: World, d: int) -> tuple[int, ...]:
    """Return the incarnations of this directory: a note that was copied is of another one."""
    if d >= w.scope.palaces and w.broken != "copied_note":
        return tuple(inc for inc in s.notes[d] if s.made[inc - 1].place == d)
    return s.notes[d]


def _terminated(s: State, d: int, p: Proc) -> State:
    """End the sessions that hold the lock, which are those of a dead owner of this directory."""
    ended = [one for one in s.sessions if one.lock == SHARED]
    rest = tuple(one for one in s.sessions if one.lock != SHARED)
    return _moved(sessions_ended(s, d, ended)._replace(sessions=rest), d, p, ASK)


def _read_row(s: State, w: World, d: int, p: Proc, n: int, out: Out) -> None:
    row = s.tables.row
    is_ours = row.inc in _noted(s, w, d)
    may = row.inc == 0 or row.settled or is_ours or p.force or w.broken == "no_unsettled_rule"
    if may and s.left.claims:  # another one may have had the last
        out(("claim.read", d), _moved(s, d, p._replace(ours=row.inc if is_ours else 0), NOTE))
    else:
        out(("claim.unsettled", d), _gone(s, d))


def _note(s: State, w: World, d: int, p: Proc, n: int, out: Out) -> None:
    """Note durably who this is, and send the row."""
    inc = len(s.made) + 1
    t = s._replace(
        made=(*s.made, Row(place=d, line=s.line, inc=inc)),
        left=s.left._replace(claims=s.left.claims - 1),
    )
    if w.broken != "note_after_row":
        t = _noting(t, w, d, p, inc)
    t = _with(t, n, txn=CLAIMING, inc=inc, force=p.force)
    out(("claim.note", d), _moved(t, d, p._replace(inc=inc, ours=0), WAIT))


def _noting(s: State, w: World, d: int, p: Proc, inc: int) -> State:
    before = s.notes[d]
    if w.broken == "note_keeps_one":
        before = (p.ours,) if p.ours else ()
    elif w.broken == "note_overwritten":
        before = ()
    return s._replace(notes=put(s.notes, d, (inc, *before)))


def _claimed(s: State, w: World, d: int, p: Proc, n: int, out: Out) -> None:
    """The row is committed: hold the lock shared, then let go of it alone."""
    if s.sessions[n].txn != CLAIMED:
        return
    if w.broken == "note_after_row":
        s = _noting(s, w, d, p, p.inc)
    if w.broken == "unlocked_between":
        out(("claim.unlock", d), _moved(_with(s, n, txn=IDLE, lock=0), d, p, GAP))
    elif w.broken == "no_exclusive":
        out(("claim.share", d), _moved(_with(s, n, txn=IDLE, lock=SHARED), d, p, LOAD))
    else:
        out(("claim.share", d), _moved(_with(s, n, txn=IDLE, lock=BOTH), d, p, SHARE))


# An owner.


def _own(s: State, w: World, d: int, p: Proc, out: Out) -> None:
    if p.lost:
        out(("lost.leave", d), _gone(s, d))
        return
    if p.entering:
        _compare(s, w, d, p, out)
        return
    if p.at == LOAD:
        _load(s, w, d, p, out)
    elif p.change == IDLE:
        _begin(s, w, d, p, out)
    else:
        _change(s, w, d, p, out)
    if p.at == LOAD and w.broken != "settled_unseen":  # a command without a broker
        out(("leave.unsettled", d), _gone(s, d))
    elif p.change == IDLE or w.broken == "settled_early":
        out(("leave", d), _moved(s, d, p, LEAVE))
    elif find(s, d, p.kind) < 0:  # a change that can be neither made nor taken back
        out(("leave.stuck", d), _gone(s, d))


def _load(s: State, w: World, d: int, p: Proc, out: Out) -> None:
    """Settle the journal, in palace's own session."""
    journal, now = s.journals[d], s.tables.now
    n = find(s, d, OWN)
    if n < 0:
        _enter(s, w, d, p, OWN, out)
    elif journal.open and now == journal.open:
        t = s._replace(tables=s.tables._replace(now=journal.before))
        out(("load.undo", d), committed(t, s.sessions[n]))
    elif journal.open:  # not written, taken back already, or another's by now
        t = s._replace(journals=put(s.journals, d, Journal(last=journal.last)))
        out(("load.close", d), t)
    elif now < journal.last and w.broken != "lacks_not_rewritten":
        t = s._replace(tables=s.tables._replace(now=journal.last))
        out(("load.rewrite", d), committed(t, s.sessions[n]))
    else:
        out(("load.serve", d), _moved(serves(s, d), d, p, SERVE))


def _enter(s: State, w: World, d: int, p: Proc, kind: int, out: Out) -> None:
    """Open a further session: the lock first, then the row."""
    lock = 0 if kind == STOCK and w.broken == "stock_holds_nothing" else SHARED
    fresh = Session(d, kind, inc=p.inc, lock=lock)
    if kind == STOCK and w.broken == "stock_unfenced":
        out(("enter", d), s._replace(sessions=(*s.sessions, fresh._replace(lock=0))))
        return
    if w.broken == "row_before_lock":
        _compare(s, w, d, p._replace(entering=kind), out)
        return
    if _alone_elsewhere(s, -1):
        return  # it waits, LOCK_S at most
    t = s._replace(sessions=(*s.sessions, fresh))
    if w.broken == "reconnects_blindly":
        out(("enter", d), t)
    else:
        out(("enter", d), _moved(t, d, p._replace(entering=kind), p.at))


def _compare(s: State, w: World, d: int, p: Proc, out: Out) -> None:
    """Read the row and the timeline: is the right still ours?"""
    n, row = find(s, d, p.entering), s.tables.row
    if w.broken == "row_before_lock":
        _compare_first(s, d, p, n, out)
        return
    after = p._replace(entering=0)
    if n < 0:
        out(("enter.cut", d), _moved(s, d, after, p.at))
        return
    is_same = p.line == s.line or w.broken == "no_timeline"
    if is_same and row.inc == p.inc:
        out(("enter.own", d), _moved(s, d, after, p.at))
    else:
        t = s._replace(sessions=ends(s.sessions, n))
        out(("enter.lost", d), _moved(t, d, after._replace(lost=True), p.at))


def _compare_first(s: State, d: int, p: Proc, n: int, out: Out) -> None:
    """The broken order: the row is read before the lock is held."""
    if not s.procs[d].entering:
        if p.line == s.line and s.tables.row.inc == p.inc:
            out(("enter.own", d), _moved(s, d, p, p.at))
        else:
            out(("enter.lost", d), _moved(s, d, p._replace(entering=0, lost=True), p.at))
    elif not _alone_elsewhere(s, -1):
        fresh = Session(d, p.entering, inc=p.inc, lock=SHARED)
        t = s._replace(sessions=(*s.sessions, fresh))
        out(("enter", d), _moved(t, d, p._replace(entering=0), p.at))


def _begin(s: State, w: World, d: int, p: Proc, out: Out) -> None:
    """Journal a change, which is to be made in one of the sessions."""
    if not s.left.changes:
        return
    number = s.changes + 1
    journal = Journal(number, s.tables.now, s.journals[d].last, p.inc)
    t = s._replace(
        changes=number,
        journals=put(s.journals, d, journal),
        left=s.left._replace(changes=s.left.changes - 1),
    )
    for kind in KINDS[: w.scope.kinds]:
        out(("change", d), _moved(t, d, p._replace(change=SENT, kind=kind), SERVE))


def _change(s: State, w: World, d: int, p: Proc, out: Out) -> None:
    n, journal = find(s, d, p.kind), s.journals[d]
    if n < 0:
        _enter(s, w, d, p, p.kind, out)
    elif s.sessions[n].txn == IDLE:  # again, where the session before it was ended
        out(("change.commit", d), _with(s, n, txn=SENT, val=journal.open))
    elif s.sessions[n].txn == DONE:
        t = serves(_with(s, n, txn=IDLE), d)
        t = t._replace(journals=put(s.journals, d, Journal(last=journal.open)))
        t = t._replace(acked=max(t.acked, journal.open))
        out(("change.done", d), _moved(t, d, p._replace(change=IDLE, kind=0), SERVE))


def _leave(s: State, w: World, d: int, p: Proc, out: Out) -> None:
    """Say that nothing is left open, in whichever session, then end all sessions.

    Not where another server took over: what that one lacks is to be written again first.
    """
    if p.at == SETTLED:
        out(("leave.end", d), _gone(s, d))
        return
    row = s.tables.row
    is_ours = row.inc == p.inc or w.broken == "settles_anybodys"
    if is_ours and (p.line == s.line or w.broken == "settles_elsewhere"):
        t = s._replace(tables=s.tables._replace(row=row._replace(settled=True)))
        out(("leave.settle", d), _moved(settled(t, d), d, p, SETTLED))
    else:
        out(("leave.lost", d), _gone(s, d))


# The server.


def _serve_session(s: State, w: World, n: int, session: Session, out: Out) -> None:
    d = session.dir
    rest = ends(s.sessions, n)
    if session.txn == SENT:
        t = _with(s._replace(tables=s.tables._replace(now=session.val)), n, txn=DONE)
        out(("server.commit", d), committed(t, session))
    elif session.txn == CLAIMING:
        _commit_row(s, w, n, session, out)
    if session.dead:
        out(("server.miss", d), s._replace(sessions=rest))
    elif s.left.ends:
        p = s.procs[d]
        t = s._replace(sessions=rest, left=s.left._replace(ends=s.left.ends - 1))
        out(("end", d), _moved(t, d, p._replace(cut=True), p.at))


def _commit_row(s: State, w: World, n: int, session: Session, out: Out) -> None:
    before, d = s.tables.row, session.dir
    epoch = before.epoch if w.broken == "epoch_not_raised" else before.epoch + 1
    row = Row(d, s.line, session.inc, max(epoch, 1), settled=w.broken == "settled_in_service")
    t = s._replace(tables=s.tables._replace(row=row), made=put(s.made, session.inc - 1, row))
    out(("server.row", d), owner_changed(_with(t, n, txn=CLAIMED), before, session))


def _fail(s: State, w: World, out: Out) -> None:
    """A replica takes over, directories are copied."""
    if s.left.failovers and s.replica != s.tables:
        out(("replicate", 0), s._replace(replica=s.tables))
    if s.left.failovers and (s.tables.row.inc or s.replica.row.inc):
        out(("failover", 0), _failed_over(s))
    for copy in range(w.scope.palaces, len(s.procs)):
        # Of a journal with a change open in it, a copy is the journal's own matter.
        if not s.exists[copy] and s.notes[0] and not s.journals[0].open:
            t = s._replace(
                exists=put(s.exists, copy, True),
                notes=put(s.notes, copy, s.notes[0]),
                journals=put(s.journals, copy, s.journals[0]),
            )
            out(("copy", copy), t)


def _failed_over(s: State) -> State:
    tables = s.replica
    gone = range(tables.row.inc + 1, len(s.made) + 1)
    owed = {d for d, one in enumerate(s.journals) if tables.now < one.last}
    return s._replace(
        tables=tables,
        line=s.line + 1,
        sessions=(),
        gone=(*s.gone, *(inc for inc in gone if inc not in s.gone)),
        wrote=(),
        top=tables.row.epoch,
        acked=min(s.acked, tables.now),
        owed=tuple(sorted(owed)),
        left=s.left._replace(failovers=s.left.failovers - 1),
    )


# Small changes of a state.


def _moved(s: State, d: int, p: Proc, at: int) -> State:
    return s._replace(procs=put(s.procs, d, p._replace(at=at)))


def _with(s: State, n: int, **fields: Any) -> State:
    return s._replace(sessions=put(s.sessions, n, s.sessions[n]._replace(**fields)))


def _gone(s: State, d: int) -> State:
    """A process ends, and its sessions with it."""
    rest = tuple(one for one in s.sessions if one.dir != d or one.dead)
    return s._replace(sessions=rest, procs=put(s.procs, d, NOBODY))


def _killed(s: State, d: int) -> State:
    """The server has not missed its sessions yet."""
    left = tuple(
        one._replace(dead=True) if one.dir == d else one
        for one in s.sessions
        if one.dir != d or one.lock or one.txn
    )
    return s._replace(
        sessions=left,
        procs=put(s.procs, d, NOBODY),
        left=s.left._replace(crashes=s.left.crashes - 1),
    )


def _alone_elsewhere(s: State, n: int) -> bool:
    return any(m != n and one.lock >= EXCLUSIVE for m, one in enumerate(s.sessions))


__all__ = ["FAULTS", "Tables", "World", "init", "next_states"]
