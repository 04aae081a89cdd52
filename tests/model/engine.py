"""The engine: opening the store, recovery, and what a running call does, change by change.

The code: palace/engine/{mempalace,memory,durable,recovery}.py, palace/journal/.
"""

from typing import Any

from tests.model import machines
from tests.model.machines import Verdict, tail_of
from tests.model.owner import die, late_fence
from tests.model.serving import admission, append, has_journal, limits, refuse_waiting, reply, start
from tests.model.state import (
    BACKLOG,
    CLOSE,
    EXIT,
    OK,
    QUARANTINED,
    SERVE,
    UNKNOWN,
    Proc,
    State,
    bad,
    key_of,
    with_proc,
)
from tests.model.world_types import Model, Out

CRASHES_MAX = 2  # palace/engine/durability/recovery.py
# Where an owner hears that its store is open; the decision to leave may come in the same turn.
NEWS = (SERVE, BACKLOG)
_RESULTS = {Verdict.UNKNOWN: (UNKNOWN, 0), Verdict.QUARANTINE: (QUARANTINED, 0)}


def seen_by(s: State, c: int, ordinal: int) -> int:
    """Return which of a session's own changes before a line are in the store, as bits."""
    store = s.disk.store
    return sum(1 << o for o in range(ordinal) if key_of(c, o) in store)


# The journal.


def fsync(s: State) -> State:
    return s._replace(disk=s.disk._replace(synced=len(s.disk.journal)))


def committed(journal: tuple[Any, ...]) -> set[int]:
    """Return the keys whose outcome stands in a journal."""
    return {record[1] for record in journal if record[0] == "O"}


# Opening.


def load_steps(m: Model, s: State, i: int, out: Out) -> None:
    """B9: in a thread of its own, whatever the loop does meanwhile."""
    p = s.procs[i]
    if p.life[1] != "loading" or p.pc < SERVE or p.pc == EXIT:
        return
    if not p.load:
        if not late_fence(m, s, i, out):
            if machines.is_busy(p.adm, limits(m)):  # the wait is over for those who began it
                out(("B4.refuse", i), refuse_waiting(m, s, i))
            return
        go = with_proc(s, i, p._replace(db=True, load=(1,)))
        if has_journal(m, p) and m.variant != "tail_not_synced":
            go = fsync(go)  # what a dead owner wrote is repeated only once it is durable
        if has_journal(m, p) and p.pc not in NEWS and m.variant != "stops_are_deaths":
            go = append(m, go, i, "L", 0)  # it was told before there was a journal to say it in
        out(("B9.open", i), _note_pause(m, go, i))
    elif p.load[0] == 4:
        _end_pause(m, s, i, p, out)
    elif has_journal(m, p):
        _recover(m, s, i, p, out)
    else:
        _ready(m, s, i, p, out)
    if s.left.faults and p.pc in NEWS:  # it won't open, or can't be recovered: both as they are
        t = s._replace(left=s.left._replace(faults=s.left.faults - 1))
        t = with_proc(t, i, p._replace(life=machines.life(p.life, "failed"), load=(9,)))
        out(("B9.fail", i), refuse_waiting(m, t, i))


def _note_pause(m: Model, s: State, i: int) -> State:
    """Say that the journal will know nothing of this owner; or read that it knows nothing of one.

    What it reads stands in the journal (a new segment's header) before the note is removed.
    """
    p, d = s.procs[i], s.disk
    if not has_journal(m, p):
        return s._replace(disk=d._replace(paused=m.scope.journal))
    if not d.paused or m.variant == "adopts_blindly" or (m.variant == "gap_vouched" and d.journal):
        return s
    s = with_proc(s, i, p._replace(load=(4,)))
    if m.variant == "note_lost":
        return s._replace(disk=d._replace(paused=False))
    return fsync(append(m, s, i, "H", 0))


def _end_pause(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    if m.variant == "note_lost":
        s = fsync(append(m, s, i, "H", 0))
    s = s._replace(disk=s.disk._replace(paused=False))
    out(("B9.note", i), with_proc(s, i, s.procs[i]._replace(load=(1,))))


def _recover(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    d = s.disk
    if p.load[0] == 2:
        _take_back(m, s, i, p, out)
        return
    if p.load[0] == 3:
        key = p.load[1]
        crashes = tail_of(d.journal, p.ops).attempts.get(machines.call_key(key), 0)
        s = append(m, s, i, "U", key)
        if crashes >= CRASHES_MAX:
            s = append(m, s, i, "Q", key)
        s = append(m, s, i, "A", key)
        out(("R.abort", i), with_proc(s, i, s.procs[i]._replace(load=(1, 1))))
        return
    tail = tail_of(d.journal, p.ops)
    if tail.open and m.variant != "no_rollback":
        session, _, ordinal = next(iter(tail.open)).partition(":")
        key = key_of(int(session), int(ordinal))
        if m.variant != "attempts_uncounted":
            s = append(m, s, i, "T", key)
        s = fsync(s)
        out(("R.attempt", i), with_proc(s, i, s.procs[i]._replace(load=(2, key))))
        return
    for key in sorted(committed(d.journal)):
        if key not in d.store and m.variant != "lost_stays_lost":
            s = s._replace(disk=d._replace(store=(*d.store, key)))
            out(("R.write", i), s)
            return
    if len(p.load) > 1 or (tail.baseline is None and m.scope.clients):
        s = fsync(append(m, s, i, "S", 0))
        out(("R.state", i), with_proc(s, i, s.procs[i]._replace(load=(1,))))
        return
    _ready(m, s, i, p, out)


def _take_back(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    """The attempt is on record: now the store, then the journal again."""
    d = s.disk
    key = p.load[1]
    crashes = tail_of(d.journal, p.ops).attempts.get(machines.call_key(key), 0)
    if key in d.store and crashes <= CRASHES_MAX:
        store = tuple(k for k in d.store if k != key)
        s = s._replace(disk=d._replace(store=store, store_safe=min(d.store_safe, len(store))))
    out(("R.undo", i), with_proc(s, i, p._replace(load=(3, key))))


def _ready(m: Model, s: State, i: int, p: Proc, out: Out) -> None:
    if p.pc not in NEWS:  # leaving: nobody takes the news
        return
    life = machines.life(p.life, "loaded")
    adm, started = admission(m, p.adm, "ready")
    if m.variant == "epoch_after_open":
        s = s._replace(disk=s.disk._replace(epoch=p.epoch, epoch_safe=p.epoch))
    s = with_proc(s, i, p._replace(life=life, adm=adm, load=(9,)))
    out(("B9.ready", i), start(s, i, started))


# Running.


def work_steps(m: Model, s: State, i: int, out: Out) -> None:
    """What the lanes' threads do, and the syncer, which tells the loop."""
    p = s.procs[i]
    for c, ordinal, step in p.work:
        _work(m, s, i, (c, ordinal, step), out)
    if p.waits and p.pc < CLOSE:
        t = with_proc(fsync(s), i, p._replace(waits=()))
        for c, ordinal, result in p.waits:
            t = reply(m, t, i, c, ordinal, result)
        out(("W.synced", i), t)
    if p.wedged and m.variant != "no_watchdog":
        out(("watchdog", i), die(m, s, i, 70, said=False, killed=True))


def _job(p: Proc, c: int, ordinal: int) -> tuple[str, bool]:
    for session, number, letter, maybe, _ in p.adm[2]:
        if (session, number) == (c, ordinal):
            return letter, maybe
    raise AssertionError("a running call is admission's")


def _work(m: Model, s: State, i: int, entry: tuple[int, int, int], out: Out) -> None:
    p = s.procs[i]
    c, ordinal, step = entry
    letter, maybe = _job(p, c, ordinal)
    if letter in "QP":
        sess = p.sess[c]
        if sess is not None and ordinal in sess.jobs:  # nobody is owed a cancelled poll's reply
            s = _need_store(s, p)
        result = (OK, seen_by(s, c, ordinal))
        out((f"W.{'query' if letter == 'Q' else 'poll'}", i), finish(m, s, i, entry, result))
    elif p.wedged:
        return
    elif step == 0:
        _begin(m, s, i, entry, (letter, maybe), out)
    elif step == 1:
        out(("W.sync", i), _step(fsync(s), i, entry, 2))
    elif step == 2:
        _apply(m, s, i, entry, out)
    elif step == 3:
        _outcome(m, s, i, entry, letter, out)
    elif step == 4:  # of mutants: what belongs before the reply comes after it
        s = append(m, s, i, "O", key_of(c, ordinal), seen_by(s, c, ordinal))
        out(("W.late", i), _leave(m, s, i, entry))


def _need_store(s: State, p: Proc) -> State:
    return s if p.db else bad(s, "I9 a call runs without the store")


def _step(s: State, i: int, entry: tuple[int, int, int], step: int) -> State:
    p = s.procs[i]
    c, ordinal, _ = entry
    work = tuple((c, ordinal, step) if w == entry else w for w in p.work)
    return with_proc(s, i, p._replace(work=work))


def _begin(m: Model, s: State, i: int, entry: Any, job: tuple[str, bool], out: Out) -> None:
    """`DurableCalls.answer`: repeat it, refuse it, or journal what it will change."""
    p = s.procs[i]
    c, ordinal, _ = entry
    letter, maybe = job
    sess = p.sess[c]
    epoch = sess.epoch if sess is not None else 0
    journal = has_journal(m, p)
    remembered = (s.disk.journal, p.ops) if journal else ()
    if m.variant == "ledger_forgets":
        maybe = False
    found, mask = machines.verdict(letter, maybe, remembered, (c, ordinal, epoch))
    if (
        (m.variant == "runs_again" and found is not Verdict.REPEAT)
        or (m.variant == "external_again" and letter == "E")
        or (m.variant == "no_quarantine" and found is Verdict.QUARANTINE)
        or (m.variant == "replies_unkept" and found is Verdict.REPEAT)
    ):
        found = Verdict.RUN
    if found is Verdict.REPEAT:
        out(("W.repeat", i), finish(m, s, i, entry, (OK, mask)))
    elif found is not Verdict.RUN:
        out((f"W.{found.value}", i), finish(m, s, i, entry, _RESULTS[found]))
    elif letter == "M" and journal and m.variant not in ("apply_first", "outcome_alone"):
        s = append(m, s, i, "P", key_of(c, ordinal))
        out(("W.journal", i), _step(s, i, entry, 1 if m.scope.split else 2))
    else:
        _apply(m, s, i, entry, out)


def _apply(m: Model, s: State, i: int, entry: tuple[int, int, int], out: Out) -> None:
    p = s.procs[i]
    c, ordinal, step = entry
    key = key_of(c, ordinal)
    if s.left.wedges:
        t = s._replace(left=s.left._replace(wedges=s.left.wedges - 1))
        out(("wedge", i), with_proc(t, i, p._replace(wedged=True)))
    if key == m.scope.poison:
        s = s._replace(seen=s.seen._replace(poisoned=s.seen.poisoned + 1))
        out(("poison", i), die(m, s, i, -6, said=False, killed=True))
        return
    s = _need_store(s, p)
    s = s._replace(disk=s.disk._replace(store=(*s.disk.store, key)))
    if m.variant == "apply_first" and step == 0 and has_journal(m, p):
        out(("W.apply", i), _step(s, i, entry, 3))
        return
    out(("W.apply", i), _step(s, i, entry, 3))


def _outcome(m: Model, s: State, i: int, entry: Any, letter: str, out: Out) -> None:
    p = s.procs[i]
    c, ordinal, _ = entry
    mask = seen_by(s, c, ordinal)
    if letter != "M" or not has_journal(m, p):
        out(("W.done", i), finish(m, s, i, entry, (OK, mask)))
        return
    key = key_of(c, ordinal)
    if m.variant == "apply_first":
        s = append(m, s, i, "P", key)
    if m.variant == "outcome_apart":
        s = reply(m, s, i, c, ordinal, (OK, mask))
        out(("W.early", i), _step(s, i, entry, 4))
        return
    s = append(m, s, i, "O", key, mask)
    out(("W.outcome", i), finish(m, s, i, entry, (OK, mask), durable=True))
    quiet = not tail_of(s.disk.journal, s.procs[i].ops).open
    if m.scope.roll and quiet and not any(r[0] == "G" for r in s.disk.journal):
        d = s.disk
        s = s._replace(disk=d._replace(journal=(*d.journal, ("G", 0, p.epoch, s.procs[i].ops))))
        s = fsync(s)
        out(("W.roll", i), finish(m, s, i, entry, (OK, mask), durable=True))


def _leave(m: Model, s: State, i: int, entry: tuple[int, int, int]) -> State:
    """A thread has its result: admission learns it, and others may start."""
    p = s.procs[i]
    adm, started = admission(m, p.adm, "finish", entry[0], entry[1])
    work = tuple(w for w in p.work if w != entry)
    return start(with_proc(s, i, p._replace(adm=adm, work=work)), i, started)


def finish(
    m: Model, s: State, i: int, entry: Any, result: tuple[int, int], *, durable: bool = False
) -> State:
    """`Scheduler.finish` and `deliver`: the reply leaves now, or once the outcome is durable."""
    c, ordinal, _ = entry
    sess = s.procs[i].sess[c]
    wanted = sess is not None and ordinal in sess.jobs
    if durable and m.variant != "reply_before_sync":
        if wanted:
            p = s.procs[i]
            s = with_proc(s, i, p._replace(waits=(*p.waits, (c, ordinal, result))))
    elif wanted:
        s = reply(m, s, i, c, ordinal, result)
    return _leave(m, s, i, entry)
