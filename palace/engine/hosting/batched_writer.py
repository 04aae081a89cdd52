"""Batched writing: the writes of a batch's calls become one operation of the store.

Stock's handlers stay as they are.  Each runs in a thread of its own, one at a time, since each
holds stock's request lock; at its write it releases the lock and hands the write in
(palace/engine/batch.py).  Once all calls have come so far, one of them embeds all documents,
without the lock, and stores them with it: one journal record each, one fsync, one upsert.

Handlers query whether their drawers are there, before the write and after it.  Both are queried
once, for all of the batch.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from palace.engine.batch import PendingWrite, store_or_each
from palace.engine.embedding.supply import ModelUnavailable
from palace.engine.hosting.current_call import CurrentCall
from palace.engine.hosting.lookup_cache import LookupCache, is_open
from palace.engine.hosting.writes import DrawerBatch, Write
from palace.engine.patches import Patch, always, need
from palace.engine.stock import (
    Arguments,
    Collection,
    GetResult,
    JsonObject,
    Method,
    RequestLock,
    Server,
)

if TYPE_CHECKING:
    from palace.engine.durability.groups import CallGroups
    from palace.engine.stock import Vector

NAME = "store_together"

Pending = PendingWrite[Write]
logger = logging.getLogger("palace.engine")


class CollectionKind(Protocol):
    """What stock's class of collections is on one backend, and what a batch must know of it."""

    def owner(self) -> type:
        """Return the class."""
        ...

    def kept(self, collection: Collection, documents: Sequence[str]) -> Sequence[str]:
        """Return documents as the store keeps them."""
        ...

    def key(self, collection: Collection) -> str:
        """Return what collections that are one have in common."""
        ...

    def embed(self, collection: Collection, writes: Sequence[Write]) -> "Sequence[Vector]":
        """Return the vectors that stock would make of writes' documents, at the write."""
        ...


class ChromaKind:
    """Chroma's, which embeds by itself."""

    def owner(self) -> type:
        from mempalace.backends import chroma

        found: type = need(chroma, "ChromaCollection", NAME)
        return found

    def kept(self, collection: Collection, documents: Sequence[str]) -> Sequence[str]:
        return collection._sanitize_documents_for_chromadb(documents)  # noqa: SLF001

    def key(self, collection: Collection) -> str:
        return str(collection._collection.id)  # noqa: SLF001

    def embed(self, collection: Collection, writes: Sequence[Write]) -> "Sequence[Vector]":
        texts = [text for write in writes for text in write.documents]
        return collection._collection._embed(input=texts)  # noqa: SLF001


class EmbeddedKind:
    """That of backends which are given vectors: stock's wrapper around their own."""

    def owner(self) -> type:
        from mempalace.backends import embedding_wrapper

        self._embed: Method = need(embedding_wrapper, "_embed_texts", NAME)
        found: type = need(embedding_wrapper, "EmbeddingCollection", NAME)
        return found

    def kept(self, _collection: Collection, documents: Sequence[str]) -> Sequence[str]:
        return documents

    def key(self, collection: Collection) -> str:
        return str(getattr(collection, "_collection_name", ""))

    def embed(self, _collection: Collection, writes: Sequence[Write]) -> "Sequence[Vector]":
        texts = [text for write in writes for text in write.documents]
        metadatas = [entry for write in writes for entry in write.metadatas]
        vectors: Sequence[Vector] = self._embed(texts, metadatas=metadatas)
        return vectors


class BatchedWriter:
    """Stores the batches of one palace; its patches go under stock's handlers."""

    def __init__(
        self, server: Server, lookups: LookupCache, current: CurrentCall, *, embedded: bool = False
    ) -> None:
        self._collections: CollectionKind = EmbeddedKind() if embedded else ChromaKind()
        self._lock: RequestLock = need(server, "_HTTP_REQUEST_LOCK", NAME)
        self._make_id: Method = need(server, "make_drawer_id_from_content", NAME)
        self._handle: Callable[[JsonObject], JsonObject | None] = need(
            server, "handle_request", NAME
        )
        self._open: Callable[..., Collection | None] = need(server, "_get_collection", NAME)
        self._kind = self._collections.owner()
        self._stock: dict[str, Method] = {
            name: need(self._kind, name, NAME) for name in ("add", "upsert")
        }
        self._stock_get: Callable[..., GetResult] = need(self._kind, "get", NAME)
        self._server = server
        self._lookups = lookups
        self._current = current
        self.durable: CallGroups | None = None  # where there is a journal

    def patches(self) -> Iterator[Patch]:
        def add(collection: Collection, **given: object) -> object:
            return self._write(collection, "add", given)

        def upsert(collection: Collection, **given: object) -> object:
            return self._write(collection, "upsert", given)

        def get(collection: Collection, **given: object) -> GetResult:
            return self._get(collection, given)

        for method in (add, upsert, get):
            yield Patch(
                name=NAME,
                why="a call of a batch reads and writes together with the others",
                owner=self._kind,
                attribute=method.__name__,
                replace=always(method),
            )
        yield Patch(
            name=NAME,
            why="the calls of a batch open the collection once",
            owner=self._server,
            attribute="_get_collection",
            replace=always(self._collection),
        )

    def batch(self, messages: Sequence[JsonObject]) -> DrawerBatch:
        """Return what calls with these messages meet in."""
        return DrawerBatch(messages, self._store)

    def answer(self, message: JsonObject) -> JsonObject | None:
        """Answer a call of a batch as stock's dispatcher would: alone, but for its write."""
        with self._lock:
            return self._handle(message)

    # In the threads of the calls.

    def _collection(self, *, create: bool = False) -> Collection | None:
        if self._current.batch is None:
            return self._open(create=create)
        return self._lookups.look_up("collection", lambda: self._open(create=create), is_open)

    def _write(self, collection: Collection, method: str, given: Arguments) -> object:
        batch = self._current.batch
        if batch is None or given.get("embeddings") is not None or not given.get("metadatas"):
            return self._stock[method](collection, **given)
        write = Write(
            collection=collection,
            method=method,
            ids=given["ids"],
            documents=self._collections.kept(collection, given["documents"]),
            metadatas=given["metadatas"],
            # Read here: the thread that stores for all runs a call, and a group, of its own.
            group=self.durable.current() if self.durable is not None else None,
        )
        # The other calls need the lock to come to their own writes.  With it held here they never
        # would, and this one would wait for them for ever.
        self._lock.release_write()
        try:
            batch.put(write)
        except ModelUnavailable as problem:  # in the thread that stores for all
            self._current.problem = problem
            raise
        finally:
            # Whatever came of the write: `answer`, above this handler, releases the lock once more.
            self._lock.acquire_write()
        self._current.stored = write
        return None

    def _get(self, collection: Collection, given: Arguments) -> GetResult:
        """Answer whether drawers are there from what was queried for the whole batch."""
        batch = self._current.batch
        if batch is not None and given.keys() == {"ids", "include"} and given["include"] == []:
            write = self._current.stored
            present = write.present if write is not None else self._before(collection, batch)
            known = write.ids if write is not None else batch.drawers
            empty = batch.empty_result
            if present is not None and empty is not None and set(given["ids"]).issubset(known):
                found = [ident for ident in given["ids"] if ident in present]
                return dataclasses.replace(empty, ids=found)
            # The handler's own may have been closed while it waited at its write.
            collection = write.collection if write is not None else collection
        return self._stock_get(collection, **given)

    def _before(self, collection: Collection, batch: DrawerBatch) -> frozenset[str]:
        """Return which of the batch's drawers were there when its first call asked.

        That holds for all of its calls: each asks before its write, and nothing is stored until
        every call has come to its own write.
        """
        if batch.present_before is None:
            ids = [ident for ident in map(self._id_of, batch.messages) if ident]
            batch.present_before = self._present(collection, ids, batch) if ids else frozenset()
            batch.drawers = frozenset(ids)
        return batch.present_before

    def _present(
        self, collection: Collection, ids: Sequence[str], batch: DrawerBatch
    ) -> frozenset[str]:
        answer = self._stock_get(collection, ids=list(ids), include=[])
        batch.empty_result = dataclasses.replace(answer, ids=[])
        return frozenset(answer.ids)

    def _id_of(self, message: JsonObject) -> str:
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

    def _store(self, writes: Sequence[Pending]) -> None:
        by_collection: dict[str, list[Pending]] = {}
        for pending in writes:
            key = self._collections.key(pending.write.collection)
            by_collection.setdefault(key, []).append(pending)
        for same in by_collection.values():
            # Most of the time goes into embedding, which needs nothing of the store: readers have
            # the lock meanwhile.
            self._embed(same)
            embedded = [pending for pending in same if pending.error is None]
            with self._lock:
                # A call that had the lock meanwhile may have closed what the handlers had opened.
                collection = self._collection(create=True)
                for pending in embedded:
                    pending.write.collection = collection or pending.write.collection
                self._store_embedded(embedded)

    def _embed(self, writes: Sequence[Pending]) -> None:
        """Embed all documents; where that fails, each write's own, so that one fails alone."""
        collection = writes[0].write.collection
        try:
            vectors = self._collections.embed(collection, [pending.write for pending in writes])
        except Exception as error:
            if len(writes) == 1:
                writes[0].error = error
            else:
                for pending in writes:
                    self._embed([pending])
            return
        rest = iter(vectors)
        for pending in writes:
            pending.write.vectors = [next(rest) for _ in pending.write.documents]

    def _store_embedded(self, writes: Sequence[Pending]) -> None:
        batch = self._current.batch
        if not writes:
            return
        assert batch is not None, "a call of the batch stores for all"
        collection = writes[0].write.collection
        adds = [
            ident
            for pending in writes
            if pending.write.method == "add"
            for ident in pending.write.ids
        ]
        there = self._present(collection, adds, batch) if adds else frozenset()
        old: list[Pending] = []  # an add changes nothing of what is there, an upsert does
        new: list[Pending] = []
        for pending in writes:
            is_old = pending.write.method == "add" and not there.isdisjoint(pending.write.ids)
            (old if is_old else new).append(pending)
        store_or_each(new, lambda some: self._store_as_one(some, "upsert"))
        for pending in old:
            store_or_each([pending], lambda some: self._store_as_one(some, "add"))
        self._note_presence(collection, writes, batch)

    def _note_presence(
        self, collection: Collection, writes: Sequence[Pending], batch: DrawerBatch
    ) -> None:
        ids = [ident for pending in writes for ident in pending.write.ids]
        try:
            present = self._present(collection, ids, batch)
        except Exception:  # what was stored is stored: each call asks by itself
            logger.exception("a batch was stored, but whether it can be read is not known")
            return
        for pending in writes:
            pending.write.present = present

    def _store_as_one(self, pending: Sequence[Pending], method: str) -> None:
        writes = [one.write for one in pending]
        groups = {ident: write.group for write in writes for ident in write.ids if write.group}

        def store() -> None:
            self._stock[method](
                writes[0].collection,
                ids=[ident for write in writes for ident in write.ids],
                documents=[text for write in writes for text in write.documents],
                metadatas=[entry for write in writes for entry in write.metadatas],
                embeddings=[vector for write in writes for vector in write.vectors],
            )

        if self.durable is None:
            store()
            return
        with self.durable.on_behalf(groups):
            store()
