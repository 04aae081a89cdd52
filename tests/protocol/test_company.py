"""How many slots a party has while others are about."""

import pytest

from palace.protocol.company import LATELY_S, REST_MAX_S, Company


def test_who_is_alone_may_have_all() -> None:
    company = Company()
    assert company.share("a", 4, 0.0) == 4
    company.note("a", 0.0)
    assert company.share("a", 4, 0.0) == 4


def test_who_asks_counts_itself_where_it_was_silent() -> None:
    company = Company()
    company.note("a", 0.0)
    assert company.share("b", 4, 0.0) == 2
    company.note("b", 0.0)
    assert company.share("b", 4, 0.0) == 2


@pytest.mark.parametrize(("parties", "share"), [(2, 2), (3, 1), (4, 1), (5, 1), (99, 1)])
def test_others_have_equal_parts_and_each_has_one(parties: int, share: int) -> None:
    company = Company()
    for number in range(parties):
        company.note(f"p{number}", 0.0)
    assert company.share("p0", 4, LATELY_S / 2) == share


def test_who_was_there_is_forgotten_and_who_stays_is_not() -> None:
    company = Company()
    company.note("stays", 0.0)
    company.note("goes", 0.0)
    company.note("stays", LATELY_S)
    assert company.share("stays", 4, LATELY_S - 0.01) == 2
    assert company.share("stays", 4, LATELY_S) == 4
    assert company.share("stays", 4, 2 * LATELY_S) == 4
    assert company._seen_s == {}


def test_when_the_next_other_leaves_is_told_and_the_last_other_ends_a_rest() -> None:
    company = Company()
    assert company.next_leaves_s("a", 0.0) == float("inf")
    company.note("a", 0.0)
    assert company.next_leaves_s("a", 0.0) == float("inf")
    assert company.next_leaves_s("x", 0.0) == LATELY_S
    company.note("b", 0.1)
    company.note("c", 0.3)
    assert company.next_leaves_s("a", 0.3) == pytest.approx(0.1 + LATELY_S)
    company.spent("a", "lane", 60.0, 0.4)
    assert company.rests_until_s("a", "lane", 0.4) == pytest.approx(0.3 + LATELY_S)
    assert company.rests_until_s("a", "lane", 0.3 + LATELY_S) == pytest.approx(0.3 + LATELY_S)


def test_who_had_more_rests_longer_and_no_longer_than_a_moment() -> None:
    company = Company()
    for party in ("a", "b", "c"):
        company.note(party, 0.0)
    assert company.rests_until_s("a", "lane", 0.0) == 0.0
    company.spent("a", "lane", 0.1, 0.1)
    assert company.rests_until_s("a", "lane", 0.1) == pytest.approx(0.2)
    company.spent("a", "lane", 0.1, 0.1)  # the batch's other member
    assert company.rests_until_s("a", "lane", 0.1) == pytest.approx(0.3)
    assert company.rests_until_s("b", "lane", 0.1) == 0.1
    assert company.rests_until_s("a", "another lane", 0.1) == 0.1
    for party in ("a", "b", "c"):
        company.note(party, 0.2)
    company.spent("b", "lane", 60.0, 0.2)
    assert company.rests_until_s("b", "lane", 0.2) == pytest.approx(0.2 + REST_MAX_S)
    assert company.rests_until_s("a", "lane", 0.2 + LATELY_S) == 0.2 + LATELY_S, (
        "the others have gone"
    )
    company.spent("c", "lane", 0.0, 9.0)
    assert set(company._rests_s) == {("c", "lane")}
