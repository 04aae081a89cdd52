"""What a state of the world is made of: immutable, hashable, and nothing but numbers and tuples."""

from typing import Any, NamedTuple

# Where a process stands: the protocol's steps B1..B9, X0..X6.
FREE, OPEN, LOCK, VERIFY, HOLD, FENCE, DATA, EPOCH, BIND, PUBLISH, SERVE = range(11)
UNSOCK, BACKLOG, HANGUP, SETTLE, CLOSE, EXIT = range(11, 17)
DECIDED = 17  # of a mutant: decided to leave, and the names are still there
_PLACES = (
    "free open lock verify hold fence data epoch bind publish serve "
    "unsock backlog hangup settle close exit decided"
)
PLACES = _PLACES.split()

# Where a shim stands.
IDLE, SLEEP, GREET, UP, UNLINK, GONE = range(6)

# What a client was told about a line.
NOTHING, OK, UNKNOWN, REFUSED, QUARANTINED = range(5)

# Stages of a connection.
WAITING, BOUND, LOOSE = range(3)  # in the backlog; a session's; nobody's any more

STOCK = 90  # holder of mempalace's lock: a stock process
OTHER = 91  # holder of a data file's lock: another palace's broker

LIFE = ("serving", "loading", "")
ADMISSION: tuple[Any, ...] = ((), (), (), False, False)


class Sess(NamedTuple):
    """One shim's session at one owner."""

    next: int = 0
    resend: tuple[tuple[int, bool], ...] = ()
    jobs: tuple[int, ...] = ()
    closing: bool = False
    kept: tuple[Any, ...] = ()  # replies for the next connection
    answered: tuple[int, ...] = ()
    offering: tuple[Any, ...] = ()  # (ordinal, maybe ran) that waits outside of a full queue
    epoch: int = 0
    lost: bool = False  # without a connection
    acked: int = 0  # all lines below are settled at the shim


class Proc(NamedTuple):
    """A broker, or a direct one; a slot's number plays the pid, so pids are reused."""

    pc: int = FREE
    inc: int = 0  # the number of its start
    kern: int = 0  # 1: behind a VM boundary
    starter: int = 0  # shim + 1
    direct: bool = False
    ino: int = 0
    epoch: int = 0
    listening: bool = False
    life: tuple[str, str, str] = LIFE
    adm: tuple[Any, ...] = ADMISSION
    sess: tuple[Sess | None, ...] = ()
    work: tuple[tuple[int, int, int], ...] = ()  # (shim, ordinal, step) of running calls
    waits: tuple[Any, ...] = ()  # (shim, ordinal, result): replies that wait for an fsync
    db: bool = False
    load: tuple[Any, ...] = ()
    ops: tuple[Any, ...] = ()  # what its memory of the journal forgot, and after which record
    settled: tuple[Any, ...] = ()  # what sessions said, noted at the next append
    wedged: bool = False
    known: tuple[int, ...] = ()  # of a mutant: the sessions that its decision knew of


class Shim(NamedTuple):
    pc: int = IDLE
    ledger: tuple[Any, ...] = ((), 0)
    election: tuple[Any, ...] = ()
    child: tuple[Any, ...] = ()  # (inc, exit status or -1, has it said why)
    direct: bool = False
    epoch: int = 0
    since: int = 0  # the owner to which the oldest line that may have run was first sent
    parting: bool = False
    lost: bool = False  # its last connection ended without a goodbye, with lines under way
    promised: tuple[int, ...] = ()
    promised_next: int = 0
    got: tuple[Any, ...] = ()  # per line: (result, own changes that it saw)


class Conn(NamedTuple):
    """A connection; what either side has written survives its end."""

    shim: int
    to: int  # inc
    stage: int = WAITING
    hello: tuple[Any, ...] = ()
    up: tuple[Any, ...] = ()
    down: tuple[Any, ...] = ()
    shut_up: bool = False  # the shim has closed it
    shut_down: bool = False  # the broker has


class Disk(NamedTuple):
    linked: int = 1  # the inode at broker.lock
    inodes: int = 1
    record: tuple[Any, ...] = ()  # (inc, epoch, boot, slot); (0,) is torn
    sock: int = 0  # inc of who bound the name
    epoch: int = 0
    epoch_safe: int = 0  # what a power cut leaves of it
    hold: bool = False
    journal: tuple[Any, ...] = ()
    synced: int = 0  # records that survive a power cut
    paused: bool = False  # the note of an owner that works without the journal
    store: tuple[int, ...] = ()  # keys in the order of their changes
    store_safe: int = 0


class Kernel(NamedTuple):
    flock: tuple[int, ...] = (0, 0)  # by inode: the holder's inc
    guest: tuple[int, ...] = (0, 0)  # the same in a guest's kernel, which knows nothing of ours
    mempalace: int = 0
    data: int = 0
    boot: int = 0
    orphans: tuple[tuple[int, bool, int], ...] = ()  # (inc, has the store, listens): of mutants


class Left(NamedTuple):
    """How often the world may still do its worst."""

    starts: int = 0
    crashes: int = 0
    reboots: int = 0
    kills: int = 0
    silences: int = 0
    faults: int = 0
    damage: int = 0
    stops: int = 0
    upgrades: int = 0
    wedges: int = 0
    stock: int = 0
    aliens: int = 0
    lapses: int = 0
    cuts: int = 0
    holds: int = 0
    canary_kills: int = 0
    pipes: int = 0


class Canary(NamedTuple):
    """A canary: whose, in which slot that ran, and what it has been told."""

    inc: int
    slot: int
    told: tuple[str, ...] = ()
    cut: bool = False  # its pipe is lost
    ended: bool = False  # it has read its pipe's end, and waits for the grace


class Deaths(NamedTuple):
    """Canaries, and what lies in deaths/; the last two only remember what happened."""

    canaries: tuple[Canary, ...] = ()
    marks: tuple[int, ...] = ()
    records: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()


class Seen(NamedTuple):
    """What has happened, as far as an invariant asks for it."""

    bad: str = ""  # an invariant that a step broke, and how
    top: int = 0  # the highest epoch ever taken
    deaths: bool = False  # somebody was killed, or work outlasted a grace
    stock: bool = False  # a stock process has run
    open: int = 0  # stock processes that have the store open
    alien: bool = False
    poisoned: int = 0  # owners that died of the poison
    held: bool = False  # the user was told that nothing runs and nothing will


class State(NamedTuple):
    procs: tuple[Proc, ...]
    shims: tuple[Shim, ...]
    conns: tuple[Conn, ...]
    disk: Disk
    kernel: Kernel
    left: Left
    seen: Seen
    deaths: Deaths = Deaths()


NOBODY = Proc()


def put(items: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*items[:place], value, *items[place + 1 :])


def with_proc(s: State, i: int, p: Proc) -> State:
    return s._replace(procs=put(s.procs, i, p))


def with_shim(s: State, c: int, shim: Shim) -> State:
    return s._replace(shims=put(s.shims, c, shim))


def with_conn(s: State, k: int, conn: Conn) -> State:
    """Store a connection, or forget it once both sides have."""
    if conn.shut_up and (conn.shut_down or not any(p.inc == conn.to for p in s.procs)):
        return s._replace(conns=s.conns[:k] + s.conns[k + 1 :])
    return s._replace(conns=put(s.conns, k, conn))


def bad(s: State, text: str) -> State:
    """Note that a step broke an invariant; the first one stands."""
    return s if s.seen.bad else s._replace(seen=s.seen._replace(bad=text))


def find_inc(s: State, inc: int) -> int:
    for i, p in enumerate(s.procs):
        if p.inc == inc and p.pc != FREE:
            return i
    return -1


def conn_of(s: State, c: int) -> int:
    """Return the place of a shim's own connection: the one that it hasn't closed."""
    for k, conn in enumerate(s.conns):
        if conn.shim == c and not conn.shut_up:
            return k
    return -1


def bound_conn(s: State, c: int, inc: int) -> int:
    """Return the place of the connection that a session at an owner speaks over."""
    for k, conn in enumerate(s.conns):
        if conn.shim == c and conn.to == inc and conn.stage == BOUND and not conn.shut_down:
            return k
    return -1


def key_of(c: int, ordinal: int) -> int:
    return c * 16 + ordinal
