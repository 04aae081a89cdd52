"""The seams: where a change of a store is caught, journalled, and only then made.

| store | what is patched |
|---|---|
| Chroma | the methods of chromadb's lowest Python class (chroma_seam.py) |
| sqlite_exact, rust_exact | the methods of stock's collection (exact_seam.py) |
| pgvector | the methods of stock's client of its server (pgvector_seam.py) |
| milvus | the methods of stock's collection (milvus_seam.py) |
| knowledge graph, events and artifacts | how stock opens its connection (rows.py) |
| tunnels, hallways | stock's functions that load and save the whole list |
| small files | nothing: they are compared when the palace is opened and closed |
"""

import functools
import importlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Protocol

from palace.engine.patches import JOURNAL, Patch, Patches
from palace.engine.stores import chroma_seam
from palace.engine.stores.chroma import Chroma
from palace.engine.stores.exact import Exact
from palace.engine.stores.lists import JsonList
from palace.engine.stores.palace_stores import Stores, is_milvus, is_tables
from palace.engine.stores.projection import Change, ChangeJournal
from palace.engine.stores.rows import OnCommit, Rows, WatchedConnection
from palace.journal.record import Json

if TYPE_CHECKING:
    from palace.engine.stores.milvus import Milvus
    from palace.engine.stores.pgvector import PgVector

# What stock's `_conn` does, in the names that it uses: the replacement opens a connection alike.
_CONN_NAMES = frozenset(
    {"_connection", "sqlite3", "connect", "db_path", "execute", "row_factory", "Row"}
)
_STOCK_TIMEOUT_S = 10


class StockDatabase(Protocol):
    """Stock's KnowledgeGraph or Logstream, as far as its connection goes."""

    db_path: str
    _connection: sqlite3.Connection | None


Load = Callable[..., list[Json]]  # given stock's settings, or nothing
Save = Callable[..., None]  # records, and optionally stock's settings


def install_seams(stores: Stores, journal: ChangeJournal) -> Patches:
    """Journal from now on whatever changes these stores in this process.

    An owner never undoes it: a thread that outlives the journal must fail, not write past it.
    Raises StoreUnavailable where the installed mempalace isn't the one that this was written for.
    """
    patches = Patches()
    patches.apply(seam_patches(stores, journal))
    return patches


def seam_patches(stores: Stores, journal: ChangeJournal) -> tuple[Patch, ...]:
    """Return what is replaced in mempalace and chromadb."""
    graph = importlib.import_module("mempalace.knowledge_graph").KnowledgeGraph
    logstream = importlib.import_module("mempalace.logstream").Logstream
    return (
        *_drawer_patches(stores.drawers, journal),
        *_row_patches(graph, stores.graph, journal),
        *_row_patches(logstream, stores.logstream, journal),
        *_list_patches("palace_graph", "tunnels", stores.tunnels, journal),
        *_list_patches("hallways", "hallways", stores.hallways, journal),
    )


def _drawer_patches(
    drawers: "Chroma | Exact | PgVector | Milvus", journal: ChangeJournal
) -> Iterable[Patch]:
    if isinstance(drawers, Chroma):
        return chroma_seam.chroma_patches(drawers, journal)
    if is_tables(drawers):
        from palace.engine.stores import pgvector_seam

        return pgvector_seam.pgvector_patches(drawers, journal)
    if is_milvus(drawers):
        from palace.engine.stores import milvus_seam

        return milvus_seam.milvus_patches(drawers, journal)
    assert isinstance(drawers, Exact)
    from palace.engine.stores import exact_seam

    return exact_seam.exact_patches(drawers, journal)


def _row_patches(owner: type, rows: Rows, journal: ChangeJournal) -> tuple[Patch, ...]:
    def on_commit(changes: Sequence[Change], commit: Callable[[], None]) -> None:
        with rows.lock:
            journal.change(rows, changes, commit)

    def is_ours(database: StockDatabase) -> bool:
        return os.path.realpath(database.db_path) == os.path.realpath(rows.path)

    def opening(stock: Callable[[StockDatabase], sqlite3.Connection]) -> object:
        def conn(database: StockDatabase) -> sqlite3.Connection:
            if database._connection is None and is_ours(database):  # noqa: SLF001
                database._connection = _open_watched(database.db_path, rows, on_commit)  # noqa: SLF001
            return stock(database)  # opens a connection only where there is none yet

        return conn

    def creating(stock: Callable[[StockDatabase], None]) -> object:
        def init_db(database: StockDatabase) -> None:
            stock(database)
            connection = database._connection  # noqa: SLF001
            if isinstance(connection, WatchedConnection):  # a new file has its tables only now
                connection.watch(rows.tables, on_commit)

        return init_db

    return (
        Patch(
            name=JOURNAL,
            why="its commits are journalled by a connection of another class",
            owner=owner,
            attribute="_conn",
            expected=_opens_as_known,
            replace=opening,
        ),
        Patch(
            name=JOURNAL,
            why="the tables of a new file can be watched only once they are there",
            owner=owner,
            attribute="_init_db",
            replace=creating,
        ),
    )


def _opens_as_known(stock: object) -> bool:
    """Tell whether stock opens its connection as `_open_watched` does in its place."""
    code = getattr(stock, "__code__", None)
    return isinstance(code, CodeType) and frozenset(code.co_names) == _CONN_NAMES


def _open_watched(path: str, rows: Rows, on_commit: OnCommit) -> WatchedConnection:
    """Open a connection as stock does, but for its class."""
    connection = sqlite3.connect(
        path, timeout=_STOCK_TIMEOUT_S, check_same_thread=False, factory=WatchedConnection
    )
    connection.watch(rows.tables, on_commit)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.row_factory = sqlite3.Row
    return connection


def _list_patches(
    module: str, name: str, saved: JsonList, journal: ChangeJournal
) -> tuple[Patch, ...]:
    def loading(stock: Load) -> object:
        @functools.wraps(stock)
        def load(config: object = None) -> list[Json]:
            saved.keep_whole()
            return stock(config)

        return load

    def saving(stock: Save) -> object:
        @functools.wraps(stock)
        def save(records: list[Json], config: object = None) -> None:
            def make() -> None:
                stock(records, config)
                saved.make_durable()
                saved.note(records)

            with saved.lock:
                # Between stock's reading and this a file may have gone: that deletes nothing.
                saved.keep_whole()
                journal.change(saved, saved.changes_to(records), make)

        return save

    owner = importlib.import_module(f"mempalace.{module}")
    return (
        Patch(
            name=JOURNAL,
            why="it takes a file that is gone or can't be read for an empty list",
            owner=owner,
            attribute=f"_load_{name}",
            replace=loading,
        ),
        Patch(
            name=JOURNAL,
            why="it replaces a whole list, whose differences are journalled before",
            owner=owner,
            attribute=f"_save_{name}",
            replace=saving,
        ),
    )
