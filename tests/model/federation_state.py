"""What a state of federation's model is made of, and how much of the world a search contains.

Texts are numbers, each written once, so that a text says when it was said; 0 is none.
"""

from typing import Any, NamedTuple, TypeVar

MARK = -1  # in an entity's place: the record that says that earlier ones were purged
BLANK = -1  # in a text's place: it was purged

At = tuple[int, int]  # epoch and seq of a record
BEGIN: At = (0, 0)
Live = tuple[int, ...]  # each entity's text

# Where a pull is.
IDLE, ASKED, READS = range(3)
# What it reads.
LIVE, COPY = range(2)


class Scope(NamedTuple):
    """Sizes; each number is how often something may happen."""

    name: str
    entities: int = 2
    writes: int = 3  # and deletions
    purges: int = 0
    backs: int = 0  # an earlier state is put back there
    trims: int = 0  # a checkpoint, and what is before it is removed
    copies: int = 0  # of the journal there, from which is pulled, too
    halves: int = 0  # a pull reads one in which a file is missing
    damages: int = 0  # a record can't be read any more
    pullers: int = 1
    pulls: int = 2
    crashes: int = 0
    decisions: int = 0
    undos: int = 0  # our own stores are put back
    room: int = 0  # candidates that are kept, 0: all


class Rec(NamedTuple):
    epoch: int
    what: int  # an entity, or MARK
    text: int


class Journal(NamedTuple):
    """There: seqs are places, from 1.  What is up to `cut` a checkpoint says, and nothing else."""

    records: tuple[Rec, ...] = ()
    cut: int = 0
    damaged: frozenset[int] = frozenset()
    hole: int = 0  # a record whose file was not copied

    def at(self, seq: int) -> At:
        return (self.records[seq - 1].epoch, seq) if seq else BEGIN

    @property
    def end(self) -> int:
        return len(self.records)

    def is_there(self, seq: int) -> bool:
        return self.cut < seq <= self.end and seq != self.hole and seq not in self.damaged


Item = tuple[Any, ...]  # as `federation_taking` decodes it


class Pull(NamedTuple):
    phase: int = IDLE
    source: int = LIVE
    hole: int = 0
    place: tuple[At, int] = (BEGIN, 0)  # where it began, and the step
    upto: At = BEGIN  # the record that was read last
    items: tuple[Item, ...] = ()
    is_read: bool = False
    done: int = 0  # batches that were taken
    asked: int = 0  # entities of which it has asked whether they are known
    known: tuple[int, ...] = ()
    owes: At = BEGIN  # the journal's end when it began, of a whole one (a ghost)


class Cand(NamedTuple):
    """`text` is what it says there, `shown` whether that is kept here, too."""

    at: At
    text: int
    shown: bool
    decided: int = 0
    local: tuple[int, ...] = ()
    gone: bool = False


class Ours(NamedTuple):
    """What one group changes as a whole."""

    cursor: At = BEGIN
    step: int = 0
    candidates: tuple[Cand | None, ...] = ()
    # Ghosts.
    ahead: tuple[At, ...] = ()  # by entity: the version of what was offered of it last
    decided: tuple[int, ...] = ()
    filed: tuple[tuple[int, ...], ...] = ()


class Left(NamedTuple):
    writes: int
    purges: int
    backs: int
    trims: int
    copies: int
    halves: int
    damages: int
    pulls: int
    crashes: int
    decisions: int
    undos: int


class State(NamedTuple):
    journal: Journal
    ours: Ours
    pulls: tuple[Pull, ...]
    left: Left
    epoch: int = 1
    copy: Journal | None = None
    backup: Journal | None = None
    before: Ours | None = None  # a backup of ours
    purging: int = -1  # the entity of which the files are rewritten, and no mark is there yet
    looked: tuple[int, int] = (-1, 0)  # at which candidate, and what it said
    # Ghosts.
    said: tuple[tuple[At, Live], ...] = ()
    purged: tuple[tuple[int, int, At], ...] = ()  # a text, its entity, the mark that says so
    lost: frozenset[int] = frozenset()  # entities of which a record was damaged
    texts: int = 0
    bad: str = ""


T = TypeVar("T")


def put(values: tuple[T, ...], n: int, value: T) -> tuple[T, ...]:
    return (*values[:n], value, *values[n + 1 :])
