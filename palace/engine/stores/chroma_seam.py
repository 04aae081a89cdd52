"""The seam under Chroma: what a call will change is worked out, journalled, and then done.

Stock and chromadb above it are unchanged; they have embedded the documents by the time they come
here, so that vectors are journalled with them.
"""

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, cast
from uuid import UUID

from palace.engine.patches import JOURNAL, Patch
from palace.engine.stores import chroma
from palace.engine.stores.chroma import Chroma
from palace.engine.stores.chroma_api import ChromaApi
from palace.engine.stores.drawers import COLLECTION, PREFIX, RecordPayload, packed_vector
from palace.engine.stores.projection import Change, ChangeJournal
from palace.journal.record import Json, JsonObject

SLICE = 16  # records
NUDGE_S = 0.0005
WANTED_S = 0.002  # to get the interpreter again: others want it
REST_MAX_S = 0.05
BY_RECORD = frozenset({"ids", "embeddings", "metadatas", "documents", "uris"})

Stock = Callable[..., Any]  # a method of chromadb's, whose arguments and result only pass through
Arguments = Mapping[str, Any]  # of such a method, by name
Make = Callable[[], object]
Partly = Callable[[ChromaApi, UUID, int], None]  # of which collection how many were written
Handler = Callable[[ChromaApi, Arguments, Make], object]


class NewRecord(TypedDict):
    """What a call says of one record; None: it doesn't say."""

    document: str | None
    metadata: JsonObject | None
    vector: str | None
    uri: str | None


Merge = Callable[[RecordPayload | None, NewRecord], RecordPayload | None]


def chroma_patches(projection: Chroma, journal: ChangeJournal) -> tuple[Patch, ...]:
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
    plan = functools.partial(Patch, name=JOURNAL, owner=RustBindingsAPI)
    changing = [
        plan(
            why="what it changes is journalled before",
            attribute=name,
            replace=functools.partial(_wrapped, handler=handler, projection=projection),
        )
        for name, handler in handlers.items()
    ]
    starting = plan(
        why="indexes are tried now and then, with what stock has open",
        attribute="start",
        replace=lambda stock: _noted(stock, projection),
    )
    return (*changing, starting)


def _noted(stock: Stock, projection: Chroma) -> Stock:
    """Return chromadb's `start`, with the projection told of what it has opened."""

    @functools.wraps(stock)
    def start(api: ChromaApi) -> None:
        stock(api)
        projection.note_api(api)

    return start


def _wrapped(found: Stock, handler: Handler, projection: Chroma) -> Stock:
    """Return a method that hands its arguments to a handler; `stock` is the one below it."""
    stock: Stock = getattr(found, "stock", found)
    signature = inspect.signature(stock)

    def partly(api: ChromaApi, ident: UUID, written: int) -> None:
        projection.numbered(PREFIX + projection.name_of(api, ident), written)

    puts = "embeddings" in signature.parameters
    make = _in_slices(stock, signature, partly) if puts else stock

    @functools.wraps(stock)
    def method(*args: Any, **options: Any) -> object:
        asked = signature.bind(*args, **options).arguments
        with projection.lock:
            projection.note_api(args[0])
            return handler(args[0], asked, lambda: make(*args, **options))

    method.stock = stock  # type: ignore[attr-defined]
    return method


def _in_slices(stock: Stock, signature: inspect.Signature, partly: Partly) -> Stock:
    """Return a method that writes a few records after the other; `partly` hears where it failed.

    Chromadb's writes never let go of the interpreter's lock, so that one of a hundred records would
    stop the loop for as long as it takes.  Slices of this size take no longer together.
    """

    @functools.wraps(stock)
    def write(api: ChromaApi, *given: Any, **named: Any) -> object:
        asked = dict(signature.bind(api, *given, **named).arguments)
        records = len(asked["ids"])
        if records <= SLICE:
            return stock(api, *given, **named)
        del asked["self"]
        made: object = None
        written = 0
        try:
            while written < records:
                began_s = time.monotonic()
                made = stock(api, **{name: _slice(name, asked[name], written) for name in asked})
                written = min(records, written + SLICE)
                if written < records:
                    _give_way(time.monotonic() - began_s)
        finally:
            if 0 < written < records:  # the journal takes it back, and Chroma has numbered it
                partly(api, asked["collection_id"], written)
        return made

    return write


def _give_way(slice_s: float) -> None:
    """Leave the interpreter to others for as long as it was kept from them, if any want it.

    Without a rest they would get no further than to their next system call.
    """
    asked_s = time.monotonic()
    time.sleep(NUDGE_S)
    if time.monotonic() - asked_s > WANTED_S:
        time.sleep(min(slice_s, REST_MAX_S))


def _slice(name: str, value: Any, start: int) -> object:
    return value[start : start + SLICE] if name in BY_RECORD and value is not None else value


class Written(NamedTuple):
    """How many records of a kind a call hands to Chroma, which numbers each."""

    kind: str
    records: int


class _Seam:
    """One handler for each of chromadb's methods; the projection's lock is held around them."""

    def __init__(self, projection: Chroma, journal: ChangeJournal) -> None:
        self._projection = projection
        self._journal = journal

    def put(self, api: ChromaApi, asked: Arguments, make: Make, *, merge: Merge) -> object:
        ident = asked["collection_id"]
        kind = PREFIX + self._projection.name_of(api, ident)
        given = _given(asked)
        old = chroma.records(api, ident, ids=list(given))
        changes = [
            Change(kind, record, old.get(record), merge(old.get(record), new))
            for record, new in given.items()
        ]
        return self._make(changes, make, Written(kind, len(given)))

    def delete(self, api: ChromaApi, asked: Arguments, make: Make) -> object:
        names = ("ids", "where", "where_document", "limit")
        query = {name: asked[name] for name in names if asked.get(name) is not None}
        kind = PREFIX + self._projection.name_of(api, asked["collection_id"])
        old = chroma.records(api, asked["collection_id"], **query) if query else {}
        changes = [Change(kind, record, was, None) for record, was in old.items()]
        # Chroma numbers every id that it is asked to delete, whether it holds it or not.
        records = len(asked["ids"]) if query.keys() == {"ids"} else len(old)
        return self._make(changes, make, Written(kind, records))

    def create_collection(self, _api: ChromaApi, asked: Arguments, make: Make) -> object:
        # Made first and journalled at once after, the one exception to journal first: only Chroma
        # knows the configuration that it fills in, an empty collection holds no memory, and nothing
        # can be put into it before this returns.  It is never rolled back: Chroma forgets a
        # collection's numbers with it, and would then be taken for an older copy of itself.
        name = asked["name"]
        known = self._projection.read(COLLECTION, [name])
        made = make()
        if not known:
            now = self._projection.read(COLLECTION, [name])[name]
            changes = [Change(COLLECTION, name, None, now)]
            self._journal.change_for_good(self._projection, changes, lambda: None)
        return made

    def delete_collection(self, _api: ChromaApi, asked: Arguments, make: Make) -> object:
        projection, name = self._projection, asked["name"]
        known = projection.read(COLLECTION, [name])
        changes = [
            Change(PREFIX + name, ident, record, None)
            for ident, record in (projection.scan(PREFIX + name) if known else ())
        ]
        changes += [Change(COLLECTION, name, was, None) for was in known.values()]
        return self._make(changes, make, Written("", 0))

    def _make(self, changes: Sequence[Change], make: Make, written: Written) -> object:
        def make_and_count() -> object:
            result = make()
            self._projection.numbered(written.kind, written.records)
            return result

        return self._journal.change(self._projection, changes, make_and_count)


def _given(asked: Arguments) -> dict[str, NewRecord]:
    """Return what a call says of each id: only the members that it names."""

    def at(member: str, place: int) -> Json:
        values = asked.get(member)
        return None if values is None else values[place]

    given: dict[str, NewRecord] = {}
    for place, ident in enumerate(asked["ids"]):
        vector = at("embeddings", place)
        metadata = at("metadatas", place)
        given[ident] = {
            "document": at("documents", place),
            "metadata": {key: _kept(value) for key, value in (metadata or {}).items()} or None,
            "vector": None if vector is None else packed_vector(vector),
            "uri": at("uris", place),
        }
    return given


def _kept(value: Json) -> Json:
    """Return what Chroma keeps of a value in metadata, whose integers have 64 bits."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    is_large = type(value) is int and not -(1 << 63) <= value < 1 << 63
    return float(value) if is_large else value


def _fresh(new: NewRecord) -> RecordPayload:
    """Return a new record: a null in its metadata says nothing."""
    metadata = {key: value for key, value in (new["metadata"] or {}).items() if value is not None}
    # Chroma refuses a new record without a vector; should it not, the journal says what was asked.
    record: RecordPayload = {
        "document": new["document"],
        "metadata": metadata or None,
        "vector": cast("str", new["vector"]),
    }
    if new["uri"] is not None:
        record["uri"] = new["uri"]
    return record


def _merged(old: RecordPayload, new: NewRecord) -> RecordPayload:
    """Return a record after an update: metadata are merged, null removes a key."""
    merged = old.copy()
    if new["document"] is not None:
        merged["document"] = new["document"]
    if new["vector"] is not None:
        merged["vector"] = new["vector"]
    if new["uri"] is not None:
        merged["uri"] = new["uri"]
    if new["metadata"]:
        both = {**(old["metadata"] or {}), **new["metadata"]}
        merged["metadata"] = {key: was for key, was in both.items() if was is not None} or None
    return merged


def _added(old: RecordPayload | None, new: NewRecord) -> RecordPayload:
    return _fresh(new) if old is None else old  # add leaves what is there as it is


def _upserted(old: RecordPayload | None, new: NewRecord) -> RecordPayload:
    return _fresh(new) if old is None else _merged(old, new)


def _updated(old: RecordPayload | None, new: NewRecord) -> RecordPayload | None:
    return None if old is None else _merged(old, new)
