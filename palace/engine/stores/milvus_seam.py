"""The seam under milvus: a change is worked out, journalled, and then made.

It lies at mempalace's own collection, which is given documents with their vectors.  What is deleted
is deleted here by the ids that were journalled: mempalace would hand them on as an expression.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import attrs

from palace.engine.patches import JOURNAL, Patch
from palace.engine.stores.drawers import PREFIX, RecordPayload
from palace.engine.stores.milvus import Milvus
from palace.engine.stores.milvus_open import mark, serve_privately
from palace.engine.stores.milvus_rows import record_of_row
from palace.engine.stores.projection import Change, ChangeJournal
from palace.engine.stores.whole_collections import dropped, note_new
from palace.protocol.errors import StoreUnavailable

Stock = Callable[..., Any]  # a method of stock's, whose arguments and result only pass through
Arguments = Mapping[str, Any]  # of such a method, by name


def milvus_patches(store: Milvus, journal: ChangeJournal) -> Iterator[Patch]:
    """Return what puts the seam into stock's classes."""
    from mempalace.backends.milvus import MilvusBackend, MilvusCollection

    serve_privately()
    seam = _Seam(store, journal)
    store.is_hosted = True
    plan = functools.partial(Patch, name=JOURNAL, owner=MilvusCollection)
    for name, replace in (
        ("add", functools.partial(seam.putting, replaces=False)),
        ("upsert", functools.partial(seam.putting, replaces=True)),
        ("delete", seam.deleting),
    ):
        yield plan(why="what it changes is journalled before", attribute=name, replace=replace)
    yield plan(
        why="nothing may come between what it reads and what it writes",
        attribute="update",
        replace=seam.updating,
    )
    yield plan(
        why="what it deletes is journalled before",
        owner=MilvusBackend,
        attribute="delete_collection",
        replace=seam.dropping,
    )
    yield plan(
        why="a mark that a kill has cut off, or of another path, would keep all of it closed",
        owner=MilvusBackend,
        attribute="_validate_marker_target",
        replace=seam.finding,
    )
    yield plan(
        why="a mark that is written in place may be cut off by a kill",
        owner=MilvusBackend,
        attribute="_write_marker",
        replace=seam.marking,
    )


@attrs.frozen
class _Seam:
    """One method for each of stock's, which says what that is about to change."""

    _store: Milvus
    _journal: ChangeJournal

    def putting(self, stock: Stock, *, replaces: bool) -> Stock:
        """Return stock's method with what it writes journalled before."""
        signature = _signature(stock)
        store = self._store

        @functools.wraps(stock)
        def method(collection: Any, *args: Any, **options: Any) -> object:
            if not self._is_ours(collection):
                return stock(collection, *args, **options)
            asked = signature.bind(collection, *args, **options).arguments
            with store.lock:
                new = self._given(collection, asked)
                name = _name(collection)
                kind = PREFIX + name
                old = store.read(kind, new)
                found = [
                    Change(kind, ident, old.get(ident), {**record})
                    for ident, record in new.items()
                    if replaces or ident not in old
                ]

                def make() -> object:
                    made = stock(collection, *args, **options)
                    store.wrote(kind)
                    return made

                return self._journal.change(store, found, make)

        return method

    def _given(self, collection: Any, asked: Arguments) -> dict[str, RecordPayload]:
        """Return what a call hands over, by id, in a collection that is there for it.

        Raises what stock would raise where it can't be kept.
        """
        if asked.get("embeddings") is None:
            return {}
        rows, dimension = collection._prepare_rows(  # noqa: SLF001
            **{name: asked.get(name) for name in ("documents", "ids", "metadatas", "embeddings")}
        )
        if not rows:
            return {}
        records = {row["id"]: record_of_row(row) for row in rows}
        collection._ensure_remote_collection(dimension)  # noqa: SLF001
        note_new(self._store, self._journal, _name(collection))
        return records

    def deleting(self, stock: Stock) -> Stock:
        """Return a method that deletes the records that stock would, by their ids."""
        signature = _signature(stock)
        store = self._store

        @functools.wraps(stock)
        def delete(collection: Any, *args: Any, **options: Any) -> object:
            asked = signature.bind(collection, *args, **options).arguments
            ids, where = asked.get("ids"), asked.get("where")
            is_there = self._is_ours(collection) and collection._remote_exists()  # noqa: SLF001
            if not is_there or (ids is None and not where):
                return stock(collection, *args, **options)
            kind = PREFIX + _name(collection)
            with store.lock:
                if where:
                    chosen = collection.get(where=where, include=[]).ids
                    ids = chosen if ids is None else [i for i in ids if i in set(chosen)]
                old = store.read(kind, cast("Sequence[str]", ids))
                found = [Change(kind, ident, record, None) for ident, record in old.items()]
                return self._journal.change(store, found, lambda: self._delete(kind, list(old)))

        return delete

    def _delete(self, kind: str, ids: list[str]) -> None:
        self._store.open().delete(kind.removeprefix(PREFIX), ids)
        self._store.wrote(kind)

    def updating(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def update(collection: Any, *args: Any, **options: Any) -> object:
            with self._store.lock:
                return stock(collection, *args, **options)

        return update

    def dropping(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def delete_collection(backend: Any, palace_path: str, collection_name: str) -> object:
            if not self._is_here(palace_path):
                return stock(backend, palace_path, collection_name)
            store = self._store
            with store.lock:
                changes = dropped(store, collection_name)

                def make() -> object:
                    return stock(backend, palace_path, collection_name)

                return self._journal.change(store, changes, make)

        return delete_collection

    def finding(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def validate(backend: Any, palace: Any, config: Any) -> None:
            if self._is_here(palace.local_path):
                mark(palace.local_path, palace.id)
            stock(backend, palace, config)

        return validate

    def marking(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def write_marker(backend: Any, palace: Any, config: Any) -> None:
            if self._is_here(palace.local_path):
                mark(palace.local_path, palace.id)
            else:
                stock(backend, palace, config)

        return write_marker

    def _is_ours(self, collection: Any) -> bool:
        is_past_it = self._store.is_own(collection._backend)  # noqa: SLF001
        return not is_past_it and self._is_here(collection._palace.local_path)  # noqa: SLF001

    def _is_here(self, root: str) -> bool:
        return os.path.realpath(root) == os.path.realpath(self._store.root)


def _signature(stock: Stock) -> inspect.Signature:
    """Return how a method is called; what it is called with must not be passed over."""
    signature = inspect.signature(stock)
    if "ids" not in signature.parameters:
        raise StoreUnavailable(f"{stock!r} of the installed mempalace names no ids")
    return signature


def _name(collection: Any) -> str:
    return str(collection._remote_collection)  # noqa: SLF001
