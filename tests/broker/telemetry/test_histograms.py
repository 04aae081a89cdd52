"""Buckets of durations: each bound belongs to the bucket below it."""

import pytest

from palace.broker.telemetry.histograms import BOUNDS_S, Histogram, Histograms
from palace.protocol.tools import Lane


@pytest.mark.parametrize(
    ("took_s", "place"),
    [(0.0, 0), (BOUNDS_S[0], 0), (BOUNDS_S[0] * 1.01, 1), (BOUNDS_S[-1], -2), (1e6, -1)],
)
def test_a_call_counts_in_the_bucket_of_the_next_bound(took_s: float, place: int) -> None:
    histogram = Histogram()
    histogram.note(took_s)

    assert histogram.buckets[place] == 1
    assert sum(histogram.buckets) == histogram.count == 1
    assert histogram.sum_s == took_s


def test_lanes_are_counted_apart() -> None:
    histograms = Histograms()
    histograms.note(Lane.WRITER, 0.5)
    histograms.note(Lane.WRITER, 1.5)

    assert (histograms.lanes[Lane.WRITER].count, histograms.lanes[Lane.WRITER].sum_s) == (2, 2.0)
    assert {h.count for lane, h in histograms.lanes.items() if lane is not Lane.WRITER} == {0}
    assert len(histograms.lanes[Lane.READER].buckets) == len(BOUNDS_S) + 1
