"""The named adjustments to the hosted mempalace.

Each returns its patches (palace/engine/patches.py), and can be switched off by its name in the
user's settings (`adjustments_off`).  All patches are checked before the first is applied: an
adjustment that doesn't find its targets refuses the engine, rather than let it run unadjusted.
`held_lock` and `graph_file` also tell stock something, by functions of its own, while they are
planned.
"""

import functools
import hashlib
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from palace.engine.embedding import inference
from palace.engine.hosting import index_persistence, light_imports, lookup_cache
from palace.engine.hosting.batched_writer import BatchedWriter
from palace.engine.hosting.deletions import Deletions
from palace.engine.hosting.host import Host
from palace.engine.hosting.lent_files import LentFiles
from palace.engine.hosting.parts import Parts
from palace.engine.hosting.query_prefetch import QueryPrefetch
from palace.engine.hosting.screened import screened
from palace.engine.hosting.text_ahead import TextAhead
from palace.engine.patches import Patch, Patches, always, need
from palace.engine.stock import Collection, JsonObject, Method, RawCollection
from palace.ownership.directory import place_of_lists
from palace.ownership.holders import BESIDE
from palace.protocol.errors import StoreUnavailable
from palace.settings.paths import home_dir
from palace.settings.stock_config import PGVECTOR, backend_of

T = TypeVar("T")


def held_lock(host: Host) -> Iterable[Patch]:
    """Hand over mempalace's own lock, which the owner took before the engine was imported."""
    from mempalace import palace

    mark = need(palace, "_mark_held", "held_lock")
    need(palace, "_held_by_this_process", "held_lock")
    key = hashlib.sha256(os.path.normcase(host.paths.root).encode()).hexdigest()[:16]
    mark(key)
    return ()


def graph_file(host: Host) -> Iterator[Patch]:
    """Open the graph that the settings fixed, whichever environment the broker was started in."""
    apply_flags = need(host.server, "_apply_server_flags", "graph_file")
    apply_flags(palace=host.paths.root)
    graph = host.config.graph
    yield Patch(
        name="graph_file",
        why="it derives the path from the environment",
        owner=host.server,
        attribute="_resolve_kg_path",
        replace=always(lambda: graph),
    )


def session_read_only(host: Host) -> Iterator[Patch]:
    """Refuse a read-only session what stock refuses a read-only server (error -32003)."""
    current = host.state.current
    refused = need(host.server, "_READ_ONLY_REFUSED_TOOLS", "session_read_only")
    need(host.server, "_mcp_tool_preflight_refusal", "session_read_only")
    follow = need(host.server, "tool_follow_tunnels", "session_read_only")

    def refusing(stock: Method) -> Method:
        def refusal(req_id: object, tool_name: str) -> JsonObject | None:
            if current.read_only and tool_name in refused:
                return {
                    "jsonrpc": "2.0",
                    "id": req_id,
                    "error": {
                        "code": -32003,
                        "message": "Server is in read-only mode; this tool is disabled",
                        "data": {"tool": tool_name},
                    },
                }
            answer: JsonObject | None = stock(req_id, tool_name)
            return answer

        return refusal

    def uncounted(stock: Method) -> Method:
        def tool_follow_tunnels(wing: str, room: str, record: bool = True) -> object:
            return stock(wing, room, record=record and not current.read_only)

        # The dispatcher reads the handler's qualified name to word a missing argument, and its
        # signature at each call.
        tool_follow_tunnels.__qualname__ = stock.__qualname__
        tool_follow_tunnels.__signature__ = inspect.signature(  # type: ignore[attr-defined]
            tool_follow_tunnels
        )
        return tool_follow_tunnels

    yield Patch(
        name="session_read_only",
        why="read-only is a property of the server there, of a session here",
        owner=host.server,
        attribute="_mcp_read_only_refusal",
        replace=refusing,
    )
    entry = host.server.TOOLS["mempalace_follow_tunnels"]
    if entry["handler"] is follow:
        yield Patch(
            name="session_read_only",
            why="it counts the crossing, although it is no mutation",
            owner=entry,
            attribute="handler",
            replace=uncounted,
        )


def persist_often(host: Host) -> Iterator[Patch]:
    """Let Chroma write its index sooner than after 1,000 records: each write reads those again."""
    yield from index_persistence.patches(host.paths.root)


def pin_once(host: Host) -> Iterator[Patch]:
    """Pin a collection's thread count once, not at every search, which would write each time."""
    from mempalace.backends import chroma

    stock = need(chroma, "_pin_hnsw_threads", "pin_once")
    generation = need(chroma, "chroma_system_generation", "pin_once")
    pinned: dict[str, object] = {}

    def pin(collection: RawCollection) -> None:
        # A new Chroma system has forgotten the pin, which is not stored (chromadb 1.5).
        current = generation()
        if pinned.get(str(collection.id)) == current:
            return
        stock(collection)
        pinned[str(collection.id)] = current

    for owner in (chroma, host.server):  # the server has imported it by name
        yield Patch(
            name="pin_once",
            why="it writes the database at every search",
            owner=owner,
            attribute="_pin_hnsw_threads",
            replace=always(pin),
        )


def short_padding(host: Host) -> Iterator[Patch]:
    """Pad texts to the longest of their batch instead of to 256 tokens: same vectors, less work.

    A run has as many threads as stock gives it (`embedding_threads`), and several run at once.
    """
    from mempalace import config
    from mempalace import embedding as stock_embedding

    kind = need(config, "MempalaceConfig", "short_padding")
    need(stock_embedding, "_build_ef_class", "short_padding")
    settings = kind()
    wanted = host.state.environ.get("MEMPALACE_EMBEDDING_THREADS")
    wanted = settings._file_config.get("embedding_threads") if wanted is None else wanted  # noqa: SLF001
    is_auto = wanted is None or str(wanted).strip().lower() in ("", "auto")
    threads = 0 if is_auto else int(settings.embedding_threads)
    yield from inference.patches(threads)
    yield Patch(
        name="short_padding",
        why="its subclass of chromadb's class opens the model by itself",
        owner=stock_embedding,
        attribute="_build_ef_class",
        replace=lambda stock: lambda: inference.give_session(stock(), threads),
    )


def model_at_hand(host: Host) -> Iterator[Patch]:
    """Refuse to embed without the model, rather than download it within a call."""
    if host.state.supply is not None:
        yield inference.model_patch("model_at_hand", host.state.supply.require)


def go_on_serving(host: Host) -> Iterator[Patch]:
    """Write on after an upgrade with which no other broker could serve."""

    def refusing(stock: Method) -> Method:
        def refusal(req_id: object, tool_name: str) -> JsonObject | None:
            answer: JsonObject | None = stock(req_id, tool_name)
            return answer if answer is not None and host.state.refuses_outdated() else None

        return refusal

    yield Patch(
        name="go_on_serving",
        why="it refuses to write once another version is installed, even one nobody can serve with",
        owner=host.server,
        attribute="_mcp_stale_library_refusal",
        replace=refusing,
    )


STOPPED = "its client has cancelled it; what was filed until then stays"


def watch_progress(host: Host) -> Iterator[Patch]:
    """Count storage writes and mine's file boundaries: a long mine is not a stuck write."""
    from mempalace.backends import chroma, milvus, pgvector, sqlite_exact

    def counting(before: Callable[[], None], owner: object, attribute: str) -> Patch:
        return Patch(
            name="watch_progress",
            why="the watchdog must see that storage moves",
            owner=owner,
            attribute=attribute,
            replace=lambda stock: _preceded(before, stock),
        )

    yield counting(host.state.tick, chroma, "_count_write")
    exact = need(sqlite_exact, "SQLiteExactCollection", "watch_progress")
    yield counting(host.state.tick, exact, "_write_lock")
    client = need(pgvector, "_PgVectorClient", "watch_progress")
    yield counting(host.state.tick, client, "_execute")
    collection = need(milvus, "MilvusCollection", "watch_progress")
    for method in ("add", "upsert"):
        yield counting(host.state.tick, collection, method)

    def letting_others_look(stock: Callable[[], object]) -> Callable[[], object]:
        def mine_yield_point() -> object:
            host.state.boundary()
            if host.state.current.is_stopping():
                # As Ctrl-C at stock's own command line: `mine` says how it ended.
                raise SystemExit(STOPPED)
            with host.state.lookups.resumed():
                return stock()

        return mine_yield_point

    for name in ("miner", "convo_miner", "format_miner"):
        yield Patch(
            name="watch_progress",
            why="the watchdog must see that storage moves",
            owner=importlib.import_module(f"mempalace.{name}"),
            attribute="mine_yield_point",
            replace=letting_others_look,
        )


def yield_between_items(host: Host) -> Iterator[Patch]:
    """Let others write between the items of a long checkpoint, as stock's mine does between files.

    And between the parts of a deletion of many drawers (deletions.py).
    Its handler compares each item, files it, and writes the diary entry by the functions patched
    here, which the dispatcher calls by other names (parts.py).
    """
    from mempalace import palace, sync
    from mempalace.backends import chroma

    need(host.server, "tool_checkpoint", "yield_between_items")
    parts = Parts(host.state, need(host.server, "_HTTP_REQUEST_LOCK", "yield_between_items"))
    replacements = {"tool_check_duplicate": parts.item, "tool_diary_write": parts.diary}
    for name, replace in replacements.items():
        yield Patch(
            name="yield_between_items",
            why="a checkpoint holds its lock for all items, which may be hundreds",
            owner=host.server,
            attribute=name,
            replace=replace,
        )
    reopen = partial(need(palace, "get_collection", "yield_between_items"), host.paths.root)
    kind = need(chroma, "ChromaCollection", "yield_between_items")
    yield from Deletions(host.server, host.state, reopen).patches(sync, kind)


def _preceded(before: Callable[[], None], stock: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(stock)  # a seam above it binds arguments by stock's names
    def wrapped(*given: object, **named: object) -> T:
        before()
        return stock(*given, **named)

    return wrapped


def look_rarely(host: Host) -> Iterator[Patch]:
    """Cache for a moment what stock looks up at each call (lookup_cache.py)."""
    yield from lookup_cache.patches(host.server, host.state.lookups)


def store_together(host: Host) -> Iterator[Patch]:
    """Store what several calls write at once in one operation (batched_writer.py)."""
    state, config = host.state, host.config
    backend = backend_of(host.paths.root, config.config_dir, config.environment)
    state.writer = BatchedWriter(
        host.server, state.lookups, state.current, embedded=backend.is_given_vectors
    )
    yield from state.writer.patches()


def read_by_ids(host: Host) -> Iterator[Patch]:
    """Find drawers of PostgreSQL by their ids without reading all of them (by_ids.py)."""
    config = host.config
    if backend_of(host.paths.root, config.config_dir, config.environment).name != PGVECTOR:
        return
    from palace.engine.hosting import by_ids  # where drawers are tables of a server

    yield from by_ids.patches()


def embed_ahead(host: Host) -> Iterator[Patch]:
    """Embed a search's query, and what a large change files, before the store is waited for."""
    from mempalace.backends import chroma

    if short_padding.__name__ in host.config.adjustments_off:
        return  # nothing would keep the vector
    state = host.state
    state.prefetch = QueryPrefetch(host.server, state.current)
    yield from state.prefetch.patches()
    kind = need(chroma, "ChromaCollection", "embed_ahead")
    state.ahead = TextAhead(host.server, state.current, kind)
    yield from state.ahead.patches()


def list_files(host: Host) -> Iterator[Patch]:
    """Keep tunnels and hallways in the palace, where others may put files beside it."""
    from mempalace import hallways, palace_graph

    place = place_of_lists(host.paths.root)
    if place != host.paths.root:
        return  # where stock keeps them
    getters = ((palace_graph, "_get_tunnel_file"), (hallways, "_get_hallway_file"))
    for (owner, attribute), name in zip(getters, BESIDE, strict=True):
        yield Patch(
            name="list_files",
            why="a file beside the palace may be another user's there",
            owner=owner,
            attribute=attribute,
            replace=always(partial(_constant, f"{place}/{name}")),
        )


def _constant(value: str, _config: object = None) -> str:
    return value


def keep_modes(host: Host) -> Iterator[Patch]:
    """Take from others only directories that are mempalace's own; a new one is private anyway.

    Stock closes (0700) the parent of the palace and the graph's directory, whatever they are, and
    the palace, which users of `allow_uids` have to reach the socket in.
    """
    root, home = host.paths.root, home_dir(host.state.environ)
    own = (root, host.config.config_dir, f"{home}/.mempalace")
    is_open = bool(host.config.allow_uids)

    def is_closed(path: str) -> bool:
        leads_there = f"{root}/".startswith(f"{path.rstrip('/')}/")
        if is_open and leads_there:
            return False
        return any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in own)

    def keeping(stock: Method) -> Method:
        def chmod(path: object, mode: int, **named: object) -> object:
            if mode == 0o700 and isinstance(path, str | os.PathLike):
                found = os.path.abspath(os.fsdecode(path))
                if os.path.isdir(found) and not is_closed(found):
                    return None
            return stock(path, mode, **named)

        return chmod

    yield Patch(
        name="keep_modes",
        why="it would close directories that aren't the palace's",
        owner=os,
        attribute="chmod",
        replace=keeping,
    )


def mark_memories(host: Host) -> Iterator[Patch]:
    """Print memories of namespaces as they may be shown, and none that is over.

    The command line's search is a text by the time that it is a reply, which can't be read back.
    """
    from mempalace.backends import chroma, embedding_wrapper

    current = host.state.current

    def querying(stock: Method) -> Method:
        def query(collection: Collection, **given: object) -> object:
            found = stock(collection, **given)
            return found if current.screen is None else screened(found, current.screen)

        return query

    for module, name in ((chroma, "ChromaCollection"), (embedding_wrapper, "EmbeddingCollection")):
        yield Patch(
            name="mark_memories",
            why="the command line prints what it finds",
            owner=need(module, name, "mark_memories"),
            attribute="query",
            replace=querying,
        )


def lent_files(host: Host) -> Iterator[Patch]:
    """Open what guests name beneath the directory that they were lent (lent_files.py)."""
    if not host.config.path_map:
        return  # nobody is lent anything
    lent = LentFiles.of(host.paths, host.config, host.state.environ)
    host.state.lent = lent
    yield from lent.patches()


Adjustment = Callable[[Host], Iterable[Patch]]

# In the order in which they are applied: a later patch of the same target lies above an earlier.
ALL: tuple[Adjustment, ...] = (
    held_lock,
    graph_file,
    session_read_only,
    persist_often,
    pin_once,
    short_padding,
    model_at_hand,
    go_on_serving,
    watch_progress,
    yield_between_items,
    look_rarely,
    store_together,
    read_by_ids,
    embed_ahead,
    list_files,
    keep_modes,
    mark_memories,
    lent_files,
)


def apply_all(host: Host) -> Patches:
    """Make every adjustment that isn't switched off; raises StoreUnavailable."""
    off = host.config.adjustments_off
    names = [light_imports.NAME, *(adjustment.__name__ for adjustment in ALL)]
    unknown = sorted(set(off) - set(names))
    if unknown:
        raise StoreUnavailable(
            f"adjustments_off names {', '.join(unknown)}, which is none of {', '.join(names)}. "
            f"Correct or remove it: palace config set --palace {host.paths.root}"
        )
    planned: list[Patch] = []
    for adjustment in ALL:
        if adjustment.__name__ not in off:
            planned += plan(adjustment, host)
    patches = Patches()
    patches.apply(planned)
    return patches


def plan(adjustment: Adjustment, host: Host) -> list[Patch]:
    """Return an adjustment's patches; raises StoreUnavailable where it doesn't fit."""
    try:
        return list(adjustment(host))
    except (ImportError, LookupError, AttributeError) as error:
        name = adjustment.__name__
        raise StoreUnavailable(
            f"The adjustment {name!r} does not fit the installed mempalace ({error!r}). Install a "
            f"3.11.x release that palace was tested with, or switch it off: "
            f"palace config set adjustments_off={name} --palace {host.paths.root}"
        ) from error
