"""Whose place is taken back where there is one client too many."""

from collections.abc import Callable
from functools import partial

import pytest

from palace.broker.places import Place, Places
from palace.protocol.budget import Budget


@pytest.fixture
def gone() -> list[str]:
    return []


@pytest.fixture
def enter(gone: list[str]) -> Callable[..., Place]:
    """Take one of four places; who is sent away is noted in `gone`."""
    places = Places(Budget("places", 4))

    def enter(party: str, name: str, *, heard: bool = True, kept: bool = False) -> Place:
        place = Place(party, partial(gone.append, name), heard, lambda: kept)
        places.add(place)
        assert places.has(place) is (name not in gone)
        return place

    return enter


def test_the_heaviest_party_gives_way_whatever_it_does(
    enter: Callable[..., Place], gone: list[str]
) -> None:
    for number in range(4):
        enter("hog", f"hog {number}")
    for number in range(2):
        enter("other", f"other {number}", heard=False)
    assert gone == ["hog 0", "hog 1"]


def test_who_is_heaviest_takes_no_place_of_its_own_that_is_at_work(
    enter: Callable[..., Place], gone: list[str]
) -> None:
    for number in range(4):
        enter("hog", f"hog {number}")
    enter("hog", "new", heard=False)
    assert gone == ["new"]


@pytest.mark.parametrize("quiet", [{"kept": True}, {"heard": False}])
def test_of_a_party_goes_first_what_is_kept_and_then_what_is_silent(
    enter: Callable[..., Place], gone: list[str], quiet: dict[str, bool]
) -> None:
    enter("hog", "at work")
    enter("hog", "quiet", **quiet)
    enter("hog", "silent", heard=False)
    enter("hog", "at work, too")
    enter("other", "new")
    enter("other", "newer")
    assert gone == ["quiet", "silent"]


def test_what_is_kept_goes_before_what_has_not_spoken_yet(
    enter: Callable[..., Place], gone: list[str]
) -> None:
    enter("hog", "silent", heard=False)
    enter("hog", "kept", kept=True)
    enter("hog", "at work")
    enter("hog", "at work, too")
    enter("hog", "new", heard=False)
    assert gone == ["kept"]
