"""An owner's sessions: greetings, lines, admission, replies.

The code: palace/broker/{connections,requests,session,scheduling}.py, palace/protocol/session.py.
"""

from typing import Any

from tests.model import machines
from tests.model.machines import TORN, Offer, tail_of
from tests.model.state import (
    BACKLOG,
    BOUND,
    DECIDED,
    HANGUP,
    LOOSE,
    OK,
    REFUSED,
    SERVE,
    SETTLE,
    UNKNOWN,
    WAITING,
    Conn,
    Proc,
    Sess,
    State,
    bad,
    bound_conn,
    put,
    with_conn,
    with_proc,
)
from tests.model.world_types import Model, Out

BROKEN = (("!",),)  # in place of what a shim will never read: a first write failed


def limits(m: Model) -> tuple[int, int]:
    return m.scope.depth, m.scope.readers


def admission(m: Model, snap: Any, event: str, *arguments: Any) -> Any:
    return machines.admission(snap, limits(m), event, *arguments)


def letter_of(m: Model, c: int, ordinal: int) -> str:
    lines = m.scope.lines[c]
    return lines[ordinal % len(lines)]


# Replies.


def send(m: Model, s: State, i: int, c: int, message: tuple[Any, ...]) -> State:
    """`Session.reply`, `Session.header`: to the connection, or kept for the next one."""
    p = s.procs[i]
    sess = p.sess[c]
    assert sess is not None
    is_reply = message[0] == "R"
    if is_reply and sess.resend:
        sess = sess._replace(answered=(*sess.answered, message[1]))
    k = bound_conn(s, c, p.inc)
    conn = s.conns[k] if k >= 0 else None
    if conn is None or sess.lost or conn.down == BROKEN:
        if is_reply:
            sess = sess._replace(kept=(*sess.kept, message))
    elif conn.shut_up:  # the kernel says EPIPE, and this one is lost
        s = with_conn(s, k, conn._replace(down=BROKEN))
    else:
        s = with_conn(s, k, conn._replace(down=(*conn.down, message)))
    return with_proc(s, i, s.procs[i]._replace(sess=put(p.sess, c, sess)))


def reply(m: Model, s: State, i: int, c: int, ordinal: int, result: tuple[int, int]) -> State:
    """Settle a job, if its session still waits for it."""
    p = s.procs[i]
    sess = p.sess[c]
    if sess is None or ordinal not in sess.jobs:
        return s
    sess = sess._replace(jobs=tuple(o for o in sess.jobs if o != ordinal))
    s = with_proc(s, i, p._replace(sess=put(p.sess, c, sess)))
    s = send(m, s, i, c, ("R", ordinal, *result))
    return part(m, s, i, c)


def has_journal(m: Model, p: Proc) -> bool:
    return p.inc >= m.scope.journal_from and p.inc not in m.scope.without


def append(m: Model, s: State, i: int, letter: str, key: int, argument: Any = 0) -> State:
    """Append one record; first what sessions said of themselves takes effect in memory."""
    p = s.procs[i]
    d = s.disk
    if p.settled:
        here = len(d.journal)
        known = tail_of(d.journal, p.ops).replies
        ops = tuple((here, *what) for what in p.settled if str(what[1]) in known)
        s = with_proc(s, i, p._replace(ops=(*p.ops, *ops), settled=()))
    record = (letter, key, p.epoch, argument)
    if m.variant == "torn_tail_swallows" and d.journal and d.journal[-1] == TORN:
        record = TORN  # what was torn has no newline at its end, and eats the next record
    synced = d.synced if m.scope.split else len(d.journal) + 1
    return s._replace(disk=d._replace(journal=(*d.journal, record), synced=synced))


def may_cut_off(m: Model, p: Proc) -> bool:
    """Tell whether an owner that leaves may do so in the middle of a change, or of its undoing."""
    if p.life[1] == "loading":
        return bool(p.load)
    waiting = [letter for _, jobs in p.adm[0] for _, letter, _ in jobs]
    running = [letter for _, _, letter, *_ in p.adm[2]]
    return m.scope.grace and any(letter != "Q" for letter in (*waiting, *running))


def hand_on(m: Model, s: State, i: int, c: int, o: int) -> State:
    """Leave a running line without a reply: its shim sends it again, as after a death."""
    p = s.procs[i]
    sess = p.sess[c]
    if sess is None:
        return s
    sess = sess._replace(jobs=tuple(job for job in sess.jobs if job != o))
    return with_proc(s, i, p._replace(sess=put(p.sess, c, sess)))


def hand_back(
    m: Model, s: State, i: int, c: int, back: tuple[tuple[int, bool], ...], *, first: bool
) -> State:
    """Say goodbye to a session, and which of its lines did not run.

    Of those that an earlier owner may have begun that isn't said: the next one asks the journal.
    """
    p = s.procs[i]
    sess = p.sess[c]
    assert sess is not None
    if m.variant == "idle_ignores_helloed" and not sess.jobs and first:
        return cut(m, s, i, c)
    old = m.variant == "unrun_names_old"
    unrun = {o for o, _ in back}
    not_begun = {o for o, maybe in back if old or not maybe}
    if sess.offering and (old or not sess.offering[1]):
        not_begun.add(sess.offering[0])
    not_begun.update(o for o, maybe in sess.resend if not maybe)
    if m.variant == "goodbye_says_nothing":
        not_begun = set()
    elif m.variant == "goodbye_lies":
        not_begun.update(sess.jobs)
    jobs = tuple(o for o in sess.jobs if o not in unrun)
    upto = sess.next - 1
    sess = sess._replace(closing=True, jobs=jobs)
    s = with_proc(s, i, p._replace(sess=put(p.sess, c, sess)))
    if m.variant != "no_goodbye":
        s = send(m, s, i, c, ("G", upto, tuple(sorted(not_begun))))
    return part(m, s, i, c)


def part(m: Model, s: State, i: int, c: int) -> State:
    """Hang up on a session that was told goodbye and is owed nothing."""
    p = s.procs[i]
    sess = p.sess[c]
    assert sess is not None
    if not sess.closing or sess.jobs or p.pc not in (BACKLOG, HANGUP, SETTLE):
        return s
    return cut(m, s, i, c)


def cut(m: Model, s: State, i: int, c: int) -> State:
    """Close a session's connection, and forget the session if nothing is kept for it."""
    p = s.procs[i]
    k = bound_conn(s, c, p.inc)
    if k >= 0:
        conn = s.conns[k]
        s = with_conn(s, k, conn._replace(shut_down=True, up=(), stage=LOOSE))
    return _end(m, s, i, c)


def _end(m: Model, s: State, i: int, c: int) -> State:
    """A connection is over: is its session?"""
    p = s.procs[i]
    sess = p.sess[c]
    if sess is None:
        return s
    if sess.jobs or sess.kept:
        gone: Sess | None = sess._replace(lost=True)
        settled = p.settled
    else:
        gone = None
        over = sess.acked >= sess.next and not sess.resend
        settled = p.settled
        if (over or m.variant == "end_on_any_eof") and m.scope.journal:
            settled = (*settled, ("end", c, 0))
    return with_proc(s, i, p._replace(sess=put(p.sess, c, gone), settled=settled))


def end_conns(m: Model, s: State, i: int) -> State:
    """Close what is left of an owner's connections."""
    for c in range(m.scope.clients):
        if (sess := s.procs[i].sess[c]) is not None:
            p = s.procs[i]
            s = with_proc(s, i, p._replace(sess=put(p.sess, c, sess._replace(jobs=()))))
            s = cut(m, s, i, c)
    return s


def drop_conn(s: State, k: int) -> State:
    """The kernel resets a connection that nobody accepted."""
    return with_conn(s, k, s.conns[k]._replace(shut_down=True, up=(), stage=LOOSE))


# What a server does about its connections.


def serve_steps(m: Model, s: State, i: int, out: Out) -> None:
    p = s.procs[i]
    if p.pc in (SERVE, DECIDED):
        _greet(m, s, i, p, out)
        for c in range(m.scope.clients):
            sess = p.sess[c]
            if sess is not None:
                _session(m, s, i, c, sess, out)


def _greet(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    for k, conn in enumerate(s.conns):
        if conn.to == p.inc and conn.stage == WAITING:
            out(("A.hello", conn.shim), _hello(m, s, i, k))
            return


def _hello(m: Model, s: State, i: int, k: int) -> State:
    conn = s.conns[k]
    c = conn.shim
    old = bound_conn(s, c, conn.to)
    down: tuple[Any, ...] = BROKEN if conn.shut_up else (("W", s.procs[i].epoch),)
    s = s._replace(conns=put(s.conns, k, conn._replace(stage=BOUND, hello=(), down=down)))
    if old >= 0:
        s = with_conn(s, old, s.conns[old]._replace(shut_down=True, up=(), stage=LOOSE))
    resend, following, epoch = conn.hello
    p = s.procs[i]
    sess = (p.sess[c] or Sess())._replace(
        resend=resend, next=following, epoch=epoch, offering=(), answered=(), lost=False
    )
    return with_proc(s, i, p._replace(sess=put(p.sess, c, sess)))


def _session(m: Model, s: State, i: int, c: int, sess: Sess, out: Out) -> None:
    p = s.procs[i]
    k = bound_conn(s, c, p.inc)
    if k < 0:
        if not sess.jobs and not sess.lost:
            out(("A.eof", c), _end(m, s, i, c))
        elif not sess.jobs and m.scope.abandon:
            out(("A.forget", c), with_proc(s, i, p._replace(sess=put(p.sess, c, None))))
        return
    conn = s.conns[k]
    if s.left.cuts and not conn.shut_up:
        t = s._replace(left=s.left._replace(cuts=s.left.cuts - 1))
        t = t._replace(seen=t.seen._replace(deaths=True))
        for upto in range(len(conn.down) + 1):  # the rest was not in the kernel's hands yet
            cut_off = conn._replace(shut_down=True, up=(), down=conn.down[:upto], stage=LOOSE)
            out(("cut", c), with_conn(t, k, cut_off))
    if sess.offering:
        _offer_again(m, s, i, c, out)
    elif conn.up and not sess.closing:
        out(("A.line", c), _line(m, s, i, c, k, conn))
    elif conn.shut_up and not conn.up and not sess.jobs:
        s = with_conn(s, k, conn._replace(shut_down=True, stage=LOOSE))
        out(("A.eof", c), _end(m, s, i, c))


def _line(m: Model, s: State, i: int, c: int, k: int, conn: Conn) -> State:
    """Number the line that has come, and offer it."""
    item, up = conn.up[0], conn.up[1:]
    s = s._replace(conns=put(s.conns, k, conn._replace(up=up)))
    p = s.procs[i]
    sess = p.sess[c]
    assert sess is not None
    if isinstance(item, tuple):  # an ack
        sess = sess._replace(acked=item[1])
        settled = (*p.settled, ("ack", c, item[1])) if m.scope.journal else p.settled
        return with_proc(s, i, p._replace(sess=put(p.sess, c, sess), settled=settled))
    if sess.resend:
        (ordinal, maybe), sess = sess.resend[0], sess._replace(resend=sess.resend[1:])
    else:
        ordinal, maybe, sess = sess.next, False, sess._replace(next=sess.next + 1)
    if ordinal != item:
        s = bad(s, "I8 shim and broker count a session's lines differently")
    s = with_proc(s, i, p._replace(sess=put(p.sess, c, sess)))
    if maybe:
        known = [message for message in sess.kept if message[1] == ordinal]
        if known:
            sess = sess._replace(kept=tuple(x for x in sess.kept if x[1] != ordinal))
            s = with_proc(s, i, p._replace(sess=put(p.sess, c, sess)))
            return send(m, s, i, c, known[0])
        if ordinal in sess.jobs or ordinal in sess.answered:
            return s
    return _offer(m, s, i, c, ordinal, maybe)


def _offer(m: Model, s: State, i: int, c: int, ordinal: int, maybe: bool) -> State:
    p = s.procs[i]
    sess = p.sess[c]
    assert sess is not None
    letter = letter_of(m, c, ordinal)
    adm, (answer, started) = admission(m, p.adm, "offer", c, ordinal, letter, maybe)
    if answer is not Offer.ADMITTED:
        sess = sess._replace(offering=(ordinal, maybe))
        return with_proc(s, i, p._replace(sess=put(p.sess, c, sess)))
    sess = sess._replace(jobs=(*sess.jobs, ordinal), offering=())
    s = with_proc(s, i, p._replace(adm=adm, sess=put(p.sess, c, sess)))
    if p.life[1] == "failed":
        return refuse_waiting(m, s, i)
    return start(s, i, started)


def _offer_again(m: Model, s: State, i: int, c: int, out: Out) -> None:
    p = s.procs[i]
    sess = p.sess[c]
    assert sess is not None
    ordinal, maybe = sess.offering
    letter = letter_of(m, c, ordinal)
    answer = admission(m, p.adm, "offer", c, ordinal, letter, maybe)[1][0]
    if answer is Offer.ADMITTED:
        out(("A.room", c), _offer(m, s, i, c, ordinal, maybe))
    elif answer is Offer.FULL:
        free = sess._replace(offering=())
        s = with_proc(s, i, p._replace(sess=put(p.sess, c, free)))
        out(("A.busy", c), send(m, s, i, c, ("R", ordinal, refusal(m, letter, maybe), 0)))


def start(s: State, i: int, started: tuple[tuple[int, int, str, bool], ...]) -> State:
    """Hand to the lanes what admission has started."""
    if not started:
        return s
    p = s.procs[i]
    if p.adm[4] and any(letter == "P" for _, _, letter, _ in started):
        s = bad(s, "L2 a leaving owner begins a long-poll")
    work = tuple(sorted((*p.work, *((c, o, 0) for c, o, _, _ in started))))
    return with_proc(s, i, p._replace(work=work))


def refusal(m: Model, letter: str, maybe: bool) -> int:
    """What a refused job is answered with: "not done" is only said of what never ran."""
    if letter in "QP" or not maybe or m.variant == "refuses_old":
        return REFUSED
    return UNKNOWN


def refuse_waiting(m: Model, s: State, i: int) -> State:
    """The engine won't open: everything that waits is told so."""
    p = s.procs[i]
    adm, jobs = admission(m, p.adm, "withdraw", False)
    s = with_proc(s, i, p._replace(adm=adm))
    for c, o, letter, maybe in jobs:
        s = reply(m, s, i, c, o, (refusal(m, letter, maybe), 0))
    return s


__all__ = ["OK", "limits", "reply", "serve_steps", "start"]
