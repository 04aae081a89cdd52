"""Turns at changing drawers: whole changes, and the parts of long ones, one after the other.

Stock's request lock doesn't order them.  A call that is stored with others lets go of it between
its reads and its write, and a long checkpoint between its items; what came in there would be
overwritten by a call that had looked before.  So whatever changes drawers has a turn from its first
read until its outcome is in the journal; those of a batch have theirs together.  Turns are given in
the order in which they were asked for, so that a long change waits for one other at a time, and
others for one of its parts.  A turn is never waited for with stock's lock held.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from palace.engine.stock import RequestLock


@attrs.define(eq=False)
class Turns:
    """Who has the turn, by a mark: a batch, or the thread of a call that runs alone."""

    _holder: object = None
    _members: int = 0  # of a batch whose turn it is
    _waiting: deque[object] = attrs.field(factory=deque)
    _changed: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @contextmanager
    def turn(self, batch: object = None) -> Iterator[None]:
        """Run a change, or a member of a batch, in its turn."""
        mark = _own_mark() if batch is None else batch
        self._take(mark)
        try:
            yield
        finally:
            self._give_back(mark)

    @contextmanager
    def others_first(self, lock: RequestLock) -> Iterator[None]:
        """Let others change drawers meanwhile, and those that wait by then before this goes on.

        For a thread that has stock's lock and the turn, neither of which it has inside.
        """
        lock.yield_write()  # readers would wait behind a writer that asks again at once
        lock.release_write()
        self._give_back(_own_mark())
        try:
            yield
        finally:
            self._take(_own_mark())
            lock.acquire_write()

    def _take(self, mark: object) -> None:
        with self._changed:
            if mark not in self._waiting and mark is not self._holder:
                self._waiting.append(mark)
            self._changed.wait_for(lambda: self._is_due(mark))
            if mark is not self._holder:
                self._waiting.remove(mark)
                self._holder = mark
                self._changed.notify_all()  # the batch's other members
            self._members += 1

    def _is_due(self, mark: object) -> bool:
        return mark is self._holder or (self._holder is None and self._waiting[0] is mark)

    def _give_back(self, mark: object) -> None:
        with self._changed:
            assert mark is self._holder, "a turn is given back by its holder"
            self._members -= 1
            if not self._members:
                self._holder = None
                self._changed.notify_all()


def _own_mark() -> object:
    return threading.current_thread()
