"""The seam under Chroma: what changes a collection is worked out, journalled, and then done.

Stock and chromadb above it are unchanged; they have embedded the documents by the time they come
here, so that vectors are journalled with them.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palace.engine.patches import Patch
from palace.engine.stores import chroma
from palace.engine.stores.chroma import COLLECTION, PREFIX, Chroma
from palace.engine.stores.projection import Change, ChangeJournal

Api = Any
Asked = Mapping[str, Any]  # a method's arguments by name
Make = Callable[[], Any]
Merge = Callable[[Any, Mapping[str, Any]], Any]
Handler = Callable[[Api, Asked, Make], Any]


def patches(projection: Chroma, journal: ChangeJournal) -> tuple[Patch, ...]:
    """Return what puts the seam into chromadb's class."""
    from chromadb.api.rust import RustBindingsAPI

    seam = _Seam(projection, journal)
    handlers: dict[str, Handler] = {
        "_add": functools.partial(seam.put, merge=_added),
        "_upsert": functools.partial(seam.put, merge=_upserted),
        "_update": functools.partial(seam.put, merge=_updated),
        "_delete": seam.delete,
        "create_collection": seam.create_collection,
        "delete_collection": seam.delete_collection,
    }
    return tuple(
        Patch(
            target=RustBindingsAPI,
            attribute=name,
            replacement=functools.partial(_wrapped, handler=handler, projection=projection),
        )
        for name, handler in handlers.items()
    )


def _wrapped(found: Any, handler: Handler, projection: Chroma) -> Any:
    """Return a method that hands its arguments to a handler; `stock` is the one below it."""
    stock = getattr(found, "stock", found)
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def method(*args: Any, **options: Any) -> Any:
        asked = signature.bind(*args, **options).arguments
        with projection.lock:
            projection.note_api(args[0])
            return handler(args[0], asked, lambda: stock(*args, **options))

    method.stock = stock  # type: ignore[attr-defined]
    return method


class _Seam:
    """One handler for each of chromadb's methods; the projection's lock is held around them."""

    def __init__(self, projection: Chroma, journal: ChangeJournal) -> None:
        self._projection = projection
        self._journal = journal

    def put(self, api: Api, asked: Asked, make: Make, *, merge: Merge) -> Any:
        ident = asked["collection_id"]
        kind = PREFIX + self._projection.name_of(api, ident)
        given = _given(asked)
        old = chroma.records(api, ident, ids=list(given))
        changes = [
            Change(kind, record, old.get(record), merge(old.get(record), new))
            for record, new in given.items()
        ]
        return self._make(changes, (kind, len(given)), make)

    def delete(self, api: Api, asked: Asked, make: Make) -> Any:
        names = ("ids", "where", "where_document", "limit")
        query = {name: asked[name] for name in names if asked.get(name) is not None}
        kind = PREFIX + self._projection.name_of(api, asked["collection_id"])
        old = chroma.records(api, asked["collection_id"], **query) if query else {}
        changes = [Change(kind, record, was, None) for record, was in old.items()]
        # Chroma numbers every id that it is told to delete, there or not.
        told = len(asked["ids"]) if query.keys() == {"ids"} else len(old)
        return self._make(changes, (kind, told), make)

    def create_collection(self, _api: Api, asked: Asked, make: Make) -> Any:
        # Made first, and journalled at once after it: Chroma fills in its configuration, an empty
        # collection is no memory, and nothing can be put into it before this returns.  It is never
        # taken back: Chroma forgets its numbers with a collection, and would seem to be older.
        name = asked["name"]
        known = self._projection.read(COLLECTION, [name])
        made = make()
        if not known:
            now = self._projection.read(COLLECTION, [name])[name]
            changes = [Change(COLLECTION, name, None, now)]
            self._journal.change_for_good(self._projection, changes, lambda: None)
        return made

    def delete_collection(self, _api: Api, asked: Asked, make: Make) -> Any:
        projection, name = self._projection, asked["name"]
        known = projection.read(COLLECTION, [name])
        changes = [
            Change(PREFIX + name, ident, record, None)
            for ident, record in (projection.scan(PREFIX + name) if known else ())
        ]
        changes += [Change(COLLECTION, name, was, None) for was in known.values()]
        return self._make(changes, ("", 0), make)

    def _make(self, changes: Sequence[Change], told: tuple[str, int], make: Make) -> Any:
        def made() -> Any:
            result = make()
            self._projection.numbered(*told)
            return result

        return self._journal.change(self._projection, changes, made)


def _given(asked: Asked) -> dict[str, dict[str, Any]]:
    """Return what a call says of each id: only the members that it names."""

    def at(member: str, place: int) -> Any:
        values = asked.get(member)
        return None if values is None else values[place]

    given: dict[str, dict[str, Any]] = {}
    for place, ident in enumerate(asked["ids"]):
        vector = at("embeddings", place)
        metadata = at("metadatas", place)
        given[ident] = {
            "document": at("documents", place),
            "metadata": {key: _kept(value) for key, value in (metadata or {}).items()} or None,
            "vector": None if vector is None else chroma.packed_vector(vector),
            "uri": at("uris", place),
        }
    return given


def _kept(value: Any) -> Any:
    """Return what Chroma keeps of a value in metadata, whose integers have 64 bits."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    is_large = type(value) is int and not -(1 << 63) <= value < 1 << 63
    return float(value) if is_large else value


def _fresh(new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new record: a null in its metadata says nothing."""
    metadata = {key: value for key, value in (new["metadata"] or {}).items() if value is not None}
    record = {**new, "metadata": metadata or None}
    if record["uri"] is None:
        del record["uri"]
    return record


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record after an update: metadata are merged, null removes a key."""
    merged = dict(old)
    for member in ("document", "vector", "uri"):
        if new[member] is not None:
            merged[member] = new[member]
    if new["metadata"]:
        both = {**(old["metadata"] or {}), **new["metadata"]}
        merged["metadata"] = {key: was for key, was in both.items() if was is not None} or None
    return merged


def _added(old: Any, new: Mapping[str, Any]) -> Any:
    return _fresh(new) if old is None else old  # add leaves what is there as it is


def _upserted(old: Any, new: Mapping[str, Any]) -> Any:
    return _fresh(new) if old is None else _merged(old, new)


def _updated(old: Any, new: Mapping[str, Any]) -> Any:
    return None if old is None else _merged(old, new)
