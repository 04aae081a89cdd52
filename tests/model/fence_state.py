"""What a state of the fence's model is made of, and how much of the world a search contains."""

from typing import NamedTuple, TypeVar

# Where a process is.
OFF, ASK, TERMINATE, READ, NOTE, WAIT, SHARE, GAP, LOAD, SERVE, LEAVE, SETTLED = range(12)
# Whose session it is: palace's own or stock's.
OWN, STOCK = 1, 2
# How a session holds the lock.
SHARED, EXCLUSIVE, BOTH = 1, 2, 3
# What a session's transaction does; what is sent may be committed whatever becomes of its client.
IDLE, SENT, DONE, CLAIMING, CLAIMED = range(5)
# Steps that need not happen.
FAULTS = frozenset({"kill", "end", "failover", "copy", "force"})


class Scope(NamedTuple):
    """Sizes; each number is how often something may happen."""

    name: str
    palaces: int = 2  # directories of hosts that name the same tables
    copies: int = 0  # of the first directory, started elsewhere
    claims: int = 2  # incarnations
    changes: int = 1
    kinds: int = 1  # sessions of a process: its own, and stock's
    crashes: int = 0
    ends: int = 0  # sessions that the server ends
    forces: int = 0
    failovers: int = 0
    live: bool = False  # keep the edges, check liveness


class Row(NamedTuple):
    """Who has the right, or had it last; `place` is the directory, `line` the timeline."""

    place: int = -1
    line: int = 0
    inc: int = 0
    epoch: int = 0
    settled: bool = False


class Tables(NamedTuple):
    row: Row = Row()
    now: int = 0  # the change that was written last


class Session(NamedTuple):
    dir: int
    kind: int
    inc: int = 0
    lock: int = 0
    txn: int = IDLE
    val: int = 0  # of the change
    dead: bool = False  # its client is
    force: bool = False


class Proc(NamedTuple):
    """A process that holds a directory's lock."""

    at: int = OFF
    inc: int = 0
    line: int = 0  # the timeline in which it asked
    ours: int = 0  # the incarnation of this directory that the row named
    force: bool = False
    lost: bool = False
    cut: bool = False  # the server has ended a session of it
    entering: int = 0  # the session whose right is to be looked at yet
    change: int = IDLE
    kind: int = 0


class Journal(NamedTuple):
    open: int = 0
    before: int = 0
    last: int = 0
    inc: int = 0  # which has opened the change


class Left(NamedTuple):
    claims: int
    changes: int
    crashes: int
    ends: int
    forces: int
    failovers: int


class State(NamedTuple):
    procs: tuple[Proc, ...]
    notes: tuple[tuple[int, ...], ...]
    journals: tuple[Journal, ...]
    exists: tuple[bool, ...]
    left: Left
    sessions: tuple[Session, ...] = ()
    tables: Tables = Tables()
    replica: Tables = Tables()
    line: int = 1
    made: tuple[Row, ...] = ()  # by incarnation
    changes: int = 0
    # Ghosts.
    wrote: tuple[tuple[int, int], ...] = ()  # (epoch, incarnation) in this timeline
    top: int = 0  # the highest epoch of this timeline
    acked: int = 0
    owed: tuple[int, ...] = ()  # directories of whose acknowledged changes a fail-over lost some
    gone: tuple[int, ...] = ()  # incarnations of which a fail-over lost everything
    forced: bool = False
    bad: str = ""


NOBODY = Proc()
T = TypeVar("T")


def put(values: tuple[T, ...], n: int, value: T) -> tuple[T, ...]:
    return (*values[:n], value, *values[n + 1 :])


def ends(sessions: tuple[Session, ...], n: int) -> tuple[Session, ...]:
    return sessions[:n] + sessions[n + 1 :]


def find(s: State, d: int, kind: int) -> int:
    """Return the number of a living process's session, -1 where the server has ended it."""
    for n, one in enumerate(s.sessions):
        if one.dir == d and one.kind == kind and not one.dead:
            return n
    return -1
