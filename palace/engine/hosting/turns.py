"""Turns at changing drawers: whole changes, and the parts of long ones, one after the other.

Stock's request lock doesn't order them.  A call that is stored with others lets go of it between
its reads and its write, and a long checkpoint between its items; what came in there would be
overwritten by a call that had looked before.  So whatever changes drawers has a turn from its first
read until its outcome is in the journal; those of a batch have theirs together.

Turns are given in the order in which they were asked for, but that a party which has had many
seconds of them lately is put back behind others (palace/protocol/writer_time.py).  So a long change
waits for the changes of others, others for one of its parts, and whoever has several long ones gets
no more of the writer than with one.  A turn is never waited for with stock's lock held.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from palace.engine.stock import RequestLock
from palace.protocol.writer_time import WriterTime


@attrs.define(eq=False)
class _Asker:
    """Who waits for a turn, or has it: a batch, or the thread of a call that runs alone.

    `members` counts those that have not given it back, `parties` names all that were in it.
    """

    mark: object
    due_s: float
    since_s: float = 0.0
    members: int = 0
    parties: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class Turns:
    """Who has the turn, and who waits for it."""

    clock: Callable[[], float] = time.monotonic
    _holder: _Asker | None = None
    _waiting: list[_Asker] = attrs.field(factory=list)  # in the order in which they asked
    _time: WriterTime = attrs.field(factory=WriterTime)
    _changed: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put_back_s(self, party: str) -> float:
        """Return how much later than others a party that asks now gets its turn."""
        return self._time.put_back_s(party, self.clock())

    @contextmanager
    def turn(self, batch: object = None, party: str = "") -> Iterator[None]:
        """Run a change, or a member of a batch, in its turn; the time counts as that party's."""
        mark = _own_mark() if batch is None else batch
        self._take(mark, party)
        try:
            yield
        finally:
            self._give_back(mark)

    @contextmanager
    def others_first(self, lock: RequestLock, party: str = "") -> Iterator[None]:
        """Let others change drawers meanwhile, and those that are due by then before this goes on.

        For a thread that has stock's lock and the turn, neither of which it has inside.
        """
        lock.yield_write()  # readers would wait behind a writer that asks again at once
        lock.release_write()
        self._give_back(_own_mark())
        try:
            yield
        finally:
            self._take(_own_mark(), party)
            lock.acquire_write()

    def _take(self, mark: object, party: str) -> None:
        with self._changed:
            due_s = self.clock() + self.put_back_s(party)
            asker = self._found(mark)
            if asker is None:
                asker = _Asker(mark, due_s)
                self._waiting.append(asker)
            asker.due_s = min(asker.due_s, due_s)  # nobody is late for whom it is with
            # From here on, and not once it has woken up: the turn of a batch whose other members
            # are done by then must not be over.
            asker.members += 1
            asker.parties.append(party)
            self._changed.wait_for(lambda: self._is_due(asker))
            if asker is not self._holder:
                self._waiting.remove(asker)
                self._holder = asker
                asker.since_s = self.clock()
                self._changed.notify_all()  # the batch's other members

    def _found(self, mark: object) -> _Asker | None:
        askers = self._waiting if self._holder is None else [self._holder, *self._waiting]
        return next((asker for asker in askers if asker.mark is mark), None)

    def _is_due(self, asker: _Asker) -> bool:
        if self._holder is not None:
            return asker is self._holder
        return asker is min(self._waiting, key=lambda one: one.due_s)  # of equals who asked first

    def _give_back(self, mark: object) -> None:
        with self._changed:
            asker = self._holder
            assert asker is not None, "a turn is given back once"
            assert asker.mark is mark, "a turn is given back by its holder"
            asker.members -= 1
            if not asker.members:
                self._note_time(asker)
                self._holder = None
                self._changed.notify_all()

    def _note_time(self, asker: _Asker) -> None:
        """Count the time of a turn that ends as that of its members, in equal parts."""
        now_s = self.clock()
        part_s = (now_s - asker.since_s) / len(asker.parties)
        for party in asker.parties:
            self._time.note(party, part_s, now_s)


def _own_mark() -> object:
    return threading.current_thread()
