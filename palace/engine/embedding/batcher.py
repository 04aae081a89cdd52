"""Single texts of many threads, embedded together where they come at the same time.

Most of what a short text costs is reading the model's weights.  So no more runs go at once than the
machine has cores for; who comes meanwhile waits, and the next run takes all that wait and are of
like length.  Nobody waits for more than a run that is under way and his own.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import attrs

SINGLES_MAX = 8  # in one run
ALIKE = 16  # tokens that they may differ by: each is padded to the longest


@attrs.define(eq=False)
class _Single:
    """One text that is to be embedded; its thread waits until it is `done`."""

    encoded: Any
    vector: Any = None
    error: BaseException | None = None
    done: bool = False

    def __len__(self) -> int:
        return len(self.encoded.ids)


@attrs.define(eq=False)
class Singles:
    """Embeds single texts of many threads with one model."""

    at_once: int = 1  # runs
    _waiting: list[_Single] = attrs.field(factory=list)
    _running: int = 0
    _changed: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    def embed(self, encoded: Any, run: Callable[[Sequence[Any]], Any]) -> Any:
        """Return the vector of one text; `run` embeds several."""
        mine = _Single(encoded)
        with self._changed:
            self._waiting.append(mine)
            while mine in self._waiting and self._running >= self.at_once:
                self._changed.wait()
            alike = self._take(mine) if mine in self._waiting else []
            while not (alike or mine.done):  # it was taken along
                self._changed.wait()
        if alike:
            self._run(alike, run)
        if mine.error is not None:
            raise mine.error
        return mine.vector

    def _take(self, mine: _Single) -> list[_Single]:
        alike = [one for one in self._waiting if abs(len(one) - len(mine)) <= ALIKE][:SINGLES_MAX]
        if mine not in alike:
            alike[-1] = mine
        self._waiting = [one for one in self._waiting if one not in alike]
        self._running += 1
        return alike

    def _run(self, alike: Sequence[_Single], run: Callable[[Sequence[Any]], Any]) -> None:
        try:
            for one, vector in zip(alike, run([one.encoded for one in alike]), strict=True):
                one.vector = vector
        except BaseException as error:
            for one in alike:
                one.error = error
        finally:
            with self._changed:
                for one in alike:
                    one.done = True
                self._running -= 1
                self._changed.notify_all()
