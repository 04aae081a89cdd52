from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.ledger import DEATHS_MAX, Ledger


def test_lines_are_numbered_from_zero_and_settled_once() -> None:
    ledger = Ledger()

    assert [ledger.accept(b"a"), ledger.accept(b"bc")] == [0, 1]
    assert (len(ledger), ledger.bytes) == (2, 3)
    assert ledger.settle(0)
    assert not ledger.settle(0)
    assert (len(ledger), ledger.bytes) == (1, 2)
    assert ledger.accept(b"d") == 2


def test_only_what_left_whole_may_have_run() -> None:
    ledger = Ledger()
    first, second = ledger.accept(b"a"), ledger.accept(b"b")

    ledger.mark_sent(first)

    assert ledger.resend_list() == [(first, True), (second, False)]
    assert ledger.maybe_ran(first)
    assert not ledger.maybe_ran(second)


def test_goodbye_clears_what_was_not_read_and_what_did_not_run() -> None:
    ledger = Ledger()
    ordinals = [ledger.accept(b"x") for _ in range(5)]
    for ordinal in ordinals:
        ledger.mark_sent(ordinal)

    ledger.goodbye(3, [1])

    assert ledger.resend_list() == [(0, True), (1, False), (2, True), (3, True), (4, False)]


def test_a_settled_line_is_never_marked_as_sent() -> None:
    ledger = Ledger()
    ordinal = ledger.accept(b"x")
    ledger.settle(ordinal)

    ledger.mark_sent(ordinal)

    assert not ledger.maybe_ran(ordinal)
    assert ledger.outstanding() == []


def test_what_is_settled_counts_up_to_the_oldest_unsettled_line() -> None:
    ledger = Ledger()
    assert ledger.settled_upto() == 0
    for _ in range(4):
        ledger.accept(b"x")

    ledger.settle(2)
    ledger.settle(1)
    assert ledger.settled_upto() == 0
    ledger.settle(0)
    assert ledger.settled_upto() == 3
    ledger.settle(3)
    assert ledger.settled_upto() == 4


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=60))
def test_what_was_said_to_be_settled_is_never_outstanding_again(steps: list[int | None]) -> None:
    ledger = Ledger()
    promised = 0
    for step in steps:
        if step is None:
            ledger.accept(b"x")
        else:
            ledger.settle(step)
        upto = ledger.settled_upto()
        left = [ordinal for ordinal, _ in ledger.outstanding()]

        assert promised <= upto <= ledger.next_ordinal
        assert not [ordinal for ordinal in left if ordinal < upto]
        assert upto in left or upto == ledger.next_ordinal
        promised = upto


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("accept"), st.binary(max_size=9)),
            st.tuples(st.sampled_from(["sent", "settle", "upto"]), st.integers(-1, 12)),
        )
    )
)
def test_every_line_is_outstanding_until_settled_and_sent_only_if_marked(steps: list) -> None:
    ledger = Ledger()
    lines: dict[int, bytes] = {}
    sent: set[int] = set()
    for kind, value in steps:
        if kind == "accept":
            lines[ledger.accept(value)] = value
        elif kind == "sent":
            ledger.mark_sent(value)
            sent |= {value} & set(lines)
        elif kind == "settle":
            assert ledger.settle(value) == (lines.pop(value, None) is not None)
            sent.discard(value)
        else:
            ledger.goodbye(value, [])
            sent = {ordinal for ordinal in sent if ordinal <= value}

    assert ledger.outstanding() == sorted(lines.items())
    assert ledger.resend_list() == [(ordinal, ordinal in sent) for ordinal in sorted(lines)]
    assert ledger.bytes == sum(map(len, lines.values()))


def test_a_line_that_was_under_way_at_every_death_is_given_up() -> None:
    ledger = Ledger()
    poison, innocent = ledger.accept(b"p"), ledger.accept(b"i")
    for _ in range(DEATHS_MAX - 1):
        ledger.mark_sent(poison)
        assert ledger.died() == []

    ledger.mark_sent(innocent)

    assert ledger.died() == [poison]
    assert ledger.line(poison) == b"p"
    ledger.settle(poison)
    assert ledger.resend_list() == [(innocent, True)]
    assert ledger.died() == [], "what is settled is nobody's to give up"


def test_hello_names_the_owner_that_old_lines_were_first_sent_to() -> None:
    ledger = Ledger()
    assert ledger.epoch_of_lines(0) == 0
    first = ledger.accept(b"one")
    ledger.mark_sent(first)

    assert ledger.epoch_of_lines(3) == 3, "its owner died"
    assert ledger.epoch_of_lines(4) == 3, "so did the next, which may not have got to it"
    ledger.settle(first)
    assert ledger.epoch_of_lines(5) == 5


def test_a_line_that_is_settled_or_never_came_is_empty() -> None:
    ledger = Ledger()
    ledger.accept(b"line")
    assert ledger.line(0) == b"line"
    ledger.settle(0)

    assert ledger.line(0) == ledger.line(7) == b""


def test_the_first_epoch_of_all_is_kept_for_old_lines_and_forgotten_with_them() -> None:
    ledger = Ledger()
    ledger.mark_sent(ledger.accept(b"line"))

    assert [ledger.epoch_of_lines(last) for last in (0, 1, 2)] == [0, 0, 0]
    ledger.settle(0)
    assert ledger.epoch_of_lines(3) == 3
    ledger.mark_sent(ledger.accept(b"line"))
    assert ledger.epoch_of_lines(4) == 4
