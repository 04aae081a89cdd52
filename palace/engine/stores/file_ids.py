"""Which entities stores hold, as their files say: read beside the process that has them open.

Nothing is changed, and nobody is kept waiting: Chroma can't commit while a reader has its database,
so ids are read in pages, each with a lock of its own.  What is written meanwhile may be missed.

Rule for this file: it runs in a process that has no store open.  Closing any descriptor of a
database drops the locks that its process holds on it.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import attrs

from palace.engine.stores.chroma import DELETE, Chroma, has_tables
from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.exact import Exact
from palace.engine.stores.exact_rows import has_tables as has_exact_tables
from palace.engine.stores.health import Access, connect, queued
from palace.engine.stores.palace_stores import Stores, is_milvus, is_tables
from palace.engine.stores.projection import Projection
from palace.engine.stores.rows import Rows, row_id
from palace.journal.record import JsonObject
from palace.kernel.odd_files import is_odd

PAGE = 5000
FIRST_ROW = -(1 << 63)  # SQLite's smallest number of a row

_SEGMENTS = """
SELECT c.id, m.id FROM collections c JOIN segments m ON m.collection = c.id
AND m.scope = 'METADATA' WHERE c.name = ?
"""
# In the order of Chroma's own index, which holds all that is asked for.
_RECORDS = """
SELECT embedding_id FROM embeddings WHERE segment_id = ? AND embedding_id > ?
ORDER BY embedding_id LIMIT ?
"""

_DOCUMENTS = """
SELECT id FROM documents WHERE collection_id = (SELECT id FROM collections WHERE name = ?)
AND id > ? ORDER BY id LIMIT ?
"""


class TimeIsUpError(Exception):
    """There is more than can be read within the time."""


@attrs.frozen(kw_only=True)
class FileIds:
    """The ids in one palace's files.  `time_is_up` is asked before each page."""

    stores: Stores
    access: Access
    time_is_up: Callable[[], bool]

    def of(self, kind: str) -> set[str]:
        """Return a kind's ids; none where a file or a table is missing.

        Raises TimeIsUpError, StoreCorrupt for a list that is none, and sqlite3.Error.
        """
        store = self.store_of(kind)
        assert store is not None
        if isinstance(store, Rows):
            return self._rows(store, kind)
        if store is self.stores.chroma:
            return self._chroma(kind)
        if isinstance(store, Exact):
            return self._exact(store, kind)
        return set(store.ids(kind))

    def store_of(self, kind: str) -> Projection | None:
        """Return the store of a kind, None for a kind that no store here knows."""
        return next((store for store in self.stores.all if store.owns(kind)), None)

    def may_have_deleted(self, store: Projection, baseline: JsonObject) -> bool:
        """Tell whether the next owner takes what a store lacks for another program's deletion."""
        if store.name in self.stores.own:
            return False
        then = baseline.get(store.name)
        if then is None:
            return True
        drawers = self.stores.drawers
        if is_tables(drawers) or is_milvus(drawers):
            if store is drawers:
                drawers.read_fingerprint()
        elif store is drawers and isinstance(drawers, (Chroma, Exact)) and _is_there(drawers.path):
            with closing(connect(drawers.path, self.access)) as connection:
                drawers.take_fingerprint(connection)
        return not store.was_replaced(then)

    def _rows(self, rows: Rows, kind: str) -> set[str]:
        if not _is_there(rows.path):
            return set()
        table = rows.table(kind)
        query = (
            f"SELECT rowid, {', '.join(table.key)} FROM {table.name} WHERE rowid > ? "
            "ORDER BY rowid LIMIT ?"
        )
        with closing(connect(rows.path, self.access)) as connection:
            connection.row_factory = sqlite3.Row
            known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if table.name not in known:
                return set()
            return {row_id(table, row) for row in self._pages(connection, query, FIRST_ROW)}

    def _chroma(self, kind: str) -> set[str]:
        path = self.stores.drawers.path
        if not _is_there(path):
            return set()
        with closing(connect(path, self.access)) as connection:
            if not has_tables(connection):
                return set()
            if kind == COLLECTION:
                return {row[0] for row in connection.execute("SELECT name FROM collections")}
            segments = connection.execute(_SEGMENTS, [kind.removeprefix(PREFIX)]).fetchone()
            if segments is None:
                return set()
            collection, rows = segments
            found = {row[0] for row in self._pages(connection, _RECORDS, "", [rows])}
            # What a killed process has not put among the rows yet.
            for ident, operation in queued(connection, collection, rows).items():
                if operation == DELETE:
                    found.discard(ident)
                else:
                    found.add(ident)
            return found

    def _exact(self, exact: Exact, kind: str) -> set[str]:
        if not _is_there(exact.path):
            return set()
        with closing(connect(exact.path, self.access)) as connection:
            if not has_exact_tables(connection):
                return set()
            if kind == COLLECTION:
                return {row[0] for row in connection.execute("SELECT name FROM collections")}
            name = kind.removeprefix(PREFIX)
            return {row[0] for row in self._pages(connection, _DOCUMENTS, "", [name])}

    def _pages(
        self, connection: sqlite3.Connection, query: str, last: str | int, given: Iterable[str] = ()
    ) -> Iterator[sqlite3.Row]:
        """Yield a query's rows.

        Its last parameters are a value to go on behind, each row's first column, and a limit.
        """
        while True:
            if self.time_is_up():
                raise TimeIsUpError
            page = connection.execute(query, [*given, last, PAGE]).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1][0]


def _is_there(path: str) -> bool:
    return not is_odd(path) and os.path.exists(path) and os.path.getsize(path) > 0
