"""Patches are checked before any is applied, and are undone without a trace."""

from types import ModuleType
from typing import Any

import pytest

from palace.engine.patches import ABSENT, JOURNAL, Patch, Patches, always, need
from palace.protocol.errors import StoreUnavailable
from palace.settings.installation import command_for


class Base:
    def inherited(self) -> str:
        return "inherited"


class Target(Base):
    def own(self) -> str:
        return "own"

    @staticmethod
    def static() -> str:
        return "static"


@pytest.fixture
def module() -> Any:
    module = ModuleType("mempalace.part")
    module.work = lambda: "stock"  # type: ignore[attr-defined]
    module.limit = 5  # type: ignore[attr-defined]
    return module


def patch(owner: object, attribute: str, replacement: object, **more: Any) -> Patch:
    return Patch(
        name=more.pop("name", "pin_once"),
        why="a test",
        owner=owner,
        attribute=attribute,
        replace=replacement if callable(replacement) else always(replacement),
        **more,
    )


def wrap(word: str) -> Any:
    return lambda stock: lambda *given: f"{word}({stock(*given)})"


def test_a_later_patch_lies_above_an_earlier_and_both_are_undone(module: Any) -> None:
    stock, patches = module.work, Patches()

    patches.apply([patch(module, "work", wrap("a")), patch(module, "work", wrap("b"))])

    assert module.work() == "b(a(stock))"
    assert [one.attribute for one in patches.applied] == ["work", "work"]
    patches.undo()
    assert module.work is stock
    assert patches.applied == ()


def test_undoing_leaves_a_class_a_dict_and_a_function_as_they_were() -> None:
    def handler() -> None:
        return

    entry, members, patches = {"handler": handler}, dict(vars(Target)), Patches()

    patches.apply(
        [
            patch(Target, "own", wrap("new")),
            patch(Target, "inherited", wrap("new")),
            patch(Target, "static", always(staticmethod(lambda: "new"))),
            patch(entry, "handler", wrap("new")),
            patch(handler, "__signature__", "made", expected=lambda found: found is ABSENT),
        ]
    )

    assert (Target().own(), Target().inherited()) == ("new(own)", "new(inherited)")
    assert Target.static() == "new"
    assert entry["handler"]() == "new(None)"
    assert handler.__signature__ == "made"  # type: ignore[attr-defined]
    patches.undo()
    assert dict(vars(Target)) == members
    assert Target().inherited() == "inherited"
    assert entry == {"handler": handler}
    assert not hasattr(handler, "__signature__")


def test_nothing_is_applied_where_one_target_is_missing(module: Any) -> None:
    before, patches = dict(vars(module)), Patches()

    with pytest.raises(StoreUnavailable) as refused:
        patches.apply([patch(module, "work", wrap("a")), patch(module, "gone", wrap("b"))])

    assert refused.value.message == (
        "The installed mempalace has no mempalace.part.gone, which the adjustment 'pin_once' "
        "needs. Install a 3.11.x release that palace was tested with: "
        f"{command_for('mempalace==3.11.*')}; or switch it off: "
        "palace config set adjustments_off=pin_once"
    )
    assert vars(module) == before
    assert patches.applied == ()


def test_a_target_of_another_shape_is_refused(module: Any) -> None:
    with pytest.raises(StoreUnavailable, match=r"mempalace\.part\.limit of the installed mempal"):
        Patches().apply([patch(module, "limit", wrap("a"))])

    Patches().apply([patch(module, "limit", always(7), expected=lambda found: found == 5)])
    assert module.limit == 7


def test_what_a_patch_needs_beside_its_target_is_returned_or_refused(module: Any) -> None:
    assert need(module, "limit", "pin_once") == 5
    with pytest.raises(StoreUnavailable, match=r"mempalace\.part\.gone, which the journal needs"):
        need(module, "gone", JOURNAL)
