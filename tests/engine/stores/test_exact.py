"""The store of sqlite_exact: what the seam journals is what stock's own code then reads back."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mempalace.backends.sqlite_exact import SQLiteExactBackend

from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.exact import Exact
from palace.engine.stores.exact_seam import exact_patches
from palace.protocol.errors import JournalFailed
from tests.support.stores.drawers import NAME, SeamedPalace, calls, make_all, put, seamed

pytestmark = [pytest.mark.engine]

KIND = PREFIX + NAME


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeamedPalace]:
    monkeypatch.setenv("HOME", str(tmp_path))  # where stock's lock lies
    with opened(tmp_path / "palace") as palace:
        yield palace


def opened(root: Path) -> AbstractContextManager[SeamedPalace]:
    return seamed(root, lambda: Exact(str(root)), exact_patches, SQLiteExactBackend())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(made_calls=st.lists(calls(), max_size=6))
def test_the_journal_says_what_stands_in_the_database(
    tmp_path_factory: pytest.TempPathFactory, made_calls: list[tuple[str, dict[str, Any]]]
) -> None:
    with opened(tmp_path_factory.mktemp("exact") / "palace") as palace:
        make_all(palace, made_calls)


def test_a_record_that_the_journal_does_not_take_is_not_written(made: SeamedPalace) -> None:
    made.groups.stuck = True  # as after a change that could not be taken back
    with pytest.raises(JournalFailed):
        made.collection.upsert(ids=["a"], documents=["x"], metadatas=[{}], embeddings=[[1.0, 2.0]])
    assert made.collection.count() == 0


def test_a_collection_of_another_directory_is_not_this_palaces(made: SeamedPalace) -> None:
    other = made.backend.get_collection(str(made.root.parent / "other"), NAME, create=True)
    other.upsert(ids=["a"], documents=["x"], metadatas=[{}], embeddings=[[1.0, 2.0]])
    made.backend.delete_collection(str(made.root.parent / "other"), NAME)
    assert made.told == {(COLLECTION, NAME): {"embedder": None}}


def test_a_collection_goes_with_its_records(made: SeamedPalace) -> None:
    put(made, "a", "b")
    made.backend.delete_collection(str(made.root), NAME)
    assert made.told == {}
    made.assert_told()
    made.backend.get_collection(str(made.root), NAME, create=True)
    assert made.told == {(COLLECTION, NAME): {"embedder": None}}


# Which state it is in.


def test_what_another_program_does_is_noticed(made: SeamedPalace) -> None:
    put(made, "a", "b")
    then = made.store.fingerprint()
    assert not looked_at(made).suspects(then, {})
    assert looked_at(made).was_replaced(then), "nothing was written, so that nothing was deleted"
    for act in (
        lambda c: c.upsert(ids=["c"], documents=["c"], metadatas=[{}], embeddings=[[0.0, 1.0]]),
        lambda c: c.update(ids=["a"], metadatas=[{"k": 2}]),
        lambda c: c.update(ids=["a"], embeddings=[[5.0, 5.0]]),
        lambda c: c.delete(ids=["b"]),
    ):
        before = looked_at(made).fingerprint()
        act(foreign(made))
        assert looked_at(made).suspects(before, {})
    assert not looked_at(made).was_replaced(then), "it went on, so that what is gone was deleted"
    assert not looked_at(made).is_older(then)


def looked_at(made: SeamedPalace) -> Exact:
    store = Exact(str(made.root))
    store.read_fingerprint()
    return store


def foreign(made: SeamedPalace) -> Any:
    """Return the collection as another process has it: without the seam."""
    stock = type(made.collection)

    class Foreign:
        def __getattr__(self, name: str) -> Any:
            method = getattr(stock, name)
            return lambda **given: getattr(method, "__wrapped__", method)(made.collection, **given)

    return Foreign()


def test_an_older_copy_put_back_is_older(made: SeamedPalace) -> None:
    put(made, "a", "b")
    old = made.store.fingerprint()
    put(made, "c")
    made.collection.delete(ids=["a"])
    new = made.store.fingerprint()

    copy = attrs.evolve(looked_at(made))
    copy._written, copy._newest = old["written"], old["newest"]
    assert copy.is_older(new)
    assert copy.was_replaced(new)
    assert not looked_at(made).is_older(old)


def test_another_database_of_the_same_name_was_replaced(made: SeamedPalace) -> None:
    for number in range(10):
        put(made, str(number))
    then = made.store.fingerprint()
    made.backend.close()
    for path in made.root.glob("sqlite_exact*"):
        path.unlink()
    again = SQLiteExactBackend()
    again.get_collection(str(made.root), NAME, create=True)
    for number in range(5):
        rows = {"ids": [f"x{number}"], "documents": ["x"], "embeddings": [[1.0, 0.0]]}
        again.get_collection(str(made.root), NAME).upsert(**rows)
    again.close()
    assert looked_at(made).was_replaced(then)
    assert not looked_at(made).is_older(then), "its clock is not the other one's"


def test_vectors_are_kept_to_the_bit(made: SeamedPalace) -> None:
    exact = [0.1, -0.0, 1e-40, math.pi]
    made.collection.upsert(ids=["a"], documents=["otter"], metadatas=[{}], embeddings=[exact])
    told = made.told[KIND, "a"]
    other = Exact(str(made.root.parent / "copy"))
    (made.root.parent / "copy").mkdir()
    other.write(COLLECTION, {NAME: {"embedder": "minilm"}})
    other.write(KIND, {"a": told})
    assert other.read(KIND, ["a"]) == {"a": told}
    backend = SQLiteExactBackend()
    found = backend.get_collection(other.root, NAME)
    assert found.get_stored_embedder_identity().model_name == "minilm"
    assert found.lexical_search(query="otter").hits[0].id == "a"
    backend.close()
