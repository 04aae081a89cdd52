"""How long calls take, lane by lane: counts in buckets, as Prometheus wants them."""

from bisect import bisect_left

import attrs

from palace.protocol.tools import Lane

# Upper bounds in seconds, inclusive; a `mine` may take hours.
BOUNDS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)


@attrs.define(eq=False)
class Histogram:
    """`buckets` counts what is at most its bound and above the one before; the last has none."""

    buckets: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS_S) + 1))
    count: int = 0
    sum_s: float = 0.0

    def note(self, took_s: float) -> None:
        self.buckets[bisect_left(BOUNDS_S, took_s)] += 1
        self.count += 1
        self.sum_s += took_s


@attrs.define(eq=False)
class Histograms:
    """Calls by lane, from admission to the reply, waiting for the journal included."""

    lanes: dict[Lane, Histogram] = attrs.field(factory=lambda: {lane: Histogram() for lane in Lane})

    def note(self, lane: Lane, took_s: float) -> None:
        self.lanes[lane].note(took_s)
