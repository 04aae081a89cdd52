"""The tables of sqlite_exact's database: reading and writing them as stock does.

The caller has the database open, and says what is one transaction.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TypedDict

from palace.engine.stores.drawers import PREFIX, RecordPayload, payload, vector_of
from palace.engine.stores.projection import BATCH
from palace.journal.record import JsonObject
from palace.protocol.decoding import decode_json

FIRST_ROW = -(1 << 63)  # SQLite's smallest number of a row
_COLUMNS = {"collection_id", "id", "document", "metadata_json", "embedding", "dim", "updated_at"}
_STRUCTURE = 10  # the row of an FTS5 index that describes its parts
_V2 = b"\xff\x00\x00\x01"  # a mark of later structure records, behind their cookie
_COOKIE_BYTES = 4
RECORD = "id, document, metadata_json, embedding"
WORDS = "id, document, metadata_json, x''"


class ExactCollection(TypedDict):
    """A collection as the journal keeps it: which embedder's vectors it holds, None unknown."""

    embedder: str | None


def has_tables(connection: sqlite3.Connection) -> bool:
    """Tell whether a database is one of this backend's."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(documents)")}
    known = {row[1] for row in connection.execute("PRAGMA table_info(collections)")}
    return columns >= _COLUMNS and {"id", "name", "created_at"} <= known


def rows_in(connection: sqlite3.Connection) -> Iterator[tuple[str, str, JsonObject]]:
    """Yield (collection, id, record) of a database that the caller has open, in pages.

    What is no text any more is shown as far as it is one.
    """
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    if not has_tables(connection):
        return
    for number, name in connection.execute("SELECT id, name FROM collections").fetchall():
        last = FIRST_ROW
        while rows := page_of(connection, number, RECORD, last):
            last = rows[-1][-1]
            for row in rows:
                yield str(name), str(row[0]), {**record_of(row)}


def page_of(
    connection: sqlite3.Connection, number: int, columns: str, last: int
) -> list[sqlite3.Row]:
    """Return a collection's next rows behind the one numbered `last`; each ends with its number."""
    query = (
        f"SELECT {columns}, rowid FROM documents WHERE collection_id = ? AND rowid > ? "
        "ORDER BY rowid LIMIT ?"
    )
    return connection.execute(query, [number, last, BATCH]).fetchall()


def record_of(row: Sequence[object]) -> RecordPayload:
    """Return the record of a row of RECORD or WORDS."""
    _, document, metadata, vector = row[:4]
    import numpy as np

    try:
        said = decode_json(str(metadata))
    except ValueError:
        said = None  # stock takes it for none, too
    numbers = np.frombuffer(vector if isinstance(vector, bytes) else b"", dtype="<f4")
    return payload(
        None if document is None else str(document),
        said if isinstance(said, dict) else None,
        numbers,
        None,
    )


def marks(values: Sequence[object]) -> str:
    """Return the place holders of so many values."""
    return f"({', '.join('?' for _ in values)})"


def number_of(connection: sqlite3.Connection, kind: str) -> int | None:
    """Return by which number rows name the collection of a kind, None where there is none."""
    query = "SELECT id FROM collections WHERE name = ?"
    row = connection.execute(query, [kind.removeprefix(PREFIX)]).fetchone()
    number: int | None = None if row is None else row[0]
    return number


def made_at(connection: sqlite3.Connection, name: str) -> str | None:
    """Return when a collection was made, None where there is none."""
    query = "SELECT created_at FROM collections WHERE name = ?"
    row = connection.execute(query, [name]).fetchone()
    return None if row is None else str(row[0])


def collection_of(connection: sqlite3.Connection, name: str) -> ExactCollection | None:
    if made_at(connection, name) is None:
        return None
    query = "SELECT value FROM meta WHERE key = ?"
    row = connection.execute(query, [_embedder_key(name)]).fetchone()
    return {"embedder": None if row is None else str(row[0])}


def _embedder_key(name: str) -> str:
    return f"embedder_model:{name}"


def has_words(connection: sqlite3.Connection) -> bool:
    """Tell whether there is an index of words."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'fts5_available'").fetchone()
    return bool(row and row[0] == "1")


def write_collection(
    connection: sqlite3.Connection, name: str, model: ExactCollection | None
) -> None:
    number = number_of(connection, name)
    connection.execute("DELETE FROM meta WHERE key = ?", [_embedder_key(name)])
    if model is None:
        if number is None:
            return
        if has_words(connection):
            connection.execute("DELETE FROM docs_fts WHERE collection_id = ?", [number])
        connection.execute("DELETE FROM documents WHERE collection_id = ?", [number])
        connection.execute("DELETE FROM collections WHERE id = ?", [number])
        return
    if number is None:
        query = "INSERT INTO collections (name, created_at) VALUES (?, ?)"
        connection.execute(query, [name, _now()])
    if model.get("embedder") is not None:
        query = "INSERT INTO meta (key, value) VALUES (?, ?)"
        connection.execute(query, [_embedder_key(name), model["embedder"]])


def delete_record(
    connection: sqlite3.Connection, number: int, ident: str, *, indexed: bool
) -> None:
    where = [number, ident]
    connection.execute("DELETE FROM documents WHERE collection_id = ? AND id = ?", where)
    if indexed:
        connection.execute("DELETE FROM docs_fts WHERE collection_id = ? AND doc_id = ?", where)


def insert_record(
    connection: sqlite3.Connection,
    number: int,
    ident: str,
    record: RecordPayload,
    *,
    indexed: bool,
) -> None:
    """Write a record as stock does (mempalace 3.11, sqlite_exact.py, `upsert`)."""
    from mempalace.backends.sqlite_exact import _json_dumps

    vector = vector_of(record).tobytes()  # type: ignore[attr-defined]
    dimension, now, document = len(vector) // 4, _now(), record["document"] or ""
    query = "UPDATE collections SET dimension = ? WHERE id = ? AND dimension IS NULL"
    connection.execute(query, [dimension, number])
    columns = "collection_id, id, document, metadata_json, embedding, dim, created_at, updated_at"
    metadata = _json_dumps(record["metadata"] or {})
    values = [number, ident, document, metadata, vector, dimension, now, now]
    connection.execute(f"INSERT INTO documents ({columns}) VALUES {marks(values)}", values)
    if indexed:
        query = "INSERT INTO docs_fts (collection_id, doc_id, document) VALUES (?, ?, ?)"
        connection.execute(query, [number, ident, document])


def _now() -> str:
    """Return the time as stock writes it."""
    return datetime.now(UTC).isoformat()


def leaves(connection: sqlite3.Connection) -> int:
    """Return how many leaves the index of words has ever got, 0 where there is none."""
    query = "SELECT 1 FROM sqlite_master WHERE name = 'docs_fts_data'"
    if connection.execute(query).fetchone() is None:
        return 0
    query = "SELECT block FROM docs_fts_data WHERE id = ?"
    row = connection.execute(query, [_STRUCTURE]).fetchone()
    block = row[0] if row is not None and isinstance(row[0], bytes) else b""
    at = _COOKIE_BYTES
    if block[at : at + len(_V2)] == _V2:
        at += len(_V2)
    for _ in range(2):  # how many levels, and how many segments
        _, at = _varint(block, at)
    return _varint(block, at)[0]


def _varint(block: bytes, at: int) -> tuple[int, int]:
    """Return one of SQLite's numbers of variable length, and where the next one begins."""
    value = 0
    for place in range(9):
        if at >= len(block):
            return 0, at
        byte = block[at]
        at += 1
        if place == 8:
            return (value << 8) | byte, at
        value = (value << 7) | (byte & 0x7F)
        if not byte & 0x80:
            return value, at
    return value, at
