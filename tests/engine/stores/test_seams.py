"""How stock's connection is replaced, without mempalace: by a class that opens it as stock does."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from palace.engine.patches import Patches
from palace.engine.stores import seams
from palace.engine.stores.projection import Change, Projection
from palace.engine.stores.rows import Rows, Table, WatchedConnection
from palace.protocol.errors import StoreUnavailable

TABLE = Table(kind="fact", name="facts")


class Stock:
    """Opens its database as mempalace's classes do."""

    def __init__(self, db_path: str) -> None:
        self.db_path = db_path
        self._connection: sqlite3.Connection | None = None
        self._init_db()

    def _init_db(self) -> None:
        self._conn().executescript("CREATE TABLE IF NOT EXISTS facts (id TEXT PRIMARY KEY, x)")

    def _conn(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self.db_path, timeout=10, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.row_factory = sqlite3.Row
        return self._connection

    def add(self, ident: str, x: int) -> None:
        with self._conn() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (ident, x))


class RecordingJournal:
    """Notes what is handed to a journal, and makes it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def change(
        self, _projection: Projection, changes: Sequence[Change], make: Callable[[], Any]
    ) -> Any:
        self.changes += changes
        return make()

    change_for_good = change


def patched(path: Path, owner: type) -> tuple[Patches, RecordingJournal]:
    rows = Rows("facts", str(path), (TABLE,), create=lambda: None, exists=path.exists)
    patches, told = Patches(), RecordingJournal()
    patches.apply(seams._row_patches(owner, rows, told))
    return patches, told


def test_rows_of_the_palaces_own_file_are_journalled(tmp_path: Path) -> None:
    patches, told = patched(tmp_path / "own", Stock)
    try:
        own, other = Stock(str(tmp_path / "own")), Stock(str(tmp_path / "other"))
        own.add("a", 1)
        other.add("b", 1)
        own.add("a", 2)
    finally:
        patches.undo()

    assert [(c.id, c.before, c.after) for c in told.changes] == [
        ("a", None, {"rowid": 1, "row": {"id": "a", "x": 1}}),
        (
            "a",
            {"rowid": 1, "row": {"id": "a", "x": 1}},
            {"rowid": 2, "row": {"id": "a", "x": 2}},
        ),
    ]
    assert not isinstance(other._conn(), WatchedConnection)
    assert not isinstance(Stock(str(tmp_path / "own"))._conn(), WatchedConnection)


def test_connection_is_set_up_as_stock_does_it(tmp_path: Path) -> None:
    plain = Stock(str(tmp_path / "plain"))._conn()
    patches, _ = patched(tmp_path / "own", Stock)
    try:
        ours = Stock(str(tmp_path / "own"))._conn()
    finally:
        patches.undo()

    assert isinstance(ours, WatchedConnection)
    assert ours.row_factory is plain.row_factory
    for pragma in ("journal_mode", "busy_timeout", "synchronous", "foreign_keys"):
        assert [*ours.execute(f"PRAGMA {pragma}").fetchone()] == [
            *plain.execute(f"PRAGMA {pragma}").fetchone()
        ]


def test_release_that_opens_its_connection_in_another_way_is_refused(tmp_path: Path) -> None:
    class Newer(Stock):
        def _conn(self) -> sqlite3.Connection:
            connection = super()._conn()
            connection.isolation_level = None
            return connection

    before = dict(vars(Newer))

    with pytest.raises(StoreUnavailable, match=r"_conn.*journal"):
        patched(tmp_path / "own", Newer)

    assert dict(vars(Newer)) == before
