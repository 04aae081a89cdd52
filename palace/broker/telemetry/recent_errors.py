"""The latest errors of one owner, for `palace status`.

Rule for this file: pure.
"""

from collections import deque
from typing import Any

import attrs

ERRORS_MAX = 20
ERROR_CHARS_MAX = 300


@attrs.define(eq=False)
class RecentErrors:
    """The latest errors, without what they were about; the same again is counted."""

    _kept: deque[tuple[float, str, int]] = attrs.field(factory=lambda: deque(maxlen=ERRORS_MAX))

    @property
    def last(self) -> str:
        return self._kept[-1][1] if self._kept else ""

    def note(self, text: str, now_s: float) -> None:
        """Keep a text that quotes no memory."""
        short = text[:ERROR_CHARS_MAX]
        times = self._kept.pop()[2] if self._kept and self._kept[-1][1] == short else 0
        self._kept.append((now_s, short, times + 1))

    def latest(self, now_s: float) -> list[dict[str, Any]]:
        """Return them, the latest first."""
        return [
            {"ago_s": round(now_s - at_s, 3), "text": text, "times": times}
            for at_s, text, times in reversed(self._kept)
        ]
