"""Canaries: which ends of owners are recorded, by whom, and that none is twice or for nothing.

The code: palace/broker/{canary,life}.py, palace/canary.  What a canary has heard is judged by the
product's own machine.
"""

from tests.model import machines
from tests.model.state import (
    EXIT,
    FREE,
    PUBLISH,
    SERVE,
    Canary,
    Proc,
    State,
    find_inc,
    put,
)
from tests.model.world_types import Model, Out

ARMED, SERVING, LEFT = "armed", "serving", "left"


def armed(m: Model, s: State, i: int, told: tuple[str, ...] = (ARMED,)) -> State:
    """An owner starts a canary, and leaves its mark."""
    if not m.scope.canary:
        return s
    d, inc = s.deaths, s.procs[i].inc
    marks = d.marks if inc in d.marks or m.variant == "unmarked" else (*d.marks, inc)
    return s._replace(deaths=d._replace(canaries=(*d.canaries, Canary(inc, i, told)), marks=marks))


def tell(m: Model, s: State, inc: int, word: str) -> State:
    """Write to the canary that an owner has now, if it has one."""
    d = s.deaths
    canaries = tuple(
        c._replace(told=(*c.told, word)) if c.inc == inc and not c.cut else c for c in d.canaries
    )
    return s._replace(deaths=d._replace(canaries=canaries))


def decided(m: Model, s: State, inc: int) -> State:
    """X0: nothing of it is told that would dismiss."""
    if m.variant == "dismiss_before_left":
        return tell(m, _unmark(s, inc), inc, LEFT)
    return s


def refused(m: Model, s: State, p: Proc) -> State:
    """It gives up before it serves, and says so."""
    return tell(m, _unmark(s, p.inc), p.inc, LEFT) if m.scope.canary else s


def exiting(m: Model, s: State, i: int, p: Proc, out: Out) -> bool:
    """X6: remove the mark, then tell the canary, then end; True while there is more to do."""
    d = s.deaths
    if not m.scope.canary or {p.inc, -p.inc} & set(d.left):
        return False
    if p.inc in d.marks:
        out(("X6.unmark", i), _unmark(s, p.inc))
        return True
    # What goes into a lost pipe is not heard: within the grace, that end passes for a death.
    heard = not any(canary.inc == p.inc and canary.cut for canary in d.canaries)
    s = tell(m, s, p.inc, LEFT)
    left = (*s.deaths.left, p.inc if heard else -p.inc)
    out(("X6.left", i), s._replace(deaths=s.deaths._replace(left=left)))
    return True


def killed(m: Model, s: State, p: Proc) -> State:
    """Note a death that has to be told: of one that served, and had not begun its last acts."""
    d = s.deaths
    is_over = p.pc == EXIT and p.inc not in d.marks and m.variant != "unmarked"
    if not m.scope.canary or p.pc < SERVE or {p.inc, -p.inc} & set(d.left) or is_over:
        return s
    return s._replace(deaths=d._replace(dead=(*d.dead, p.inc)))


def canary_steps(m: Model, s: State, out: Out) -> None:
    """All that canaries do, that owners do about them, and that the world does to them."""
    for n, canary in enumerate(s.deaths.canaries):
        _watch(m, s, n, canary, out)
        if s.left.canary_kills:
            t = s._replace(left=s.left._replace(canary_kills=s.left.canary_kills - 1))
            out(("canary.kill", n), _gone(t, n))
    for i, p in enumerate(s.procs):
        if p.pc in (PUBLISH, SERVE):
            _look_at_former(m, s, i, p, out)
        if p.pc == SERVE:
            _look_at_own(s, i, p, out)


def _watch(m: Model, s: State, n: int, canary: Canary, out: Out) -> None:
    d = s.deaths
    if not canary.ended:
        if LEFT in canary.told:
            out(("canary.left", n), _gone(s, n))
        elif canary.cut or find_inc(s, canary.inc) < 0:
            canaries = put(d.canaries, n, canary._replace(ended=True))
            out(("canary.end", n), s._replace(deaths=d._replace(canaries=canaries)))
        return
    if m.variant == "probe_takes_lock" and s.kernel.flock[s.disk.linked] == 0:
        k = s.kernel
        s = s._replace(kernel=k._replace(flock=put(k.flock, s.disk.linked, canary.inc)))
        out(("canary.lock", n), s)
        return
    alive = find_inc(s, canary.inc) >= 0
    if m.variant == "pid_not_identity":
        alive = s.procs[canary.slot].pc != FREE
    elif m.variant == "trust_eof":
        alive = False
    verdict = machines.end_of(canary.told, alive=alive)
    t = _gone(s, n)
    if verdict == "death":
        t = _record(m, t, canary.inc)
    elif verdict == "unserved":
        t = _unmark(t, canary.inc)
    if m.variant == "pid_not_identity" and verdict == "lost":
        t = _unmark(t, canary.inc)
    out((f"canary.{verdict}", n), t)


def _look_at_former(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """Every mark but one's own is that of a dead owner: its canary records it, or this one does."""
    d = s.deaths
    for inc in d.marks:
        if inc == p.inc:
            continue
        is_watched = any(canary.inc == inc for canary in d.canaries)
        t = _unmark(s, inc) if m.variant == "former_forgets" else _record(m, s, inc)
        out(("former.late" if is_watched else "former.record", i), t)


def _look_at_own(s: State, i: int, p: Proc, out: Out) -> None:
    d = s.deaths
    mine = [n for n, canary in enumerate(d.canaries) if canary.inc == p.inc]
    if not mine:
        again = Canary(p.inc, i, (ARMED, SERVING))
        out(("canary.again", i), s._replace(deaths=d._replace(canaries=(*d.canaries, again))))
    elif s.left.pipes and not d.canaries[mine[0]].cut:
        t = s._replace(left=s.left._replace(pipes=s.left.pipes - 1))
        canaries = put(d.canaries, mine[0], d.canaries[mine[0]]._replace(cut=True))
        out(("pipe.lost", i), t._replace(deaths=t.deaths._replace(canaries=canaries)))


def _gone(s: State, n: int) -> State:
    canaries = s.deaths.canaries
    return s._replace(deaths=s.deaths._replace(canaries=canaries[:n] + canaries[n + 1 :]))


def _record(m: Model, s: State, inc: int) -> State:
    """Make the record, if there is none (O_EXCL), and remove the mark."""
    d = s.deaths
    if inc not in d.records or m.variant == "two_recorders":
        s = s._replace(deaths=d._replace(records=(*d.records, inc)))
    return _unmark(s, inc)


def _unmark(s: State, inc: int) -> State:
    d = s.deaths
    return s._replace(deaths=d._replace(marks=tuple(one for one in d.marks if one != inc)))


def death_violation(s: State) -> str:
    """Return what is wrong with the records, "" for nothing."""
    d = s.deaths
    if len(set(d.records)) != len(d.records):
        return "W1 a death is recorded twice"
    for inc in d.records:
        if inc in d.left or find_inc(s, inc) >= 0:
            return "W2 a record of an owner that left, or lives"
    for inc in d.dead:
        watched = any(c.inc == inc and LEFT not in c.told for c in d.canaries)
        if not watched and inc not in d.marks and inc not in d.records:
            return "W3 a death that nobody will tell"
    return ""
