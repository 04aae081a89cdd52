"""For whom a batch waits, and for how long."""

import pytest

from palace.protocol.batch_window import REPLY_S, RETURN_S, SHARE, BatchWindow


def ended(*sessions: str, taken_s: float = 1.0) -> BatchWindow:
    window = BatchWindow()
    window.began(10.0)
    window.ended(sessions, 10.0 + taken_s)
    return window


def test_after_a_batch_of_several_all_of_them_are_expected_for_a_moment() -> None:
    window = ended("a", "b")

    assert window.until_s(11.0) == 11.0 + REPLY_S
    assert window.until_s(11.0 + REPLY_S) == 0.0
    window.came("a")
    assert window.until_s(11.0) == 11.0 + REPLY_S
    window.came("b")
    assert window.until_s(11.0) == 0.0


@pytest.mark.parametrize("sessions", [(), ("a",)])
def test_after_a_batch_of_one_nobody_is_expected(sessions: tuple[str, ...]) -> None:
    assert ended(*sessions).until_s(11.0) == 0.0


def test_a_short_batch_is_followed_by_a_shorter_wait() -> None:
    window = ended("a", "b", taken_s=0.01)

    assert window.until_s(10.01) == pytest.approx(10.02)
    window.replied("a", 10.012)
    window.replied("b", 10.012)
    assert window.until_s(10.012) == pytest.approx(10.012 + 0.01 / SHARE)


def test_a_session_is_expected_soon_after_its_reply_and_never_longer_than_before() -> None:
    window = ended("a", "b")
    window.replied("a", 11.01)
    window.replied("b", 11.02)
    assert window.until_s(11.01) == pytest.approx(11.02 + RETURN_S)
    window.replied("b", 11.05)
    assert window.until_s(11.021) == pytest.approx(11.02 + RETURN_S)
    window.replied("c", 11.05)
    assert window.until_s(11.05) == 0.0, "a session of no batch"


def test_what_happens_while_a_batch_runs_counts_when_it_ends() -> None:
    window = BatchWindow()
    window.began(10.0)
    window.replied("a", 10.5)
    window.came("b")
    window.ended(("a", "b", "c"), 11.0)

    assert window.until_s(11.0) == 11.0 + REPLY_S, "c has had no reply yet"
    window.came("c")
    assert window.until_s(11.0) == 11.0 + RETURN_S, "a has had one"
    window.came("a")
    assert window.until_s(11.0) == 0.0, "b is back"


def test_the_next_batch_begins_with_nobody_expected_and_nothing_known() -> None:
    window = BatchWindow()
    window.began(10.0)
    window.replied("a", 10.5)
    window.came("b")
    window.ended(("a", "b"), 11.0)
    window.began(11.0)
    assert window.until_s(11.0) == 0.0
    window.ended(("a", "b"), 12.0)

    assert window.until_s(12.0) == 12.0 + REPLY_S, "neither told nor back any more"


def test_between_batches_nothing_is_noted() -> None:
    window = ended("a", "b")
    window.came("a")
    window.replied("b", 11.0)
    window.began(11.0)
    window.ended(("a", "b"), 12.0)

    assert window.until_s(12.0) == 12.0 + REPLY_S
