"""What a party may hold beside others, and who gives way."""

from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.budget import Budget, Holder, Shares, Use, party_of, party_of_token


def holding(limit: int, reserve: int = 0, **held: int) -> Budget:
    budget = Budget("slots", limit, reserve)
    for party, amount in held.items():
        budget.take(party, amount)
    return budget


def test_a_party_alone_may_have_all_and_no_more() -> None:
    budget = holding(3, a=2)

    assert budget.has_room("a")
    budget.take("a")
    assert not budget.has_room("a")
    budget.give_back("a")
    assert budget.has_room("a")


def test_the_party_that_holds_most_loses_and_only_beyond_the_limit() -> None:
    assert holding(3, a=1, b=2).loser() == ""
    assert holding(3, a=1, b=3).loser() == "b"
    assert holding(1, a=1, b=1).loser() == "a", "of equals the one that came first"
    assert holding(0).loser() == holding(0).heaviest() == ""


def test_the_reserve_is_for_those_that_hold_less_than_half_of_the_most() -> None:
    budget = holding(4, reserve=2, a=4)

    assert not budget.has_room("a"), "the one that holds most"
    assert budget.has_room("b")
    budget.take("b")
    assert budget.has_room("b"), "two are half of four"
    budget.take("b")
    assert not budget.has_room("c"), "the reserve has an end"


def test_equals_have_no_reserve() -> None:
    budget = holding(2, reserve=2, a=1, b=1)

    assert not budget.has_room("c")


def test_amounts_count_not_holders() -> None:
    budget = holding(100, reserve=50, a=90)

    assert budget.has_room("b", 10)
    assert not budget.has_room("a", 11)
    assert budget.has_room("b", 45)
    assert not budget.has_room("b", 46)


def test_the_least_used_of_the_party_that_holds_most_goes_first() -> None:
    budget = holding(6, a=4, b=2)
    holders = [
        Holder("b", Use.LEFT, 0.0),
        Holder("a", Use.BUSY, 0.0),
        Holder("a", Use.IDLE, 1.0),
        Holder("a", Use.RENEWED, 3.0),
        Holder("a", Use.RENEWED, 2.0),
        Holder("a", Use.UNUSED, 4.0),
    ]

    assert budget.first_to_go(holders, "c") is holders[5]
    assert budget.first_to_go(holders[:5], "c") is holders[4]
    assert budget.first_to_go(holders[:4], "c") is holders[3]
    assert budget.first_to_go(holders[:3], "c") is holders[2], "a holds more than twice as much"
    assert budget.first_to_go(holders[:2], "c") is holders[0]
    assert budget.first_to_go(holders[1:2], "c") is None, "work under way"


def test_what_is_idle_and_connected_stays_beside_equals() -> None:
    budget = holding(2, a=1, b=1)
    idle = [Holder("a", Use.IDLE, 0.0), Holder("b", Use.IDLE, 0.0)]

    assert budget.first_to_go(idle, "c") is None
    left = Holder("a", Use.LEFT, 0.0)
    assert budget.first_to_go([*idle, left], "c") is left


def test_a_session_beside_its_partys_others_has_the_reserve_too() -> None:
    shares = Shares.of("slots", 4, reserve=2)
    for _ in range(4):
        shares.take("a", "a1")

    assert not shares.has_room("a", "a1")
    assert shares.has_room("a", "a2")
    shares.take("a", "a2")
    shares.give_back("a", "a1")
    shares.give_back("a", "a1")
    assert shares.has_room("a", "a1"), "within the limit"


def test_many_sessions_of_one_party_leave_another_party_the_reserve() -> None:
    shares = Shares.of("slots", 4, reserve=2)
    for number in range(4):
        shares.take("a", f"a{number}")

    assert not shares.has_room("a", "a4")
    assert shares.has_room("b", "b")


def test_what_was_shed_is_counted_by_name() -> None:
    budget = holding(1, a=2)

    budget.note_shed("a")

    assert (budget.shed, budget.last_shed) == (1, "a")


def test_a_process_of_the_owners_another_user_and_a_guests_address_are_parties() -> None:
    assert party_of(pid=7, uid=1000, owner=1000) == "pid 7"
    assert party_of(pid=8, uid=0, owner=1000) == "pid 8"
    assert party_of(pid=9, uid=1001, owner=1000) == "uid 1001"
    assert party_of(pid=0, uid=None, owner=1000, address="10.0.0.3") == "guest 10.0.0.3"
    assert party_of(pid=0, uid=None, owner=1000) == "guest"
    assert party_of_token("0123456789abcdef") == "token 01234567", "no more of it than tells it"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9)), max_size=40))
def test_whoever_asks_for_one_gets_it_once_the_losers_have_given_way(
    steps: list[tuple[str, int]],
) -> None:
    """Taking from the loser until the limit is kept never leaves a party below an equal share."""
    budget = Budget("slots", 12)
    held: dict[str, int] = {}
    for party, amount in steps:
        budget.take(party, amount)
        held[party] = held.get(party, 0) + amount
        while loser := budget.loser():
            assert held[loser] == max(held.values())
            budget.give_back(loser)
            held[loser] -= 1
        assert budget.held == sum(held.values()) <= 12
        assert all(budget.of(name) == count for name, count in held.items())
        assert held[party] >= min(amount, 12 // 4)


def test_what_is_measured_takes_the_place_of_what_was_counted() -> None:
    budget = holding(10, a=3)

    budget.measure({"b": 7, "c": 5})

    assert (budget.of("a"), budget.held, budget.loser()) == (0, 12, "b")


def test_what_is_idle_gives_way_only_to_those_whose_reserve_it_would_be() -> None:
    idle = [Holder("a", Use.IDLE, 0.0)]

    assert holding(9, a=2).first_to_go(idle, "b") is idle[0], "one of two is half"
    assert holding(9, a=1).first_to_go(idle, "b") is None
    assert holding(9, a=3, b=1).first_to_go(idle, "b") is None, "two are more than half of three"
    assert holding(9, a=4, b=1).first_to_go(idle, "b") is idle[0]


def test_what_was_shed_is_counted_and_the_last_one_named() -> None:
    budget = holding(1)
    budget.note_shed("a")
    budget.note_shed("b")

    assert (budget.shed, budget.last_shed) == (2, "b")
