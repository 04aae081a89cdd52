"""Which runs of the model go beside each other: short ones at once, others where these leave room.

A run of one text takes some milliseconds, and a client waits for it.  A long text is embedded in
many parts, each of which has a core for a tenth of a second or more.  As many parts at once as
there is room for would leave none to the short runs, so while anybody asks for those, and for a
moment after, parts run one at a time.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

QUIET_S = 0.5  # without a short run, after which parts take all the room there is


@attrs.define(eq=False)
class Precedence:
    """The runs of one model; `runs_max` go at once, short ones not counted."""

    runs_max: int = 1
    clock: Callable[[], float] = time.monotonic
    _short: int = 0
    _parts: int = 0
    _asked_s: float = float("-inf")  # when the last short run ended
    _changed: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    @contextmanager
    def short(self) -> Iterator[None]:
        """Run for somebody who waits for little."""
        with self._changed:
            self._short += 1
        try:
            yield
        finally:
            with self._changed:
                self._short -= 1
                self._asked_s = self.clock()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Run a part of much; waits for its place."""
        with self._changed:
            while not self.has_room():
                self._changed.wait(QUIET_S)  # that it has become quiet, nobody says
            self._parts += 1
        try:
            yield
        finally:
            with self._changed:
                self._parts -= 1
                self._changed.notify()

    def has_room(self) -> bool:
        """Tell whether another part may begin now."""
        if not self._parts:
            return True
        is_quiet = not self._short and self.clock() - self._asked_s >= QUIET_S
        return is_quiet and self._parts < self.runs_max
