"""Rows of SQLite files, as the journal writes them again."""

import sqlite3
from contextlib import closing
from pathlib import Path

from palace.engine.stores.rows import GRAPH, RowPayload, Rows


def make(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE entities (id TEXT PRIMARY KEY, name TEXT)")
        connection.execute("CREATE TABLE triples (id TEXT PRIMARY KEY, subject, object)")


def named(name: str, rowid: int) -> RowPayload:
    return {"rowid": rowid, "row": {"id": name, "name": name.upper()}}


def test_a_row_takes_no_other_rows_place_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "graph.sqlite3"
    make(path)
    rows = Rows("graph", str(path), GRAPH, lambda: make(path), path.exists)
    kind = "graph:entity"
    rows.write(kind, {"new": named("new", 1)})  # in a file that was begun again
    rows.write(kind, {"old": named("old", 1), "older": named("older", 7)})
    rows.write(kind, {"new": named("new", 1)})  # as it was: its own number is free for it

    found = rows.read(kind, ["new", "old", "older"])
    assert found == {"new": named("new", 1), "old": named("old", 2), "older": named("older", 7)}
    assert sorted(rows.ids(kind)) == ["new", "old", "older"]
