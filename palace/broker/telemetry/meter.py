"""How much is asked and how long it takes: rates and latencies of the last minute, per lane.

Bounded: a count for each of the last seconds, and the latest SAMPLES_MAX durations of each lane.
Its cost is paid by `palace status`; a call pays for one count and one append.

Rule for this file: pure.
"""

from collections import deque
from typing import Any

import attrs

from palace.protocol.tools import Lane

WINDOW_S = 60
SAMPLES_MAX = 512
_BUCKETS = 64  # seconds; a power of two above WINDOW_S


@attrs.define(eq=False)
class Meter:
    """What one owner has done lately; all times are seconds of one clock that never goes back."""

    calls: int = 0
    batches: int = 0
    batched: int = 0  # calls in them
    _counts: list[int] = attrs.field(factory=lambda: [0] * _BUCKETS)
    _second: int = -1
    _samples: dict[Lane, deque[tuple[float, float]]] = attrs.field(
        factory=lambda: {lane: deque(maxlen=SAMPLES_MAX) for lane in Lane}
    )
    _widest: dict[Lane, int] = attrs.field(factory=lambda: dict.fromkeys(Lane, 0))

    def began(self, lane: Lane, running: int) -> None:
        """Note that a lane runs so many calls now."""
        self._widest[lane] = max(self._widest[lane], running)

    def batch(self, size: int) -> None:
        """Note that the writer lane began a batch."""
        self.batches += 1
        self.batched += size

    def settled(self, lane: Lane, admitted_s: float, now_s: float) -> None:
        """Note that a call was answered, or given up."""
        second = int(now_s)
        if second != self._second:
            self._advance(second)
        self.calls += 1
        self._counts[second % _BUCKETS] += 1
        self._samples[lane].append((now_s, now_s - admitted_s))

    def _advance(self, second: int) -> None:
        if self._second < 0 or second - self._second >= _BUCKETS:
            self._counts = [0] * _BUCKETS
        else:
            for passed in range(self._second + 1, second + 1):
                self._counts[passed % _BUCKETS] = 0
        self._second = second

    def rate(self, now_s: float, over_s: int) -> float:
        """Return calls a second over the last `over_s` whole seconds, at most WINDOW_S."""
        assert 0 < over_s <= WINDOW_S
        if self._second < 0:
            return 0.0
        last = int(now_s) - 1  # the second that runs has only begun
        seconds = range(last - over_s + 1, last + 1)
        oldest = self._second - _BUCKETS
        counts = [self._counts[s % _BUCKETS] for s in seconds if oldest < s <= self._second]
        return sum(counts) / over_s

    def lane(self, lane: Lane, now_s: float) -> dict[str, Any]:
        """Return a lane's widest, and p50 and p95 in ms of the last minute, None without calls."""
        took = sorted(took for at, took in self._samples[lane] if at > now_s - WINDOW_S)
        return {
            "widest": self._widest[lane],
            "p50_ms": _percentile_ms(took, 50),
            "p95_ms": _percentile_ms(took, 95),
        }


def _percentile_ms(ordered: list[float], percent: int) -> float | None:
    """Return the nearest rank: the least value that so many percent don't exceed."""
    if not ordered:
        return None
    rank = -(-percent * len(ordered) // 100)
    return round(ordered[rank - 1] * 1000, 3)
