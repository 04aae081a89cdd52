"""The drawers of the backends sqlite_exact and rust_exact, which keep one format, as a projection.

One SQLite database in WAL mode holds collections, their documents with metadata and vectors, and an
index of words.  Searches compare a query with every vector, so there is no other index.  It is read
and written here with connections of its own, which SQLite keeps apart from stock's.

What tells one state of it from others:

`written` is how many leaves the index of words has ever got.  Each record that is written or
deleted adds one, so it is a clock that goes forwards with every change but one of metadata alone
(SQLite's fts5_index.c, "structure record").  `newest` is the latest time at which stock has written
a record.  Of each collection there is when it was made, how many records it has, and the sum of
their digests.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import cast

import attrs

from palace.engine.stores.digest_sum import DigestSum
from palace.engine.stores.drawers import COLLECTION, EXACT, PREFIX, RecordPayload
from palace.engine.stores.exact_rows import (
    FIRST_ROW,
    RECORD,
    WORDS,
    ExactCollection,
    collection_of,
    delete_record,
    has_tables,
    has_words,
    insert_record,
    leaves,
    made_at,
    marks,
    number_of,
    page_of,
    record_of,
    write_collection,
)
from palace.engine.stores.projection import BATCH, in_batches
from palace.engine.stores.rows import TIMEOUT_S
from palace.engine.stores.summed import Summed
from palace.journal.record import Entity, JsonObject, Payload
from palace.journal.replay import digest_of
from palace.journal.tail import Touched
from palace.settings.paths import EXACT_STORE


@attrs.define
class Known:
    """A collection: when it was made, which tells it from another of its name, and its records."""

    made: str
    records: DigestSum = attrs.field(factory=DigestSum)


@attrs.define(eq=False)
class Exact(Summed):
    """All collections of one palace.  Threads share one, under `lock`."""

    root: str
    name: str = EXACT
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    drops: int = 0
    _known: dict[str, Known] = attrs.field(factory=dict)  # by name
    _written: int = 0
    _newest: str = ""

    @property
    def path(self) -> str:
        return f"{self.root}/{EXACT_STORE}"

    # Reading and writing past the journal.

    def read(self, kind: str, ids: Iterable[str]) -> dict[str, Payload]:
        wanted = list(ids)
        if not wanted or not self.exists():
            return {}
        with self._open() as connection:
            if kind == COLLECTION:
                found = ((name, collection_of(connection, name)) for name in wanted)
                return {name: model for name, model in found if model is not None}
            number = number_of(connection, kind)
            records: dict[str, Payload] = {}
            for part in in_batches(wanted if number is not None else ()):
                query = f"SELECT {RECORD} FROM documents WHERE collection_id = ? AND id IN "
                rows = connection.execute(query + marks(part), [number, *part])
                records.update((row[0], record_of(row)) for row in rows)
            return records

    def scan(self, kind: str) -> Iterator[tuple[str, Payload]]:
        if kind == COLLECTION:
            yield from self.read(COLLECTION, self._names()).items()
            return
        yield from self._scan(kind, RECORD)

    def scan_documents(self, kind: str) -> Iterator[tuple[str, RecordPayload]]:
        yield from self._scan(kind, WORDS)

    def _scan(self, kind: str, columns: str) -> Iterator[tuple[str, RecordPayload]]:
        """Yield records in pages: no reader keeps a writer's log from being taken in for long."""
        last = FIRST_ROW
        while True:
            with self._open_if_there() as connection:
                number = number_of(connection, kind) if connection is not None else None
                if connection is None or number is None:
                    return
                rows = page_of(connection, number, columns, last)
            yield from ((row[0], record_of(row)) for row in rows)
            if len(rows) < BATCH:
                return
            last = rows[-1][-1]

    def ids(self, kind: str) -> list[str]:
        if kind == COLLECTION:
            return self._names()
        with self._open_if_there() as connection:
            number = number_of(connection, kind) if connection is not None else None
            if connection is None or number is None:
                return []
            query = "SELECT id FROM documents WHERE collection_id = ? ORDER BY rowid"
            return [row[0] for row in connection.execute(query, [number])]

    def write(self, kind: str, changes: Mapping[str, Payload]) -> None:
        if not self.exists():
            if all(after is None for after in changes.values()):
                return
            self.make()
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if kind == COLLECTION:
                for name, model in changes.items():
                    write_collection(connection, name, cast("ExactCollection | None", model))
            else:
                self._write_records(connection, kind, changes)
            connection.execute("COMMIT")
        self.wrote(kind, changes)

    def _write_records(
        self, connection: sqlite3.Connection, kind: str, changes: Mapping[str, Payload]
    ) -> None:
        number = number_of(connection, kind)
        if number is None:
            if any(after is not None for after in changes.values()):
                raise LookupError(f"no collection {kind.removeprefix(PREFIX)}")
            return
        indexed = has_words(connection)
        for ident, after in changes.items():
            delete_record(connection, number, ident, indexed=indexed)
            if after is not None:
                record = cast("RecordPayload", after)
                insert_record(connection, number, ident, record, indexed=indexed)

    def make(self) -> None:
        """Make the database with stock's tables, where there is none yet."""
        from mempalace.backends.sqlite_exact import SQLiteExactBackend

        with closing(sqlite3.connect(self.path)) as connection:
            SQLiteExactBackend()._init_schema(connection)  # noqa: SLF001

    # What it looks like.

    def _note_collection(self, name: str) -> None:
        with self._open_if_there() as connection:
            made = made_at(connection, name) if connection is not None else None
        if made is None:
            self.drops += self._known.pop(name, None) is not None
        elif name not in self._known:
            self._known[name] = Known(made)

    def wrote(self, kind: str, ids: Iterable[str]) -> None:
        """Note that records were written, by stock or past it: its clocks have gone on."""
        with self._open_if_there() as connection:
            if connection is None:
                return
            self._written = leaves(connection)
            number = number_of(connection, kind)
            for part in in_batches(ids if number is not None else ()):
                query = "SELECT max(updated_at) FROM documents WHERE collection_id = ? AND id IN "
                row = connection.execute(query + marks(part), [number, *part]).fetchone()
                self._newest = max(self._newest, str(row[0] or ""))

    def fingerprint(self) -> JsonObject:
        return {
            "written": self._written,
            "newest": self._newest,
            "collections": {
                name: [known.made, *known.records.as_json()] for name, known in self._known.items()
            },
        }

    def read_fingerprint(self) -> JsonObject:
        self._forget()
        with self._open_if_there() as connection:
            if connection is not None:
                self.take_fingerprint(connection)
        return self.fingerprint()

    def _forget(self) -> None:
        self._known = {}
        self._written, self._newest = 0, ""

    def take_fingerprint(self, connection: sqlite3.Connection) -> None:
        """Read the fingerprint from a database that the caller has open."""
        self._forget()
        if not has_tables(connection):
            return
        self._written = leaves(connection)
        newest = connection.execute("SELECT max(updated_at) FROM documents").fetchone()[0]
        self._newest = str(newest or "")
        rows = connection.execute("SELECT id, name, created_at FROM collections").fetchall()
        for number, name, made in rows:
            query = f"SELECT {WORDS} FROM documents WHERE collection_id = ?"
            found = connection.execute(query, [number])
            records = DigestSum.of(digest_of(record_of(row)) for row in found)
            self._known[str(name)] = Known(str(made), records)

    def was_replaced(self, baseline: JsonObject) -> bool:
        # A deletion adds to the index of words: where that stands still, nothing was deleted.
        return self._written <= baseline["written"] or any(
            name not in self._known or self._known[name].made != entry[0]
            for name, entry in baseline["collections"].items()
        )

    def is_older(self, baseline: JsonObject) -> bool:
        then = {name: entry[0] for name, entry in baseline["collections"].items()}
        are_known = all(then.get(name) == known.made for name, known in self._known.items())
        return bool(self._written < baseline["written"] and are_known)

    def suspects(self, baseline: JsonObject, touched: Mapping[Entity, Touched]) -> bool:
        """Compare sums, with what we touched taken out, and look for what is newer than ours."""
        then = baseline["collections"]
        if self._others_made(then, touched):
            return True
        if any(self._differs(name, then, touched) for name in self._known):
            return True
        return bool(self._newer_than(str(baseline["newest"])) - touched.keys())

    def _newer_than(self, when: str) -> set[Entity]:
        with self._open_if_there() as connection:
            if connection is None or not has_tables(connection):
                return set()
            rows = connection.execute(
                "SELECT c.name, d.id FROM documents d JOIN collections c ON c.id = d.collection_id "
                "WHERE d.updated_at > ?",
                [when],
            )
            return {(PREFIX + name, ident) for name, ident in rows}

    # Connections.

    def _names(self) -> list[str]:
        with self._open_if_there() as connection:
            if connection is None or not has_tables(connection):
                return []
            return [row[0] for row in connection.execute("SELECT name FROM collections")]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=TIMEOUT_S)) as connection:
            connection.isolation_level = None  # what is in one transaction is said where it begins
            yield connection

    @contextmanager
    def _open_if_there(self) -> Iterator[sqlite3.Connection | None]:
        if not self.exists():
            yield None
            return
        with self._open() as connection:
            yield connection
