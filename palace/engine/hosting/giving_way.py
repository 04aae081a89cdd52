"""How a long change lets others come between its parts.

Stock's own way (`yield_write`) lets in whoever waits for its request lock at that moment.  A call
that is stored with others takes the lock three times, and would wait for three parts; so a part
also waits until the changes that were under way at its end are done.  Those that come later wait
for the next part: however many come, the long change goes on.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from palace.engine.stock import RequestLock

PATIENCE_S = 30.0  # for a change that hangs


@attrs.define(eq=False)
class GivingWay:
    """The changes under way that are not long ones, by the thread's own mark."""

    _under_way: set[object] = attrs.field(factory=set)
    _ended: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    @contextmanager
    def change(self) -> Iterator[None]:
        """Run a change that long ones give way to."""
        mark = object()
        with self._ended:
            self._under_way.add(mark)
        try:
            yield
        finally:
            with self._ended:
                self._under_way.discard(mark)
                self._ended.notify_all()

    def give_way(self, lock: RequestLock) -> None:
        """Let others in; called by a thread that holds the lock, and returns with it."""
        lock.yield_write()
        with self._ended:
            now = set(self._under_way)
        if not now:
            return
        lock.release_write()
        try:
            with self._ended:
                self._ended.wait_for(lambda: now.isdisjoint(self._under_way), PATIENCE_S)
        finally:
            lock.acquire_write()
