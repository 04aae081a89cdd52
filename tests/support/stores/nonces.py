"""What stands in a palace's files, read past palace and mempalace: sqlite3 and json alone.

As a program it prints where each nonce is found: `python -P tests/support/stores/nonces.py PALACE`.
Other processes may have the palace open meanwhile, but this one must not.
"""

import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NONCE = re.compile(r"\bn\d+x\d+z[a-z]?\b")
DRAWERS = "mempalace_drawers"
GRAPH = "knowledge_graph.sqlite3"
MARKER = "pgvector_backend.json"
MILVUS = "milvus.db"
MILVUS_FILES = (MILVUS, "milvus_backend.json")
PGVECTOR_DSN = "PALACE_TEST_PGVECTOR_DSN"  # of the server that the tests have started

_RECORDS = """
SELECT c.name, e.id, e.embedding_id FROM embeddings e
JOIN segments s ON s.id = e.segment_id AND s.scope = 'METADATA'
JOIN collections c ON c.id = s.collection
"""
_TABLES = {
    "graph:entity": (GRAPH, "entities"),
    "graph:triple": (GRAPH, "triples"),
    "log:event": ("logstream.sqlite3", "events"),
    "log:artifact": ("logstream.sqlite3", "artifacts"),
    "log:attached": ("logstream.sqlite3", "event_artifacts"),
    **{
        f"palace:{table}": ("palace.sqlite3", table)
        for table in ("workspace", "token", "namespace", "audit")
    },
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A record of a collection; its vector is not to be had from the tables."""

    id: str
    document: str | None
    metadata: Row

    @property
    def logical(self) -> str:
        """Return the id under which clients know it, whatever it was split into."""
        metadata = self.metadata
        return metadata.get("parent_drawer_id") or metadata.get("parent_entry_id") or self.id


@dataclass
class Stores:
    """Everything: collections by name, rows and list entries by kind, small files by name."""

    collections: dict[str, list[Record]] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)  # with their `rowid`
    lists: dict[str, list[Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def drawers(self) -> list[Record]:
        return self.collections.get(DRAWERS, [])

    def holding(self, nonce: str) -> list[Record]:
        """Return the drawers and diary entries whose text holds a nonce."""
        return [record for record in self.drawers if nonce in (record.document or "")]


def read_stores(palace: Path) -> Stores:
    """Read all stores of a palace."""
    stores = Stores()
    chroma = palace / "chroma.sqlite3"
    exact = palace / "sqlite_exact.sqlite3"
    if chroma.exists():
        stores.collections = _collections(chroma)
    elif exact.exists():
        stores.collections = _exact_collections(exact)
    elif (palace / MILVUS).exists():
        stores.collections = _milvus_collections(palace / MILVUS)
    elif (palace / MARKER).exists():
        stores.collections = _pgvector_collections(palace / MARKER)
    for kind, (name, table) in _TABLES.items():
        path = _graph(palace) if kind.startswith("graph:") else palace / name
        stores.rows[kind] = list(_rows(path, f"SELECT rowid AS rowid, * FROM {table}"))
    for kind in ("tunnel", "hallway"):
        stores.lists[kind] = _list(palace.parent / f"{kind}s.json", f"{kind}s")
    for name in ("mempalace_embedder.json", "replica.json"):
        if (palace / name).exists():
            stores.files[name] = (palace / name).read_bytes()
    return stores


def _graph(palace: Path) -> Path:
    """Return where palace.toml says that the graph is; without it, in the palace."""
    settings = palace / "palace.toml"
    told = tomllib.loads(settings.read_text()) if settings.exists() else {}
    return palace / told.get("graph", GRAPH)


def _rows(path: Path, query: str) -> Iterator[Row]:
    if not path.exists():
        return
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        for row in connection.execute(query).fetchall():
            yield dict(row)


def _list(path: Path, member: str) -> list[Any]:
    if not path.exists():
        return []
    data = json.loads(path.read_text())
    return data[member] if isinstance(data, dict) else data


def _collections(path: Path) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {
        row["name"]: [] for row in _rows(path, "SELECT name FROM collections")
    }
    values: dict[int, Row] = {}
    for row in _rows(path, "SELECT * FROM embedding_metadata"):
        values.setdefault(row["id"], {})[row["key"]] = _value(row)
    for row in _rows(path, _RECORDS):
        metadata = values.get(row["id"], {})
        document = metadata.pop("chroma:document", None)
        found[row["name"]].append(Record(row["embedding_id"], document, metadata))
    return found


def _exact_collections(path: Path) -> dict[str, list[Record]]:
    query = "SELECT c.name, d.* FROM collections c LEFT JOIN documents d ON d.collection_id = c.id"
    found: dict[str, list[Record]] = {}
    for row in _rows(path, query):
        records = found.setdefault(row["name"], [])
        if row["id"] is not None:
            metadata = json.loads(row["metadata_json"])
            records.append(Record(row["id"], row["document"], metadata))
    return found


def _pgvector_collections(marker: Path) -> dict[str, list[Record]]:
    """Read the tables that stock's marker names, of the server that the tests have started."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    target = json.loads(marker.read_text())["pgvector"]
    prefix, database = target["table_prefix"] + "_", target["dbname"]
    found: dict[str, list[Record]] = {}
    with psycopg.connect(os.environ[PGVECTOR_DSN], dbname=database) as session:
        query = "SELECT tablename FROM pg_tables WHERE starts_with(tablename, %s)"
        for (table,) in session.execute(query, [prefix]).fetchall():
            rows = session.execute(
                SQL("SELECT id, document, metadata FROM {}").format(Identifier(table))
            )
            found[table.removeprefix(prefix)] = [Record(*row) for row in rows]
    return found


def _milvus_collections(database: Path) -> dict[str, list[Record]]:
    """Open a copy of milvus-lite's database, which one process may have open at a time."""
    for _ in range(20):
        with tempfile.TemporaryDirectory(prefix="p-mv-", dir="/tmp") as scratch:
            try:
                shutil.copytree(database, f"{scratch}/{MILVUS}")
            except shutil.Error:
                continue  # files were replaced by others meanwhile
            return _opened_collections(f"{scratch}/{MILVUS}")
    raise AssertionError(f"{database} is never still")


def _opened_collections(database: str) -> dict[str, list[Record]]:
    from milvus_lite.db import MilvusLite

    found: dict[str, list[Record]] = {}
    with MilvusLite(database) as opened:
        for name in opened.list_collections():
            collection = opened.get_collection(name)
            collection.load()
            rows = collection.query(None, output_fields=["id", "document", "metadata"])
            found[name] = [
                Record(row["id"], row["document"], json.loads(row["metadata"])) for row in rows
            ]
    return found


def _value(row: Row) -> Any:
    if row["bool_value"] is not None:
        return bool(row["bool_value"])
    members = ("string_value", "int_value", "float_value")
    return next((row[name] for name in members if row[name] is not None), None)


# Counting.


def count_nonces(stores: Stores) -> dict[str, dict[str, Any]]:
    """Return where nonces are: by kind and nonce, how often; of drawers, the chunks by id."""
    found: dict[str, dict[str, Any]] = {
        "drawers": {},
        "entries": {},
        "facts": {},
        "events": {},
        "artifacts": {},
    }
    for record in stores.drawers:
        kind = "entries" if record.metadata.get("room") == "diary" else "drawers"
        for nonce in set(NONCE.findall(record.document or "")):
            chunks = found[kind].setdefault(nonce, {})
            chunks.setdefault(record.logical, []).append(record.metadata.get("chunk_index"))
    for kind, table, column in (
        ("facts", "graph:triple", "object"),
        ("events", "log:event", "body"),
        ("artifacts", "log:artifact", "content"),
    ):
        for row in stores.rows[table]:
            for nonce in set(NONCE.findall(str(row[column]))):
                found[kind][nonce] = found[kind].get(nonce, 0) + 1
    return found


if __name__ == "__main__":
    print(json.dumps(count_nonces(read_stores(Path(sys.argv[1])))))
