"""The invariants, by the names of the protocol."""

from collections import Counter

from tests.model.canary import death_violation
from tests.model.engine import CRASHES_MAX, committed
from tests.model.serving import has_journal
from tests.model.state import (
    DECIDED,
    EPOCH,
    FREE,
    OK,
    QUARANTINED,
    REFUSED,
    SERVE,
    State,
    key_of,
)
from tests.model.world_types import Model

INVARIANTS = {
    "I1": "one writer: the store is open in one process, orphans and stock of this home included",
    "I2": "who has the store open holds the flock on the inode that broker.lock names",
    "I3": "a living owner's record is true: it is bound, and listens; no record is torn",
    "I4": "who serves can be reached: record and socket are its own",
    "I6": "epochs rise, each has one holder, and no client follows an older owner",
    "I7": "what was acknowledged stays, whatever dies",
    "I8": "each line takes effect once at most; who was told that it didn't run is told the truth",
    "I9": "no call runs without the store; no outcome is unknown unless somebody died",
    "I10": "nobody behind a VM boundary has the store open",
    "I11": "the lock file is made once, and stays",
    "I12": "nobody holds a lock for a dead process, nobody is killed",
    "I14": "what was admitted ends in a reply, in a named end, or at the next owner",
    "I15": "a line sees what its session changed before it, and nothing later",
    "I16": "whoever was told that the palace is on hold finds it so",
    "I17": "a line that ends its owners is not tried a third time, and no other is suspected",
    "W1": "a death of an owner is recorded once, whoever notices it",
    "W2": "an owner that has left, or lives, has no record",
    "W3": "a death is recorded, or there is still somebody or something that will tell",
    "L1": "a client is served or told a named reason that is true",
    "L2": "when all have left, no process, record or socket stays; nothing holds a drain up",
    "L4": "nobody is started beside an owner that is known to live",
    "C1": "a named broker is used as it stands",
}


def violation(m: Model, s: State) -> str:
    """Return the first invariant that a state breaks, and how; "" for a good one."""
    if s.seen.bad:
        return s.seen.bad
    return _kernel(m, s) or _owners(m, s) or _memory(m, s) or death_violation(s)


def _kernel(m: Model, s: State) -> str:
    k, d = s.kernel, s.disk
    opened = [p for p in s.procs if p.db]
    orphans = sum(store for _, store, _ in k.orphans)
    if len(opened) + orphans + s.seen.open > 1:
        return "I1 two have the store open"
    for p in opened:
        if p.kern:
            return "I10 the store is open behind a VM boundary"
        if p.ino != d.linked or k.flock[p.ino] != p.inc:
            return "I2 the store is open without the lock"
    if (d.linked == 0 and d.inodes) or d.inodes > 1:
        return "I11 the lock file was removed"
    alive = {p.inc for p in s.procs}
    for holder in (*k.flock, *k.guest):
        if holder and holder not in alive:
            return "I12 a dead process's lock is held"
    return ""


def _owners(m: Model, s: State) -> str:
    d = s.disk
    if len(d.record) == 1 and s.left.damage == m.scope.damage:
        return "I3 the record is torn"
    for p in s.procs:
        if p.pc == FREE:
            continue
        named = d.record[:1] == (p.inc,) and not p.direct
        if named and (not p.listening or d.sock != p.inc):
            return "I3 the record names a socket that isn't there"
        serving = p.pc in (SERVE, DECIDED) and p.listening
        if serving and (d.sock != p.inc or (d.record[:1] != (p.inc,) and d.record != (0,))):
            return "I4 an owner serves, and its names are not its own"
        if s.seen.held and EPOCH <= p.pc <= SERVE:
            return "I16 an owner in spite of a hold"
    return ""


def _memory(m: Model, s: State) -> str:
    d = s.disk
    store = d.store
    if m.variant == "resend_new_id":  # which line of its client a change was, whatever its number
        lines = {key - key % 16 + key % 16 % len(m.scope.lines[key // 16]) for key in store}
        if len(lines) != len(store):
            return "I8 a change was made twice"
    if s.seen.poisoned > CRASHES_MAX:
        return "I17 a line ends one owner after another"
    if not m.scope.deadly and any(record[0] == "Q" for record in d.journal):
        return "I17 a line is suspected though no owner died"
    if len(set(store)) != len(store):
        return "I8 a change was made twice"
    durable: set[int] | None = None
    for c, shim in enumerate(s.shims):
        changes = 0
        for ordinal, (code, mask) in enumerate(shim.got):
            letter = m.scope.lines[c][ordinal % len(m.scope.lines[c])]
            key = key_of(c, ordinal)
            if code == OK:
                if changes & ~mask:
                    return "I15 a line was answered without what came before it"
                if letter == "M":
                    changes |= 1 << ordinal
                    if durable is None:
                        durable = committed(d.journal)
                    kept = key in durable if m.scope.journal_always else key in store
                    if not kept:
                        return "I7 an acknowledged change is lost"
                if mask >> ordinal:
                    return "I15 a line saw what came after it"
            elif (
                code in (REFUSED, QUARANTINED)
                and letter != "Q"
                and key in store
                and key not in given_up(s)
            ):
                return "I8 a line that was said not to have run has run"
    return _ready_owner(m, s)


def given_up(s: State) -> set[int]:
    """Return the keys that three owners died of while they took them back: left as they are."""
    tried = Counter(record[1] for record in s.disk.journal if record[0] == "T")
    return {key for key, count in tried.items() if count > CRASHES_MAX}


def _ready_owner(m: Model, s: State) -> str:
    """Once an owner is ready, the store is what the journal says."""
    for p in s.procs:
        if p.life[1] != "ready" or not p.db or not has_journal(m, p):
            continue
        d = s.disk
        keys = committed(d.journal)
        if keys - set(d.store):
            return "I7 an acknowledged change is lost"
        running = {key_of(c, o) for c, o, _ in p.work}
        extra = set(d.store) - keys - running - given_up(s)
        if extra and m.scope.journal_always and not any("E" in x for x in m.scope.lines):
            return "I8 a change stayed that nobody finished"
    return ""


def served(s: State) -> bool:
    """Tell whether every client that is still there has an answer to all that it asked."""
    return not any(shim.ledger[0] for shim in s.shims)


def quiet(s: State) -> bool:
    """Tell whether nothing is left of any owner: no process, no record, no socket."""
    names = s.disk.sock or s.disk.record
    return all(p.pc == FREE for p in s.procs) and not names and not s.deaths.canaries


def spent(m: Model, s: State) -> bool:
    """Tell whether this scope has no further start to offer, so that waiting may be in vain."""
    return s.left.starts == 0
