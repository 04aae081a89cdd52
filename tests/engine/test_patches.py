"""Patches: checked before they are applied, applied all or none, and undone to what was there."""

from types import ModuleType

import pytest

from palace.engine.patches import Patch, apply_patches
from palace.protocol.errors import StoreUnavailable


class Base:
    def inherited(self) -> str:
        return "inherited"


class Stock(Base):
    def own(self) -> str:
        return "own"

    limit = 3


def loud(stock: object) -> object:
    assert callable(stock)

    def method(self: Stock) -> str:
        return str(stock(self)).upper()

    return method


OWN = Patch(target=Stock, attribute="own", replacement=loud)
INHERITED = Patch(target=Stock, attribute="inherited", replacement=loud)
MISSING = Patch(target=Stock, attribute="gone", replacement=loud)


def test_patch_is_applied_and_undone() -> None:
    before = dict(vars(Stock))
    undo = apply_patches([OWN, INHERITED])

    assert (Stock().own(), Stock().inherited()) == ("OWN", "INHERITED")
    undo()

    assert dict(vars(Stock)) == before
    assert Stock().inherited() == "inherited"


def test_patches_of_one_place_are_undone_in_the_opposite_order() -> None:
    twice = Patch(target=Stock, attribute="own", replacement=lambda stock: lambda s: stock(s) * 2)
    undo = apply_patches([OWN, twice])

    assert Stock().own() == "OWNOWN"
    undo()

    assert Stock().own() == "own"


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        (MISSING, "Stock.gone: it is missing"),
        (Patch(target=Stock, attribute="limit", replacement=loud), "Stock.limit: it can't be c"),
        (
            Patch(target=Stock, attribute="own", replacement=loud, check=lambda _own: "it is odd"),
            "Stock.own: it is odd",
        ),
    ],
)
def test_patches_that_do_not_all_fit_leave_nothing_behind(patch: Patch, why: str) -> None:
    before = dict(vars(Stock))
    assert why in patch.problem()

    with pytest.raises(StoreUnavailable, match=why.replace(".", r"\.")) as raised:
        apply_patches([OWN, patch])

    assert "3.11" in raised.value.message
    assert dict(vars(Stock)) == before


def test_module_is_patched_by_name() -> None:
    module = ModuleType("stock.words")
    module.__dict__["say"] = lambda: "hello"
    patch = Patch(target=module, attribute="say", replacement=lambda stock: lambda: stock() + "!")
    assert patch.place == "stock.words.say"

    undo = patch.apply()
    assert module.__dict__["say"]() == "hello!"
    undo()

    assert module.__dict__["say"]() == "hello"
