"""The store of sqlite_exact: what the seam journals is what stock's own code then reads back.

Hypothesis calls stock's real collection in any order, with any texts and metadata that it takes;
after each call the journal's word on every record is compared with what stands in the database.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mempalace.backends.base import EmbedderIdentity
from mempalace.backends.sqlite_exact import SQLiteExactBackend

from palace.engine.durability.groups import CallGroups
from palace.engine.patches import Patches
from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.exact import Exact
from palace.engine.stores.exact_seam import exact_patches
from palace.engine.stores.projection import same
from palace.journal.journal import Journal
from palace.journal.record import Payload, Stamp
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalFailed

pytestmark = [pytest.mark.engine]

NAME = "mempalace_drawers"
KIND = PREFIX + NAME
IDS = ("a", "b", "c", "d")


@attrs.define
class Palace:
    """A directory whose drawers stock's backend keeps, with the seam in place."""

    root: Path
    store: Exact
    groups: CallGroups
    backend: SQLiteExactBackend
    collection: Any

    @property
    def told(self) -> dict[tuple[str, str], Payload]:
        """Return the journal's last word on each entity."""
        known = replay(self.groups.journal.directory, Kernel())
        return {entity: known.payload(entity) for entity in known.live}

    def assert_told(self) -> None:
        again = Exact(str(self.root))
        again.read_fingerprint()
        there = {(kind, i): payload for kind in again.kinds() for i, payload in again.scan(kind)}
        told = self.told
        assert there.keys() == told.keys()
        assert all(same(payload, told[entity]) for entity, payload in there.items())
        ours, found = self.store.fingerprint(), again.fingerprint()
        assert ours.pop("newest") >= found.pop("newest"), "what is gone was the newest"
        assert ours == found


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Palace]:
    monkeypatch.setenv("HOME", str(tmp_path))  # where stock's lock lies
    yield from opened(tmp_path / "palace")


def opened(root: Path) -> Iterator[Palace]:
    root.mkdir(parents=True)
    (root / "journal").mkdir()
    journal = Journal.open(str(root / "journal"), Kernel(), Stamp(epoch=1, writer="test"))
    store, groups, patches = Exact(str(root)), CallGroups(journal), Patches()
    store.read_fingerprint()
    patches.apply(exact_patches(store, groups))
    backend = SQLiteExactBackend()
    try:
        collection = backend.get_collection(str(root), NAME, create=True)
        yield Palace(root, store, groups, backend, collection)
    finally:
        patches.undo()
        backend.close()
        journal.close()


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=5), st.floats()
)
tables = st.dictionaries(st.text(max_size=3), scalars, max_size=2)
values = st.one_of(scalars, st.lists(scalars, max_size=2), tables)
metadatas = st.one_of(st.none(), st.dictionaries(st.text(max_size=5), values, max_size=3))
vectors = st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3)
documents = st.text(max_size=20)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(["add", "upsert", "update", "delete", "where", "identity"]))
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3))
    if name == "delete":
        return "delete", {"ids": ids}
    if name == "where":
        return "delete", {"where": draw(st.sampled_from([None, {"k": 1}, {"k": {"$ne": 1}}]))}
    if name == "identity":
        model = draw(st.sampled_from(["", "minilm", "other"]))
        return "set_embedder_identity", {"identity": EmbedderIdentity(model, 3)}
    members = {
        "documents": [draw(documents) for _ in ids],
        "metadatas": [draw(st.one_of(metadatas, st.just({"k": 1}))) for _ in ids],
        "embeddings": [draw(vectors) for _ in ids],
    }
    if name == "update":
        left_out = draw(st.sets(st.sampled_from(sorted(members)), max_size=2))
        members = {member: value for member, value in members.items() if member not in left_out}
    return name, {"ids": ids, **members}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(made_calls=st.lists(calls(), max_size=6))
def test_the_journal_says_what_stands_in_the_database(
    tmp_path_factory: pytest.TempPathFactory, made_calls: list[tuple[str, dict[str, Any]]]
) -> None:
    for palace in opened(tmp_path_factory.mktemp("exact") / "palace"):
        for name, arguments in made_calls:
            try:
                getattr(palace.collection, name)(**arguments)
            except Exception:  # stock refuses what it refuses: then nothing may have changed
                palace.assert_told()
            palace.assert_told()


def test_a_record_that_the_journal_does_not_take_is_not_written(made: Palace) -> None:
    made.groups.stuck = True  # as after a change that could not be taken back
    with pytest.raises(JournalFailed):
        made.collection.upsert(ids=["a"], documents=["x"], metadatas=[{}], embeddings=[[1.0, 2.0]])
    assert made.collection.count() == 0


def test_a_collection_of_another_directory_is_not_this_palaces(made: Palace) -> None:
    other = made.backend.get_collection(str(made.root.parent / "other"), NAME, create=True)
    other.upsert(ids=["a"], documents=["x"], metadatas=[{}], embeddings=[[1.0, 2.0]])
    made.backend.delete_collection(str(made.root.parent / "other"), NAME)
    assert made.told == {(COLLECTION, NAME): {"embedder": None}}


def test_a_collection_goes_with_its_records(made: Palace) -> None:
    put(made, "a", "b")
    made.backend.delete_collection(str(made.root), NAME)
    assert made.told == {}
    made.assert_told()
    made.backend.get_collection(str(made.root), NAME, create=True)
    assert made.told == {(COLLECTION, NAME): {"embedder": None}}


def put(made: Palace, *ids: str) -> None:
    rows = [[float(number), 1.0] for number in range(len(ids))]
    metadata = [{"k": 1} for _ in ids]
    made.collection.upsert(ids=list(ids), documents=list(ids), metadatas=metadata, embeddings=rows)


# Which state it is in.


def test_what_another_program_does_is_noticed(made: Palace) -> None:
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


def looked_at(made: Palace) -> Exact:
    store = Exact(str(made.root))
    store.read_fingerprint()
    return store


def foreign(made: Palace) -> Any:
    """Return the collection as another process has it: without the seam."""
    stock = type(made.collection)

    class Foreign:
        def __getattr__(self, name: str) -> Any:
            method = getattr(stock, name)
            return lambda **given: getattr(method, "__wrapped__", method)(made.collection, **given)

    return Foreign()


def test_an_older_copy_put_back_is_older(made: Palace) -> None:
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


def test_another_database_of_the_same_name_was_replaced(made: Palace) -> None:
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


def test_vectors_are_kept_to_the_bit(made: Palace) -> None:
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
