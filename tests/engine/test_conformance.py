"""`palace shim` answers as stock `mempalace-mcp` does, reply for reply.

One corpus (tests/support/calls/corpus.py) is played to both, at the same path, one after the other.
"""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from palace.protocol.tools import OWN_TOOLS, Kind
from tests.support.calls import corpus
from tests.support.calls.transcript import Mask, canonical, run_calls, run_raw
from tests.support.faults.killing import is_deep
from tests.support.processes.clients import Client, Site, end_brokers
from tests.support.processes.sites import empty_database, make_site, start_shim, start_stock

pytestmark = [pytest.mark.engine, pytest.mark.process]
EACH_BACKEND = is_deep()  # a minute each

TOOLS = json.loads((Path(__file__).parents[2] / "palace" / "settings" / "tools.json").read_text())[
    "tools"
]
WRONG = corpus.wrong_calls(TOOLS)
CALLS = (*corpus.SENSIBLE, *WRONG, *corpus.FINAL)


def _renamed(calls: tuple[corpus.Call, ...], suffix: str) -> tuple[corpus.Call, ...]:
    return tuple(replace(call, name=f"{call.name}-{suffix}", keep={}) for call in calls)


# They answer from a cache that a process keeps for a minute, and a fresh process has not.
CACHED = ("traverse", "find_tunnels", "mesh_peers")
# A read-only session asks for everything; then the palace is read by a session that may write.
ASKED = tuple(call for call in corpus.SENSIBLE if call.tool not in CACHED)
READ_ONLY = _renamed((*ASKED, *corpus.FINAL), "read-only")
AFTERWARDS = _renamed(corpus.FINAL, "afterwards")


@dataclass
class Played:
    """What one server said; `calls` in their canonical form, by name."""

    calls: dict[str, str] = field(default_factory=dict)
    raw: dict[str, list[bytes]] = field(default_factory=dict)
    burst: list[dict[str, Any]] = field(default_factory=list)
    tools: dict[str, Any] = field(default_factory=dict)
    tools_read_only: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)


TEAM = "team"  # palace, with a workspace registered before the first call


@dataclass
class Both:
    stock: Played
    palace: Played
    team: Played


def _furnish(root: Path) -> dict[str, Any]:
    """Make what calls refer to: a project, a chat, a checkpoint that hooks have left."""
    otters = "class OtterCounter:\n    '''Ada Lovelace counts otters in KelpForest.'''\n\n" * 8
    readme = "# Otters\n\nAda Lovelace and Grace Hopper use OtterCounter in KelpForest.\n" * 8
    said = ["How do otters sleep?", "Holding hands.", "And seals?", "Half awake, upright."]
    roles = ["user", "assistant"] * 2
    turns = [
        {"type": role, "message": {"role": role, "content": text}}
        for role, text in zip(roles, said, strict=True)
    ]
    files = {
        "project/src/otters.py": otters,
        "project/README.md": readme,
        "chats/one.jsonl": "".join(json.dumps(turn) + "\n" for turn in turns),
        "home/.mempalace/hook_state/last_checkpoint": '{"msgs": 3, "ts": "2020-01-01"}',
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1_600_000_000, 1_600_000_000))  # it is recorded with what is mined
    return {
        "project": str(root / "project"),
        "chat": str(root / "chats"),
        "source": str(root / "project/src/otters.py"),
    }


def _burst(kept: dict[str, Any]) -> list[bytes]:
    """Return calls that depend on each other, with ids from 0."""
    drawer = kept["banker"]  # deleted by the corpus; the same text gets the same id again
    fact = {"subject": "Eve", "predicate": "tends", "object": "bees"}
    where = {"wing": "os", "room": "scheduling"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_drawer", {"drawer_id": drawer}),
        ("add_drawer", where | {"content": corpus.BANKER}),
        ("get_drawer", {"drawer_id": drawer}),
        ("search", {"query": "request refused, deadlock", "limit": 1, "wing": "os"}),
        ("list_drawers", where),
        ("update_drawer", {"drawer_id": drawer, "content": "No request is refused any more."}),
        ("get_drawer", {"drawer_id": drawer}),
        ("search", {"query": "refused", "limit": 1, "wing": "os"}),
        ("kg_query", {"entity": "Eve"}),
        ("kg_add", fact),
        ("kg_query", {"entity": "Eve"}),
        ("kg_invalidate", fact | {"ended": "2020-01-01"}),
        ("kg_query", {"entity": "Eve", "as_of": "2021-01-01"}),
        ("delete_drawer", {"drawer_id": drawer}),
        ("get_drawer", {"drawer_id": drawer}),
        ("search", {"query": "refused", "limit": 1, "wing": "os"}),
        ("status", {}),
    ]
    calls += [("kg_query", {"entity": "Eve"})] * 100  # more than a session may have waiting
    calls += [("delete_drawer", {"drawer_id": drawer}), ("list_drawers", where)]
    return [
        corpus.encode("tools/call", number, name=f"mempalace_{tool}", arguments=arguments)
        for number, (tool, arguments) in enumerate(calls)
    ]


def _play(name: str, root: Path, model_home: Path, backend: str) -> Played:
    """Run everything against one server, and move what it wrote away."""
    if backend == "pgvector":  # each plays in the same directory, which names its tables
        empty_database()
    site = make_site(root, model_home, backend=backend)
    kept = _furnish(root)
    played = Played()
    mask = Mask(datetime.now(UTC))

    def start(**more: str) -> Client:
        environ = site.environ(**more)
        if name != "stock":
            return start_shim(environ)
        return start_stock(environ, "--palace", str(site.palace))

    def call(client: Client, calls: tuple[corpus.Call, ...]) -> None:
        # Stock mistakes what milvus-lite says of nearness, and reads no id with an apostrophe.
        replies = run_calls(client, calls, kept, may_fail=backend == "milvus")
        played.calls |= {key: canonical(reply, mask) for key, reply in replies.items()}

    def leave(client: Client) -> None:
        played.exit_codes.append(client.close())
        if backend != "chroma" and name != "stock":
            # What stock says of the graph it reads once a minute there, and each session of stock's
            # is a process of its own: so is this one, then.
            assert site.run("stop").returncode == 0

    try:
        if name == TEAM:
            assert site.run("workspace", "add", "lead").returncode == 0
        client = start()
        call(client, CALLS)
        played.raw = run_raw(client, corpus.RAW)
        lines = _burst(kept)
        client.send(b"".join(lines))
        played.burst = [json.loads(canonical(client.receive(), mask)) for _ in lines]
        played.tools = client.request("tools/list")["result"]
        leave(client)
        if name == "palace":  # from here on it has a register, and stock's tools are as before
            assert site.run("workspace", "add", "lead").returncode == 0
        client = start(MEMPALACE_MCP_READ_ONLY="1")
        call(client, READ_ONLY)
        played.tools_read_only = client.request("tools/list")["result"]
        if name != "stock":
            tools = played.tools_read_only["tools"]
            queries = {name for name, tool in OWN_TOOLS.items() if tool.kind is Kind.QUERY}
            assert {tools.pop()["name"] for _ in queries} == queries
        leave(client)
        client = start()
        call(client, AFTERWARDS)
        played.exit_codes.append(client.close())
    finally:
        end_brokers(root)
    if backend == "milvus":  # whose drawers went on changing after this was cached
        stale = (c.name for c in (*READ_ONLY, *AFTERWARDS) if c.tool == "graph_stats")
        played.calls |= dict.fromkeys(stale, '{"result": "of a cache"}')
    root.rename(root.with_name(name))
    return played


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, model_home: Path, backend: str) -> Both:
    """Return what stock, and palace with and without workspaces, said to the whole corpus."""
    root = tmp_path_factory.mktemp("conformance") / "side"
    return Both(*(_play(name, root, model_home, backend) for name in ("stock", "palace", TEAM)))


def _compare(both: Both, calls: tuple[corpus.Call, ...]) -> None:
    assert calls
    for call in calls:
        assert both.palace.calls[call.name] == both.stock.calls[call.name], call


@pytest.mark.parametrize("call", corpus.SENSIBLE, ids=lambda call: call.name)
def test_tool_called_sensibly_answers_as_stock(both: Both, call: corpus.Call) -> None:
    _compare(both, (call,))


@pytest.mark.parametrize("tool", [entry["name"] for entry in TOOLS])
def test_tool_called_wrongly_answers_as_stock(both: Both, tool: str) -> None:
    _compare(both, tuple(call for call in WRONG if f"mempalace_{call.tool}" == tool))


@pytest.mark.parametrize("call", corpus.FINAL, ids=lambda call: call.name)
def test_palace_after_all_calls_holds_what_stock_holds(both: Both, call: corpus.Call) -> None:
    _compare(both, (call,))


def test_a_register_changes_no_answer_of_stocks_tools(both: Both) -> None:
    """Nor what they are listed as: palace's own stand behind them."""
    assert both.team.calls.keys() == both.stock.calls.keys()
    differ = [name for name in both.stock.calls if both.team.calls[name] != both.stock.calls[name]]
    assert differ == []
    lists = {name for name, lines in both.stock.raw.items() if b'"tools": [' in b"".join(lines)}
    assert len(lists) < 20
    for name in both.stock.raw.keys() - lists:
        assert both.team.raw[name] == both.stock.raw[name], name
    assert both.team.tools["tools"][:47] == both.stock.tools["tools"]
    assert {tool["name"] for tool in both.team.tools["tools"][47:]} == set(OWN_TOOLS)
    print(f"{len(differ)} of {len(both.stock.calls)} answers differ")


def test_sensible_calls_leave_no_tool_out() -> None:
    called = {f"mempalace_{call.tool}" for call in corpus.SENSIBLE}

    assert called == {entry["name"] for entry in TOOLS}
    assert len(called) == 47


@pytest.mark.parametrize("call", READ_ONLY, ids=lambda call: call.name)
def test_read_only_session_is_answered_as_stock(both: Both, call: corpus.Call) -> None:
    _compare(both, (call,))


def test_read_only_session_changes_nothing(both: Both) -> None:
    """What could be read before it can be read after it, by stock and through palace."""
    for played in (both.stock, both.palace):
        for call in corpus.FINAL:
            before = json.loads(played.calls[f"{call.name}-read-only"])
            after = json.loads(played.calls[f"{call.name}-afterwards"])
            assert after["result"] == before["result"], call

    _compare(both, AFTERWARDS)


def test_read_only_session_lists_the_tools_that_stock_lists(both: Both) -> None:
    assert both.palace.tools_read_only == both.stock.tools_read_only
    assert both.palace.tools == both.stock.tools
    assert len(both.palace.tools["tools"]) == 47
    assert len(both.palace.tools_read_only["tools"]) == 47 - 22


def test_session_at_the_end_of_input_exits_with_zero(both: Both) -> None:
    assert both.stock.exit_codes == [0, 0, 0]
    assert both.palace.exit_codes == [0, 0, 0]


@pytest.mark.parametrize("name", corpus.RAW)
def test_line_is_answered_byte_for_byte_as_by_stock(both: Both, name: str) -> None:
    assert both.palace.raw[name] == both.stock.raw[name], corpus.RAW[name][:200]


def test_dependent_calls_in_one_burst_are_answered_as_if_one_by_one(both: Both) -> None:
    """Stock runs one call after the other, palace some at once; the order of replies may differ."""
    count = len(both.stock.burst)
    stock = {reply["id"]: reply for reply in both.stock.burst}
    palace = {reply["id"]: reply for reply in both.palace.burst}

    assert sorted(palace) == sorted(stock) == list(range(count))
    assert len(both.palace.burst) == count
    for number in range(count):
        assert palace[number] == stock[number], number


@pytest.fixture(scope="module")
def small_sites(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[list[Site]]:
    """Two empty palaces: one for stock, one for palace."""
    root = tmp_path_factory.mktemp("small")
    yield [make_site(root / name, model_home) for name in ("stock", "palace")]
    end_brokers(root)


_FACT = corpus.encode(
    "tools/call",
    7,
    name="mempalace_kg_add",
    arguments={"subject": "Eve", "predicate": "p", "object": "o", "valid_from": "tomorrow"},
)
_STATS = corpus.encode("tools/call", 7, name="mempalace_kg_query", arguments={"entity": "Nobody"})
_BOTH_IDS = _STATS + corpus.encode("ping", 7) + _FACT

INPUTS: dict[str, bytes] = {
    "nothing": b"",
    "blank": b" \t ",
    "half-a-line": b'{"jsonrpc": "2.0", "id": 1, "meth',
    "no-newline": _STATS.rstrip(b"\n"),
    "write-without-newline": corpus.encode("ping", 1) + _FACT.rstrip(b"\n"),
    "garbage": bytes(range(256)) * 3,
    "ids-twice": _BOTH_IDS * 2,
    "burst": b"".join(
        corpus.encode("tools/call", number, name="mempalace_kg_query", arguments={"entity": "X"})
        for number in range(150)
    ),
}


@pytest.fixture(scope="module")
def endings(small_sites: list[Site]) -> dict[str, list[tuple[int, Counter[bytes]]]]:
    """Return exit code and replies, of stock and of palace, for each input that just ends."""
    stock, palace = small_sites
    found: dict[str, list[tuple[int, Counter[bytes]]]] = {}
    clients: list[tuple[str, Client]] = []
    for name in INPUTS:
        clients.append((name, start_stock(stock.environ(), "--palace", str(stock.palace))))
        clients.append((name, start_shim(palace.environ())))
    for name, client in clients:
        out, _ = client.process.communicate(INPUTS[name], timeout=60)
        assert out.endswith(b"\n") or not out
        replies = Counter(out.split(b"\n")[:-1])
        found.setdefault(name, []).append((client.process.returncode, replies))
    return found


@pytest.mark.parametrize("name", INPUTS)
def test_input_that_ends_is_answered_and_left_as_by_stock(
    endings: dict[str, list[tuple[int, Counter[bytes]]]], name: str
) -> None:
    """No reply is missing or extra, whatever the end cuts through; both exit with 0."""
    stock, palace = endings[name]

    assert palace == stock
    assert palace[0] == 0


@pytest.fixture(scope="module")
def alone(small_sites: list[Site], tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Return what a shim says to the handshake's lines when no broker can be had."""
    home = small_sites[1].home
    site = Site(home=home, palace=tmp_path_factory.mktemp("alone"))
    client = start_shim(site.environ(PALACE_NO_SPAWN="1"), stderr=subprocess.DEVNULL)
    played = Played(raw=run_raw(client, corpus.HANDSHAKE))
    played.exit_codes.append(client.close())
    return played


@pytest.mark.parametrize("name", corpus.HANDSHAKE)
def test_handshake_without_a_broker_is_answered_as_by_stock(
    both: Both, alone: Played, name: str
) -> None:
    assert alone.raw[name] == both.stock.raw[name]
    assert alone.exit_codes == [0]
