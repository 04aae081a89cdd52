"""The seam under sqlite_exact and rust_exact: a change is worked out, journalled, and then made.

mempalace's own collection is where its callers hand over documents with the vectors that were made
of them (embedding_wrapper.py there).  rust_exact inherits all that writes from sqlite_exact.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from palace.engine.patches import JOURNAL, Patch
from palace.engine.stores.drawers import COLLECTION, PREFIX, RecordPayload, payload
from palace.engine.stores.exact import Exact
from palace.engine.stores.projection import Change, ChangeJournal
from palace.engine.stores.whole_collections import dropped, note_new
from palace.journal.record import JsonObject

Stock = Callable[..., Any]  # a method of stock's, whose arguments and result only pass through
Arguments = Mapping[str, Any]  # of such a method, by name


class StockHandle(Protocol):
    palace_path: str


class StockCollection(Protocol):
    """Stock's `SQLiteExactCollection`, as far as the seam needs it."""

    _handle: StockHandle
    _collection_name: str

    def get(self, *, where: JsonObject | None = ..., include: Sequence[str]) -> Any: ...


Changes = Callable[[StockCollection, Arguments], list[Change]]


def exact_patches(store: Exact, journal: ChangeJournal) -> Iterator[Patch]:
    """Return what puts the seam into stock's classes."""
    from mempalace.backends.sqlite_exact import SQLiteExactBackend, SQLiteExactCollection

    seam = _Seam(store, journal)
    plan = functools.partial(Patch, name=JOURNAL, owner=SQLiteExactCollection)
    for name, changes in (
        ("add", seam.added),
        ("upsert", seam.upserted),
        ("update", seam.updated),
        ("delete", seam.deleted),
        ("set_embedder_identity", seam.identified),
    ):
        yield plan(
            why="what it changes is journalled before",
            attribute=name,
            replace=functools.partial(seam.changing, changes=changes),
        )
    yield plan(
        why="a new collection is journalled at once afterwards",
        owner=SQLiteExactBackend,
        attribute="get_collection",
        replace=seam.opening,
    )
    yield plan(
        why="what it deletes is journalled before",
        owner=SQLiteExactBackend,
        attribute="delete_collection",
        replace=seam.dropping,
    )


class _Seam:
    """One method for each of stock's, which says what that is about to change."""

    def __init__(self, store: Exact, journal: ChangeJournal) -> None:
        self._store = store
        self._journal = journal

    def changing(self, stock: Stock, *, changes: Changes) -> Stock:
        """Return stock's method with what it changes journalled before."""
        signature = inspect.signature(stock)
        store = self._store

        @functools.wraps(stock)
        def method(collection: StockCollection, *args: Any, **options: Any) -> object:
            if not self._is_ours(collection._handle.palace_path):  # noqa: SLF001
                return stock(collection, *args, **options)
            asked = signature.bind(collection, *args, **options).arguments
            with store.lock:
                found = changes(collection, asked)

                def make() -> object:
                    made = stock(collection, *args, **options)
                    if found:
                        store.wrote(found[-1].kind, [change.id for change in found])
                    return made

                return self._journal.change(store, found, make)

        return method

    def opening(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def get_collection(backend: object, *args: Any, **options: Any) -> StockCollection:
            made: StockCollection = stock(backend, *args, **options)
            name, root = made._collection_name, made._handle.palace_path  # noqa: SLF001
            if not self._store.knows(name) and self._is_ours(root):
                with self._store.lock:
                    note_new(self._store, self._journal, name)
            return made

        return get_collection

    def dropping(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def delete_collection(backend: object, palace_path: str, collection_name: str) -> object:
            if not self._is_ours(palace_path):
                return stock(backend, palace_path, collection_name)
            kind = PREFIX + collection_name
            with self._store.lock:
                changes = dropped(self._store, collection_name)

                def make() -> object:
                    made = stock(backend, palace_path, collection_name)
                    self._store.wrote(kind, ())
                    return made

                return self._journal.change(self._store, changes, make)

        return delete_collection

    def _is_ours(self, root: str) -> bool:
        return os.path.realpath(root) == os.path.realpath(self._store.root)

    # What each changes.

    def added(self, collection: StockCollection, asked: Arguments) -> list[Change]:
        # Stock refuses all of them where one is there.
        return self._put(collection, _given(asked), replaces=False)

    def upserted(self, collection: StockCollection, asked: Arguments) -> list[Change]:
        return self._put(collection, _given(asked), replaces=True)

    def _put(
        self, collection: StockCollection, new: Mapping[str, RecordPayload], *, replaces: bool
    ) -> list[Change]:
        kind, old = self._before(collection, list(new))
        return [
            Change(kind, ident, old.get(ident), record)
            for ident, record in new.items()
            if replaces or ident not in old
        ]

    def updated(self, collection: StockCollection, asked: Arguments) -> list[Change]:
        kind, old = self._before(collection, asked["ids"])
        # An id that is named twice is what the last one makes of what was there: stock reads all of
        # them before it writes any.
        after = {
            ident: _updated(old[ident], asked, place)
            for place, ident in enumerate(asked["ids"])
            if ident in old
        }
        return [Change(kind, ident, old[ident], record) for ident, record in after.items()]

    def deleted(self, collection: StockCollection, asked: Arguments) -> list[Change]:
        ids = asked.get("ids")
        if ids is None:
            ids = collection.get(where=asked.get("where"), include=[]).ids
        kind, old = self._before(collection, list(ids))
        return [Change(kind, ident, record, None) for ident, record in old.items()]

    def identified(self, collection: StockCollection, asked: Arguments) -> list[Change]:
        name = collection._collection_name  # noqa: SLF001
        model = getattr(asked["identity"], "model_name", "")
        was = self._store.read(COLLECTION, [name]).get(name)
        if not model or was is None:
            return []
        return [Change(COLLECTION, name, was, {"embedder": str(model)})]

    def _before(
        self, collection: StockCollection, ids: Sequence[str]
    ) -> tuple[str, Mapping[str, JsonObject]]:
        kind = PREFIX + collection._collection_name  # noqa: SLF001
        return kind, cast("Mapping[str, JsonObject]", self._store.read(kind, ids))


def _given(asked: Arguments) -> dict[str, RecordPayload]:
    """Return what a call hands over, by id; raises what stock would raise where it can't be kept.

    Stock checks the lengths by itself, and refuses records without vectors.
    """
    ids, documents, vectors = asked["ids"], asked["documents"], asked.get("embeddings")
    metadatas = asked.get("metadatas") or [{} for _ in ids]
    if vectors is None or not len(ids) == len(documents) == len(metadatas) == len(vectors):
        return {}
    return {
        ident: payload(_document(document), _metadata(metadata), vector, None)
        for ident, document, metadata, vector in zip(
            ids, documents, metadatas, vectors, strict=True
        )
    }


def _updated(was: JsonObject, asked: Arguments, place: int) -> JsonObject:
    """Return a record after an update: stock merges metadata, and replaces the rest."""
    documents, vectors = asked.get("documents"), asked.get("embeddings")
    given = (asked.get("metadatas") or [{}] * (place + 1))[place]
    merged = {**(was["metadata"] or {}), **(_metadata(given) or {})}
    now = {**was, "metadata": merged or None}
    if documents is not None:
        now["document"] = _document(documents[place])
    if vectors is not None:
        now["vector"] = payload(None, None, vectors[place], None)["vector"]
    return now


def _document(text: str) -> str:
    text.encode()  # SQLite keeps no lone surrogates, and the journal would by then
    return text


def _metadata(given: Mapping[str, Any] | None) -> JsonObject | None:
    """Return what stock's text of some metadata says when it is read again."""
    from mempalace.backends.sqlite_exact import _json_dumps, _json_loads

    return dict(_json_loads(_json_dumps(dict(given or {})))) or None
