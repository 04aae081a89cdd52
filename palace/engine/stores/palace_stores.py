"""All stores of one palace, and how each is opened."""

import importlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeGuard, cast

import attrs

from palace.engine.stores.candidates import Candidates, open_candidates
from palace.engine.stores.chroma import Chroma
from palace.engine.stores.chroma_api import ChromaApi, ChromaClient, Vector
from palace.engine.stores.drawers import MILVUS, PGVECTOR, DrawerStore
from palace.engine.stores.exact import Exact
from palace.engine.stores.files import Files
from palace.engine.stores.hallways import SINCE, Hallways, StockHallways
from palace.engine.stores.lists import JsonList
from palace.engine.stores.projection import Projection
from palace.engine.stores.register import Register, open_register
from palace.engine.stores.rows import GRAPH, LOGSTREAM, Rows, Table
from palace.engine.stores.undone import undone_of
from palace.engine.versions import check_installed, installed_version, is_older
from palace.kernel.kernel import Kernel
from palace.ownership.directory import place_of_lists
from palace.ownership.holders import LATER_HALLWAYS
from palace.protocol.errors import StoreCorrupt
from palace.protocol.wire import identity_of
from palace.settings.config import Config
from palace.settings.environment import read_environment
from palace.settings.paths import Paths
from palace.settings.stock_config import Backend, backend_of

if TYPE_CHECKING:
    from palace.engine.stores.milvus import Milvus
    from palace.engine.stores.pgvector import PgVector

# A variable of scratch palaces: the directory of the one whose new tables are made.
MADE_FOR = "PALACE_TABLES_MADE_FOR"


def is_tables(drawers: DrawerStore) -> "TypeGuard[PgVector]":
    """Tell whether a store is tables of a server, without the import of what asks one."""
    return drawers.name == PGVECTOR


def is_milvus(drawers: DrawerStore) -> "TypeGuard[Milvus]":
    """Tell whether a store is milvus-lite's, without the import of what reads its files."""
    return drawers.name == MILVUS


@attrs.frozen(kw_only=True)
class Stores:
    """All projections of one palace, in the order in which they are written."""

    drawers: "Chroma | Exact | PgVector | Milvus"
    graph: Rows
    logstream: Rows
    tunnels: JsonList
    hallways: JsonList
    files: Files
    register: Register
    candidates: Candidates

    @property
    def all(self) -> tuple[Projection, ...]:
        return (
            self.files,
            self.drawers,
            self.graph,
            self.logstream,
            self.tunnels,
            self.hallways,
            self.register,
            self.candidates,
        )

    @property
    def chroma(self) -> Chroma | None:
        """Return the store of drawers where it is Chroma's, whose index is a file of its own."""
        return self.drawers if isinstance(self.drawers, Chroma) else None

    @property
    def pgvector(self) -> "PgVector | None":
        """Return the store of drawers where it is tables of a server, and no file."""
        return self.drawers if is_tables(self.drawers) else None

    @property
    def milvus(self) -> "Milvus | None":
        """Return the store of drawers where it is milvus-lite's, a directory of files."""
        return self.drawers if is_milvus(self.drawers) else None

    @property
    def drawer_files(self) -> "tuple[Chroma | Exact | Milvus, ...]":
        """Return the store of drawers where it is a database of the palace's, else nothing."""
        if is_milvus(self.drawers):
            return (self.drawers,)
        return (self.drawers,) if isinstance(self.drawers, (Chroma, Exact)) else ()

    @property
    def tables(self) -> tuple[Rows, ...]:
        """Return those that are a file of SQLite's and nothing else."""
        return (self.graph, self.logstream, self.register, self.candidates)

    @property
    def own(self) -> frozenset[str]:
        """Return the names of those that no other program writes: the journal knows better."""
        return frozenset({self.register.name, self.candidates.name})

    @property
    def beside(self) -> tuple[Rows | JsonList, ...]:
        """Return those that stock writes whoever holds its writer lock."""
        return (self.graph, self.logstream, self.tunnels, self.hallways)

    @property
    def kept_whole(self) -> tuple[JsonList | Files, ...]:
        """Return those that are written back from memory while they are open."""
        return (self.tunnels, self.hallways, self.files)


def build_stores(
    paths: Paths,
    config: Config,
    kernel: Kernel,
    open_chroma: Callable[[], ChromaApi],
    backend: str = "",
) -> Stores:
    """Return the stores of a palace; `open_chroma` opens its Chroma.  Nothing is opened yet.

    `backend` keeps the drawers, "" that which stock would use.  Raises ConfigError where
    mempalace's settings can't be read.
    """
    lists = place_of_lists(paths.root)
    return Stores(
        drawers=_drawers(paths, config, kernel, open_chroma, backend),
        graph=attrs.evolve(
            _rows("graph", config.graph, GRAPH, "knowledge_graph", "KnowledgeGraph"),
            undone=undone_of(config.graph, paths.root, kernel),
        ),
        logstream=_rows(
            "logstream",
            f"{paths.root}/logstream.sqlite3",
            LOGSTREAM,
            "logstream",
            "Logstream",
        ),
        tunnels=JsonList(
            name="tunnels",
            kind="tunnel",
            path=f"{lists}/tunnels.json",
            kernel=kernel,
            keep_out=_stocks_lock,
        ),
        hallways=_hallways(lists, kernel),
        files=Files(paths.root, kernel),
        register=open_register(paths, kernel),
        candidates=open_candidates(paths, kernel),
    )


def _hallways(place: str, kernel: Kernel) -> JsonList:
    """Return the list of hallways in the form in which the installed mempalace keeps it."""
    json_list = JsonList(
        name="hallways",
        kind="hallway",
        path=f"{place}/hallways.json",
        kernel=kernel,
        keep_out=_stocks_lock,
        member="hallways",
        wrapper={"schema_version": 1},
    )
    if is_older(installed_version(), SINCE):
        return json_list
    return Hallways(
        name=json_list.name,
        kind=json_list.kind,
        path=f"{place}/{LATER_HALLWAYS}",
        earlier=json_list.path,
        kernel=kernel,
        keep_out=lambda _: _stocks_lock(json_list.path),  # its name stayed
        member=json_list.member,
        stock=lambda: cast("StockHallways", importlib.import_module("mempalace.hallways")),
    )


def _drawers(
    paths: Paths, config: Config, kernel: Kernel, open_chroma: Callable[[], ChromaApi], name: str
) -> "Chroma | Exact | PgVector | Milvus":
    root = paths.root
    said = backend_of(root, config.config_dir, config.environment)
    backend = Backend(name, said.said_by) if name else said
    if backend.is_exact:
        return Exact(root)
    made_for = config.environment.get(MADE_FOR)
    if backend.is_milvus_lite:
        from palace.engine.stores.milvus import Milvus
        from palace.engine.stores.milvus_open import check_milvus

        check_milvus()
        return Milvus(root, made_for or "")
    if not backend.is_pgvector:
        return Chroma(root, open_chroma, create_as_stock)
    # Imported where there are tables, here as everywhere: no other palace needs it.
    from palace.engine.stores.pgvector import PgVector
    from palace.engine.stores.pgvector_tables import target_of

    # The connection string is no setting that palace keeps: it may hold a password.
    environ = {**read_environment().all, **config.environment}
    target = target_of(made_for or root, config.config_dir, environ)
    palace = identity_of(kernel.read_hint(Paths(made_for or root).palace_id, 200)) or ""
    return PgVector(root, target.made(palace) if made_for else target, palace=palace)


def _stocks_lock(path: str) -> AbstractContextManager[None]:
    """Return the lock of a list, which stock holds from reading it to replacing it."""
    from mempalace.palace import mine_lock

    held: AbstractContextManager[None] = mine_lock(path)
    return held


def open_chroma(root: str) -> ChromaClient:
    """Open a new store as stock would; the caller closes the client."""
    from mempalace.backends.chroma import ChromaBackend

    client: ChromaClient = ChromaBackend.make_client(root)
    return client


def create_as_stock(api: ChromaApi, name: str) -> None:
    """Create a collection as stock would for a new palace."""
    from mempalace.backends.chroma import ChromaBackend, _hnsw_creation_metadata

    method = type(api).create_collection  # type: ignore[attr-defined]
    getattr(method, "stock", method)(
        api,
        name=name,
        metadata=_hnsw_creation_metadata(None),
        configuration={
            "embedding_function": ChromaBackend._resolve_embedding_function()  # noqa: SLF001
        },
    )


def embedded(documents: Sequence[str]) -> Sequence[Vector]:
    """Return the vectors that stock would store for documents; raises what its model raises."""
    from mempalace.backends.chroma import ChromaBackend

    function = ChromaBackend._resolve_embedding_function()  # noqa: SLF001
    vectors: Sequence[Vector] = function(list(documents))
    return vectors


@contextmanager
def opened_stores(
    paths: Paths, config: Config, kernel: Kernel, backend: str = ""
) -> Iterator[Stores]:
    """Yield a palace's stores without seams; Chroma is opened when it is first needed.

    It is closed when the block ends: nothing may use the stores after that.  `backend`: see
    `build_stores`.  Raises StoreUnavailable where the engine is not installed.
    """
    check_installed()
    with ExitStack() as closing:

        def api() -> ChromaApi:
            client = open_chroma(paths.root)
            closing.callback(client.close)
            return client._server  # noqa: SLF001

        stores = build_stores(paths, config, kernel, api, backend)
        if stores.milvus is not None:
            closing.callback(stores.milvus.close)
        yield stores


def unopened_stores(paths: Paths, config: Config, kernel: Kernel, backend: str = "") -> Stores:
    """Return a palace's stores for what their files say: Chroma can't be opened through them.

    `backend`: see `build_stores`.
    """

    def refuse() -> ChromaApi:
        raise AssertionError("these stores are not to be opened")

    return build_stores(paths, config, kernel, refuse, backend)


def _rows(name: str, path: str, tables: tuple[Table, ...], module: str, owner: str) -> Rows:
    def make() -> None:
        getattr(importlib.import_module(f"mempalace.{module}"), owner)(db_path=path).close()

    return Rows(name, path, tables, create=make, exists=lambda: os.path.exists(path))


def migrate(stores: Stores, besides: Collection[str] = ()) -> None:
    """Let stock bring old tables up to date before anything of them is journalled.

    Stores named in `besides` are damaged, and stay as they are.
    """
    for rows in (stores.graph, stores.logstream):
        if not rows.exists() or rows.name in besides:
            continue
        try:
            rows.create()
        except sqlite3.DatabaseError as error:
            raise StoreCorrupt(
                f"{rows.path} can't be opened: {error}. Bring it back from the journal: "
                "palace stop --hold; palace rebuild; palace start"
            ) from None
