"""Calls that run at once and store together: each waits at its first write for all the others.

Theory of operation.  The calls of a batch run in threads of their own.  A call that comes to a
write hands it in (`put`) and waits.  The meeting point is reached when every call that is still
inside waits there: then one of the waiting threads stores all that was handed in, and all go on,
perhaps to meet again at their next write.  So a batch forms without any clock, and a call that ends
early, with an error say, delays none of the others.

Two counts decide: `_inside`, the calls that have not ended, and `_waiting`, the writes that were
handed in and not taken yet.  Both change only under the lock, and each change wakes the waiting
threads, which look at them again.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import attrs

from palace.engine.stock import JsonObject

W = TypeVar("W")  # the engine's own kind of write

logger = logging.getLogger("palace.engine")


@attrs.define(eq=False, kw_only=True)
class PendingWrite(Generic[W]):
    """One write of one call, which waits for it.  `error` is raised in the call's thread."""

    write: W
    error: BaseException | None = None
    done: bool = False


@attrs.define(eq=False)
class Batch(Generic[W]):
    """A batch of calls that have been started; each enters `member` in its thread, once."""

    messages: Sequence[JsonObject]
    store: Callable[[Sequence[PendingWrite[W]]], None]  # sets `error` where one can't be stored
    _inside: int = attrs.field(init=False)
    _waiting: list[PendingWrite[W]] = attrs.field(factory=list)
    _changed: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    def __attrs_post_init__(self) -> None:
        # All of them, before the first has begun: otherwise a fast call would meet itself alone.
        self._inside = len(self.messages)

    @contextmanager
    def member(self) -> Iterator[None]:
        """Run one call of the batch."""
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                # It may have been the last one that the waiting calls were waiting for.
                self._changed.notify_all()

    def put(self, write: W) -> None:
        """Store a write together with those of the other calls; raises what prevented it."""
        mine = PendingWrite(write=write)
        with self._changed:
            self._waiting.append(mine)
            self._changed.notify_all()
            while not mine.done and not self._all_are_here():
                self._changed.wait()
            # Taken before the lock is let go: every waiting thread sees that all are here, and
            # only the first may store.  The others find `_waiting` empty and sleep until `done`.
            taken = [] if mine.done else self._take_all()
        if taken:
            # Without the lock: storing takes long, and calls that end meanwhile must get out.
            self._store_all(taken)
        if mine.error is not None:
            raise mine.error

    def _all_are_here(self) -> bool:
        # Never true while a store is under way: every call inside has its write in that store and
        # can neither leave nor hand in another before it is done, so `_waiting` stays empty.
        return len(self._waiting) == self._inside

    def _take_all(self) -> list[PendingWrite[W]]:
        taken, self._waiting = self._waiting, []
        return taken

    def _store_all(self, taken: Sequence[PendingWrite[W]]) -> None:
        try:
            self.store(taken)
        except BaseException as error:
            for pending in taken:
                pending.error = pending.error or error
        finally:
            # Also after an error: a call whose write is never done would wait for ever.
            with self._changed:
                for pending in taken:
                    pending.done = True
                self._changed.notify_all()


def store_or_each(
    writes: Sequence[PendingWrite[W]], store: Callable[[Sequence[PendingWrite[W]]], None]
) -> None:
    """Store all at once; where that fails, each alone, so that only the faulty one fails."""
    if len(writes) > 1:
        try:
            store(writes)
        except Exception as error:
            logger.warning(
                "%d writes could not be stored at once (%r): each alone", len(writes), error
            )
        else:
            return
    # Nothing is stored twice: an operation that failed was taken back before it raised (groups.py);
    # without a journal an upsert is repeated, which changes nothing (batched_writer.py).
    for pending in writes:
        try:
            store([pending])
        except Exception as error:
            pending.error = error
