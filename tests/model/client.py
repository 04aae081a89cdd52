"""A shim: its client's lines, the ledger, the election, one connection at a time.

The code: palace/shim/{relay,connect,spawn}.py.
"""

from typing import Any

from palace.protocol import election
from tests.model import machines
from tests.model.machines import ledger
from tests.model.owner import born
from tests.model.state import (
    BOUND,
    EPOCH,
    FREE,
    GONE,
    GREET,
    IDLE,
    NOTHING,
    REFUSED,
    SERVE,
    SLEEP,
    STOCK,
    UNKNOWN,
    UNLINK,
    UP,
    WAITING,
    Conn,
    Shim,
    State,
    bad,
    conn_of,
    find_inc,
    put,
    with_conn,
    with_shim,
)
from tests.model.world_types import Model, Out


def is_served(shim: Shim) -> bool:
    """Tell whether everything that its client asked is answered."""
    return not shim.ledger[0]


def shim_steps(m: Model, s: State, c: int, out: Out) -> None:
    shim = s.shims[c]
    if shim.pc == GONE:
        return
    _ask(m, s, c, shim, out)
    if shim.pc == SLEEP:
        _wake(m, s, c, shim, out)
    elif shim.pc == GREET:
        _greeted(m, s, c, shim, out)
    elif shim.pc == UP:
        _read(m, s, c, shim, out)
    elif shim.pc == UNLINK:
        gone = s._replace(disk=s.disk._replace(sock=0))
        out(("C3.unlink", c), _go(m, gone, c, (election.DIAL_FAILED, election.ABSENT)))
    if m.scope.leave and is_served(shim) and shim.ledger[1] and shim.pc in (IDLE, UP):
        out(("C.leave", c), depart(m, s, c, politely=True))
    if s.left.kills and shim.ledger[1]:
        t = s._replace(left=s.left._replace(kills=s.left.kills - 1))
        out(("C.killed", c), depart(m, t, c, politely=False))


def depart(m: Model, s: State, c: int, *, politely: bool) -> State:
    """The shim ends, and its connection with it; who leaves by itself has acknowledged all."""
    shim = s.shims[c]
    k = conn_of(s, c)
    if k >= 0:
        conn = s.conns[k]
        up = conn.up
        if politely and m.scope.journal and not conn.shut_down and m.scope.ack:
            up = (*up, ("A", shim.ledger[1]))
        s = with_conn(s, k, conn._replace(shut_up=True, up=up, down=()))
    return with_shim(s, c, Shim(pc=GONE, ledger=((), shim.ledger[1]), got=shim.got))


def _ask(m: Model, s: State, c: int, shim: Shim, out: Out) -> None:
    """`_accept`: the client's next line is counted, and sent if that is possible."""
    if shim.ledger[1] >= len(m.scope.lines[c]):
        return
    if not is_served(shim) and not m.scope.pipeline:
        return
    book, ordinal = ledger(shim.ledger, "accept")
    asked = shim._replace(ledger=book, got=(*shim.got, (NOTHING, 0)))
    s = with_shim(s, c, asked)
    k = conn_of(s, c)
    if shim.pc == UP and not shim.parting:
        s = _send(s, c, k, (ordinal,))
    elif shim.pc == IDLE:
        s = begin(m, s, c)
    out(("C.ask", c), s)


def _send(s: State, c: int, k: int, lines: tuple[int, ...]) -> State:
    """Hand lines to the kernel; to a closed connection nothing can be sent."""
    conn = s.conns[k]
    if conn.shut_down:
        return s
    s = with_conn(s, k, conn._replace(up=(*conn.up, *lines)))
    shim = s.shims[c]
    book = shim.ledger
    for ordinal in lines:
        book, _ = ledger(book, "mark_sent", ordinal)
    since = shim.since if any(sent for _, sent, _ in shim.ledger[0]) else shim.epoch
    return with_shim(s, c, shim._replace(ledger=book, since=since))


# The election.


def begin(m: Model, s: State, c: int) -> State:
    verbatim = c in m.scope.verbatim and m.variant != "named_broker_falls_over"
    start = machines.election_start(
        may_spawn=not verbatim, may_direct=m.scope.direct and not verbatim
    )
    s = with_shim(s, c, s.shims[c]._replace(election=start, child=(), direct=False))
    return _go(m, s, c, (election.BEGIN,))


def _go(m: Model, s: State, c: int, event: tuple[Any, ...], late: str = "") -> State:
    """Feed the machine an event, and do what it says until it waits."""
    events = [event]
    while events:
        shim = s.shims[c]
        snap, actions = machines.elect(shim.election, events.pop(0), late)
        s = with_shim(s, c, shim._replace(election=snap))
        for action in actions:
            s, happened = _perform(m, s, c, action)
            if happened is not None:
                events.append(happened)
                late = "" if late != "deadline" else late
    return s


def _perform(
    m: Model, s: State, c: int, action: tuple[Any, ...]
) -> tuple[State, tuple[Any, ...] | None]:
    kind = action[0]
    shim = s.shims[c]
    if kind == election.DIAL:
        return _dial(m, s, c)
    if kind == election.SLEEP:
        return with_shim(s, c, shim._replace(pc=SLEEP)), None
    if kind in (election.SPAWN, election.DIRECT):
        return _spawn(m, s, c, direct=kind == election.DIRECT)
    if kind == election.READY:
        return _connected(m, s, c), None
    return _fail_all(m, s, c, str(action[1])), None


def _dial(m: Model, s: State, c: int) -> tuple[State, tuple[Any, ...] | None]:
    """Connect and say hello; a name that nobody listens behind is left alone."""
    absent = (election.DIAL_FAILED, election.ABSENT)
    if c in m.scope.guests and m.variant != "guest_flock":
        return s, absent  # AF_UNIX does not reach across a VM boundary
    inc = s.disk.sock
    i = find_inc(s, inc)
    leaked = any(orphan[0] == inc and orphan[2] for orphan in s.kernel.orphans)
    guest = c in m.scope.guests
    if (i < 0 or not s.procs[i].listening or guest != bool(s.procs[i].kern)) and not leaked:
        if inc and m.variant == "client_unlinks":
            return with_shim(s, c, s.shims[c]._replace(pc=UNLINK)), None
        return s, absent
    waiting = sum(conn.to == inc and conn.stage == WAITING for conn in s.conns)
    if waiting >= m.scope.backlog:
        if m.variant == "busy_is_dead":
            return s, absent
        return s, (election.DIAL_FAILED, election.BUSY)
    return _greet(m, s, c, inc), None


def _greet(m: Model, s: State, c: int, inc: int) -> State:
    shim = s.shims[c]
    if m.variant == "resend_new_id":
        shim = _renumbered(shim)
    _, resend = ledger(shim.ledger, "resend_list")
    if m.variant == "ledger_forgets":
        resend = tuple((o, False) for o, _ in resend)
    conn = Conn(shim=c, to=inc, hello=(resend, shim.ledger[1], _since(m, shim)))
    shim = shim._replace(
        pc=GREET, promised=tuple(o for o, _ in resend), promised_next=shim.ledger[1]
    )
    return with_shim(s, c, shim)._replace(conns=(*s.conns, conn))


def _since(m: Model, shim: Shim) -> int:
    """The epoch that HELLO names: a journal that is younger knows nothing of these lines."""
    if m.variant == "hello_names_last_epoch" or not any(sent for _, sent, _ in shim.ledger[0]):
        return shim.epoch
    return shim.since


def _renumbered(shim: Shim) -> Shim:
    """A mutant's: what is sent again gets new ordinals, and nothing says that it is old."""
    lines, following = shim.ledger
    sent = [o for o, was_sent, _ in lines if was_sent]
    if not sent or following > 12:
        return shim
    moved = tuple((following + n, False, 0) for n in range(len(lines)))
    got = (*shim.got, *(shim.got[o] for o, _, _ in lines))
    return shim._replace(ledger=(moved, following + len(lines)), got=got)


def _spawn(m: Model, s: State, c: int, *, direct: bool) -> tuple[State, tuple[Any, ...] | None]:
    shim = s.shims[c]
    if c in m.scope.verbatim:
        s = bad(s, "C1 a named broker is used as it stands, and nothing is started")
    if c in m.scope.guests and m.variant not in ("guest_flock", "allow_list_off"):
        return s, (election.REFUSED, "foreign_kernel", "")
    if s.disk.hold and not direct:
        return s, (election.REFUSED, "on_hold", "")
    if not s.left.starts or all(p.pc != FREE for p in s.procs):
        # Out of this scope: the shim goes on waiting as if its child had not come up yet.
        return with_shim(s, c, shim._replace(pc=SLEEP)), None
    if m.variant == "busy_is_dead":
        n = find_inc(s, s.disk.sock)
        if n >= 0 and s.procs[n].listening:
            s = bad(s, "L4 a broker is started beside one that is known to live")
    inc = m.scope.starts - s.left.starts + 1
    s = born(m, s, c, direct=direct, kern=int(c in m.scope.guests))
    s = with_shim(s, c, s.shims[c]._replace(child=(inc, -1, False), direct=direct))
    if not direct:
        return s, (election.SPAWNED,)
    return _greet(m, s, c, inc), None


def _wake(m: Model, s: State, c: int, shim: Shim, out: Out) -> None:
    if shim.child and shim.child[1] != -1:
        _, status, said = shim.child
        t = with_shim(s, c, shim._replace(child=()))
        out(("C.child", c), _go(m, t, c, (election.CHILD_EXITED, status, "why" if said else "")))
        return
    out(("C.dial", c), _go(m, s, c, (election.WOKE,)))
    if m.variant == "no_respawn":
        return
    if shim.election[2] and not shim.election[0]:  # spawned lately, and the child is gone
        out(("C.dial.late", c), _go(m, s, c, (election.WOKE,), "respawn"))
    if m.scope.deadline:
        out(("C5.deadline", c), _go(m, s, c, (election.WOKE,), "deadline"))


def _greeted(m: Model, s: State, c: int, shim: Shim, out: Out) -> None:
    """WELCOME, REFUSED, the end, or silence."""
    k = conn_of(s, c)
    conn = s.conns[k]
    if conn.down:
        message, rest = conn.down[0], conn.down[1:]
        if message[0] == "W" and message[1] >= shim.epoch:
            s = with_conn(s, k, conn._replace(down=rest))
            died = shim.lost and message[1] > shim.epoch
            s = with_shim(s, c, shim._replace(epoch=message[1], lost=False))
            if died:
                s = _give_up_poison(s, c)
            out(("C2.welcome", c), _go(m, s, c, (election.WELCOMED,)))
            return
        why = election.SILENT if message[0] == "W" else election.ABSENT
        out(("C3.refused", c), _hang_up(m, s, c, k, why))
    elif conn.shut_down:
        out(("C3.reset", c), _hang_up(m, s, c, k, election.ABSENT))
    elif s.left.silences:
        t = s._replace(left=s.left._replace(silences=s.left.silences - 1))
        out(("C3.silent", c), _hang_up(m, t, c, k, election.SILENT))


def _hang_up(m: Model, s: State, c: int, k: int, why: str) -> State:
    s = with_conn(s, k, s.conns[k]._replace(shut_up=True, down=()))
    shim = s.shims[c]
    if shim.direct:  # its own child has ended, or must be about to
        status = shim.child[1] if shim.child else 75
        said = bool(shim.child and shim.child[2])
        s = with_shim(s, c, shim._replace(direct=False, child=()))
        return _go(m, s, c, (election.CHILD_EXITED, status, "why" if said else ""))
    return _go(m, s, c, (election.DIAL_FAILED, why))


def _connected(m: Model, s: State, c: int) -> State:
    """Send all that is unsettled, and the blanks that were promised, in order."""
    shim = s.shims[c]
    outstanding = {o for o, _, _ in shim.ledger[0]}
    lines = sorted(outstanding | {*shim.promised, *range(shim.promised_next, shim.ledger[1])})
    child = shim.child if shim.direct else ()
    s = with_shim(s, c, shim._replace(pc=UP, election=(), child=child, parting=False))
    return _send(s, c, conn_of(s, c), tuple(lines))


# Connected.


def _read(m: Model, s: State, c: int, shim: Shim, out: Out) -> None:
    k = conn_of(s, c)
    conn = s.conns[k]
    if not conn.down:
        if conn.shut_down:
            out(("C4.lost", c), _lost(m, s, c, k))
        return
    s = with_conn(s, k, conn._replace(down=()))
    k = conn_of(s, c)
    said: tuple[Any, ...] = ()
    for message in conn.down:
        shim = s.shims[c]
        if message[0] == "G":
            book, _ = ledger(shim.ledger, "goodbye", message[1], message[2])
            s = with_shim(s, c, shim._replace(ledger=book, parting=True))
            said = ("C.goodbye", c)
        else:
            _, ordinal, code, mask = message
            book, known = ledger(shim.ledger, "settle", ordinal)
            s = with_shim(s, c, shim._replace(ledger=book))
            if known:
                s = told(s, c, ordinal, code, mask)
    shim = s.shims[c]
    if m.scope.ack and not shim.parting and not conn.shut_down:
        upto = ledger(shim.ledger, "settled_upto")[1]
        up = s.conns[k].up
        s = with_conn(s, k, s.conns[k]._replace(up=(*up, ("A", upto))))
    out(said or ("C.reply", c), s)


def told(s: State, c: int, ordinal: int, code: int, mask: int = 0) -> State:
    """The client has its answer."""
    shim = s.shims[c]
    if code == UNKNOWN and not s.seen.deaths:
        s = bad(s, "I9 a line's outcome is unknown, though nobody died")
    return with_shim(s, c, s.shims[c]._replace(got=put(shim.got, ordinal, (code, mask))))


def _lost(m: Model, s: State, c: int, k: int) -> State:
    """The connection has ended; what is unsettled wants a new one, silence does not."""
    s = with_conn(s, k, s.conns[k]._replace(shut_up=True))
    shim = s.shims[c]
    # Whether its owner died, the next welcome tells: that makes no difference with nothing sent.
    lost = not shim.parting and any(sent for _, sent, _ in shim.ledger[0])
    s = with_shim(s, c, shim._replace(pc=IDLE, direct=False, child=(), parting=False, lost=lost))
    return s if is_served(s.shims[c]) else begin(m, s, c)


def _give_up_poison(s: State, c: int) -> State:
    """Answer lines that were unanswered at so many deaths that they may be the cause."""
    book, poison = ledger(s.shims[c].ledger, "died")
    for ordinal in poison:
        book, _ = ledger(book, "settle", ordinal)
        s = told(s, c, ordinal, UNKNOWN)
    return with_shim(s, c, s.shims[c]._replace(ledger=book))


def _fail_all(m: Model, s: State, c: int, name: str) -> State:
    """No owner can be had: say so to everything that waits; the next request tries again."""
    shim = s.shims[c]
    book = shim.ledger
    for ordinal, sent, _ in shim.ledger[0]:
        book, _ = ledger(book, "settle", ordinal)
        s = told(s, c, ordinal, UNKNOWN if sent else REFUSED)
    return with_shim(s, c, s.shims[c]._replace(pc=IDLE, ledger=book, election=(), child=()))


__all__ = ["BOUND", "EPOCH", "SERVE", "STOCK", "shim_steps"]
