"""What a comparison of stores and journal finds: by kind, by how it differs, with an example."""

from types import SimpleNamespace
from typing import Any

import pytest

from palace.engine.durability.drift import Drift, find_drift
from palace.journal.replay import no_progress, replay
from tests.support.disks.memory import Disk
from tests.support.stores.memory import JOURNAL, KEYS, Life, MemoryStore, awake


@pytest.fixture
def life() -> Life:
    life = awake(Disk())
    life.set("a", x=1, y={"n": 2}, z=3)
    life.set("b", w=4)
    life.journal.sync(life.journal.seq)
    return life


def drift(life: Life) -> list[Drift]:
    stores: Any = SimpleNamespace(all=(life.one, life.two))
    return find_drift(stores, replay(JOURNAL, life.disk, keys=KEYS), no_progress)


def test_stores_that_are_as_the_journal_says_have_none(life: Life) -> None:
    assert drift(life) == []


def test_what_is_missing_is_counted_and_named(life: Life) -> None:
    life.one.write("a", {"x": None, "z": None})

    assert drift(life) == [Drift(kind="a", missing=2, foreign=0, different=0, example="x")]


def test_what_the_journal_does_not_know_is_foreign(life: Life) -> None:
    life.two.write("b", {"new": 1})

    assert drift(life) == [Drift(kind="b", missing=0, foreign=1, different=0, example="new")]


def test_what_has_other_contents_is_different_though_counts_agree(life: Life) -> None:
    life.one.write("a", {"y": {"n": 3}})

    assert drift(life) == [Drift(kind="a", missing=0, foreign=0, different=1, example="y")]


def test_a_kind_of_which_nothing_is_left_is_compared_too(life: Life) -> None:
    life.two.write("b", {"w": None})

    assert drift(life) == [Drift(kind="b", missing=1, foreign=0, different=0, example="w")]


def test_a_kind_that_its_store_no_longer_lists_is_compared_too(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Chroma does of a collection that it has lost."""
    monkeypatch.setattr(MemoryStore, "kinds", lambda _store: ())
    life.two.write("b", {"w": None})

    assert drift(life) == [Drift(kind="b", missing=1, foreign=0, different=0, example="w")]


def test_of_several_differences_a_missing_one_is_the_example(life: Life) -> None:
    life.one.write("a", {"z": None, "a": 0, "x": 9})
    life.two.write("b", {"w": 5})

    assert drift(life)[0] == Drift(kind="a", missing=1, foreign=1, different=1, example="z")
