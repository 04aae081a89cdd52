"""The meter: rates over whole seconds, percentiles of a sliding window, bounded lists."""

import pytest

from palace.broker.telemetry.meter import SAMPLES_MAX, Meter
from palace.broker.telemetry.recent_errors import ERRORS_MAX, RecentErrors
from palace.protocol.tools import Lane


def test_nothing_was_asked_yet() -> None:
    meter = Meter()

    assert meter.rate(100.0, 10) == 0
    assert meter.lane(Lane.WRITER, 100.0) == {"widest": 0, "p50_ms": None, "p95_ms": None}


def test_a_rate_counts_whole_seconds_and_forgets_what_is_older() -> None:
    meter = Meter()
    for at_s in (100.2, 100.9, 104.0, 109.9):
        meter.settled(Lane.READER, at_s, at_s)

    assert meter.rate(110.0, 10) == 0.4
    assert meter.rate(109.95, 10) == 0.3  # the second that runs has only begun
    assert meter.rate(111.0, 10) == 0.2
    assert meter.rate(111.0, 60) == pytest.approx(4 / 60)
    assert meter.rate(500.0, 60) == 0
    assert meter.calls == 4


@pytest.mark.parametrize("pause_s", [1, 30, 63, 64, 65, 1000])
def test_a_pause_of_any_length_leaves_no_old_count(pause_s: int) -> None:
    meter = Meter()
    for _ in range(5):
        meter.settled(Lane.READER, 100.0, 100.0)
    meter.settled(Lane.READER, 100.0 + pause_s, 100.0 + pause_s)

    assert meter.rate(101.0 + pause_s, 1) == 1
    assert meter.rate(101.0 + pause_s, 60) == pytest.approx((6 if pause_s < 60 else 1) / 60)


def test_percentiles_are_the_nearest_rank_of_the_last_minute() -> None:
    meter = Meter()
    meter.settled(Lane.WRITER, 0.0, 39.0)
    for number in range(1, 101):
        meter.settled(Lane.WRITER, 100.0 - number / 1000, 100.0)

    assert meter.lane(Lane.WRITER, 100.0)["p50_ms"] == pytest.approx(50)
    assert meter.lane(Lane.WRITER, 100.0)["p95_ms"] == pytest.approx(95)
    assert meter.lane(Lane.READER, 100.0)["p50_ms"] is None
    assert meter.lane(Lane.WRITER, 161.0)["p95_ms"] is None


def test_memory_is_bounded() -> None:
    meter = Meter()
    for number in range(10 * SAMPLES_MAX):
        meter.settled(Lane.POLL, 0.0, number / 100)

    assert len(meter._samples[Lane.POLL]) == SAMPLES_MAX


def test_the_widest_is_kept_and_batches_are_counted() -> None:
    meter = Meter()
    for size in (1, 3, 2):
        meter.began(Lane.WRITER, size)
        meter.batch(size)

    assert meter.lane(Lane.WRITER, 0.0)["widest"] == 3
    assert (meter.batches, meter.batched) == (3, 6)


def test_recent_errors_are_few_and_short_and_the_same_again_is_counted() -> None:
    errors = RecentErrors()
    for number in range(3 * ERRORS_MAX):
        errors.note(f"error {number // 2} " + "x" * 1000, float(number))

    latest = errors.latest(100.0)

    assert len(latest) == ERRORS_MAX
    assert latest[0]["times"] == 2
    assert latest[0]["ago_s"] == 41
    assert latest[0]["text"].startswith("error 29 ")
    assert errors.last == latest[0]["text"]
    assert len(errors.last) == 300
