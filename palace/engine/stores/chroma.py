"""Chroma's collections as a projection: reading and writing them past the seam (chroma_seam.py).

All that this process asks of Chroma goes through one class, RustBindingsAPI, after documents were
embedded: there the seam journals every change first.  Chroma numbers what is written to it (`seq`),
which is how a change made by another program is noticed.

`chroma.sqlite3` is read with sqlite3 only while Chroma doesn't have it open in this process:
closing any descriptor of it would drop Chroma's locks.
"""

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import cast

import attrs

from palace.engine.stores.chroma_api import ChromaApi, CollectionPayload
from palace.engine.stores.drawers import COLLECTION, PREFIX, RecordPayload, payload, vector_of
from palace.engine.stores.projection import Change, Unshared
from palace.journal.record import Entity, Json, JsonObject, Payload
from palace.journal.tail import Touched

PAGE = 500
DELETE = 3  # an operation in Chroma's queue
ALL = ["metadatas", "documents", "embeddings", "uris"]

_COUNTS = """
SELECT c.name, c.id, (SELECT count(*) FROM embeddings e WHERE e.segment_id = s.id)
FROM collections c JOIN segments s ON s.collection = c.id AND s.scope = 'METADATA'
"""
_SEQ = """
SELECT max(coalesce((SELECT max(seq_id) FROM embeddings_queue), 0),
           coalesce((SELECT max(seq_id) FROM max_seq_id WHERE typeof(seq_id) = 'integer'), 0))
"""
# The queue as well: a killed process may not have put all of it among the rows.
_IDS = """
SELECT e.embedding_id FROM embeddings e
JOIN segments s ON s.id = e.segment_id AND s.scope = 'METADATA' WHERE s.collection = :ident
UNION ALL SELECT id FROM embeddings_queue q WHERE q.topic LIKE '%/' || :ident AND q.seq_id >
    coalesce((SELECT m.seq_id FROM max_seq_id m JOIN segments s ON s.id = m.segment_id
              AND s.scope = 'METADATA' WHERE s.collection = :ident
              AND typeof(m.seq_id) = 'integer'), 0)
"""
_SINCE = """
SELECT c.name, e.embedding_id FROM embeddings e
JOIN segments s ON s.id = e.segment_id AND s.scope = 'METADATA'
JOIN collections c ON c.id = s.collection
WHERE typeof(e.seq_id) = 'integer' AND e.seq_id > ?
"""

_WRITES = """
SELECT e.seq_id, c.name, e.embedding_id FROM embeddings e
JOIN segments s ON s.id = e.segment_id AND s.scope = 'METADATA'
JOIN collections c ON c.id = s.collection
WHERE typeof(e.seq_id) = 'integer' AND e.seq_id > :seq
UNION
SELECT q.seq_id, c.name, q.id FROM embeddings_queue q
JOIN collections c ON q.topic LIKE '%/' || c.id
WHERE q.seq_id > :seq AND q.operation != :delete
"""


@attrs.define
class Count:
    """A collection's id, and how many records it holds."""

    id: str
    records: int = 0


@attrs.define(eq=False)
class Chroma(Unshared):
    """All collections of one palace.  `open_api` opens the store; it is asked when first needed.

    `create_as_stock` makes a collection of which nothing is said: another backend kept it.

    `api` is the one that stock uses now, as far as the seam has seen it.
    """

    root: str
    open_api: Callable[[], ChromaApi]
    create_as_stock: Callable[[ChromaApi, str], None]
    name: str = "chroma"
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    drops: int = 0  # how often a collection was deleted by this process
    _names: dict[str, str] = attrs.field(factory=dict)  # collection id -> name
    _counts: dict[str, Count] = attrs.field(factory=dict)  # by name
    _seq: int = 0
    _when_opened: tuple[frozenset[str], int] = (frozenset(), 0)  # collections and seq when opened
    _last: dict[str, int] = attrs.field(
        factory=dict
    )  # name -> its seq, if anything was written since
    _api: ChromaApi | None = None

    def api(self) -> ChromaApi:
        """Return Chroma, opened; one that stock has closed meanwhile has lost its bindings."""
        if self._api is None or not hasattr(self._api, "bindings"):
            self._api = self.open_api()
        return self._api

    def make(self) -> None:
        self.api()

    def opened_api(self) -> ChromaApi | None:
        """Return Chroma as stock has it open now; None where it would have to be opened."""
        return self._api if self._api is not None and hasattr(self._api, "bindings") else None

    def note_api(self, api: ChromaApi) -> None:
        self._api = api

    @property
    def path(self) -> str:
        return f"{self.root}/chroma.sqlite3"

    def kinds(self) -> tuple[str, ...]:
        return (COLLECTION, *(PREFIX + name for name in self._counts))

    def owns(self, kind: str) -> bool:
        return kind == COLLECTION or kind.startswith(PREFIX)

    # Reading and writing past the journal.

    def read(self, kind: str, ids: Iterable[str]) -> Mapping[str, Payload]:
        wanted = list(ids)
        if kind == COLLECTION:
            known = {name: self._collection(name) for name in wanted}
            return {name: model for name, model in known.items() if model is not None}
        ident = self.id_of(kind)
        if ident is None or not wanted:
            return {}
        found: dict[str, Payload] = {}
        for start in range(0, len(wanted), PAGE):
            found.update(records(self.api(), ident, ids=wanted[start : start + PAGE]))
        return found

    def scan(self, kind: str) -> Iterator[tuple[str, Payload]]:
        if kind == COLLECTION:
            for name in list(self._counts):
                yield name, self._collection(name)
            return
        ident = self.id_of(kind)
        if ident is None:
            return
        ids = self.api()._get(ident, include=[])["ids"]  # noqa: SLF001
        for start in range(0, len(ids), PAGE):
            yield from records(self.api(), ident, ids=ids[start : start + PAGE]).items()

    def scan_documents(self, kind: str) -> Iterator[tuple[str, RecordPayload]]:
        """Yield all records of a kind without their vectors: no index is asked for them."""
        ident = self.id_of(kind)
        if ident is None:
            return
        ids = self.api()._get(ident, include=[])["ids"]  # noqa: SLF001
        for start in range(0, len(ids), PAGE):
            yield from documents(self.api(), ident, ids[start : start + PAGE]).items()

    def ids(self, kind: str) -> list[str]:
        if kind == COLLECTION:
            return list(self._counts)
        with closing(self._sqlite()) as connection:
            ident = self._counts[kind.removeprefix(PREFIX)].id
            rows = connection.execute(_IDS, {"ident": ident})
            return list(dict.fromkeys(row[0] for row in rows))

    def count(self, kind: str) -> int:
        if kind == COLLECTION:
            return len(self._counts)
        return self._counts.get(kind.removeprefix(PREFIX), Count("")).records

    def write(self, kind: str, changes: Mapping[str, Payload]) -> None:
        api = self.api()
        if kind == COLLECTION:
            for name, payload in changes.items():
                self._write_collection(api, name, cast("CollectionPayload | None", payload))
            return
        ident = self.id_of(kind)
        gone = [record for record, payload in changes.items() if payload is None]
        kept = {
            record: cast("RecordPayload", payload)
            for record, payload in changes.items()
            if payload is not None
        }
        if ident is None:
            if kept:
                raise LookupError(f"no collection {kind.removeprefix(PREFIX)}")
            return
        there = set(api._get(ident, ids=list(changes), include=[])["ids"])  # noqa: SLF001
        # Chroma merges metadata into an existing record: what must go has to go first.
        gone = [record for record in [*gone, *kept] if record in there]
        if gone:
            _stock(api, "_delete")(api, ident, ids=gone)
            self.numbered(kind, len(gone))
        if kept:
            put_records(api, ident, kept)
            self.numbered(kind, len(kept))

    def _collection(self, name: str) -> CollectionPayload | None:
        import chromadb.errors

        try:
            model = self.api().get_collection(name)
        except (chromadb.errors.NotFoundError, ValueError):
            return None
        self._names[str(model.id)] = name
        self._counts.setdefault(name, Count(str(model.id)))
        return {
            "configuration": model.configuration_json,
            "metadata": model.metadata,
            "schema": _plain(model.serialized_schema),
        }

    def _write_collection(
        self, api: ChromaApi, name: str, payload: CollectionPayload | None
    ) -> None:
        there = self._collection(name)
        if payload is None:
            if there is not None:
                _stock(api, "delete_collection")(api, name)
                self._forget(name)
        elif there is None:
            if _is_chromas(payload):
                create_collection(api, name, payload)
            else:
                self.create_as_stock(api, name)
            self._collection(name)

    def _forget(self, name: str) -> None:
        self.drops += 1
        self._names.pop(self._counts.pop(name, Count("")).id, None)
        self._last.pop(name, None)
        names, seq = self._when_opened
        if name not in names:  # Chroma forgets the numbers that it gave to what is dropped
            self._seq = max([seq, *self._last.values()])

    def id_of(self, kind: str) -> uuid.UUID | None:
        """Return the id of a kind's collection, None where there is none."""
        name = kind.removeprefix(PREFIX)
        if name not in self._counts and self._collection(name) is None:
            return None
        return uuid.UUID(self._counts[name].id)

    def dimension_of(self, kind: str) -> int | None:
        """Return how many numbers a kind's vectors have, None before the first."""
        return self.api().get_collection(kind.removeprefix(PREFIX)).dimension

    def name_of(self, api: ChromaApi, ident: uuid.UUID) -> str:
        """Return the name of the collection with an id."""
        name = self._names.get(str(ident))
        if name is None:
            name = str(api.get_collection_by_id(ident).name)
            self._names[str(ident)] = name
            self._counts.setdefault(name, Count(str(ident)))
        return name

    # What it looks like.

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.kind == COLLECTION:
                if change.after is None:
                    self._forget(change.id)
                continue
            count = self._counts[change.kind.removeprefix(PREFIX)]
            count.records += (change.after is not None) - (change.before is not None)

    def numbered(self, kind: str, written: int) -> None:
        """Note that Chroma was given so many records of a collection: it has numbered them."""
        if written:
            self._seq += written
            self._last[kind.removeprefix(PREFIX)] = self._seq

    def fingerprint(self) -> JsonObject:
        return {
            "seq": self._seq,
            "collections": {name: [own.id, own.records] for name, own in self._counts.items()},
        }

    def read_fingerprint(self) -> JsonObject:
        self._forget_all()
        if os.path.exists(self.path):
            with closing(self._sqlite()) as connection:
                self.take_fingerprint(connection)
        self._when_opened = frozenset(self._counts), self._seq
        return self.fingerprint()

    def take_fingerprint(self, connection: sqlite3.Connection) -> None:
        """Read the fingerprint from a database that the caller has open."""
        self._forget_all()
        if has_tables(connection):
            self._seq = int(connection.execute(_SEQ).fetchone()[0])
            for name, ident, count in connection.execute(_COUNTS):
                self._names[ident] = name
                self._counts[name] = Count(ident, count)

    def _forget_all(self) -> None:
        self._names.clear()
        self._counts.clear()
        self._last.clear()
        self._seq = 0

    def recount(self) -> None:
        for count in self._counts.values():
            count.records = int(self.api()._count(uuid.UUID(count.id)))  # noqa: SLF001

    def _sqlite(self) -> sqlite3.Connection:
        # Writable: a killed owner may have left a transaction that SQLite has to take back first.
        return sqlite3.connect(f"file:{self.path}?mode=rw", uri=True)

    def was_replaced(self, baseline: JsonObject) -> bool:
        now = {name: count.id for name, count in self._counts.items()}
        then = {name: pair[0] for name, pair in baseline["collections"].items()}
        # Chroma numbers deletions as well: where its numbers stand still, nothing was deleted.
        return self._seq <= baseline["seq"] or any(
            now.get(name) != ident for name, ident in then.items()
        )

    def is_older(self, baseline: JsonObject) -> bool:
        """Tell whether Chroma's numbers went back; those of a new collection begin at one."""
        now = {count.id for count in self._counts.values()}
        then = {pair[0] for pair in baseline["collections"].values()}
        return bool(self._seq < baseline["seq"] and now <= then)

    def suspects(self, baseline: JsonObject, touched: Mapping[Entity, Touched]) -> bool:
        """Look for records numbered since the base that aren't ours, and for missing ones."""
        ours = {entity for entity in touched if self.owns(entity[0])}
        if self._seq < baseline["seq"]:
            return True
        ids = {name: count.id for name, count in self._counts.items()}
        then = {name: pair[0] for name, pair in baseline["collections"].items()}
        touched_names = {ident for kind, ident in ours if kind == COLLECTION}
        if any(
            ids.get(name) != then.get(name) for name in {*ids, *then} if name not in touched_names
        ):
            return True
        changed = self._numbered_since(baseline["seq"])
        if changed - ours:
            return True
        return any(self._count_differs(name, baseline, touched) for name in ids)

    def writes_since(self, baseline: JsonObject) -> tuple[int, list[Entity]]:
        """Return how many numbers were given since a baseline, and which records have them.

        A record is named once for each number of which can be seen that it is no deletion's: it
        stands in a row, or waits in the queue.  There it stays if Chroma refused to carry it out.
        """
        if not os.path.exists(self.path):
            return 0, []
        with closing(self._sqlite()) as connection:
            since = {"seq": baseline["seq"], "delete": DELETE}
            rows = connection.execute(_WRITES, since).fetchall()
        return self._seq - baseline["seq"], [(PREFIX + name, ident) for _, name, ident in rows]

    def _numbered_since(self, seq: int) -> set[Entity]:
        if not os.path.exists(self.path):
            return set()
        with closing(self._sqlite()) as connection:
            rows = connection.execute(_SINCE, [seq]).fetchall()
        return {(PREFIX + name, ident) for name, ident in rows}

    def _ids_there(self, name: str, ids: list[str]) -> set[str]:
        query = """
        SELECT e.embedding_id FROM embeddings e JOIN segments s ON s.id = e.segment_id
        AND s.scope = 'METADATA' WHERE s.collection = ? AND e.embedding_id = ?
        """
        with closing(self._sqlite()) as connection:
            rows = [connection.execute(query, [self._counts[name].id, i]).fetchone() for i in ids]
        return {row[0] for row in rows if row}

    def _count_differs(
        self, name: str, baseline: JsonObject, touched: Mapping[Entity, Touched]
    ) -> bool:
        ours = {i: was for (kind, i), was in touched.items() if kind == PREFIX + name}
        then = sum(was.baseline is not None for was in ours.values())
        now = len(self._ids_there(name, list(ours)))
        before = baseline["collections"].get(name, ["", 0])[1]
        return bool(before - then != self._counts[name].records - now)


def has_tables(connection: sqlite3.Connection) -> bool:
    """Tell whether a database is one of Chroma's."""
    found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    return {"collections", "segments", "embeddings", "embeddings_queue", "max_seq_id"} <= found


def _is_chromas(payload: Mapping[str, object]) -> bool:
    """Tell whether it says how Chroma made a collection: another backend may have kept it."""
    return "schema" in payload or "configuration" in payload


def _plain(value: Json) -> Json:
    return json.loads(value) if isinstance(value, str) else value


def records(api: ChromaApi, ident: uuid.UUID, **query: object) -> dict[str, RecordPayload]:
    """Return the payloads of a collection's records that a query selects."""
    found = api._get(ident, include=list(ALL), **query)  # noqa: SLF001
    rows = zip(
        found["ids"],
        found["documents"],
        found["metadatas"],
        found["embeddings"],
        found["uris"] or [None] * len(found["ids"]),
        strict=True,
    )
    return {record: payload(doc, meta, vector, uri) for record, doc, meta, vector, uri in rows}


def documents(api: ChromaApi, ident: uuid.UUID, ids: list[str]) -> dict[str, RecordPayload]:
    """Return the payloads of records, their vectors left empty."""
    found = api._get(ident, ids=ids, include=["metadatas", "documents", "uris"])  # noqa: SLF001
    uris = found["uris"] or [None] * len(found["ids"])
    rows = zip(found["ids"], found["documents"], found["metadatas"], uris, strict=True)
    return {record: payload(doc, meta, (), uri) for record, doc, meta, uri in rows}


def put_records(api: ChromaApi, ident: uuid.UUID, kept: Mapping[str, RecordPayload]) -> None:
    """Write whole records that aren't there yet."""
    uris = [record.get("uri") for record in kept.values()]
    _stock(api, "_upsert")(
        api,
        ident,
        list(kept),
        [vector_of(record) for record in kept.values()],
        [record["metadata"] for record in kept.values()],
        [record["document"] for record in kept.values()],
        uris if any(uris) else None,
    )


def create_collection(api: ChromaApi, name: str, model: CollectionPayload) -> None:
    """Create a collection as another one was made.

    Chroma takes a configuration (of which `hnsw:` keys in the metadata are the old form) or a
    schema, never both: a collection of the caller's own vectors has a schema alone.
    """
    metadata, configuration = model.get("metadata"), model.get("configuration")
    schema = model.get("schema")
    if any(key.startswith("hnsw:") for key in metadata or {}) or not schema:
        schema = None
    else:
        configuration = None
    api.bindings.create_collection(
        name,
        json.dumps(configuration) if configuration else None,
        json.dumps(schema) if schema else None,
        metadata,
        False,
        "default_tenant",
        "default_database",
    )


def _stock(api: ChromaApi, name: str) -> Callable[..., object]:
    """Return a method as chromadb has it, whether the seam is in place or not."""
    method = getattr(type(api), name)
    return getattr(method, "stock", method)  # type: ignore[no-any-return]
