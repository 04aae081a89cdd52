"""Becoming the owner, and leaving: steps B1 to B8 and X0 to X6 of one process.

The code: palace/broker/{serve,lock,endpoint,broker,leaving}.py.
"""

from tests.model import canary, machines
from tests.model.serving import (
    admission,
    append,
    drop_conn,
    end_conns,
    hand_back,
    hand_on,
    has_journal,
    limits,
    may_cut_off,
    reply,
)
from tests.model.state import (
    BACKLOG,
    BIND,
    CLOSE,
    DATA,
    DECIDED,
    EPOCH,
    EXIT,
    FENCE,
    FREE,
    HANGUP,
    HOLD,
    LOCK,
    LOOSE,
    NOBODY,
    OPEN,
    PUBLISH,
    SERVE,
    SETTLE,
    STOCK,
    UNKNOWN,
    UNSOCK,
    VERIFY,
    WAITING,
    Proc,
    State,
    bad,
    find_inc,
    put,
    with_conn,
    with_proc,
    with_shim,
)
from tests.model.world_types import Model, Out

LOST, FOREIGN, FAILED, MOVED_ON = 75, 73, 74, 0


def born(m: Model, s: State, c: int, *, direct: bool, kern: int = 0) -> State:
    """A starter runs `palace serve` in the first free slot; callers check that there is one."""
    i = next(n for n, p in enumerate(s.procs) if p.pc == FREE)
    inc = m.scope.starts - s.left.starts + 1
    p = Proc(
        pc=OPEN if m.scope.fine else LOCK,
        inc=inc,
        ino=0 if m.scope.fine else 1,
        kern=kern,
        starter=c + 1,
        direct=direct,
        sess=(None,) * m.scope.clients,
    )
    if m.variant == "lock_order":
        p = p._replace(pc=FENCE)
    s = with_proc(s, i, p)
    return s._replace(left=s.left._replace(starts=s.left.starts - 1))


def die(m: Model, s: State, i: int, status: int, *, said: bool, killed: bool = False) -> State:
    """A process ends: the kernel closes what it had open, the files stay."""
    p = s.procs[i]
    if killed:
        s = canary.killed(m, s, p)
    k = s.kernel
    orphan = killed and m.variant in ("worker_survives", "fd_inherited", "fork_keeps_lock") and p.db
    deaf_child = killed and m.variant == "listener_inherited" and p.listening
    if orphan or deaf_child:
        store = m.variant == "worker_survives"
        k = k._replace(orphans=(*k.orphans, (p.inc, store, int(deaf_child))))
    if not orphan or m.variant == "worker_survives":
        k = k._replace(
            flock=tuple(0 if h == p.inc else h for h in k.flock),
            guest=tuple(0 if h == p.inc else h for h in k.guest),
        )
    k = k._replace(
        mempalace=0 if k.mempalace == p.inc else k.mempalace,
        data=0 if k.data == p.inc else k.data,
    )
    s = with_proc(s._replace(kernel=k), i, NOBODY)
    conns = tuple(
        c._replace(shut_down=not (deaf_child and c.stage == WAITING), up=()) if c.to == p.inc else c
        for c in s.conns
    )
    s = s._replace(conns=tuple(c for c in conns if not (c.shut_up and c.to == p.inc)))
    starter = p.starter - 1
    if starter >= 0 and s.shims[starter].child[:1] == (p.inc,):
        s = with_shim(s, starter, s.shims[starter]._replace(child=(p.inc, status, said)))
    if killed and p.pc > EPOCH:
        s = s._replace(seen=s.seen._replace(deaths=True))
    return s


def leave(m: Model, s: State, i: int, status: int, what: str, out: Out) -> None:
    s = canary.refused(m, s, s.procs[i])
    out((what, i), die(m, s, i, status, said=True))


def owner_steps(m: Model, s: State, i: int, out: Out) -> None:
    """All that this process itself may do next, its life as a server apart."""
    p = s.procs[i]
    if p.pc < SERVE:
        _BECOMING[p.pc](m, s, i, p, out)
        if s.left.faults and p.pc in _MAY_FAIL:
            _fault(m, s, i, p, out)
    elif p.pc == SERVE:
        _reasons_to_leave(m, s, i, p, out)
    else:
        _LEAVING[p.pc](m, s, i, p, out)


def _fault(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """ENOLCK, EOPNOTSUPP, ENOSPC, EMFILE: whatever fails, it fails closed."""
    s = s._replace(left=s.left._replace(faults=s.left.faults - 1))
    if m.variant in ("enolck_acquired", "eintr_acquired") and p.pc == LOCK:
        out(("fault", i), with_proc(s, i, p._replace(pc=_after_lock(m))))
        return
    if p.direct and p.pc == BIND:  # it can do without a socket, and not without its settings
        out(("B6.deaf", i), with_proc(s, i, p._replace(pc=PUBLISH)))
    if (
        m.variant == "publish_anyway" and p.pc == BIND
    ):  # what can't be bound is published all the same
        out(("fault", i), with_proc(s, i, p._replace(pc=PUBLISH)))
        return
    leave(m, s, i, FAILED, "fault", out)


# Becoming.


def _after_lock(m: Model) -> int:
    if m.variant == "lock_order":
        return DATA if m.scope.stock else EPOCH
    if m.scope.hold:
        return HOLD
    return FENCE if m.scope.stock else EPOCH


def _open(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    d, k = s.disk, s.kernel
    if not d.linked:
        if d.inodes >= 4:
            return
        d = d._replace(linked=d.inodes + 1, inodes=d.inodes + 1)
        k = k._replace(flock=(*k.flock, 0), guest=(*k.guest, 0))
    s = s._replace(disk=d, kernel=k)
    out(("B1.open", i), with_proc(s, i, p._replace(pc=LOCK, ino=d.linked)))


def _holds(s: State, p: Proc) -> int:
    return (s.kernel.guest if p.kern else s.kernel.flock)[p.ino]


def _take(s: State, i: int, p: Proc) -> State:
    k = s.kernel
    if p.kern:
        return s._replace(kernel=k._replace(guest=put(k.guest, p.ino, p.inc)))
    return s._replace(kernel=k._replace(flock=put(k.flock, p.ino, p.inc)))


def untake(s: State, p: Proc) -> State:
    k = s.kernel
    if p.kern:
        return s._replace(kernel=k._replace(guest=put(k.guest, p.ino, 0)))
    return s._replace(kernel=k._replace(flock=put(k.flock, p.ino, 0)))


def _looks_alive(s: State) -> bool:
    """Does the record's pid run?  A slot's number is a pid: somebody else may have it by now."""
    record = s.disk.record
    return len(record) > 1 and s.procs[record[3]].pc != FREE


def _lock(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    v = m.variant
    on = VERIFY if m.scope.fine else _after_lock(m)
    taken = _holds(s, p) != 0
    if v in ("pid_check", "socket_probe", "connect_probe"):
        if v == "pid_check":
            taken = _looks_alive(s)
        elif v == "socket_probe":
            taken = s.disk.sock != 0
        else:
            n = find_inc(s, s.disk.sock)
            taken = n >= 0 and s.procs[n].listening
        if not taken:
            out(("B2.lock", i), with_proc(s, i, p._replace(pc=on)))
            return
    if not taken:
        go = with_proc(s, i, p._replace(pc=on))
        held = v == "check_then_open" and p.direct
        out(("B2.lock", i), go if held else _take(go, i, p))
        return
    if v == "lease_ttl" and s.left.lapses:
        go = with_proc(s, i, p._replace(pc=on))
        go = go._replace(left=go.left._replace(lapses=go.left.lapses - 1))
        out(("lapse", i), _take(go, i, p))
    if v == "stale_lock_deleted" and not _looks_alive(s):
        go = s._replace(disk=s.disk._replace(linked=0))
        out(("unlink", i), with_proc(go, i, p._replace(pc=OPEN, ino=0)))
        return
    if v == "pid_kill" and len(s.disk.record) > 1:
        j = s.disk.record[3]
        if j != i and s.procs[j].pc != FREE:
            out(("kill", i), bad(die(m, s, j, -9, said=False), "I12 somebody is killed"))
    if v != "loser_waits":
        leave(m, s, i, LOST, "B2.lost", out)


def _verify(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    if s.disk.linked == p.ino or m.variant in ("unlink_held", "unlink_after_blind"):
        if m.variant == "lock_lost_at_exec":
            s = untake(s, p)
        out(("B3.verify", i), with_proc(s, i, p._replace(pc=_after_lock(m))))
    else:
        s = untake(s, p)
        out(("B3.again", i), with_proc(s, i, p._replace(pc=OPEN, ino=0)))


def _hold(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    if s.disk.hold and m.variant != "hold_ignored":
        leave(m, s, i, 79, "B3.held", out)
    else:
        on = FENCE if m.scope.stock else EPOCH
        out(("B3.free", i), with_proc(s, i, p._replace(pc=on)))


def _fence(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    k = s.kernel
    on = LOCK if m.variant == "lock_order" else DATA
    if m.variant == "no_fence":
        out(("B4.fence", i), with_proc(s, i, p._replace(pc=on)))
    elif k.mempalace == 0:
        out(("B4.fence", i), with_proc(_take_fence(s, p), i, p._replace(pc=on)))
    else:  # it serves without, and waits for it before it opens the store
        go = with_proc(s, i, p._replace(pc=on))
        if k.mempalace != STOCK:
            go = bad(go, "L1 foreign_writer is blamed on a broker of our own")
        out(("B4.late", i), go)


def _take_fence(s: State, p: Proc) -> State:
    return s._replace(kernel=s.kernel._replace(mempalace=p.inc))


def late_fence(m: Model, s: State, i: int, out: Out) -> bool:
    """Take the fence, if stock had it when this owner came; False where the store stays shut."""
    k, p = s.kernel, s.procs[i]
    if not m.scope.stock or m.variant in ("no_fence", "open_unfenced") or k.mempalace == p.inc:
        return True
    if k.mempalace == 0 and p.pc == SERVE:
        out(("B4.fence", i), _take_fence(s, p))
    return False


def _data(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    k = s.kernel
    if k.data:
        leave(m, s, i, FOREIGN, "B4.shared", out)
    else:
        s = s._replace(kernel=k._replace(data=p.inc))
        out(("B4.data", i), with_proc(s, i, p._replace(pc=EPOCH)))


def journalled_epoch(m: Model, s: State) -> int:
    return max((record[2] for record in s.disk.journal), default=0)


def _epoch(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    d = s.disk
    epoch = d.epoch
    if m.variant != "epoch_file_alone":
        if len(d.record) > 1:
            epoch = max(epoch, d.record[1])
        epoch = max(epoch, journalled_epoch(m, s))
    epoch += 1
    d = d._replace(epoch=epoch, epoch_safe=epoch)
    if m.variant == "epoch_not_durable":
        d = d._replace(epoch_safe=s.disk.epoch_safe)
    elif m.variant == "epoch_after_open":
        d = s.disk  # written when the store is open
    on = PUBLISH if m.variant == "record_before_bind" else BIND
    go = with_proc(s._replace(disk=d), i, p._replace(pc=on, epoch=epoch))
    if m.variant == "short_lock_exec":
        go = untake(go, p)
    if epoch <= s.seen.top:
        go = bad(go, "I6 an epoch is taken twice")
    go = go._replace(seen=go.seen._replace(top=max(epoch, s.seen.top)))
    out(("B5.epoch", i), go)


def _bind(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    on = SERVE if m.variant == "record_before_bind" else PUBLISH
    go = canary.armed(m, s._replace(disk=s.disk._replace(sock=p.inc)), i)
    out(("B6.bind", i), with_proc(go, i, p._replace(pc=on, listening=True)))


def _publish(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    whole = (p.inc, p.epoch, s.kernel.boot, i)
    if m.variant == "record_not_atomic" and s.disk.record != (0,):
        out(("B7.torn", i), s._replace(disk=s.disk._replace(record=(0,))))
        return
    go = canary.tell(m, s._replace(disk=s.disk._replace(record=whole)), p.inc, canary.SERVING)
    on = BIND if m.variant == "record_before_bind" else SERVE
    if m.variant == "short_lock":
        go = untake(go, p)
    if m.variant == "hello_before_store":
        p = p._replace(adm=admission(m, p.adm, "ready")[0])
    out(("B7.publish", i), with_proc(go, i, p._replace(pc=on)))


# Leaving.


def _reasons_to_leave(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    adm = p.adm
    busy = machines.is_busy(adm, limits(m))
    if m.variant == "drain_drops":
        busy = False
    ticked = machines.life(p.life, "tick", busy)
    if ticked[0] == "draining" and (m.scope.idle or ticked[2] == "failed"):
        _decide(m, s, i, p._replace(life=ticked), "X0.idle", out)
    if s.left.stops:
        t = s._replace(left=s.left._replace(stops=s.left.stops - 1))
        _decide(m, t, i, p._replace(life=machines.life(p.life, "stop", "stop")), "X0.stop", out)
    if s.left.upgrades and p.life[1] == "ready":
        t = s._replace(left=s.left._replace(upgrades=s.left.upgrades - 1))
        upgraded = machines.life(p.life, "stop", "upgrade")
        _decide(m, t, i, p._replace(life=upgraded), "X0.upgrade", out)
    if p.direct and not any(c.to == p.inc and c.shim == p.starter - 1 for c in s.conns):
        _decide(m, s, i, p._replace(life=machines.life(p.life, "stop", "direct")), "X0.direct", out)


def _decide(m: Model, s: State, i: int, p: Proc, what: str, out: Out) -> None:
    """X0 and X1: the decision and the record's end are one step of the loop."""
    if m.variant == "split_decision":
        known = tuple(c for c, sess in enumerate(p.sess) if sess is not None)
        out((what, i), with_proc(s, i, p._replace(pc=DECIDED, known=known)))
        return
    d = s.disk
    ours = d.record[:1] == (p.inc,)
    if ours and m.variant != "files_after_release":
        s = s._replace(disk=d._replace(record=()))
    s = canary.decided(m, s, p.inc)
    out((what, i), with_proc(s, i, p._replace(pc=UNSOCK)))


def _decided(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    d = s.disk
    if d.record[:1] == (p.inc,):
        s = s._replace(disk=d._replace(record=()))
    out(("X1.unpublish", i), with_proc(s, i, p._replace(pc=UNSOCK)))


def _unsock(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """X2, then the goodbyes: still the same step of the loop, other processes come between."""
    if s.disk.sock == p.inc and m.variant != "files_after_release":
        s = s._replace(disk=s.disk._replace(sock=0))
    adm = admission(m, p.adm, "drain")[0]
    unbegun: list[tuple[int, int, bool]] = []
    reason = p.life[2]
    taken = ()
    if p.life[1] == "loading" and m.variant != "loading_drain_keeps":
        adm, taken = admission(m, adm, "withdraw", False)
    elif reason == "upgrade":  # a read stays behind the change that it was asked after
        adm, taken = admission(m, adm, "withdraw", m.variant == "upgrade_overtakes")
    unbegun += [(c, o, maybe) for c, o, _, maybe in taken]
    for c, o, letter, maybe, cancelled in adm[2]:
        if letter == "P" and not cancelled:
            adm, _ = admission(m, adm, "cancel", c, o)
            unbegun.append((c, o, maybe))
    if m.variant != "drain_begins_polls":  # what waits to wait is better asked of the next owner
        for c, jobs in adm[0]:
            for o, letter, maybe in jobs:
                if letter == "P":
                    adm, _ = admission(m, adm, "cancel", c, o)
                    unbegun.append((c, o, maybe))
    p = p._replace(adm=adm, pc=BACKLOG)
    if m.variant == "drain_drops":
        adm, taken = admission(m, adm, "withdraw", False)
        p = p._replace(adm=adm)
        s = _drop(s, p, taken)
    s = with_proc(s, i, p)
    for c in p.known if m.variant == "split_decision" else range(m.scope.clients):
        if p.sess[c] is not None:
            jobs = tuple((o, maybe) for n, o, maybe in unbegun if n == c)
            s = hand_back(m, s, i, c, jobs, first=True)
    if m.variant == "release_at_goodbye":
        s = untake(s, p)
    if m.variant == "close_while_accepting":
        s = with_proc(s, i, s.procs[i]._replace(db=False))
    out(("X2.goodbye", i), s)


def _drop(s: State, p: Proc, taken: tuple[tuple[int, ...], ...]) -> State:
    return bad(s, "I14 admitted work is dropped") if taken else s


def _backlog(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """X3: whoever waits is told to come again."""
    for k in range(len(s.conns) - 1, -1, -1):
        conn = s.conns[k]
        if conn.to == p.inc and conn.stage == WAITING:
            if m.variant == "close_while_accepting":
                continue
            told = conn._replace(stage=LOOSE, down=(("X",),), shut_down=True, up=())
            s = with_conn(s, k, told)
    out(("X3.backlog", i), with_proc(s, i, p._replace(pc=HANGUP)))


def _hangup(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """X4: the kernel resets who came too late."""
    s = with_proc(s, i, p._replace(pc=SETTLE, listening=False))
    for k in range(len(s.conns) - 1, -1, -1):
        if s.conns[k].to == p.inc and s.conns[k].stage == WAITING:
            s = drop_conn(s, k)
    told = has_journal(m, p) and m.variant != "stops_are_deaths"
    if told and p.life[2] != "failed" and may_cut_off(m, p):
        s = append(m, s, i, "L", 0)  # what outlasts the grace did not end this owner
    out(("X4.hangup", i), s)


def _settle(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """Admitted work ends; where the grace is shorter, what is left is named."""
    owed = any(sess is not None and sess.jobs for sess in p.sess)
    runs = any(letter != "P" for _, _, letter, *_ in p.adm[2])
    if not owed and not runs:
        s = end_conns(m, s, i)
        p = s.procs[i]
        if m.variant == "unlock_then_close":
            s = untake(s, p)
        out(("X4.settled", i), with_proc(s, i, p._replace(pc=CLOSE)))
    elif m.scope.grace:
        s = s._replace(seen=s.seen._replace(deaths=True))
        adm, taken = admission(m, p.adm, "withdraw", False)
        s = with_proc(s, i, p._replace(adm=adm))
        for c, o, _, maybe in taken:
            if s.procs[i].sess[c] is not None:
                s = hand_back(m, s, i, c, ((o, maybe),), first=False)
        for c, o, letter, _, _ in adm[2]:
            if letter == "Q" or (letter != "E" and has_journal(m, p)):
                s = hand_on(m, s, i, c, o)
            else:
                s = reply(m, s, i, c, o, (UNKNOWN, 0))
        s = end_conns(m, s, i)
        p = s.procs[i]
        out(("X4.grace", i), with_proc(s, i, p._replace(pc=CLOSE)))


def _close(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """X5: a store that is in use, or was never ready, is left as after a crash."""
    runs = any(letter != "P" for _, _, letter, *_ in p.adm[2])
    if p.life[1] == "ready" and not runs:
        d = s.disk._replace(synced=len(s.disk.journal), store_safe=len(s.disk.store))
        s = with_proc(s._replace(disk=d), i, p._replace(pc=EXIT, db=False))
        out(("X5.close", i), s)
    else:
        out(("X5.abandon", i), with_proc(s, i, p._replace(pc=EXIT)))


def _exit(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """X6: the process ends, and the kernel releases the lock."""
    if canary.exiting(m, s, i, p, out):
        return
    if any(sess is not None and sess.jobs for sess in p.sess) and not s.seen.deaths:
        s = bad(s, "I14 admitted work is dropped")
    if m.variant == "files_after_release" and s.procs[i].ino:
        if _holds(s, p) == p.inc:
            out(("X6.release", i), untake(s, p))
            return
        s = s._replace(disk=s.disk._replace(record=(), sock=0))
    if m.variant in ("unlink_after", "unlink_after_blind"):
        if _holds(s, p) == p.inc:
            out(("X6.release", i), untake(s, p))
            return
        s = s._replace(disk=s.disk._replace(linked=0))
    if m.variant in ("unlink_held", "unlink_held_verified") and s.disk.linked == p.ino:
        out(("X6.unlink", i), s._replace(disk=s.disk._replace(linked=0)))
        return
    status = 70 if p.life[2] == "failed" else MOVED_ON
    s = die(m, s, i, status, said=status != 0)
    out(("X6.exit", i), s)


_BECOMING = {
    OPEN: _open,
    LOCK: _lock,
    VERIFY: _verify,
    HOLD: _hold,
    FENCE: _fence,
    DATA: _data,
    EPOCH: _epoch,
    BIND: _bind,
    PUBLISH: _publish,
}
_MAY_FAIL = (LOCK, HOLD, FENCE, DATA, EPOCH, BIND, PUBLISH)
_LEAVING = {
    DECIDED: _decided,
    UNSOCK: _unsock,
    BACKLOG: _backlog,
    HANGUP: _hangup,
    SETTLE: _settle,
    CLOSE: _close,
    EXIT: _exit,
}
