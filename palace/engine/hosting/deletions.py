"""Deletions of many drawers, in parts between which others come.

`delete_drawers` removes up to 500 drawers, `delete_by_source` and `sync` as many as there are, and
stock does it with its lock held from the first look to the last deletion.  Here what they look at
is read with nothing held, page by page, and what they delete has a turn for each part.  What was
found before others came is looked at again in the turn that deletes it, so that nothing goes that
somebody has changed meanwhile: the whole equals a serial order of the parts and of what came
between them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from palace.engine.hosting.host import HostedState
from palace.engine.hosting.lookup_cache import is_open
from palace.engine.hosting.parts import others_first
from palace.engine.patches import Patch, need
from palace.engine.stock import Collection, JsonObject, Metadata, Method, RequestLock, Server

NAME = "yield_between_items"
WHY = "it holds its lock for all that is to be deleted, which may be everything"
ROWS = 32  # deleted in one turn
SCANNED = 500  # rows read at once
SOURCES = 50  # whose closets go in one turn

T = TypeVar("T")


class Deletions:
    """What stands before stock's functions that delete much; in any other call they get through."""

    def __init__(self, server: Server, state: HostedState, reopen: Method) -> None:
        self._lock: RequestLock = need(server, "_HTTP_REQUEST_LOCK", NAME)
        self._resolve: Method = need(server, "_collection_logical_drawer_record", NAME)
        self._reopen = reopen
        self._server = server
        self._state = state

    def patches(self, sync: object, kind: type) -> Iterator[Patch]:
        """Return those of the server, of mempalace's `sync`, and of its class of collections."""
        places: Sequence[tuple[object, str, Callable[[Method], Method]]] = (
            (self._server, "_delete_record", self._deleting_one),
            (self._server, "_fetch_all_metadata", self._reading_all),
            (kind, "delete", self._deleting_where),
            (sync, "sync_palace", self._syncing),
            (sync, "get_collection", self._opening),
            (sync, "get_closets_collection", self._opening),
            (sync, "_iter_drawer_metadata", self._scanning),
            (sync, "_delete_in_batches", self._deleting_scanned),
            (sync, "_purge_emptied_closets", self._purging),
        )
        for owner, attribute, replace in places:
            yield Patch(name=NAME, why=WHY, owner=owner, attribute=attribute, replace=replace)

    def _parted(self, stock: Method, parted: Method) -> Method:
        """Return a function that does its work in parts where its call is one that yields."""

        def either(*given: Any, **named: Any) -> object:
            return parted(*given, **named) if self._state.current.yields else stock(*given, **named)

        return either

    # Drawers by their ids.

    def _deleting_one(self, stock: Method) -> Method:
        def delete(collection: Collection, ident: str, record: JsonObject, **named: Any) -> object:
            gone = self._state.current.deleted
            with self._others_first():
                pass
            collection = self._opened_again(collection)
            again = self._resolve(collection, ident)
            now = set(again["ids"]) if again is not None else set()
            if now != set(record["ids"]) - gone:  # not by this call: stock would say it is there
                if again is None:
                    return {"success": False, "error": f"Drawer not found: {ident}"}
                record = again
            answer = stock(collection, ident, record, **named)
            gone.update(record["ids"])
            return answer

        return self._parted(stock, delete)

    # All drawers of a source.

    def _reading_all(self, stock: Method) -> Method:
        def fetch(collection: Collection, where: JsonObject | None = None) -> list[Metadata]:
            with self._others_first():
                return [metadata for _, metadata in self._pages(collection, where)]

        return self._parted(stock, fetch)

    def _deleting_where(self, stock: Method) -> Method:
        def delete(
            collection: Collection, *, ids: object = None, where: JsonObject | None = None
        ) -> None:
            if where is None or ids is not None:
                stock(collection, ids=ids, where=where)
                return
            for part in _cut(collection.get(where=where, include=[]).ids, ROWS):
                with self._others_first():
                    pass
                collection = self._opened_again(collection)
                still = collection.get(ids=part, where=where, include=[]).ids
                if still:
                    stock(collection, ids=still)

        return self._parted(stock, delete)

    # Drawers whose files have gone.

    def _syncing(self, stock: Method) -> Method:
        def sync(**given: object) -> object:
            with self._others_first():  # it looks at many files; what it deletes has its turns
                return stock(**given)

        return self._parted(stock, sync)

    def _opening(self, stock: Method) -> Method:
        def opened(*given: object, **named: object) -> object:
            with self._lock.read_lock():
                return stock(*given, **named)

        return self._parted(stock, opened)

    def _scanning(self, stock: Method) -> Method:
        def rows(collection: Collection, wing: str | None) -> Iterator[tuple[str, Metadata]]:
            for ident, metadata in self._pages(collection, {"wing": wing} if wing else None):
                self._state.current.seen[ident] = _digest(metadata)
                yield ident, metadata

        return self._parted(stock, rows)

    def _deleting_scanned(self, stock: Method) -> Method:
        def delete(
            collection: Collection, ids: Sequence[str], batch_size: int, log: Method | None
        ) -> int:
            deleted = 0
            for batch in _cut(ids, batch_size):
                parts = _cut(batch, ROWS)
                removed = sum(self._delete_unchanged(collection, part) for part in parts)
                deleted += removed
                if log is not None:
                    log("sync_prune", {"first_id": batch[0]}, {"removed_count": removed})
            return deleted

        return self._parted(stock, delete)

    def _delete_unchanged(self, collection: Collection, part: Sequence[str]) -> int:
        with self._own_turn():
            collection = self._opened_again(collection)
            found = collection.get(ids=part, include=["metadatas"])
            unchanged = [
                ident
                for ident, metadata in zip(found.ids, found.metadatas, strict=True)
                if _digest(metadata) == self._state.current.seen.get(ident)
            ]
            if unchanged:
                collection.delete(ids=unchanged)
            return len(unchanged)

    def _purging(self, stock: Method) -> Method:
        def purge(drawers: Collection, closets: Collection, sources: Sequence[str]) -> int:
            purged = 0
            for part in _cut(sorted(sources), SOURCES):
                with self._own_turn():
                    again = self._opened_again(drawers), self._opened_again(closets)
                    purged += stock(*again, part)
            return purged

        return self._parted(stock, purge)

    # Turns, and what is read without one.

    def _others_first(self) -> AbstractContextManager[None]:
        return others_first(self._state, self._lock)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """Take a turn while others come first."""
        state = self._state
        with state.turns.turn(party=state.current.party), state.lookups.suspended():
            self._lock.acquire_write()
            try:
                yield
                state.boundary()
            finally:
                self._lock.yield_write()  # to readers, who would wait while this asks again
                self._lock.release_write()

    def _pages(
        self, collection: Collection, where: JsonObject | None
    ) -> Iterator[tuple[str, Metadata]]:
        """Yield the rows that match now, as each is when it is read; the caller holds no lock."""
        with self._lock.read_lock():
            collection = self._opened_again(collection)
            idents = collection.get(where=where, include=[]).ids
        for part in _cut(idents, SCANNED):
            self._state.tick()
            with self._lock.read_lock():
                collection = self._opened_again(collection)
                found = collection.get(ids=part, include=["metadatas"])
            yield from zip(found.ids, found.metadatas, strict=True)

    def _opened_again(self, collection: Collection) -> Collection:
        """Return a collection that is open: whoever came between may have closed it."""
        raw = getattr(collection, "_collection", None)
        if raw is None or is_open(collection):  # another backend's, or nobody did
            return collection
        again: Collection = self._reopen(collection_name=raw.name, create=False)
        return again


def _cut(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


def _digest(metadata: Metadata) -> bytes:
    text = json.dumps(metadata, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
