"""Rows of SQLite files, as the journal writes them again."""

import sqlite3
from contextlib import closing
from pathlib import Path

from palace.engine.stores.rows import GRAPH, LOGSTREAM, RowPayload, Rows


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


def event(name: str, rowid: int, author: str | None, number: int | None) -> RowPayload:
    row = {"id": name, "origin_replica": author, "origin_seq": number}
    return {"rowid": rowid, "row": row}


def test_an_event_takes_no_other_ones_place_by_its_authors_number(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE events (id TEXT PRIMARY KEY, origin_replica, origin_seq)")
        connection.execute("CREATE UNIQUE INDEX i ON events(origin_replica, origin_seq)")
    rows = Rows("log", str(path), LOGSTREAM[:1], lambda: None, path.exists)
    events = {
        "new": event("new", 1, "r", 1),
        "another's": event("another's", 3, "s", 1),
        "old": event("old", 9, "r", 1),
        "of old": event("of old", 4, None, None),
        "of old, too": event("of old, too", 5, None, None),
    }
    rows.write("log:event", events)

    found = rows.read("log:event", events)
    # Its row's number is another one, too: by that the digests tell that it isn't as it was.
    assert found["old"]["row"]["origin_seq"] == 2
    assert found["old"]["rowid"] != 9
    assert len({row["rowid"] for row in found.values()}) == len(events)
    assert {name: row["row"] for name, row in found.items() if name != "old"} == {
        name: row["row"] for name, row in events.items() if name != "old"
    }
