"""Storing together: the writes of a batch's calls become one operation of the store.

Stock's handlers stay as they are.  Each runs in a thread of its own, one at a time, since each
holds stock's request lock; at its write it lets go of the lock and hands the write in
(palace/engine/batch.py).  Once all have, one of them embeds all documents, without the lock, and
stores them with it: one journal record each, one fsync, one upsert.

What the handlers ask about their drawers before and after ("is it there?") is asked once for all.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import attrs

from palace.engine.batch import Batch, Put, store_or_each
from palace.engine.durability.groups import CallGroups, Group
from palace.engine.hosting.adjustments import need
from palace.engine.hosting.lookup_cache import Looks, is_open

logger = logging.getLogger("palace.engine")


@attrs.define(eq=False, kw_only=True)
class Write:
    """What one call writes: stock's collection and method with the method's arguments."""

    collection: Any
    method: str
    ids: Sequence[str]
    documents: Sequence[str]
    metadatas: Sequence[Any]
    group: Group | None
    vectors: Sequence[Any] = ()
    present: frozenset[str] | None = None  # of its ids, once it was stored; None: nobody has looked


class _Here(threading.local):
    """The batch of this thread's call, and what the call has stored in it."""

    batch: Batch | None = None
    stored: Write | None = None


class Together:
    """Stores the batches of one palace; `install` puts it under stock's handlers."""

    def __init__(self, server: ModuleType, looks: Looks) -> None:
        self._lock = need(server, "_HTTP_REQUEST_LOCK", "store_together")
        self._make_id = need(server, "make_drawer_id_from_content", "store_together")
        self._handle = need(server, "handle_request", "store_together")
        self._open = need(server, "_get_collection", "store_together")
        self._server = server
        self._looks = looks
        self._here = _Here()
        self._stock: dict[str, Callable[..., Any]] = {}
        self.durable: CallGroups | None = None  # where there is a journal

    def install(self) -> None:
        """Take the place of ChromaCollection's methods, for the life of this process."""
        from mempalace.backends import chroma

        stock = need(chroma, "ChromaCollection", "store_together")
        names = ("add", "upsert", "get")
        self._stock = {name: need(stock, name, "store_together") for name in names}

        def add(collection: Any, **asked: Any) -> Any:
            return self._write(collection, "add", asked)

        def upsert(collection: Any, **asked: Any) -> Any:
            return self._write(collection, "upsert", asked)

        def get(collection: Any, **asked: Any) -> Any:
            return self._get(collection, asked)

        stock.add, stock.upsert, stock.get = add, upsert, get
        self._server._get_collection = self._collection  # type: ignore[attr-defined]  # noqa: SLF001

    def batch(self, messages: Sequence[dict[str, Any]]) -> Batch:
        """Return what calls with these messages meet in."""
        return Batch(messages, self._store)

    def answer(self, batch: Batch, message: dict[str, Any]) -> Any:
        """Answer a call of a batch as stock's dispatcher would: alone, but for its write."""
        self._here.batch, self._here.stored = batch, None
        try:
            with self._lock:
                return self._handle(message)
        finally:
            self._here.batch = self._here.stored = None

    # In the threads of the calls.

    def _collection(self, *, create: bool = False) -> Any:
        if self._here.batch is None:
            return self._open(create=create)
        return self._looks.look_up("collection", lambda: self._open(create=create), is_open)

    def _write(self, collection: Any, method: str, asked: Mapping[str, Any]) -> Any:
        batch = self._here.batch
        if batch is None or asked.get("embeddings") is not None or not asked.get("metadatas"):
            return self._stock[method](collection, **asked)
        write = Write(
            collection=collection,
            method=method,
            ids=asked["ids"],
            documents=collection._sanitize_documents_for_chromadb(asked["documents"]),  # noqa: SLF001
            metadatas=asked["metadatas"],
            group=self.durable.current() if self.durable is not None else None,
        )
        self._lock.release_write()
        try:
            batch.put(write)
        finally:
            self._lock.acquire_write()
        self._here.stored = write
        return None

    def _get(self, collection: Any, asked: Mapping[str, Any]) -> Any:
        """Answer whether drawers are there from what was asked for the whole batch."""
        batch = self._here.batch
        if batch is not None and asked.keys() == {"ids", "include"} and asked["include"] == []:
            write = self._here.stored
            present = write.present if write is not None else self._before(collection, batch)
            known = write.ids if write is not None else batch.shared.get("asked", ())
            if present is not None and set(asked["ids"]).issubset(known):
                found = [ident for ident in asked["ids"] if ident in present]
                return dataclasses.replace(batch.shared["empty"], ids=found)
            collection = write.collection if write is not None else collection
        return self._stock["get"](collection, **asked)

    def _before(self, collection: Any, batch: Batch) -> frozenset[str]:
        """Return which of the batch's drawers were there when its first call asked."""
        if "before" not in batch.shared:
            ids = [ident for ident in map(self._id_of, batch.messages) if ident]
            there = self._present(collection, ids, batch.shared) if ids else frozenset()
            batch.shared.update(before=there, asked=frozenset(ids))
        before: frozenset[str] = batch.shared["before"]
        return before

    def _present(
        self, collection: Any, ids: Sequence[str], shared: dict[str, Any]
    ) -> frozenset[str]:
        answer = self._stock["get"](collection, ids=list(ids), include=[])
        shared["empty"] = dataclasses.replace(answer, ids=[])
        return frozenset(answer.ids)

    def _id_of(self, message: Mapping[str, Any]) -> str:
        """Return the id under which stock will file a drawer, "" where it isn't known."""
        params = message["params"]
        if params["name"] != "mempalace_add_drawer":
            return ""
        wing, room, content = (
            params["arguments"].get(key, "") for key in ("wing", "room", "content")
        )
        try:
            return str(self._make_id(wing.strip(), room.strip(), content))
        except ValueError:  # lone surrogates: the handler takes them out first
            return ""

    # In the thread of one of them, for all.

    def _store(self, puts: Sequence[Put]) -> None:
        by_collection: dict[str, list[Put]] = {}
        for put in puts:
            by_collection.setdefault(str(put.what.collection._collection.id), []).append(put)  # noqa: SLF001
        for same in by_collection.values():
            embedded = [put for put in _embed(same) if put.error is None]
            with self._lock:
                # Who had the lock meanwhile may have closed what the handlers had opened.
                collection = self._collection(create=True)
                for put in embedded:
                    put.what.collection = collection or put.what.collection
                self._store_in_one(embedded)

    def _store_in_one(self, puts: Sequence[Put]) -> None:
        if not puts:
            return
        assert self._here.batch is not None
        collection, shared = puts[0].what.collection, self._here.batch.shared
        adds = [ident for put in puts if put.what.method == "add" for ident in put.what.ids]
        there = self._present(collection, adds, shared) if adds else frozenset()
        old: list[Put] = []  # an add changes nothing of what is there, an upsert does
        new: list[Put] = []
        for put in puts:
            is_old = put.what.method == "add" and not there.isdisjoint(put.what.ids)
            (old if is_old else new).append(put)
        store_or_each(new, lambda some: self._make(some, "upsert"))
        for put in old:
            store_or_each([put], lambda some: self._make(some, "add"))
        self._look(collection, puts, shared)

    def _look(self, collection: Any, puts: Sequence[Put], shared: dict[str, Any]) -> None:
        try:
            present = self._present(
                collection, [ident for put in puts for ident in put.what.ids], shared
            )
        except Exception:  # what was stored is stored: each call looks for itself
            logger.exception("whether a batch is readable could not be asked")
            return
        for put in puts:
            put.what.present = present

    def _make(self, puts: Sequence[Put], method: str) -> None:
        writes: list[Write] = [put.what for put in puts]
        groups = {ident: write.group for write in writes for ident in write.ids if write.group}

        def make() -> None:
            self._stock[method](
                writes[0].collection,
                ids=[ident for write in writes for ident in write.ids],
                documents=[text for write in writes for text in write.documents],
                metadatas=[entry for write in writes for entry in write.metadatas],
                embeddings=[vector for write in writes for vector in write.vectors],
            )

        if self.durable is None:
            make()
            return
        with self.durable.on_behalf(groups):
            make()


def _embed(puts: Sequence[Put]) -> Sequence[Put]:
    """Embed all documents; where that fails, each write's own, so that one fails alone."""
    texts = [text for put in puts for text in put.what.documents]
    try:
        vectors = _vectors(puts[0].what.collection, texts)
    except Exception as error:
        if len(puts) == 1:
            puts[0].error = error
        else:
            for put in puts:
                _embed([put])
        return puts
    rest = iter(vectors)
    for put in puts:
        put.what.vectors = [next(rest) for _ in put.what.documents]
    return puts


def _vectors(collection: Any, texts: Sequence[str]) -> Sequence[Any]:
    """Embed texts with the collection's own function, as chromadb would at the write."""
    vectors: Sequence[Any] = collection._collection._embed(input=list(texts))  # noqa: SLF001
    return vectors
