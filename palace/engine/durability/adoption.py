"""Adoption: what the stores hold and the journal doesn't is journalled while calls are served.

The first broker of a palace finds memories that no journal knows; a later one may find that stock
has written thousands while no broker ran.  No call waits until that is read.

Theory of operation.  Before the first call the journal says, durably, that it is not whole
(`Journal.begin_adoption`), and since which record it tells the truth.  From then on there are two
ways for an entity to become *settled*: a call changes it, and journals first what it was before; or
it is read here and journalled as it stands.  Each portion is read and appended under its store's
lock, which calls hold from reading a `before` to having made the change: so an entity is settled
once, by whoever comes first, and a record never says what the store no longer holds.

| after a death | what the next owner does |
|---|---|
| unfinished calls | takes them back, as ever: their records hold what was before |
| settled entities | knows them: their records come after `since` |
| all others | goes on here: they are in the stores, and fingerprints tell who changed them |

The ids were listed before the stores were opened: what is new since then, a call has journalled.
Until the end no record says that the journal is whole, and nothing is done that would need it to be
(rebuild.py, healing.py, palace/commands/backup.py).
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from palace.engine.durability.reconciliation import is_known
from palace.engine.stores.projection import Projection
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, ADOPTION, Draft, JsonObject, Payload
from palace.journal.replay import Progress, Replay, no_progress, replay
from palace.protocol.errors import JournalFailed

PORTION_S = 0.02  # for which a call may have to wait
PORTION_MAX = 500
PAUSE_S = 0.002  # between portions, so that calls get the store and the interpreter
AGAIN_S = 10.0  # after a failure (a full disk, a store that is being opened again), and twice that
AGAIN_MAX_S = 640.0
ROOM_BYTES = 64 << 20  # left to the calls
ONE_GO = (
    1000  # entities that are adopted before the first call; 20,000 take 3 s (docs/benchmarks.md)
)
SAY_EVERY_S = 60.0

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False, kw_only=True)
class Adoption:
    """One adoption, by a thread of its own from `start` to `end`.  A daemon: it may die anywhere.

    `listed` are the ids of all entities by store and kind.  `calls` returns a number that changes
    with each call.  `on_whole` is called once, when the journal is whole.  `done` of `total`
    entities are settled; `problem` is why it doesn't go on, "" while it does.  `size` is the next
    portion's, and follows the store's speed.
    """

    journal: Journal
    projections: Sequence[Projection]
    listed: Mapping[str, Mapping[str, Sequence[str]]]
    calls: Callable[[], int] = lambda: 0
    on_whole: Callable[[], None] = lambda: None
    done: int = 0
    problem: str = ""
    one_go: int = ONE_GO
    size: int = 16
    _took_s: float = 0.0  # the last portion
    _ended: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def total(self) -> int:
        return sum(len(ids) for kinds in self.listed.values() for ids in kinds.values())

    @property
    def is_under_way(self) -> bool:
        """Tell whether it goes on by itself; one that fails may be left to the next owner."""
        return self.journal.tail.adopting is not None and not self.problem

    def as_json(self) -> JsonObject | None:
        """Return it as `palace status` shows it, None once the journal is whole."""
        if self.journal.tail.adopting is None:
            return None
        return {"done": self.done, "total": self.total, "problem": self.problem}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="palace-adoption", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop after the portion that is being read; the next owner goes on from there."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def in_one_go(self, progress: Progress) -> bool:
        """Adopt all at once if there is little; return whether the journal is whole."""
        if self.total > self.one_go:
            return False
        for _ in self.portions():
            progress("taking the palace into its journal", self.done / max(1, self.total))
        return True

    def _serve(self) -> None:
        logger.info("taking %d entities into the journal, beside the calls", self.total)
        again_s = AGAIN_S
        while True:
            done = self.done
            try:
                if self._run():
                    self.on_whole()
                return
            except Exception as error:  # Chroma's own are of many kinds
                if str(error) != self.problem:
                    logger.warning("adoption doesn't go on for now: %s", type(error).__name__)
                self.problem = str(error) or type(error).__name__
            again_s = AGAIN_S if self.done > done else min(AGAIN_MAX_S, again_s * 2)
            if self._ended.wait(again_s):
                return

    def _run(self) -> bool:
        """Adopt what is left; False where it was told to end before."""
        clock = self.journal.kernel.monotonic
        calls, say_s = self.calls(), clock() + SAY_EVERY_S
        for _ in self.portions():
            self.problem = ""
            now_s = clock()
            if now_s >= say_s:
                logger.info("%d of %d entities are in the journal", self.done, self.total)
                say_s = now_s + SAY_EVERY_S
            came, calls = self.calls() != calls, self.calls()
            # Where somebody works, every second turn is theirs.
            if self._ended.wait(max(PAUSE_S, self._took_s if came else 0.0)):
                return False
        logger.info("the journal is whole: %d entities", self.total)
        return True

    def portions(self) -> Iterator[None]:
        """Adopt in portions, each before it is yielded; at the end the journal is whole.

        Raises JournalFailed and whatever a store raises; it may then be begun again.
        """
        journal = self.journal
        known = replay(journal.directory, journal.kernel, no_progress, keys=journal.keys)
        adopting = journal.tail.adopting
        if adopting is None:
            return
        self.done = 0
        for projection in self.projections:
            there = self.listed[projection.name]
            kinds = {*there, *(kind for kind in known.kinds() if projection.owns(kind))}
            for kind in sorted(kinds):  # a collection comes before its records
                yield from self._take(projection, kind, known, adopting.since)
        journal.end_adoption()

    def _take(self, projection: Projection, kind: str, known: Replay, since: int) -> Iterator[None]:
        listed = self.listed[projection.name].get(kind, ())
        left = [ident for ident in listed if not _is_settled(known, kind, ident, since)]
        self.done += len(listed) - len(left)
        gone = known.ids(kind)
        if gone:  # what the journal has and the store has not, somebody deleted
            there = set(listed)
            gone = [i for i in gone if i not in there and not _is_settled(known, kind, i, since)]
        for portion in self._in_portions(left):
            self._settle(projection, kind, portion, known)
            self.done += len(portion)
            yield
        for portion in self._in_portions(gone):
            self._settle(projection, kind, portion, known)
            yield

    def _in_portions(self, ids: list[str]) -> Iterator[list[str]]:
        at = 0
        while at < len(ids):
            portion = ids[at : at + self.size]
            at += len(portion)
            yield portion

    def _settle(self, projection: Projection, kind: str, ids: Sequence[str], known: Replay) -> None:
        """Journal entities as they stand, but for those that a call has journalled."""
        journal = self.journal
        began_s = journal.kernel.monotonic()
        with projection.lock:
            wanted = [ident for ident in ids if (kind, ident) not in journal.tail.settled]
            found = projection.read(kind, wanted)
            drafts = [
                _adopted(kind, ident, found.get(ident))
                for ident in wanted
                if not _says(known, kind, ident, found.get(ident))
            ]
            seq = self._append(drafts) if drafts else 0
        took_s = self._took_s = journal.kernel.monotonic() - began_s
        if took_s > PORTION_S:
            self.size = max(1, self.size // 2)
        elif took_s < PORTION_S / 3:
            self.size = min(PORTION_MAX, self.size * 2)
        if seq:
            # At once: the next call's fsync, for which it waits, would otherwise write this, too.
            journal.sync(seq)
            if journal.is_long():
                journal.roll()

    def _append(self, drafts: Sequence[Draft]) -> int:
        journal = self.journal
        if journal.kernel.free_bytes(journal.directory) < ROOM_BYTES:
            raise JournalFailed(
                f"the disk of {journal.directory} has less than {ROOM_BYTES >> 20} MiB left, which "
                "are kept for calls: free some space"
            )
        return journal.append(drafts)


def _is_settled(known: Replay, kind: str, ident: str, since: int) -> bool:
    live = known.live.get((kind, ident))
    return live is not None and live.seq > since


def _says(known: Replay, kind: str, ident: str, payload: Payload) -> bool:
    """Tell whether the journal says this of an entity already, or nothing of none."""
    if payload is None:
        return (kind, ident) not in known.live
    return is_known(known, kind, (ident, payload))


def _adopted(kind: str, ident: str, payload: Payload) -> Draft:
    return Draft(
        action=ADOPT, key=ADOPTION, kind=kind, id=ident, payload=payload, deleted=payload is None
    )
