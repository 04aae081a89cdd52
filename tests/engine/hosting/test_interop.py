"""One palace, two servers: what stock has written palace serves, and the other way round.

Also what palace changes in the hosted engine: searching writes nothing, and each adjustment can be
left out, or refuses to be missing its place.
"""

import builtins
import io
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chromadb.api.rust import RustBindingsAPI
from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2

from palace.engine.embedding.supply import ModelSupply
from palace.engine.hosting import adjustments
from palace.engine.hosting.adjustments import ALL
from palace.engine.hosting.host import Host, HostedState
from palace.engine.patches import Patches
from palace.protocol.errors import StoreUnavailable
from palace.settings.config import Config
from palace.settings.paths import Paths
from tests.support.calls.corpus import encode
from tests.support.processes.brokers import settle
from tests.support.processes.clients import Client, Site, brokers_of, end_brokers, wait_until
from tests.support.processes.sites import make_site, start_shim, start_stock, without

pytestmark = [pytest.mark.engine, pytest.mark.process]

BANKER = "The banker's algorithm refuses a request that could end in a deadlock."
OTTERS = "Sea otters hold hands while they sleep, so that the tide doesn't part them."
ENTRY = "SESSION|otters.counted|★★"


# Reading each other's palaces.


@dataclass
class Style:
    """A way to name a palace, and where stock keeps the knowledge graph when it is named so."""

    name: str
    environ: Callable[[Site], dict[str, str]]
    arguments: Callable[[Site], list[str]]
    graph: Callable[[Site], Path]

    def other_graph(self, site: Site) -> Path:
        places = {_graph_inside(site), _graph_at_home(site)}
        return (places - {self.graph(site)}).pop()


def _graph_inside(site: Site) -> Path:
    return site.palace / "knowledge_graph.sqlite3"


def _graph_at_home(site: Site) -> Path:
    return site.home / ".mempalace" / "knowledge_graph.sqlite3"


def _unnamed(site: Site) -> dict[str, str]:
    return without(site.environ(), "MEMPALACE_PATH")


STYLES = [
    Style("flag", _unnamed, lambda site: ["--palace", str(site.palace)], _graph_inside),
    Style(
        "variable",
        lambda site: _unnamed(site) | {"MEMPALACE_PALACE_PATH": str(site.palace)},
        lambda _site: [],
        _graph_at_home,
    ),
]


@pytest.fixture
def fresh(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    """An empty palace in a home of its own."""
    yield make_site(tmp_path, model_home)
    end_brokers(tmp_path)


def leave(site: Site) -> None:
    """Make the broker leave as a user would, and wait until its process is gone."""
    done = site.run("stop")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not brokers_of(site.palace), what="the broker has left")


def write_memories(client: Client) -> dict[str, str]:
    """File one memory of every kind; return their ids."""
    otters = client.tool("add_drawer", wing="nature", room="sea", content=OTTERS)
    banker = client.tool("add_drawer", wing="os", room="scheduling", content=BANKER)
    fact = client.tool("kg_add", subject="Ada", predicate="counts", object="otters")
    entry = client.tool("diary_write", agent_name="ada", entry=ENTRY, topic="census")
    tunnel = client.tool(
        "create_tunnel",
        source_wing="nature",
        source_room="sea",
        target_wing="os",
        target_room="scheduling",
        label="both avoid drifting apart",
    )
    event = client.tool(
        "event_append", type="task.note", stream="s", room="r", from_agent="ada", body="counted"
    )
    assert otters["success"]
    assert banker["success"]
    assert fact["success"]
    assert entry["success"]
    return {
        "otters": otters["drawer_id"],
        "banker": banker["drawer_id"],
        "tunnel": tunnel["id"],
        "event": event["event"]["id"],
    }


def assert_memories(client: Client, written: dict[str, str]) -> None:
    """Find by its content all that `write_memories` has filed."""
    for name, content in (("otters", OTTERS), ("banker", BANKER)):
        assert client.tool("get_drawer", drawer_id=written[name])["content"] == content
    found = client.tool("search", query="how do sea animals sleep")["results"]
    assert found[0]["text"] == OTTERS
    listed = client.tool("list_drawers", wing="os")
    assert [drawer["drawer_id"] for drawer in listed["drawers"]] == [written["banker"]]
    facts = client.tool("kg_query", entity="Ada")["active_facts"]
    assert [(fact["predicate"], fact["object"]) for fact in facts] == [("counts", "otters")]
    diary = client.tool("diary_read", agent_name="ada")["entries"]
    assert [(entry["content"], entry["topic"]) for entry in diary] == [(ENTRY, "census")]
    tunnels = client.tool("list_tunnels")
    assert [(tunnel["id"], tunnel["label"]) for tunnel in tunnels] == [
        (written["tunnel"], "both avoid drifting apart")
    ]
    followed = client.tool("follow_tunnels", wing="nature", room="sea")
    assert [end["connected_room"] for end in followed] == ["scheduling"]
    events = client.tool("event_list", stream="s")["events"]
    assert [(event["id"], event["body"]) for event in events] == [(written["event"], "counted")]


def objects_in(graph: Path) -> list[str]:
    """Return the objects of all facts in a graph's file."""
    with sqlite3.connect(f"file:{graph}?mode=ro", uri=True) as connection:
        found = [row[0] for row in connection.execute("SELECT object FROM triples ORDER BY object")]
    connection.close()
    return found


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_palace_that_stock_wrote_is_served_whole(fresh: Site, style: Style) -> None:
    environ, arguments = style.environ(fresh), style.arguments(fresh)
    with start_stock(environ, *arguments) as stock:
        written = write_memories(stock)

    with start_shim(environ, *arguments) as shim:
        assert_memories(shim, written)
        # What is added through palace goes where stock has put the rest.
        shim.tool("kg_add", subject="Ada", predicate="likes", object="seals")

    leave(fresh)
    assert objects_in(style.graph(fresh)) == ["otters", "seals"]
    assert not style.other_graph(fresh).exists()


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_palace_written_through_palace_opens_in_stock(fresh: Site, style: Style) -> None:
    environ, arguments = style.environ(fresh), style.arguments(fresh)
    with start_shim(environ, *arguments) as shim:
        written = write_memories(shim)
    leave(fresh)

    with start_stock(environ, *arguments) as stock:
        assert_memories(stock, written)
        stock.tool("kg_add", subject="Ada", predicate="likes", object="seals")

    assert objects_in(style.graph(fresh)) == ["otters", "seals"]
    assert not style.other_graph(fresh).exists()


def _facts_through_palace(site: Site, environ: dict[str, str]) -> list[str]:
    """Return the objects of Ada's facts as a shim in this environment reads them."""
    with start_shim(environ) as shim:
        facts = shim.tool("kg_query", entity="Ada")["facts"]
    leave(site)
    return [fact["object"] for fact in facts]


def _add_fact_by_stock(environ: dict[str, str], *arguments: str) -> None:
    with start_stock(environ, *arguments) as stock:
        assert stock.tool("kg_add", subject="Ada", predicate="counts", object="otters")["success"]


def test_graph_inside_the_palace_is_found_by_our_own_variable(fresh: Site) -> None:
    """The graph of a user who ran stock with --palace and now sets MEMPALACE_PATH."""
    _add_fact_by_stock(_unnamed(fresh), "--palace", str(fresh.palace))

    assert _facts_through_palace(fresh, fresh.environ()) == ["otters"]
    assert not _graph_at_home(fresh).exists()


def test_graph_at_home_is_found_by_our_own_variable_beside_stocks(fresh: Site) -> None:
    """The graph of a user who ran stock with its variable, and now sets ours as well."""
    both = fresh.environ() | {"MEMPALACE_PALACE_PATH": str(fresh.palace)}
    _add_fact_by_stock(without(both, "MEMPALACE_PATH"))

    assert _facts_through_palace(fresh, both) == ["otters"]
    assert not _graph_inside(fresh).exists()


def test_graph_stays_where_it_was_when_the_palace_is_named_otherwise(fresh: Site) -> None:
    """The first owner fixes the graph's file; a flag instead of the variable changes nothing."""
    variable = _unnamed(fresh) | {"MEMPALACE_PALACE_PATH": str(fresh.palace)}
    _add_fact_by_stock(variable)

    assert _facts_through_palace(fresh, variable) == ["otters"]
    assert _facts_through_palace(fresh, fresh.environ()) == ["otters"]
    assert not _graph_inside(fresh).exists()


# Searching writes nothing.

SEARCHES = 1000
BURST = 50


def test_a_thousand_searches_write_nothing(fresh: Site) -> None:
    """SQLite's data version, seen by a connection from outside, changes with every commit."""
    with start_shim(fresh.environ()) as shim:
        for number in range(5):
            shim.tool("add_drawer", wing="w", room="r", content=f"{number} squared: {number**2}")
        shim.tool("search", query="squares")
        store = fresh.palace / "chroma.sqlite3"
        outside = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
        before = _data_version(outside)

        for first in range(0, SEARCHES, BURST):
            idents = range(first, first + BURST)
            lines = [
                encode(
                    "tools/call",
                    ident,
                    name="mempalace_search",
                    arguments={"query": f"{ident} squared", "limit": 1},
                )
                for ident in idents
            ]
            shim.send(b"".join(lines))
            replies = [json.loads(shim.receive()) for _ in idents]
            assert sorted(reply["id"] for reply in replies) == list(idents)
            for reply in replies:
                assert json.loads(reply["result"]["content"][0]["text"])["results"]
        after_searches = _data_version(outside)
        shim.tool("add_drawer", wing="w", room="r", content="Cubes are another matter.")
        after_a_write = _data_version(outside)
        outside.close()

    assert after_searches == before
    assert after_a_write != before, "the probe sees writes"


def _data_version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA data_version").fetchone()[0]


# The adjustments.


@pytest.fixture(scope="module")
def unadjusted(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path
) -> Iterator[dict[str, Client]]:
    """A shim for each adjustment, whose broker does without that one; started side by side."""
    root = tmp_path_factory.mktemp("adjustments")
    clients = {}
    for adjustment in ALL:
        name = adjustment.__name__
        site = make_site(root / name, model_home)
        settle(site, f'adjustments_off = ["{name}"]')
        clients[name] = start_shim(site.environ())
        clients[name].send(encode("tools/call", "first", name="mempalace_kg_stats", arguments={}))
    yield clients
    for client in clients.values():
        client.close()
    end_brokers(root)


@pytest.mark.parametrize("adjustment", ALL, ids=lambda adjustment: adjustment.__name__)
def test_broker_without_an_adjustment_loads_and_serves(
    unadjusted: dict[str, Client], adjustment: adjustments.Adjustment
) -> None:
    client = unadjusted[adjustment.__name__]
    first = json.loads(client.receive())

    assert first["id"] == "first"
    assert "result" in first, first
    assert client.tool("kg_add", subject="a", predicate="b", object="c")["success"]
    assert client.tool("add_drawer", wing="w", room="r", content="Still served.")["success"]
    assert client.tool("search", query="served")["results"]


SERVER = "mempalace.mcp_server"
CHROMA = "mempalace.backends.chroma"
SEARCHER = "mempalace.searcher"
# What each adjustment needs of mempalace.
PLACES: dict[str, list[tuple[str, str]]] = {
    "held_lock": [
        ("mempalace.palace", "_mark_held"),
        ("mempalace.palace", "_held_by_this_process"),
    ],
    "graph_file": [(SERVER, "_resolve_kg_path"), (SERVER, "_apply_server_flags")],
    "session_read_only": [
        (SERVER, "_mcp_read_only_refusal"),
        (SERVER, "_READ_ONLY_REFUSED_TOOLS"),
        (SERVER, "_mcp_tool_preflight_refusal"),
        (SERVER, "tool_follow_tunnels"),
    ],
    "pin_once": [
        (CHROMA, "_pin_hnsw_threads"),
        (CHROMA, "chroma_system_generation"),
        (SERVER, "_pin_hnsw_threads"),
    ],
    "short_padding": [
        ("mempalace.config", "MempalaceConfig"),
        ("mempalace.embedding", "_build_ef_class"),
    ],
    "look_rarely": [
        ("mempalace.config", "MempalaceConfig"),
        (SEARCHER, "get_collection"),
        (SEARCHER, "get_closets_collection"),
        (SEARCHER, "CollectionNotInitializedError"),
        (SERVER, "hnsw_capacity_status"),
        (SERVER, "_installed_dist_state"),
        (SERVER, "_canonicalize_kg_path"),
        (CHROMA, "_capacity_cache_generation"),
        (CHROMA, "chroma_system_generation"),
    ],
    "store_together": [
        (SERVER, "_HTTP_REQUEST_LOCK"),
        (SERVER, "make_drawer_id_from_content"),
        (SERVER, "handle_request"),
        (SERVER, "_get_collection"),
        (CHROMA, "ChromaCollection"),
    ],
    "mark_memories": [
        (CHROMA, "ChromaCollection"),
        ("mempalace.backends.embedding_wrapper", "EmbeddingCollection"),
    ],
    "embed_ahead": [
        (SERVER, "sanitize_query"),
        (SERVER, "_embedding_release_mode"),
        ("mempalace.embedding", "configured_embedding_function"),
        (SERVER, "_HTTP_REQUEST_LOCK"),
        (SERVER, "sanitize_content"),
        (SERVER, "sanitize_name"),
        (SERVER, "strip_lone_surrogates"),
        (SERVER, "make_drawer_id_from_content"),
        (CHROMA, "ChromaCollection"),
    ],
    "read_by_ids": [],  # its place is in a class of another backend's
    "model_at_hand": [],  # its place is chromadb's
    "go_on_serving": [(SERVER, "_mcp_stale_library_refusal")],
    "watch_progress": [
        (CHROMA, "_count_write"),
        ("mempalace.backends.sqlite_exact", "SQLiteExactCollection"),
        ("mempalace.backends.pgvector", "_PgVectorClient"),
        ("mempalace.backends.milvus", "MilvusCollection"),
        ("mempalace.miner", "mine_yield_point"),
        ("mempalace.convo_miner", "mine_yield_point"),
        ("mempalace.format_miner", "mine_yield_point"),
    ],
    "yield_between_items": [
        (SERVER, "_HTTP_REQUEST_LOCK"),
        (SERVER, "tool_checkpoint"),
        (SERVER, "tool_check_duplicate"),
        (SERVER, "tool_diary_write"),
        (SERVER, "_collection_logical_drawer_record"),
        (SERVER, "_delete_record"),
        (SERVER, "_fetch_all_metadata"),
        (CHROMA, "ChromaCollection"),
        ("mempalace.palace", "get_collection"),
        ("mempalace.sync", "sync_palace"),
        ("mempalace.sync", "get_collection"),
        ("mempalace.sync", "get_closets_collection"),
        ("mempalace.sync", "_iter_drawer_metadata"),
        ("mempalace.sync", "_delete_in_batches"),
        ("mempalace.sync", "_purge_emptied_closets"),
    ],
    "list_files": [
        ("mempalace.palace_graph", "_get_tunnel_file"),
        ("mempalace.hallways", "_get_hallway_file"),
    ],
    "keep_modes": [],  # its place is Python's
    "lent_files": [],  # so are its places
}
BY_NAME = {adjustment.__name__: adjustment for adjustment in ALL}


def _stand_in() -> dict[str, ModuleType]:
    """Return modules with the names of mempalace's, which hold the places and nothing else."""

    def place(*_arguments: object, **_options: object) -> None:
        return None

    places = [found for each in PLACES.values() for found in each]
    names = {"mempalace", "mempalace.backends"} | {module for module, _ in places}
    modules = {name: ModuleType(name) for name in sorted(names)}
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    for where, attribute in places:
        setattr(modules[where], attribute, place)
    for name in ("add", "upsert", "get", "query", "delete", "_write_lock", "_execute"):
        setattr(place, name, place)  # it stands for stock's class of collections, too
    missing = ("mempalace.searcher", "CollectionNotInitializedError")
    setattr(modules[missing[0]], missing[1], LookupError)
    server: Any = modules[SERVER]
    server.TOOLS = {"mempalace_follow_tunnels": {"handler": server.tool_follow_tunnels}}
    return modules


LENT = {"/work": "/nowhere/work"}


def _host(
    server: Any,
    *,
    off: tuple[str, ...] = (),
    root: str = "/nowhere",
    path_map: Mapping[str, str] | None = None,
) -> Host:
    config = Config(
        graph=f"{root}/graph.sqlite3",
        config_dir=root,
        adjustments_off=off,
        path_map=path_map or {},
    )
    state = HostedState(supply=ModelSupply(Path("/nowhere"), fetch=lambda _: None))
    return Host(server=server, state=state, paths=Paths(root), config=config)


@pytest.fixture
def shared_root(tmp_path: Path) -> str:
    """A palace's path in a directory that others may put files into."""
    tmp_path.chmod(0o1777)
    return str(tmp_path / "palace")


def _apply(
    name: str, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, host: Host
) -> Patches:
    for module_name, module in modules.items():
        monkeypatch.setitem(sys.modules, module_name, module)
    patches = Patches()
    patches.apply(adjustments.plan(BY_NAME[name], host))
    return patches


def test_places_of_every_adjustment_are_listed() -> None:
    # Writing the index often needs nothing of mempalace alone: test_index_persistence.py.
    assert set(PLACES) == set(BY_NAME) - {"persist_often"}
    assert len(BY_NAME) == len(ALL)


# Short padding reads stock's settings, which the stand-in has none of.
@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"short_padding"}))
def test_adjustment_that_finds_its_places_is_made_and_undone(
    name: str, shared_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = _stand_in()
    kinds = (RustBindingsAPI, ONNXMiniLM_L6_V2, builtins, io, os, os.path)
    others = [(kind, dict(vars(kind))) for kind in kinds]
    before = {module_name: dict(vars(module)) for module_name, module in modules.items()}
    host = _host(modules[SERVER], root=shared_root, path_map=LENT)

    patches = _apply(name, modules, monkeypatch, host)

    # One tells stock, and replaces nothing; the other is for another backend.
    assert bool(patches.applied) == (name not in ("held_lock", "read_by_ids"))
    patches.undo()
    assert {name: dict(vars(module)) for name, module in modules.items()} == before
    assert [(kind, dict(vars(kind))) for kind in kinds] == others


@pytest.mark.parametrize("name", ["lent_files", "list_files"])
def test_adjustment_that_this_palace_does_not_need_replaces_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lent, and nobody else may put files beside the palace."""
    modules = _stand_in()

    patches = _apply(name, modules, monkeypatch, _host(modules[SERVER]))

    assert patches.applied == ()


@pytest.mark.parametrize(
    ("name", "module", "attribute"),
    [(name, *place) for name, places in PLACES.items() for place in places],
)
def test_adjustment_whose_place_is_missing_refuses_by_its_name(
    name: str, module: str, attribute: str, shared_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = _stand_in()
    delattr(modules[module], attribute)

    with pytest.raises(StoreUnavailable) as refused:
        _apply(name, modules, monkeypatch, _host(modules[SERVER], root=shared_root))

    assert f"{module}.{attribute}" in refused.value.message
    assert f"palace config set adjustments_off={name}" in refused.value.message


def test_adjustments_that_are_off_touch_nothing() -> None:
    server = ModuleType(SERVER)
    before = dict(vars(server))

    patches = adjustments.apply_all(_host(server, off=tuple(BY_NAME)))

    assert vars(server) == before
    assert patches.applied == ()


def test_one_adjustment_that_does_not_fit_leaves_all_unapplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = _stand_in()
    for module_name, module in modules.items():
        monkeypatch.setitem(sys.modules, module_name, module)
    del modules[SERVER]._get_collection
    before = dict(vars(modules[SERVER]))

    with pytest.raises(StoreUnavailable, match="'store_together'"):
        adjustments.apply_all(_host(modules[SERVER], off=("short_padding",)))

    assert vars(modules[SERVER]) == before
