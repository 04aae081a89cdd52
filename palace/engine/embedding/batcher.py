"""Single texts of many threads, embedded in runs of the model that they share.

Most of what a short text costs is reading the model's weights, which a run does once for all of its
texts.  So no more runs go at once than the machine has cores for.  A text that arrives meanwhile
waits, and the next run takes all waiting texts of like length.  No text waits for longer than one
run that is under way and its own.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from palace.engine.stock import Encoding

if TYPE_CHECKING:
    from palace.engine.stock import Vector

RUN_TEXTS_MAX = 8
LENGTH_SPREAD_MAX = 16  # tokens that a run's texts may differ by: each is padded to the longest

Run = Callable[[Sequence[Encoding]], "Iterable[Vector]"]


@attrs.define(eq=False)
class _Pending:
    """One text that is to be embedded; its thread waits until it is `done`."""

    encoding: Encoding
    vector: "Vector | None" = None
    error: BaseException | None = None
    done: bool = False

    def __len__(self) -> int:
        return len(self.encoding.ids)


@attrs.define(eq=False)
class EmbeddingBatcher:
    """Embeds single texts of many threads with one model, in `runs_max` runs at once."""

    runs_max: int = 1
    _waiting: list[_Pending] = attrs.field(factory=list)
    _running: int = 0
    _changed: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    def embed(self, encoding: Encoding, run: Run) -> "Vector":
        """Return one text's vector; `run` embeds several texts, in the thread of one of them.

        Raises what the run with this text raised.
        """
        mine = _Pending(encoding)
        with self._changed:
            self._waiting.append(mine)
            # A text leaves `_waiting` when a run takes it, which may be another thread's run.
            while mine in self._waiting and self._running >= self.runs_max:
                self._changed.wait()
            # Decided under the lock that the loop above ended with: either this thread leads a
            # run now, or its text is in a run already and only the result is missing.
            taken = self._take_along(mine) if mine in self._waiting else []
            while not (taken or mine.done):
                self._changed.wait()
        if taken:
            # Without the lock, so that texts can queue up for the next run while this one goes.
            self._run(taken, run)
        if mine.error is not None:
            raise mine.error
        assert mine.vector is not None, "a run ends with a vector or an error"
        return mine.vector

    def _take_along(self, mine: _Pending) -> list[_Pending]:
        """Begin a run with all waiting texts that are about as long as the leader's own."""
        taken = [
            other for other in self._waiting if abs(len(other) - len(mine)) <= LENGTH_SPREAD_MAX
        ][:RUN_TEXTS_MAX]
        if mine not in taken:
            taken[-1] = mine  # the leader waits for its own run: it can't be left for the next
        self._waiting = [other for other in self._waiting if other not in taken]
        self._running += 1
        return taken

    def _run(self, taken: Sequence[_Pending], run: Run) -> None:
        try:
            vectors = run([pending.encoding for pending in taken])
            for pending, vector in zip(taken, vectors, strict=True):
                pending.vector = vector
        except BaseException as error:
            for pending in taken:
                pending.error = error
        finally:
            with self._changed:
                for pending in taken:
                    pending.done = True
                self._running -= 1
                # Wakes both kinds: threads whose text is done, and those that may lead a run.
                self._changed.notify_all()
