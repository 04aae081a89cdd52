"""A line that one palace may have carried out is never begun by another one."""

from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.errors import StoreOwned
from palace.protocol.ledger import Ledger
from palace.protocol.sent_to import SentTo


def test_what_went_to_another_palace_is_named_until_it_is_answered() -> None:
    sent = SentTo()
    sent.note([0, 2], "a")

    assert sent.than("b", [0, 2, 3]) == [0, 2], "3 has gone nowhere yet"
    assert sent.than("a", [0, 2, 3]) == []

    sent.note([2, 3], "b")  # b was told that 2 is a's

    assert sent.than("b", [2, 3]) == [2]
    assert sent.than("a", [2, 3]) == [3]
    sent.note([], "b")
    assert sent.than("a", [2, 3]) == []


def test_nothing_is_elsewhere_for_whoever_knows_no_palace_by_its_name() -> None:
    sent = SentTo()
    sent.note([0], "a")
    assert sent.than("", [0]) == []


def test_a_refusal_tells_whose_the_tables_are_where_that_is_known() -> None:
    assert StoreOwned("Another palace's.").palace == ""
    assert StoreOwned("Another palace's.", owner={"palace": "a"}).palace == "a"


class Palace:
    """Carries a line out when it is new, or was sent here alone and left nothing in the journal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done: list[int] = []

    def take(self, ordinal: int, *, maybe_ran: bool, elsewhere: bool) -> None:
        if maybe_ran and (elsewhere or ordinal in self.done):
            return  # it says that it doesn't know, or repeats the recorded reply
        self.done.append(ordinal)


steps = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),  # who is reached
        st.integers(0, 3),  # how many new lines there are
        st.integers(0, 6),  # of what has left, how many lines are read
        st.booleans(),  # whether it dies with them, or sends its client away unread
    ),
    max_size=12,
)


@given(steps)
def test_no_line_is_carried_out_by_two_palaces(
    connections: list[tuple[str, int, int, bool]],
) -> None:
    """Connections end without an answer, time and again: by a death, or by a goodbye."""
    palaces = {name: Palace(name) for name in "ab"}
    ledger, sent = Ledger(), SentTo()
    for name, new, read, dies in connections:
        elsewhere = sent.than(name, ledger.may_have_run)
        for _ in range(new):
            ledger.accept(b"x")
        lines = ledger.resend_list()
        for number, (ordinal, maybe_ran) in enumerate(lines):
            ledger.mark_sent(ordinal)
            if dies and number < read:
                palaces[name].take(ordinal, maybe_ran=maybe_ran, elsewhere=ordinal in elsewhere)
        if not dies:  # it has carried out nothing, and says so of what could have begun there
            unrun = [ordinal for ordinal, maybe_ran in lines if not maybe_ran]
            ledger.goodbye(ledger.next_ordinal - 1, unrun)
        sent.note(ledger.may_have_run, name)
    done = palaces["a"].done + palaces["b"].done
    assert len(done) == len(set(done))
