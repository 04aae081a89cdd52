"""The drawers of the backend milvus as a projection: milvus-lite's database in the palace.

It is a directory, `milvus.db`, that one process has open at a time, by a lock of its own: the
broker, whose mempalace asks it over a socket.  What the broker reads and deletes here, it asks of
the same database in memory, by ids: mempalace's way to ask by an id is an expression, in which an
apostrophe ends the id.  What it writes goes through mempalace's own collection.  Everything else
reads the files (milvus_files.py), and opens the database only to write.

What tells one state of it from others: each record that is written, and each deletion, takes the
next number of its collection, so that the number is a clock that goes forwards with every change.
Of each collection there is when it was made, how many records it has, and the sum of their digests.

A change of several records is one write of its log, which a power cut may take back, since it
isn't synced: then the number has gone back, and what is missing was lost.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import attrs

from palace.engine.stores.digest_sum import DigestSum
from palace.engine.stores.drawers import COLLECTION, MILVUS, PREFIX, RecordPayload, vector_of
from palace.engine.stores.milvus_files import (
    RECORD,
    WORDS,
    CollectionFiles,
    collection_at,
    collections_in,
    record_of,
)
from palace.engine.stores.projection import in_batches
from palace.engine.stores.summed import Summed
from palace.journal.record import Entity, JsonObject, Payload
from palace.journal.replay import digest_of
from palace.journal.tail import Touched
from palace.settings.paths import MILVUS_STORE

if TYPE_CHECKING:
    from palace.engine.stores.milvus_open import Database


@attrs.define
class Known:
    """A collection: when it was made, its newest number, and its records."""

    made: str
    seq: int = 0
    records: DigestSum = attrs.field(factory=DigestSum)


@attrs.define(eq=False)
class Milvus(Summed):
    """All collections of one palace.  Threads share one, under `lock`.

    `made_for` is the palace's directory, where this one is where its new store is made.
    """

    root: str
    made_for: str = ""
    name: str = MILVUS
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    drops: int = 0
    is_hosted: bool = False  # this process is the one whose mempalace has it open
    _database: "Database | None" = None
    _known: dict[str, Known] = attrs.field(factory=dict)  # by name

    @property
    def path(self) -> str:
        return f"{self.root}/{MILVUS_STORE}"

    # Open, or not.

    def open(self) -> "Database":
        """Have the database open from now on, until `close`; raises StoreUnavailable."""
        with self.lock:
            if self._database is None:
                from palace.engine.stores.milvus_open import open_database

                self._database = open_database(self.path, self.made_for or self.root)
            return self._database

    def close(self) -> None:
        """Close what `open` has opened; files may be moved then."""
        with self.lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def leave(self) -> None:
        """Leave nothing behind for whoever reads the directory: this process is about to end."""
        if self.is_hosted:
            from palace.engine.stores.milvus_open import leave

            leave(self.path)

    def _live(self) -> "Database | None":
        """Return the database where this process has it open, or is to."""
        return self.open() if self.is_hosted and self.exists() else self._database

    def _files(self, kind: str) -> CollectionFiles | None:
        return collections_in(self.path).get(kind.removeprefix(PREFIX))

    def is_own(self, backend: object) -> bool:
        """Tell whether a backend of mempalace's is the one through which this store writes."""
        return self._database is not None and self._database.backend is backend

    # Reading and writing past the journal.

    def read(self, kind: str, ids: Iterable[str]) -> dict[str, Payload]:
        wanted = list(ids)
        if not wanted:
            return {}
        if kind == COLLECTION:
            there = collections_in(self.path)
            return {
                name: {"dimension": there[name].dimension()} for name in wanted if name in there
            }
        database = self._live()
        if database is not None:
            rows = database.rows(kind.removeprefix(PREFIX), wanted, RECORD)
            return {row["id"]: cast("Payload", record_of(row)) for row in rows}
        files = self._files(kind)
        if files is None:
            return {}
        return dict(cast("Iterator[tuple[str, Payload]]", files.records(RECORD, frozenset(wanted))))

    def scan(self, kind: str) -> Iterator[tuple[str, Payload]]:
        if kind == COLLECTION:
            yield from self.read(COLLECTION, self.ids(COLLECTION)).items()
            return
        yield from cast("Iterator[tuple[str, Payload]]", self._scan(kind, RECORD))

    def scan_documents(self, kind: str) -> Iterator[tuple[str, RecordPayload]]:
        yield from self._scan(kind, WORDS)

    def _scan(self, kind: str, columns: Sequence[str]) -> Iterator[tuple[str, RecordPayload]]:
        database = self._live()
        if database is None:
            files = self._files(kind)
            yield from files.records(columns) if files is not None else ()
            return
        name = kind.removeprefix(PREFIX)
        for part in in_batches(database.ids(name)):
            yield from ((row["id"], record_of(row)) for row in database.rows(name, part, columns))

    def rows(self) -> Iterator[tuple[str, str, JsonObject]]:
        """Yield (collection, id, record) for all that the files hold, whoever has them open."""
        for name, files in collections_in(self.path).items():
            for ident, record in files.records(RECORD):
                yield name, ident, {**record, "metadata": record["metadata"] or {}}

    def damages(self, bytes_max: int) -> Iterator[str]:
        """Yield what is wrong with the files; larger collections are not read whole."""
        for files in collections_in(self.path).values():
            if problem := files.damage(bytes_max):
                yield problem

    def watched(self) -> list[str]:
        """Return what must be there for as long as the database is open."""
        schemas = (collection_at(self.path, name).schema for name in list(self._known))
        return [self.path, *schemas]

    def ids(self, kind: str) -> list[str]:
        if kind == COLLECTION:
            return list(collections_in(self.path))
        files = self._files(kind)
        return [] if files is None else files.ids()

    def write(self, kind: str, changes: Mapping[str, Payload]) -> None:
        if not self.exists() and all(after is None for after in changes.values()):
            return
        database = self.open()
        if kind == COLLECTION:
            for name, model in changes.items():
                database.write_collection(name, cast("JsonObject | None", model))
        else:
            self._write_records(database, kind, changes)
        self.wrote(kind)

    def _write_records(
        self, database: "Database", kind: str, changes: Mapping[str, Payload]
    ) -> None:
        name = kind.removeprefix(PREFIX)
        kept = {i: cast("RecordPayload", now) for i, now in changes.items() if now is not None}
        if not database.has(name):
            if not kept:
                return
            # One that had no record has no table either: it is made with its first vectors.
            first = next(iter(kept.values()))
            database.write_collection(name, {"dimension": len(vector_of(first))})
        # An upsert would keep what an older state says beside the new one.
        there = [row["id"] for row in database.rows(name, list(changes), ("id",))]
        database.delete(name, there)
        for part in in_batches(kept.items()):
            database.put(name, dict(part))

    def make(self) -> None:
        """Make the database, and the mark by which stock knows it, where there is none yet."""
        self.open()

    # What it looks like.

    def _note_collection(self, name: str) -> None:
        files = self._files(name)
        if files is None:
            self.drops += self._known.pop(name, None) is not None
        elif name not in self._known:
            self._known[name] = Known(files.made)

    def wrote(self, kind: str) -> None:
        """Note that something was written, by stock or past it: the clock has gone on."""
        name = kind.removeprefix(PREFIX)
        if self._database is not None and name in self._known:
            self._known[name].seq = self._database.seq(name)

    def fingerprint(self) -> JsonObject:
        return {
            "collections": {
                name: [known.made, *known.records.as_json(), known.seq]
                for name, known in self._known.items()
            },
        }

    def read_fingerprint(self) -> JsonObject:
        self._known = {}
        for name, files in collections_in(self.path).items():
            records = DigestSum.of(digest_of(record) for _, record in files.records(WORDS))
            self._known[name] = Known(files.made, files.seq(), records)
        return self.fingerprint()

    def was_replaced(self, baseline: JsonObject) -> bool:
        # A deletion has a number, too: where none was given since, nothing was deleted.
        then = baseline["collections"]
        if any(self._made(name) != entry[0] for name, entry in then.items()):
            return True
        return not any(self._known[name].seq > entry[-1] for name, entry in then.items())

    def is_older(self, baseline: JsonObject) -> bool:
        then = baseline["collections"]
        return any(
            known.made == then[name][0] and self._went_back(known, then[name])
            for name, known in self._known.items()
            if name in then
        )

    def _went_back(self, known: Known, entry: list[int]) -> bool:
        _, count, digests, seq = entry
        # What says something else under the same number, nobody has written.
        return known.seq < seq or (known.seq == seq and known.records.as_json() != [count, digests])

    def suspects(self, baseline: JsonObject, touched: Mapping[Entity, Touched]) -> bool:
        """Compare sums, with what we touched taken out, and numbers where we touched nothing."""
        then = baseline["collections"]
        if self._others_made(then, touched):
            return True
        ours = {kind for kind, _ in touched}
        return any(
            self._differs(name, then, touched)
            or (PREFIX + name not in ours and name in then and known.seq != then[name][-1])
            for name, known in self._known.items()
        )
