"""A palace's stores, and the seams under them.

| store | seam |
|---|---|
| Chroma | chromadb's own class (chroma_seam.py) |
| knowledge graph, events and artifacts | the connection that stock opens (rows.py) |
| tunnels, hallways | stock's functions that save the whole list |
| small files | none: looked at when the palace is opened and closed |
"""

import importlib
import os
import sqlite3
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs

from palace.engine.stores import chroma, chroma_seam
from palace.engine.stores.chroma import Chroma
from palace.engine.stores.files import Files
from palace.engine.stores.lists import JsonList
from palace.engine.stores.projection import Change, ChangeJournal, Projection
from palace.engine.stores.rows import GRAPH, LOGSTREAM, Rows, connect_watched
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreCorrupt
from palace.settings.config import Config
from palace.settings.paths import Paths

_DRAWERS, _CLOSETS = (f"{chroma.PREFIX}mempalace_{name}" for name in ("drawers", "closets"))
_FIRST_DRAWERS = (chroma.COLLECTION, _DRAWERS)  # the collection is made when it is first needed
_INDEXED_DRAWERS = (_DRAWERS, _CLOSETS)  # a closet quotes the file that a drawer was mined from
_FACTS = ("graph:entity", "graph:triple")
# What a call of each tool may change; what is not listed changes nothing in the palace.
JOURNALLED: dict[str, tuple[str, ...]] = {
    "mempalace_kg_add": _FACTS,
    "mempalace_kg_invalidate": ("graph:triple",),
    "mempalace_kg_supersede": _FACTS,
    "mempalace_create_tunnel": ("tunnel",),
    "mempalace_delete_tunnel": ("tunnel",),
    "mempalace_delete_hallway": ("hallway",),
    "mempalace_follow_tunnels": ("tunnel",),
    "mempalace_add_drawer": _FIRST_DRAWERS,
    "mempalace_checkpoint": _FIRST_DRAWERS,
    "mempalace_delete_drawer": _INDEXED_DRAWERS,
    "mempalace_delete_drawers": _INDEXED_DRAWERS,
    "mempalace_mine": (chroma.COLLECTION, *_INDEXED_DRAWERS, "hallway", "tunnel"),
    "mempalace_delete_by_source": _INDEXED_DRAWERS,
    "mempalace_sync": _INDEXED_DRAWERS,
    "mempalace_update_drawer": _INDEXED_DRAWERS,
    "mempalace_diary_write": _FIRST_DRAWERS,
    "mempalace_event_append": ("log:event",),
    "mempalace_task_create": ("log:event",),
    "mempalace_event_ack": ("log:event",),
    "mempalace_artifact_put": ("log:artifact",),
    "mempalace_patch_submit": ("log:artifact", "log:event", "log:attached"),
}


@attrs.frozen(kw_only=True)
class Stores:
    """All projections of one palace, in the order in which they are written."""

    chroma: Chroma
    graph: Rows
    logstream: Rows
    tunnels: JsonList
    hallways: JsonList
    files: Files

    @property
    def all(self) -> tuple[Projection, ...]:
        return (
            self.files,
            self.chroma,
            self.graph,
            self.logstream,
            self.tunnels,
            self.hallways,
        )

    def looks(self) -> dict[str, Any]:
        return {projection.name: projection.look() for projection in self.all}


def build_stores(paths: Paths, config: Config, kernel: Kernel, api: Callable[[], Any]) -> Stores:
    """Return the stores of a palace; `api` opens Chroma.  Nothing is opened yet."""
    parent = os.path.dirname(paths.root)
    return Stores(
        chroma=Chroma(paths.root, api),
        graph=_rows("graph", config.graph, GRAPH, ("knowledge_graph", "KnowledgeGraph")),
        logstream=_rows(
            "logstream",
            f"{paths.root}/logstream.sqlite3",
            LOGSTREAM,
            ("logstream", "Logstream"),
        ),
        tunnels=JsonList(
            name="tunnels", kind="tunnel", path=f"{parent}/tunnels.json", kernel=kernel
        ),
        hallways=JsonList(
            name="hallways",
            kind="hallway",
            path=f"{parent}/hallways.json",
            kernel=kernel,
            member="hallways",
            wrapper={"schema_version": 1},
        ),
        files=Files(paths.root, kernel),
    )


def open_chroma(root: str) -> Any:
    """Open a new store as stock would; the caller closes the client."""
    from mempalace.backends.chroma import ChromaBackend

    return ChromaBackend.make_client(root)


def _rows(name: str, path: str, tables: Any, stock: tuple[str, str]) -> Rows:
    module, owner = stock

    def make() -> None:
        getattr(importlib.import_module(f"mempalace.{module}"), owner)(db_path=path).close()

    return Rows(name, path, tables, create=make, exists=lambda: os.path.exists(path))


def migrate(stores: Stores) -> None:
    """Let stock bring old tables up to date before anything of them is journalled."""
    for rows in (stores.graph, stores.logstream):
        if not rows.exists():
            continue
        try:
            rows.create()
        except sqlite3.DatabaseError as error:
            raise StoreCorrupt(
                f"{rows.path} can't be opened: {error}. Bring it back from the journal: "
                "palace stop --hold; palace rebuild; palace start"
            ) from None


def install_seams(stores: Stores, journal: ChangeJournal) -> None:
    """Journal from now on whatever changes these stores in this process."""
    chroma_seam.install(stores.chroma, journal)
    for name, rows in (("knowledge_graph", stores.graph), ("logstream", stores.logstream)):
        _watch_rows(importlib.import_module(f"mempalace.{name}"), rows, journal)
    graph_module = importlib.import_module("mempalace.palace_graph")
    _watch_list(graph_module, "_save_tunnels", stores.tunnels, journal)
    hallways_module = importlib.import_module("mempalace.hallways")
    _watch_list(hallways_module, "_save_hallways", stores.hallways, journal)


def _watch_rows(module: ModuleType, rows: Rows, journal: ChangeJournal) -> None:
    def changed(changes: list[Change], commit: Callable[[], None]) -> None:
        with rows.lock:
            journal.change(rows, changes, commit)

    watched = connect_watched(sqlite3.connect, rows.tables, changed)

    def connect(path: str, *args: Any, **options: Any) -> sqlite3.Connection:
        ours = os.path.realpath(path) == os.path.realpath(rows.path)
        opener: Callable[..., sqlite3.Connection] = watched if ours else sqlite3.connect
        return opener(path, *args, **options)

    names = {name: getattr(sqlite3, name) for name in dir(sqlite3) if not name.startswith("__")}
    module.sqlite3 = SimpleNamespace(**(names | {"connect": connect}))  # type: ignore[attr-defined]
    owner = module.KnowledgeGraph if rows.name == "graph" else module.Logstream
    stock = owner._init_db  # noqa: SLF001

    def init(self: Any) -> None:
        stock(self)
        connection = self._connection
        if hasattr(connection, "watch"):  # a new file has its tables now
            connection.watch(rows.tables, changed)

    owner._init_db = init  # noqa: SLF001


def _watch_list(module: ModuleType, name: str, kept: JsonList, journal: ChangeJournal) -> None:
    stock = getattr(module, name)

    def save(records: list[Any], config: Any = None) -> None:
        def make() -> None:
            stock(records, config)
            _make_durable(kept)

        with kept.lock:
            journal.change(kept, kept.changes_to(records), make)

    setattr(module, name, save)


def _make_durable(kept: JsonList) -> None:
    """Stock renames without an fsync: a power cut could leave an empty file."""
    fd = kept.kernel.open_read(kept.path)
    try:
        kept.kernel.sync(fd)
    finally:
        kept.kernel.close(fd)
    kept.kernel.sync_directory(os.path.dirname(kept.path))
