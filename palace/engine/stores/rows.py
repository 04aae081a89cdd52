"""SQLite tables as projections: the knowledge graph and the log of events and artifacts.

Stock opens these files with Python's sqlite3 and commits with `with connection:`.  We hand it a
connection whose temporary triggers note the first state of every row that a transaction touches,
and whose commit journals the rows before it commits them.  The triggers live in the connection
alone: the file stays what stock makes of it.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Literal, TypedDict, cast

import attrs

from palace.engine.stores.digest_sum import DigestSum
from palace.engine.stores.projection import Change
from palace.engine.stores.undone import Undone
from palace.journal.record import Entity, Json, JsonObject, Payload
from palace.journal.replay import digest_of
from palace.journal.tail import Touched
from palace.protocol.decoding import decode_json

TIMEOUT_S = 10.0
FILE_ENDS = ("", "-wal", "-shm", "-journal")  # what SQLite adds to a database's name


class RowPayload(TypedDict):
    """A row as the journal keeps it: its columns by name, and SQLite's own number of it."""

    rowid: int
    row: JsonObject


@attrs.frozen(kw_only=True)
class Table:
    """A table: its kind, its primary key, and what of a row its digest covers (all, if empty).

    `users` are the columns, with their tables, that name its rows; `counter` are an author's column
    and that of the author's own number of a row, of which there may be one each.
    """

    kind: str
    name: str
    key: tuple[str, ...] = ("id",)
    digest: tuple[str, ...] = ()
    users: tuple[tuple[str, str], ...] = ()
    counter: tuple[str, str] | None = None


GRAPH = (
    Table(
        kind="graph:entity",
        name="entities",
        users=(("triples", "subject"), ("triples", "object")),
    ),
    Table(kind="graph:triple", name="triples"),
)
# Events and artifacts are never changed by stock, so that their identities tell all.
LOGSTREAM = (
    Table(
        kind="log:event",
        name="events",
        digest=("id",),
        counter=("origin_replica", "origin_seq"),
    ),
    Table(kind="log:artifact", name="artifacts", digest=("id", "sha256")),
    Table(
        kind="log:attached",
        name="event_artifacts",
        key=("event_id", "artifact_id"),
        digest=("event_id", "artifact_id"),
    ),
)


@attrs.define(eq=False)
class Rows:
    """One SQLite file; a missing one is empty.  Safe to use beside stock's own connections."""

    name: str
    path: str
    tables: tuple[Table, ...]
    create: Callable[[], None]  # makes an empty file with stock's tables
    exists: Callable[[], bool]
    undone: Undone | None = None
    schema: str = ""  # of a file that is palace's own, and so has no other one
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    _sums: dict[str, DigestSum] = attrs.field(factory=dict)  # by kind
    _held: threading.local = attrs.field(factory=threading.local)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        if not self.exists():
            yield
            return
        with closing(sqlite3.connect(self.path, timeout=TIMEOUT_S)) as connection:
            connection.row_factory = sqlite3.Row
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            self._held.connection = connection
            try:
                yield
                connection.execute("COMMIT")
            finally:
                self._held.connection = None  # and closing it takes back what isn't committed

    def is_used(self, kind: str, ident: str) -> bool:
        users = self.table(kind).users
        if not users or not self.exists():
            return False
        with self._open() as connection:
            return any(
                connection.execute(f"SELECT 1 FROM {name} WHERE {column} = ?", [ident]).fetchone()
                for name, column in users
            )

    def note_undone(self, kind: str, ident: str, payload: Payload) -> None:
        if self.undone is not None:
            self.undone.note(kind, ident, payload)

    def taken_back(self) -> Collection[int]:
        return self.undone.states() if self.undone is not None else ()

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths of all that SQLite may keep of it, there or not."""
        return tuple(f"{self.path}{end}" for end in FILE_ENDS)

    def kinds(self) -> tuple[str, ...]:
        return tuple(table.kind for table in self.tables)

    def owns(self, kind: str) -> bool:
        return kind in self.kinds()

    def table(self, kind: str) -> Table:
        return next(table for table in self.tables if table.kind == kind)

    def read(self, kind: str, ids: Iterable[str]) -> dict[str, RowPayload]:
        if not self.exists():
            return {}
        table = self.table(kind)
        with self._open() as connection:
            found = ((ident, read_row(connection, table, ident)) for ident in ids)
            return {ident: row for ident, row in found if row is not None}

    def scan(self, kind: str) -> Iterator[tuple[str, RowPayload]]:
        if not self.exists():
            return
        table = self.table(kind)
        with self._open() as connection:
            rows = connection.execute(f"SELECT rowid, * FROM {table.name} ORDER BY rowid")
            for row in rows:
                yield row_id(table, row), payload_of(row)

    def ids(self, kind: str) -> list[str]:
        if not self.exists():
            return []
        table = self.table(kind)
        with self._open() as connection:
            query = f"SELECT {', '.join(table.key)} FROM {table.name} ORDER BY rowid"
            return [row_id(table, row) for row in connection.execute(query)]

    def count(self, kind: str) -> int:
        if not self.exists():
            return 0
        with self._open() as connection:
            row = connection.execute(f"SELECT count(*) FROM {self.table(kind).name}").fetchone()
            return int(row[0])

    def next_rowid(self, kind: str) -> int:
        """Return a number that no row of this kind has; the caller holds the lock."""
        if not self.exists():
            return 1
        with self._open() as connection:
            name = self.table(kind).name
            row = connection.execute(f"SELECT coalesce(max(rowid), 0) + 1 FROM {name}").fetchone()
            return int(row[0])

    def write(self, kind: str, changes: Mapping[str, Payload]) -> None:
        if not self.exists():
            if all(payload is None for payload in changes.values()):
                return
            self.create()
        table = self.table(kind)
        with self._open() as connection, self._transaction(connection):
            for ident, payload in changes.items():
                _write_row(connection, table, ident, cast("RowPayload | None", payload))

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            table = self.table(change.kind)
            sums = self._sums.setdefault(change.kind, DigestSum())
            if change.before is not None:
                sums.remove(row_digest(table, change.before))
            if change.after is not None:
                sums.add(row_digest(table, change.after))

    def fingerprint(self) -> Json:
        return self.sums()

    def sums(self) -> dict[str, list[int]]:
        """Return how many rows of each kind there are, and the sum of their digests."""
        return {kind: self._sums.get(kind, DigestSum()).as_json() for kind in self.kinds()}

    def read_fingerprint(self) -> Json:
        self._sums = {
            table.kind: DigestSum.of(
                row_digest(table, payload) for _, payload in self.scan(table.kind)
            )
            for table in self.tables
        }
        return self.fingerprint()

    def recount(self) -> None:
        return  # the files say the same whether they are open or not

    def was_replaced(self, _baseline: Json) -> bool:
        return True  # stock deletes no rows: what is missing was lost

    def is_older(self, _baseline: Json) -> bool:
        return False  # it can't be told

    def suspects(self, baseline: Json, touched: Mapping[Entity, Touched]) -> bool:
        """Compare the sums with what we touched taken out of both."""
        return any(self._differs(table, baseline, touched) for table in self.tables)

    def _differs(self, table: Table, baseline: Json, touched: Mapping[Entity, Touched]) -> bool:
        ours = {ident: was for (kind, ident), was in touched.items() if kind == table.kind}
        then = [
            row_digest(table, was.baseline) for was in ours.values() if was.baseline is not None
        ]
        now = [row_digest(table, payload) for payload in self.read(table.kind, ours).values()]
        before = DigestSum(*baseline.get(table.kind, (0, 0)))
        return before.without(then) != self._sums.get(table.kind, DigestSum()).without(now)

    def _transaction(self, connection: sqlite3.Connection) -> AbstractContextManager[object]:
        """Return what commits a write; within `exclusively` that does."""
        return nullcontext() if connection.in_transaction else connection

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        held: sqlite3.Connection | None = getattr(self._held, "connection", None)
        if held is not None:
            yield held
            return
        with closing(sqlite3.connect(self.path, timeout=TIMEOUT_S)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection


def row_digest(table: Table, payload: Payload) -> int:
    if not table.digest:
        return digest_of(payload)
    row = cast("RowPayload", payload)
    return digest_of([row["rowid"], *(row["row"][column] for column in table.digest)])


def payload_of(row: sqlite3.Row) -> RowPayload:
    """Return a row as the journal keeps it.

    Raises sqlite3.DataError for bytes, which no column of these tables is for: SQLite takes them
    anywhere, and so whoever can write the file can put them there.
    """
    if any(isinstance(value, bytes) for value in row):
        raise sqlite3.DataError("it holds bytes where texts and numbers belong")
    return {"rowid": row[0], "row": dict(zip(row.keys()[1:], tuple(row)[1:], strict=True))}


def row_id(table: Table, row: sqlite3.Row) -> str:
    """Return what names a row; raises sqlite3.DataError where its key says nothing."""
    if any(row[column] is None for column in table.key):
        raise sqlite3.DataError(f"a row of {table.name} has no key")
    if len(table.key) == 1:
        return str(row[table.key[0]])
    # As SQLite's json_array writes it, which the triggers use.
    return json.dumps([row[column] for column in table.key], separators=(",", ":"))


def check_rows(connection: sqlite3.Connection, tables: Iterable[Table]) -> None:
    """Read all rows; raises sqlite3.DatabaseError where the journal could not keep one.

    Tables that stock would add are not missed.
    """
    connection.row_factory = sqlite3.Row
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    for table in tables:
        if table.name in there:
            for row in connection.execute(f"SELECT rowid, * FROM {table.name}"):
                row_id(table, row)
                payload_of(row)


def key_of(table: Table, ident: str) -> list[str]:
    return [ident] if len(table.key) == 1 else decode_json(ident)


def _where(table: Table) -> str:
    return " AND ".join(f"{column} = ?" for column in table.key)


def read_row(connection: sqlite3.Connection, table: Table, ident: str) -> RowPayload | None:
    """Return a row's payload, None where there is none."""
    query = f"SELECT rowid, * FROM {table.name} WHERE {_where(table)}"
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    row = cursor.execute(query, key_of(table, ident)).fetchone()
    return None if row is None else payload_of(row)


def _write_row(
    connection: sqlite3.Connection, table: Table, ident: str, payload: RowPayload | None
) -> None:
    connection.execute(f"DELETE FROM {table.name} WHERE {_where(table)}", key_of(table, ident))
    if payload is None:
        return
    known = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
    columns = [column for column in payload["row"] if column in known]
    marks = ", ".join("?" for _ in range(len(columns) + 1))
    renumbered = _number(connection, table, payload["row"], known)
    row = payload["row"] | renumbered
    # Another row may have its number: stock began a new file before this one was written again.
    # It would be replaced; so this one gets another number, which is taken over like any change.
    query = f"SELECT 1 FROM {table.name} WHERE rowid = ?"
    is_taken = bool(renumbered) or connection.execute(query, [payload["rowid"]]).fetchone()
    connection.execute(
        f"INSERT OR REPLACE INTO {table.name} (rowid, {', '.join(columns)}) VALUES ({marks})",
        [None if is_taken else payload["rowid"], *(row[column] for column in columns)],
    )


def _number(
    connection: sqlite3.Connection, table: Table, row: JsonObject, known: set[str]
) -> JsonObject:
    """Return another number of its author's for a row whose own another row has; {} for none."""
    if table.counter is None or not {*table.counter} <= known & row.keys():
        return {}
    author, number = table.counter
    mine = [row[author], row[number]]
    query = f"SELECT 1 FROM {table.name} WHERE {author} = ? AND {number} = ?"
    if connection.execute(query, mine).fetchone() is None:
        return {}
    query = f"SELECT max({number}) + 1 FROM {table.name} WHERE {author} = ?"
    return {number: connection.execute(query, mine[:1]).fetchone()[0]}


Commit = Callable[[], None]
OnCommit = Callable[[Sequence[Change], Commit], None]  # journals rows, then commits them


class WatchedConnection(sqlite3.Connection):
    """A connection whose commits are journalled; `watch` begins that."""

    _tables: tuple[Table, ...] = ()
    _on_commit: OnCommit | None = None
    _together: bool = False

    def watch(self, tables: tuple[Table, ...], on_commit: OnCommit) -> None:
        """Note from now on what transactions touch, if the tables are there."""
        if self._on_commit is not None:
            return
        there = {row[0] for row in self.execute("SELECT name FROM main.sqlite_master")}
        if not all(table.name in there for table in tables):
            return  # a new file: stock is about to make them
        self.executescript("CREATE TEMP TABLE palace_seen (t, id, PRIMARY KEY (t, id));")
        for table in tables:
            self.executescript(_triggers(table))
        self._tables, self._on_commit = tables, on_commit

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one commit of all that are made within; an error takes all of them back.

        Other threads' reads see what is not committed yet, as they see what a call has not ended.
        """
        self._together, done = True, False
        try:
            yield
            self._together = False
            self.commit()
            done = True
        finally:
            self._together = False
            if not done:
                self.rollback()

    def commit(self) -> None:
        if self._together:
            return
        if self._on_commit is None or not self.in_transaction:
            super().commit()
            return
        changes = list(self._touched())
        if changes:
            self._on_commit(changes, super().commit)
        else:
            super().commit()

    def __exit__(self, kind: object, error: object, trace: object) -> Literal[False]:
        if kind is not None:
            self.rollback()
            return False
        try:
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return False

    def _touched(self) -> Iterator[Change]:
        seen = self.execute("SELECT t, id FROM palace_seen").fetchall()
        if not seen:
            return
        tables = {table.name: table for table in self._tables}
        for name, ident in [tuple(row) for row in seen]:
            table = tables[name]
            before = read_row(self, _shadow(table), ident)
            after = read_row(self, table, ident)
            if before is not None:
                before["rowid"] = before["row"].pop("palace_rowid")
            yield Change(table.kind, ident, before, after)
        self.execute("DELETE FROM palace_seen")
        for table in self._tables:
            self.execute(f"DELETE FROM palace_old_{table.name}")


def _shadow(table: Table) -> Table:
    return attrs.evolve(table, name=f"palace_old_{table.name}")


def _triggers(table: Table) -> str:
    """Return the SQL that notes a row's first state, whatever happens to it.

    A row that INSERT OR REPLACE takes away fires no delete trigger, hence BEFORE INSERT.
    """
    old = f"palace_old_{table.name}"
    columns = f"SELECT rowid AS palace_rowid, * FROM main.{table.name}"
    script = [f"CREATE TEMP TABLE {old} AS {columns} WHERE 0;"]
    for event, row in (("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")):
        match = " AND ".join(f"{column} = {row}.{column}" for column in table.key)
        ident = _ident(table, row)
        unseen = f"NOT EXISTS (SELECT 1 FROM palace_seen WHERE t = '{table.name}' AND id = {ident})"
        script.append(
            f"CREATE TEMP TRIGGER palace_{table.name}_{event} BEFORE {event} ON main.{table.name} "
            f"BEGIN INSERT INTO {old} SELECT rowid, * FROM {table.name} "
            f"WHERE {match} AND {unseen}; "
            f"INSERT OR IGNORE INTO palace_seen VALUES ('{table.name}', {ident}); END;"
        )
    return "\n".join(script)


def _ident(table: Table, row: str) -> str:
    if len(table.key) == 1:
        return f"{row}.{table.key[0]}"
    return "json_array(" + ", ".join(f"{row}.{column}" for column in table.key) + ")"
