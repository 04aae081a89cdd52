"""The named adjustments to the hosted mempalace.

Each is small, checks at start that what it adjusts is still there, and can be switched off by its
name in palace.toml (`adjustments_off`).  One that doesn't find its place refuses the engine,
rather than let it run unadjusted.
"""

import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from palace.engine.hosting import lookup_cache
from palace.protocol.errors import StoreUnavailable
from palace.settings.config import Config
from palace.settings.paths import Paths

if TYPE_CHECKING:
    from palace.engine.hosting.batched_writer import Together
    from palace.engine.hosting.query_prefetch import Ahead


def _nothing() -> None:
    return


class HostedState:
    """What adjustments keep beside the package: the call of each thread, and a progress count."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.environ = environ or {}
        self.progress = 0
        self.at_boundary: Callable[[], None] = _nothing
        self.together: Together | None = None  # where calls may be stored together
        self.ahead: Ahead | None = None  # where queries are embedded ahead
        self.looks = lookup_cache.Looks()
        self._call = threading.local()

    def enter_call(self, *, read_only: bool) -> None:
        self.progress += 1
        self._call.read_only = read_only

    def leave_call(self) -> None:
        self.progress += 1
        self._call.read_only = False

    def tick(self) -> None:
        """Note that storage is moving, for the watchdog; a lost increment does no harm."""
        self.progress += 1

    def boundary(self) -> None:
        """Note that mine is between two files, where it may be interrupted for good."""
        self.tick()
        self.at_boundary()

    @property
    def read_only(self) -> bool:
        """Tell whether the call of this thread comes from a read-only session."""
        return getattr(self._call, "read_only", False)


def need(module: ModuleType | type, name: str, adjustment: str) -> Any:
    """Return what an adjustment needs of the package; raises StoreUnavailable."""
    found = getattr(module, name, None)
    if found is None:
        raise StoreUnavailable(
            f"The installed mempalace has no {module.__name__}.{name}, which the adjustment "
            f"{adjustment!r} needs. Install a 3.11.x release that palace was tested with, or "
            f"switch it off: adjustments_off = [{adjustment!r}] in palace.toml"
        )
    return found


def held_lock(_server: ModuleType, _state: HostedState, paths: Paths, _config: Config) -> None:
    """Hand over mempalace's own lock, which the owner took before the engine was imported."""
    from mempalace import palace

    mark = need(palace, "_mark_held", "held_lock")
    need(palace, "_held_by_this_process", "held_lock")
    key = hashlib.sha256(os.path.normcase(paths.root).encode()).hexdigest()[:16]
    mark(key)


def graph_file(server: ModuleType, _state: HostedState, paths: Paths, config: Config) -> None:
    """Open the graph that palace.toml fixed, whoever's environment started the broker."""
    need(server, "_resolve_kg_path", "graph_file")
    apply_flags = need(server, "_apply_server_flags", "graph_file")
    apply_flags(palace=paths.root)
    server._resolve_kg_path = lambda: config.graph  # type: ignore[attr-defined]  # noqa: SLF001


def session_read_only(
    server: ModuleType, state: HostedState, _paths: Paths, _config: Config
) -> None:
    """Refuse a read-only session what stock refuses a read-only server (error -32003)."""
    stock = need(server, "_mcp_read_only_refusal", "session_read_only")
    refused = need(server, "_READ_ONLY_REFUSED_TOOLS", "session_read_only")
    need(server, "_mcp_tool_preflight_refusal", "session_read_only")

    def refusal(req_id: object, tool_name: str) -> Any:
        if state.read_only and tool_name in refused:
            return {
                "jsonrpc": "2.0",
                "id": req_id,
                "error": {
                    "code": -32003,
                    "message": "Server is in read-only mode; this tool is disabled",
                    "data": {"tool": tool_name},
                },
            }
        return stock(req_id, tool_name)

    server._mcp_read_only_refusal = refusal  # type: ignore[attr-defined]  # noqa: SLF001
    follow = need(server, "tool_follow_tunnels", "session_read_only")

    def tool_follow_tunnels(wing: str, room: str, record: bool = True) -> Any:
        return follow(wing, room, record=record and not state.read_only)

    entry = server.TOOLS["mempalace_follow_tunnels"]
    if entry["handler"] is follow:
        # The dispatcher reads the handler's qualified name to word a missing argument.
        tool_follow_tunnels.__qualname__ = follow.__qualname__
        entry["handler"] = tool_follow_tunnels


def pin_once(_server: ModuleType, _state: HostedState, _paths: Paths, _config: Config) -> None:
    """Pin a collection's thread count once, not at every search, which would write each time."""
    from mempalace.backends import chroma

    stock = need(chroma, "_pin_hnsw_threads", "pin_once")
    generation = need(chroma, "chroma_system_generation", "pin_once")
    pinned: dict[str, object] = {}

    def pin(collection: Any) -> None:
        # A new Chroma system has forgotten the pin, which is not stored (chromadb 1.5).
        current = generation()
        if pinned.get(str(collection.id)) == current:
            return
        stock(collection)
        pinned[str(collection.id)] = current

    chroma._pin_hnsw_threads = pin  # noqa: SLF001
    _server._pin_hnsw_threads = pin  # type: ignore[attr-defined]  # noqa: SLF001


def short_padding(_server: ModuleType, state: HostedState, _paths: Paths, _config: Config) -> None:
    """Pad texts to the longest of their batch instead of to 256 tokens: same vectors, less work.

    A run has as many threads as stock gives it (`embedding_threads`), and several run at once.
    """
    from mempalace import config
    from mempalace import embedding as stock

    from palace.engine.embedding import inference

    settings = need(config, "MempalaceConfig", "short_padding")()
    build = need(stock, "_build_ef_class", "short_padding")
    asked = state.environ.get("MEMPALACE_EMBEDDING_THREADS")
    asked = settings._file_config.get("embedding_threads") if asked is None else asked  # noqa: SLF001
    is_auto = asked is None or str(asked).strip().lower() in ("", "auto")
    threads = 0 if is_auto else int(settings.embedding_threads)
    inference.install(threads)

    def with_session() -> Any:
        kind = build()
        inference.give_session(kind, threads)
        return kind

    stock._build_ef_class = with_session  # noqa: SLF001


def watch_progress(_server: ModuleType, state: HostedState, _paths: Paths, _config: Config) -> None:
    """Count storage writes and mine's file boundaries, so that a long mine is no stuck one."""
    from mempalace.backends import chroma

    _wrap(chroma, "_count_write", state.tick)
    for name in ("miner", "convo_miner", "format_miner"):
        _wrap(importlib.import_module(f"mempalace.{name}"), "mine_yield_point", state.boundary)


def _wrap(module: ModuleType, name: str, before: Callable[[], None]) -> None:
    stock = need(module, name, "watch_progress")

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before()
        return stock(*args, **kwargs)

    setattr(module, name, wrapped)


def persist_often(_server: ModuleType, _state: HostedState, paths: Paths, _config: Config) -> None:
    """Let Chroma write its index sooner than after 1,000 records: each write reads those again."""
    from palace.engine.hosting import index_persistence

    index_persistence.install(paths.root)


def look_rarely(server: ModuleType, state: HostedState, _paths: Paths, _config: Config) -> None:
    """Keep for a moment what stock looks up anew at each call (lookup_cache.py)."""
    from chromadb.api.rust import RustBindingsAPI
    from mempalace import config as settings
    from mempalace import searcher
    from mempalace.backends import chroma

    for name in ("get_collection", "get_closets_collection"):
        need(searcher, name, "look_rarely")
    capacity = need(server, "hnsw_capacity_status", "look_rarely")
    resets = "_capacity_cache_generation"
    need(chroma, resets, "look_rarely")
    generation = need(chroma, "chroma_system_generation", "look_rarely")
    installed = need(server, "_installed_dist_state", "look_rarely")
    canonical = need(server, "_canonicalize_kg_path", "look_rarely")
    missing = need(searcher, "CollectionNotInitializedError", "look_rarely")
    lookup_cache.keep_settings(need(settings, "MempalaceConfig", "look_rarely"), state.looks)
    lookup_cache.keep_collections(searcher, missing, state.looks)
    lookup_cache.forget_after_changes(RustBindingsAPI, state.looks)
    server.hnsw_capacity_status = lookup_cache.keep_verdicts(  # type: ignore[attr-defined]
        capacity, lambda: (getattr(chroma, resets), generation())
    )
    server._installed_dist_state = lookup_cache.keep_versions(  # type: ignore[attr-defined]  # noqa: SLF001
        installed, ("mempalace", "chromadb"), state.looks
    )
    server._canonicalize_kg_path = lambda path: state.looks.look_up(  # type: ignore[attr-defined]  # noqa: SLF001
        ("graph", path), lambda: canonical(path)
    )
    lookup_cache.note_signatures(server.TOOLS)


def store_together(server: ModuleType, state: HostedState, _paths: Paths, _config: Config) -> None:
    """Store what several calls write at once in one operation (batched_writer.py)."""
    from palace.engine.hosting.batched_writer import Together

    state.together = Together(server, state.looks)
    state.together.install()


def embed_ahead(server: ModuleType, state: HostedState, _paths: Paths, config: Config) -> None:
    """Embed a search's query before it waits for the store (query_prefetch.py)."""
    from palace.engine.hosting.query_prefetch import Ahead

    if short_padding.__name__ in config.adjustments_off:
        return  # nothing would keep the vector
    state.ahead = Ahead(server)
    state.ahead.install()


Adjustment = Callable[[ModuleType, HostedState, Paths, Config], None]

ALL: tuple[Adjustment, ...] = (
    held_lock,
    graph_file,
    session_read_only,
    persist_often,
    pin_once,
    short_padding,
    watch_progress,
    look_rarely,
    store_together,
    embed_ahead,
)


def apply_all(server: ModuleType, state: HostedState, paths: Paths, config: Config) -> None:
    """Make every adjustment that isn't switched off; raises StoreUnavailable."""
    names = [adjustment.__name__ for adjustment in ALL]
    unknown = sorted(set(config.adjustments_off) - set(names))
    if unknown:
        raise StoreUnavailable(
            f"adjustments_off in {paths.settings} names {', '.join(unknown)}, which is none of "
            f"{', '.join(names)}. Correct or remove it."
        )
    for adjustment in ALL:
        if adjustment.__name__ not in config.adjustments_off:
            _make(adjustment, server, state, (paths, config))


def _make(
    adjustment: Adjustment, server: ModuleType, state: HostedState, place: tuple[Paths, Config]
) -> None:
    try:
        adjustment(server, state, *place)
    except (ImportError, LookupError, AttributeError) as error:
        name = adjustment.__name__
        raise StoreUnavailable(
            f"The adjustment {name!r} does not fit the installed mempalace ({error!r}). Install a "
            f"3.11.x release that palace was tested with, or switch it off: "
            f"adjustments_off = [{name!r}] in {place[0].settings}"
        ) from error
