"""A sign of life for whoever reads a slot of memory: a file that a broker that stays touches.

`palace provider claim` makes the file, and only where the palace's broker stays; a broker touches
what is there.  One that leaves when idle has none: it would look dead for most of the time.
"""

import os
from contextlib import suppress

import attrs

BEAT_S = 30.0


@attrs.define(eq=False)
class Heartbeat:
    """The file at `path`, "" for none."""

    path: str = ""
    _next_s: float = 0.0

    def tick(self, now_s: float) -> None:
        """Touch it every half a minute."""
        if self.path and now_s >= self._next_s:
            self._next_s = now_s + BEAT_S
            with suppress(OSError):  # there is none, since palace is in no slot
                os.utime(self.path)
