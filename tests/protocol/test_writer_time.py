"""Who has had the writer lately is put back for a while, and nobody for ever."""

from palace.protocol.writer_time import HALF_LIFE_S, PUT_BACK_MAX_S, WriterTime


def test_a_party_is_put_back_by_what_it_used_and_others_are_not() -> None:
    used = WriterTime()
    used.note("long", 2.0, 10.0)
    used.note("long", 1.0, 10.0)

    assert used.put_back_s("long", 10.0) == 3.0
    assert used.put_back_s("another", 10.0) == 0.0


def test_what_was_used_is_forgotten_by_halves() -> None:
    used = WriterTime()
    used.note("long", 4.0, 10.0)

    assert used.put_back_s("long", 10.0 + HALF_LIFE_S) == 2.0
    used.note("long", 1.0, 10.0 + HALF_LIFE_S)
    assert used.put_back_s("long", 10.0 + HALF_LIFE_S) == 3.0
    assert used.put_back_s("long", 10.0 + 2 * HALF_LIFE_S) == 1.5


def test_nobody_is_put_back_further_than_the_others_can_see() -> None:
    used = WriterTime()
    used.note("long", 3600.0, 10.0)

    assert used.put_back_s("long", 10.0) == PUT_BACK_MAX_S


def test_a_clock_that_stands_still_or_goes_back_adds_nothing() -> None:
    used = WriterTime()
    used.note("long", 2.0, 10.0)

    assert used.put_back_s("long", 9.0) == 2.0


def test_parties_that_have_long_gone_are_forgotten() -> None:
    used = WriterTime()
    for number in range(100):
        used.note(f"pid {number}", 1.0, 10.0)
    used.note("", 5.0, 10.0)  # nobody's

    used.note("new", 0.5, 10.0 + 20 * HALF_LIFE_S)

    assert list(used._used) == ["new"]
