"""What failures of strangers cost others, and for how long."""

import pytest

from palace.protocol.pace import EACH_S, MOST_S, Pace


def test_each_failure_puts_the_next_off() -> None:
    pace = Pace()
    assert pace.next_s < 0

    for number in range(1, 4):
        pace.failed(100.0)
        assert pace.next_s == pytest.approx(100.0 + number * EACH_S)


def test_any_number_of_failures_puts_it_off_for_a_moment_alone() -> None:
    pace = Pace()
    for _ in range(10_000):
        pace.failed(100.0)

    assert pace.next_s == 100.0 + MOST_S


def test_what_is_long_past_puts_nothing_off() -> None:
    pace = Pace()
    pace.failed(100.0)
    pace.failed(200.0)

    assert pace.next_s == 200.0 + EACH_S
