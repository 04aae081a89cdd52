"""A palace whose drawers stock's own backend keeps, with the seam in place, and what calls it.

Hypothesis calls stock's real collection in any order, with any texts and metadata that it takes;
after each call the journal's word on every record is compared with what stands in the database.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
from hypothesis import strategies as st
from mempalace.backends.base import EmbedderIdentity

from palace.engine.durability.groups import CallGroups
from palace.engine.patches import Patch, Patches
from palace.engine.stores.projection import ChangeJournal, same
from palace.journal.journal import Journal
from palace.journal.record import Payload, Stamp
from palace.journal.replay import digest_of, replay
from palace.kernel.kernel import Kernel

NAME = "mempalace_drawers"
IDS = ("a", "b", "c", "d")


class Seam(Protocol):
    """What puts a seam under stock's classes."""

    def __call__(self, store: Any, journal: ChangeJournal, /) -> Iterable[Patch]: ...


@attrs.define
class SeamedPalace:
    """A directory whose drawers stock's backend keeps, with the seam in place."""

    root: Path
    store: Any
    groups: CallGroups
    backend: Any
    collection: Any
    open_store: Callable[[], Any]

    def looked_at(self) -> Any:
        """Return the store as somebody finds it who opens it now."""
        store = self.open_store()
        store.read_fingerprint()
        return store

    @property
    def told(self) -> dict[tuple[str, str], Payload]:
        """Return the journal's last word on each entity."""
        known = replay(self.groups.journal.directory, Kernel())
        return {entity: known.payload(entity) for entity in known.live}

    def assert_told(self) -> None:
        """Fail unless the database holds what the journal says, and the store knows its state."""
        again = self.looked_at()
        there = {(kind, i): payload for kind in again.kinds() for i, payload in again.scan(kind)}
        told = self.told
        assert there.keys() == told.keys()
        assert all(same(payload, told[entity]) for entity, payload in there.items())
        assert all(digest_of(payload) == digest_of(told[e]) for e, payload in there.items())
        ours, found = self.store.fingerprint(), again.fingerprint()
        assert ours["collections"] == found["collections"]
        assert not again.suspects(ours, {}), "it was changed by nobody else"


@contextmanager
def seamed(
    root: Path, open_store: Callable[[], Any], seam: Seam, backend: Any
) -> Iterator[SeamedPalace]:
    """Yield a palace in a directory that is made for it; `open_store` opens its database anew."""
    (root / "journal").mkdir(parents=True)
    journal = Journal.open(str(root / "journal"), Kernel(), Stamp(epoch=1, writer="test"))
    store, groups, patches = open_store(), CallGroups(journal), Patches()
    store.read_fingerprint()
    patches.apply(seam(store, groups))
    try:
        collection = backend.get_collection(str(root), NAME, create=True)
        yield SeamedPalace(root, store, groups, backend, collection, open_store)
    finally:
        patches.undo()
        backend.close()
        journal.close()


def put(made: SeamedPalace, *ids: str) -> None:
    rows = [[float(number), 1.0] for number in range(len(ids))]
    metadata = [{"k": 1} for _ in ids]
    made.collection.upsert(ids=list(ids), documents=list(ids), metadatas=metadata, embeddings=rows)


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
    """Draw a method of stock's collection, and its arguments."""
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


def make_all(palace: SeamedPalace, made_calls: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Make calls; stock refuses what it refuses, and then nothing may have changed."""
    for name, arguments in made_calls:
        try:
            getattr(palace.collection, name)(**arguments)
        except Exception:
            palace.assert_told()
        palace.assert_told()
