"""Memories of namespaces in the hosted mempalace: stored, found, ended, kept from plain tools."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from palace.commands.config import set_config
from palace.engine.api import Call
from palace.engine.hosting.memories import Memories
from palace.memory.gate import Wanted
from palace.protocol.errors import Forbidden, InvalidMemory
from palace.protocol.principals import OWNER, Principal, plugin_with
from palace.protocol.request import tool_call
from palace.protocol.tools import BASIC_TOOLS, TOOLS
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.engines.hosted import HostedEngine
from tests.support.processes.sites import naming

pytestmark = pytest.mark.engine
EACH_BACKEND = True

SECRET = "ghp_" + "a1B2c3D4e5F6" * 3
LONG = "The tide comes in twice a day and takes the sand with it. " * 40  # several chunks
FORBIDDEN, INVALID = Forbidden.wire_code, InvalidMemory.wire_code


class Palace:
    """A hosted engine with workspaces, and calls of whom one likes; "" is the owner."""

    def __init__(self, home: Path, root: Path, backend: str = "chroma") -> None:
        self.root = root
        self.home = home
        self.engine = HostedEngine(home, root, naming(backend))
        self.engine.load()
        self._calls = 0

    def call(self, tool: str, who: str = "", **arguments: Any) -> Call:
        """Return a call; who begins with "!" is confined."""
        self._calls += 1
        confined, who = who.startswith("!"), who.removeprefix("!")
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return Call(
            request=tool_call(message),
            session=f"s{self._calls}",
            ordinal=1,
            principal=Principal(who, confined=confined) if who else OWNER,
        )

    def text(self, tool: str, who: str = "", **arguments: Any) -> str:
        reply = json.loads(self.engine.call(self.call(tool, who, **arguments)).payload or b"null")
        if "error" in reply:
            return json.dumps(reply["error"])
        text: str = reply["result"]["content"][0]["text"]
        return text

    def ask(self, tool: str, who: str = "", **arguments: Any) -> Any:
        return json.loads(self.text(f"palace_{tool}", who, **arguments))

    def stock(self, tool: str, who: str = "", **arguments: Any) -> Any:
        return json.loads(self.text(f"mempalace_{tool}", who, **arguments))

    def commit(self, who: str, content: str, **more: Any) -> str:
        told = self.ask("commit_memory", who, content=content, **more)
        ident: str = told["id"]
        return ident

    def found(self, who: str, **more: Any) -> list[Any]:
        found: list[Any] = self.ask("search_memory", who, **more)["memories"]
        return found

    def shown(self, tool: str, **arguments: Any) -> Any:
        return self.stock(tool, **arguments)


@pytest.fixture(scope="module")
def palace(
    model_home: Path, tmp_path_factory: pytest.TempPathFactory, backend: str
) -> Iterator[Palace]:
    root = tmp_path_factory.mktemp("memories") / "store" / "palace"
    palace = Palace(model_home, root, backend)
    try:
        for ident, parent in (("lead", ""), ("coder", "lead"), ("tester", "lead"), ("other", "")):
            assert "workspace" in palace.ask("workspace_add", id=ident, parent=parent)
        yield palace
    finally:
        palace.engine.end()


def test_what_is_stored_is_found_by_whoever_may_read_it(palace: Palace) -> None:
    mine = palace.commit("coder", "the cat sat on the mat", kind="note")
    ours = palace.commit("coder", "the team's cat is called Mog", namespace="team:lead")

    found = {one["id"]: one for one in palace.found("coder", query="a cat", limit=5)}
    assert found[mine]["content"] == "the cat sat on the mat"
    assert found[ours]["content"] == (
        f"[MEMORY id={ours} scope=TEAM ns=team:lead]: the team's cat is called Mog"
    )
    assert [one["id"] for one in palace.found("tester", query="a cat")] == [ours]
    assert palace.found("other", query="a cat") == []
    assert palace.found("coder", query="a cat", kinds=["note"])[0]["id"] == mine
    assert palace.found("coder", kinds=["note"])[0]["id"] == mine, "without a query, too"


def test_a_long_memory_is_one(palace: Palace) -> None:
    ident = palace.commit("tester", LONG + "and a lighthouse", id="mem-long")
    assert palace.found("tester", query="tide and sand")[0]["content"] == LONG + "and a lighthouse"
    assert palace.ask("commit_memory", "tester", content="short now", id=ident)["replaced"]

    assert [one["content"] for one in palace.found("tester", limit=1)] == ["short now"]
    assert "sand" not in json.dumps(palace.found("tester", query="tide and sand"))
    assert palace.ask("forget_memory", "tester", id=ident)["forgotten"]
    assert palace.stock("get_drawer", drawer_id=ident) == {"error": f"Drawer not found: {ident}"}


def test_a_secret_is_in_no_byte_that_is_kept(palace: Palace) -> None:
    told = palace.ask("commit_memory", "lead", content=f"use {SECRET} here", namespace="org:lead")
    assert told["redacted"]
    assert "[REDACTED:" in palace.found("coder", query="use here")[0]["content"]

    for directory in (palace.root.parent, palace.home):
        for path in directory.rglob("*"):
            if path.is_file() and path.suffix != ".onnx":
                assert SECRET.encode() not in path.read_bytes(), path
                assert SECRET[4:24].encode() not in path.read_bytes(), path


def test_a_decree_is_audited_by_its_hash(palace: Palace) -> None:
    ident = palace.commit("lead", "obey the linter", namespace="org:lead")
    palace.ask("forget_memory", "lead", id=ident)
    with closing(sqlite3.connect(palace.root / "palace.sqlite3")) as connection:
        rows = connection.execute(
            "SELECT action, workspace, bytes FROM audit WHERE memory_id = ?", (ident,)
        ).fetchall()

    assert sorted(rows) == [("commit", "lead", 15), ("forget", "lead", 15)]


def test_calls_that_are_stored_together_are_audited_each(palace: Palace) -> None:
    calls = [
        palace.call("palace_commit_memory", "lead", content=f"rule {n}", namespace="org:lead")
        for n in range(4)
    ] + [palace.call("mempalace_add_drawer", wing="w", room="r", content="a plain drawer")]
    calls.append(palace.call("palace_commit_memory", "coder", content="x", namespace="org:lead"))
    *decreed, plain, refused = [
        json.loads(reply.payload or b"") for reply in palace.engine.call_together(calls)
    ]

    idents = {json.loads(one["result"]["content"][0]["text"])["id"] for one in decreed}
    assert "drawer_id" in plain["result"]["content"][0]["text"]
    assert refused["error"]["code"] == FORBIDDEN
    with closing(sqlite3.connect(palace.root / "palace.sqlite3")) as connection:
        audited = [row[0] for row in connection.execute("SELECT memory_id FROM audit")]
    assert {ident: audited.count(ident) for ident in idents} == dict.fromkeys(idents, 1)
    assert idents <= {one["id"] for one in palace.found("coder", query="rule", limit=50)}


# Plain tools write none.

WING = "ns.org.lead"
WRITES: dict[str, dict[str, Any]] = {
    "add_drawer": {"wing": WING, "room": "r", "content": "forged"},
    "add_drawer ": {"wing": " NS.org.lead ", "room": "r", "content": "forged"},
    "diary_write": {"agent_name": "ada", "entry": "forged", "wing": WING},
    "checkpoint": {"items": [{"wing": WING, "room": "r", "content": "forged"}]},
    "checkpoint ": {"items": [], "diary": {"agent_name": "a", "entry": "forged", "wing": WING}},
    "mine": {"source": "/", "wing": WING},
    "update_drawer": {"drawer_id": "mem-kept", "content": "forged"},
    "update_drawer ": {"drawer_id": "mem-kept", "wing": "elsewhere"},
    "update_drawer  ": {"drawer_id": "drawer_w_r_x", "wing": WING},
    "delete_drawer": {"drawer_id": "mem-kept"},
    "delete_drawers": {"drawer_ids": ["drawer_w_r_x", "mem-kept"]},
}


@pytest.mark.parametrize("who", ["", "lead"])
@pytest.mark.parametrize("name", WRITES)
def test_plain_tools_write_no_memory(palace: Palace, name: str, who: str) -> None:
    palace.commit("lead", "kept as it is", namespace="org:lead", id="mem-kept")
    reply = palace.stock(name.strip(), who, **WRITES[name])

    assert reply["code"] == FORBIDDEN, reply
    assert palace.stock("list_drawers", wing=WING, limit=100)["total"] == len(
        palace.found("lead", namespaces=["org:lead"], limit=50)
    )
    assert palace.found("lead", namespaces=["org:lead"], limit=1)[0]["content"].endswith("as it is")


def test_mine_is_refused_where_a_directory_would_be_the_wing(palace: Palace) -> None:
    source = palace.root.parent / "ns.team.lead"
    source.mkdir()
    (source / "mempalace.yaml").write_text("wing: ns.team.lead\nrooms:\n  - name: general\n")
    (source / "note.md").write_text("An instruction for all others. " * 20)
    told = palace.stock("mine", source=str(source))

    assert "instruction" not in json.dumps(palace.stock("list_drawers", limit=100)), told
    assert told["success"] is False, told


def test_a_part_of_a_memory_can_not_be_changed_by_its_own_id(palace: Palace) -> None:
    palace.commit("lead", LONG, id="mem-parts")
    part = "mem-parts_chunk_000000"
    for tool, arguments in (
        ("update_drawer", {"content": "forged"}),
        ("delete_drawer", {}),
    ):
        assert palace.stock(tool, drawer_id=part, **arguments)["code"] == FORBIDDEN
    palace.ask("forget_memory", "lead", id="mem-parts")


# What plain tools show.


def test_plain_tools_show_shared_memories_as_such(palace: Palace, backend: str) -> None:
    ident = palace.commit("coder", "curl this | sh, says the walrus", namespace="team:lead")
    own = palace.commit("coder", "the walrus is mine")
    wrapped = f"[MEMORY id={ident} scope=TEAM ns=team:lead]: curl this | sh, says the walrus"

    hits = {one["drawer_id"]: one for one in palace.stock("search", query="walrus")["results"]}
    assert hits[ident]["text"] == wrapped
    assert hits[own]["text"] == "the walrus is mine"
    assert palace.stock("get_drawer", drawer_id=ident)["content"] == wrapped
    [slot] = palace.stock("get_drawers", drawer_ids=[ident])["results"]
    assert slot["content"] == wrapped
    listed = palace.stock("list_drawers", wing="ns.team.lead", limit=100)["drawers"]
    assert all(one["content_preview"].startswith("[MEMORY id=") for one in listed)
    same = palace.stock("check_duplicate", content="curl this | sh, says the walrus")["matches"]
    if backend == "milvus":  # stock takes what milvus-lite says of nearness for a distance
        assert same == []
    else:
        assert same[0]["content"] == wrapped
        item = {"wing": "w", "room": "r", "content": "curl this | sh, says the walrus"}
        [twice] = palace.stock("checkpoint", items=[item])["duplicates"]
        assert twice["matches"][0]["content"] == wrapped
    printed = palace.stock("search", query="walrus", cli_compatible=True)["cli_output"]
    assert wrapped in printed
    assert "the walrus is mine" in printed


def test_what_is_over_is_shown_by_no_tool(palace: Palace) -> None:
    palace.stock("add_drawer", wing="w", room="r", content="a plain narwhal")
    ends = {"content": "the narwhal is over", "namespace": "team:lead", "id": "mem-over"}
    palace.ask("commit_memory", "coder", expires_at="2001-01-01T00:00:00Z", **ends)

    found = palace.found("coder", query="narwhal", limit=50)
    assert "mem-over" not in {one["id"] for one in found}
    assert palace.ask("forget_memory", "coder", id="mem-over")["code"] == INVALID
    search = palace.stock("search", query="narwhal")
    assert "a plain narwhal" in json.dumps(search)
    missing = {"error": "Drawer not found: mem-over"}
    assert palace.stock("get_drawer", drawer_id="mem-over") == missing
    assert palace.stock("get_drawers", drawer_ids=["mem-over"]) == {
        "results": [{"drawer_id": "mem-over", **missing}],
        "count": 1,
        "errors": 1,
    }
    same = palace.stock("check_duplicate", content="the narwhal is over")
    listed = palace.stock("list_drawers", wing="ns.team.lead", limit=100)
    assert listed["count"] == len(listed["drawers"])
    printed = palace.stock("search", query="narwhal", cli_compatible=True)
    for reply in (search, same, listed, printed):
        assert "is over" not in json.dumps(reply).replace('"query"', "")
    assert palace.stock("diary_read", agent_name="coder", last_n=50).get("entries", []) == []


def test_replies_without_a_memory_are_stocks_to_the_byte(palace: Palace) -> None:
    palace.stock("add_drawer", wing="plain", room="r", content='quotes "wing": \u00e9')
    text = palace.text("mempalace_list_drawers", wing="plain")

    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    assert "[MEMORY" not in text


# What confined sessions have of them.

BASIC_WRITES: dict[str, dict[str, Any]] = {
    "add_drawer": {"wing": "p", "room": "r", "content": f"basic {SECRET}"},
    "diary_write": {"agent_name": "ada", "entry": f"basic {SECRET}"},
    "checkpoint": {
        "items": [{"wing": "p", "room": "r", "content": f"basic {SECRET} {n}"} for n in range(17)],
        "diary": {"agent_name": "ada", "entry": f"basic {SECRET}"},
        "dedup_threshold": 2,
    },
}


@pytest.mark.parametrize("name", BASIC_WRITES)
def test_a_confined_session_files_memories_of_its_own(palace: Palace, name: str) -> None:
    before = {one["id"] for one in palace.found("tester", limit=50)}
    told = palace.stock(name, "!tester", **BASIC_WRITES[name])
    assert told.get("success", not told.get("errors")), told

    new = [one for one in palace.found("tester", limit=50) if one["id"] not in before]
    assert len(new) == (18 if name == "checkpoint" else 1)
    assert {one["namespace"] for one in new} == {"workspace:tester"}
    assert all(one["content"].startswith("basic [REDACTED:") for one in new)
    drawer = palace.stock("get_drawer", "!tester", drawer_id=new[0]["id"])
    assert (drawer["content"], drawer["wing"]) == (new[0]["content"], "LOCAL")
    removed = palace.stock("delete_drawers", "!tester", drawer_ids=[one["id"] for one in new])
    assert (removed["deleted"], removed["errors"]) == (len(new), 0)


def test_a_confined_session_reaches_no_other_drawer(palace: Palace, backend: str) -> None:
    palace.stock("add_drawer", wing="armadillos", room="r", content="the owner's plain armadillo")
    palace.commit("lead", "the lead's armadillo")
    mine = palace.stock(
        "add_drawer", "!coder", wing="armadillos", room="r", content="my own armadillo"
    )
    [plain] = palace.stock("list_drawers", wing="armadillos")["drawers"]

    for name, arguments in (
        ("search", {"query": "the owner's plain armadillo", "limit": 50}),
        ("search", {"query": "armadillo", "wing": "armadillos"}),
        ("check_duplicate", {"content": "the owner's plain armadillo", "threshold": 0.0}),
        ("list_drawers", {"limit": 100}),
    ):
        told = json.dumps(
            palace.stock(name, "!coder", **arguments)[
                "results"
                if name == "search"
                else "matches"
                if name == "check_duplicate"
                else "drawers"
            ]
        )
        assert "my own armadillo" in told
        assert "plain armadillo" not in told
        assert "lead's armadillo" not in told
    lacking = f"Drawer not found: {plain['drawer_id']}"
    assert palace.stock("get_drawer", "!coder", drawer_id=plain["drawer_id"]) == {"error": lacking}
    gone = palace.stock("delete_drawer", "!coder", drawer_id=plain["drawer_id"])
    assert gone == {"success": False, "error": lacking}
    near = palace.stock("search", "!coder", query="my own armadillo")["results"][0]
    assert near["drawer_id"] == mine["drawer_id"]
    how_near = near["distance" if backend == "milvus" else "similarity"]  # stock mistakes it
    assert how_near > 0.9
    status = palace.stock("status", "!coder")
    assert "armadillos" not in status["wings"]
    assert status["total_drawers"] == sum(status["wings"].values()) < 50


def test_a_long_memory_is_one_for_a_confined_session_too(palace: Palace) -> None:
    told = palace.stock("add_drawer", "!coder", wing="w", room="long", content=LONG)
    assert told["chunks"] > 1
    part = f"{told['drawer_id']}_chunk_000000"
    assert "not found" in palace.stock("get_drawer", "!coder", drawer_id=part)["error"]
    assert not palace.stock("delete_drawer", "!coder", drawer_id=part)["success"]
    assert palace.stock("get_drawer", "!coder", drawer_id=told["drawer_id"])["content"] == LONG
    listed = palace.stock("list_drawers", "!coder", room="long")
    assert (listed["total"], listed["count"]) == (1, 1)
    removed = palace.stock("delete_drawer", "!coder", drawer_id=told["drawer_id"])
    assert removed["chunks_deleted"] == told["chunks"]


def test_what_confined_and_others_store_together_stays_apart(palace: Palace) -> None:
    texts = {who: f"stored together, pangolin {who}" for who in ("", "!coder", "!tester")}
    drawer = {"wing": "together", "room": "r"}
    calls = [
        palace.call("mempalace_add_drawer", who, content=text, **drawer)
        for who, text in texts.items()
    ]
    calls.append(palace.call("palace_commit_memory", "lead", content="with a pangolin"))
    calls.append(palace.call("mempalace_add_drawer", "!coder", content="a", wing="GLOBAL"))
    replies = [json.loads(one.payload or b"") for one in palace.engine.call_together(calls)]

    assert replies[-1]["error"]["code"] == FORBIDDEN
    ids = [json.loads(one["result"]["content"][0]["text"]) for one in replies[:-1]]
    assert ids[0]["drawer_id"].startswith("drawer_")
    for who, told in (("coder", ids[1]), ("tester", ids[2])):
        mine = [
            o for o in palace.found(who, limit=50) if o["content"].startswith("stored together")
        ]
        assert [(one["id"], one["content"]) for one in mine] == [
            (told["drawer_id"], texts[f"!{who}"]),
        ]
    [plain] = palace.stock("list_drawers", wing="together")["drawers"]
    assert plain["drawer_id"] == ids[0]["drawer_id"]


def test_all_other_tools_are_refused_by_name(palace: Palace) -> None:
    for name in sorted({*TOOLS} - {*BASIC_TOOLS}):
        told = palace.stock(name.removeprefix("mempalace_"), "!coder")
        assert told["code"] == FORBIDDEN, name
        assert name in told["message"]
        assert "the workspace coder, which is confined" in told["message"]


# The contract's searches.


def contract(palace: Palace, tool: str, **arguments: Any) -> Any:
    call = attrs.evolve(palace.call(f"palace_v1_{tool}", **arguments), principal=plugin_with(""))
    reply = json.loads(palace.engine.call(call).payload or b"")
    return json.loads(reply["result"]["content"][0]["text"]).get("body")


def test_the_contract_finds_by_words_what_means_something_else(palace: Palace) -> None:
    name = "team:words"
    contract(palace, "put_namespace", name=name, body={"kind": "team"})

    def commit(content: str, **more: Any) -> str:
        body = {"content": content, "kind": "fact", "source": "user"} | more
        return str(contract(palace, "commit", name=name, body=body)["id"])

    def search(query: str, **more: Any) -> list[str]:
        body = {"namespaces": [name], "query": query, "limit": 3} | more
        return [one["id"] for one in contract(palace, "search", body=body)["memories"]]

    long = commit(f"{LONG} Ticket Qu0kka-Ärger. {LONG}", kind="summary")
    over = commit("Qu0kka", expires_at="2001-01-01T00:00:00Z")
    for number in range(6):
        commit(f"a quokka, a kangaroo and a wallaby, note {number}")
    for query in ("qu0kka", "QU0KKA", "ärger"):
        assert long in search(query), query
        assert over not in search(query), query
    assert search("qu0kka", kinds=["summary"]) == [long]
    assert search("0", kinds=["summary"]) == [long], "one character"
    assert search("qu0kka", kinds=["rule"]) == []
    assert search('"; DROP TABLE documents --', kinds=["rule"]) == []
    contract(palace, "delete_namespace", name=name)
    assert search("qu0kka") == []


# What is counted.


@pytest.fixture(scope="module")
def counted(palace: Palace) -> Palace:
    """The palace with a workspace that has memories of all sorts."""
    assert "workspace" in palace.ask("workspace_add", id="census")
    assert "workspace" in palace.ask("workspace_add", id="clerk", parent="census")
    palace.stock("add_drawer", wing="census", room="note", content="a plain drawer, counted never")
    palace.commit("clerk", LONG, kind="note", id="mem-census-long")
    palace.commit("clerk", "one more", kind="note", expires_at="2100-01-01T00:00:00Z")
    palace.commit("clerk", "it is over", kind="note", expires_at="2001-01-01T00:00:00Z")
    palace.commit("clerk", "gone again", kind="note", id="mem-census-gone")
    palace.ask("forget_memory", "clerk", id="mem-census-gone")
    palace.commit("clerk", "for the team", namespace="team:census", kind="rule")
    palace.commit("census", "the chief's own")
    palace.commit("census", "decreed", namespace="org:census")
    return palace


def test_what_is_counted_is_what_is_found(counted: Palace) -> None:
    status = counted.stock("status", "!clerk")
    assert status["wings"] == {"GLOBAL": 1, "LOCAL": 2, "TEAM": 1}
    assert status["rooms"] == {"memory": 1, "note": 2, "rule": 1}

    found = counted.found("clerk", limit=50)
    assert len(found) == status["total_drawers"] == 4
    dates = sorted(one["created_at"] for one in found)
    for bounds in (
        {},
        {"room": "note"},
        {"wing": "TEAM"},
        {"wing": "TEAM", "room": "note"},
        {"wing": "team:other"},
        {"since": dates[1]},
        {"before": dates[2]},
        {"since": dates[1], "before": dates[2], "room": "note"},
    ):
        listed = counted.stock("list_drawers", "!clerk", limit=100, **bounds)
        assert listed["total"] == listed["count"] == len(listed["drawers"]), bounds


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("records are read")


def unread(root: Path) -> Memories:
    """Return memories of a server that reads no record."""
    names = (
        *("_collection_logical_drawer_record", "_bulk_drawer_records", "_build_chunk_rows"),
        *("_HTTP_REQUEST_LOCK", "_mcp_tool_preflight_refusal", "_invalidate_overview_caches"),
        *("_metric_for_collection", "_distance_to_similarity"),
    )
    config = SimpleNamespace(palace_path=str(root), collection_name="mempalace_drawers")
    known: Any = dict.fromkeys(names, never)
    server: Any = SimpleNamespace(
        **known,
        _config=config,
        _is_chroma_backend=lambda: True,
        _get_collection=lambda create: SimpleNamespace(get=never),
    )
    state: Any = None
    return Memories(server, state, Paths(str(root)))


CENSUS = {
    ("workspace:clerk", "note"): 2,
    ("team:census", "rule"): 1,
    ("org:census", "memory"): 1,
}
OF_CLERK = Wanted(
    query="",
    namespaces=("workspace:clerk", "team:census", "org:census"),
    kinds=(),
    limit=1,
    now_s=1.8e9,
)
SECOND_COLLECTION = """
INSERT INTO collections (id, name, database_id)
    SELECT 'second', 'mempalace_elsewhere', database_id FROM collections
    WHERE name = 'mempalace_drawers';
INSERT INTO segments (id, type, scope, collection)
    SELECT 'second-part', type, scope, 'second' FROM segments WHERE scope = 'METADATA' LIMIT 1;
INSERT INTO embeddings (id, segment_id, embedding_id, seq_id)
    SELECT id + 100000, 'second-part', embedding_id, seq_id FROM embeddings;
INSERT INTO embedding_metadata (id, key, string_value, int_value, float_value, bool_value)
    SELECT id + 100000, key, string_value, int_value, float_value, bool_value
    FROM embedding_metadata;
UPDATE embedding_metadata SET string_value = '' WHERE key = 'palace_ns'
    AND string_value = 'workspace:census';
"""


def test_they_are_counted_without_being_read(counted: Palace, backend: str, tmp_path: Path) -> None:
    if backend != "chroma":
        pytest.skip("the records of this backend are read for each search, too")
    assert unread(counted.root).tally(OF_CLERK) == CENSUS

    copy = tmp_path / "chroma.sqlite3"
    with closing(sqlite3.connect(counted.root / "chroma.sqlite3")) as source:
        with closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.executescript(SECOND_COLLECTION)
    assert unread(tmp_path).tally(OF_CLERK) == CENSUS, "another collection is another's"
    everyone = unread(tmp_path).tally(attrs.evolve(OF_CLERK, namespaces=None))
    assert CENSUS.items() <= everyone.items()
    assert "" not in {namespace for namespace, _ in everyone}


def test_chromas_own_search_by_words_is_not_asked_where_nothing_is_found(tmp_path: Path) -> None:
    """It would rank all of a palace's rows with a word, while stock's read lock is held."""
    collection: Any = SimpleNamespace(lexical_search=never, get=never)
    asked = attrs.evolve(OF_CLERK, query="quokka", by_words=True)
    assert unread(tmp_path)._worded(collection, asked) == []


# What goes by itself, and what the owner settles.


def test_what_is_over_or_ends_is_swept_and_nothing_else(palace: Palace) -> None:
    palace.stock("add_drawer", wing="w", room="r", content="a plain drawer, swept never")
    over = {"expires_at": "2001-01-01T00:00:00Z", "namespace": "org:lead"}
    palace.commit("lead", LONG, id="mem-swept-long", **over)
    assert "workspace" in palace.ask("workspace_add", id="leaver", parent="lead")
    kept = palace.commit("leaver", "shared before it left, a heron", namespace="team:lead")
    for n in range(3):
        palace.commit("leaver", f"its own heron {n}")
    palace.ask("workspace_remove", id="leaver", purge=True)
    swept = 0
    while part := palace.ask("sweep")["forgotten"]:
        swept += part

    assert swept >= 4
    shown = json.dumps([palace.found("", query="heron", limit=50), palace.found("", limit=50)])
    assert "its own heron" not in shown
    assert kept in shown
    assert palace.ask("sweep") == {"forgotten": 0}
    assert palace.stock("list_drawers", wing="ns.workspace.leaver")["total"] == 0
    assert palace.stock("list_drawers", wing="w", limit=100)["total"] >= 1
    with closing(sqlite3.connect(palace.root / "palace.sqlite3")) as connection:
        [(ended,)] = connection.execute(
            "SELECT count(*) FROM audit WHERE memory_id = 'mem-swept-long' AND action = 'end'"
        )
    assert ended == 1


def set_to(home: Path, root: Path, *settings: str) -> None:
    root.mkdir(parents=True, mode=0o700, exist_ok=True)
    environment = ShimEnvironment({"HOME": str(home), "PATH": os.environ["PATH"]})
    set_config(Paths(str(root)), environment, list(settings))


def test_secrets_are_taken_out_of_all_that_is_filed_where_the_owner_says_so(
    model_home: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store" / "palace"
    set_to(model_home, root, "redact=all", "own_tools=on")
    palace = Palace(model_home, root)
    try:
        told = palace.stock("add_drawer", wing="w", room="r", content=f"use {SECRET} here")
        palace.stock("update_drawer", drawer_id=told["drawer_id"], content=f"or {SECRET} there")
        palace.stock("diary_write", agent_name="ada", entry=f"I used {SECRET}")
        item = {"wing": "w", "room": "r", "content": f"item {SECRET}"}
        palace.stock("checkpoint", items=[item])
        palace.stock("kg_add", subject="ada", predicate="uses", object=SECRET)
        palace.stock("event_append", type="note", summary=f"with {SECRET}", actor="ada")
        drawer = palace.stock("get_drawer", drawer_id=told["drawer_id"])
        assert drawer["content"] == "or [REDACTED:github-token] there"
        assert palace.ask("list_readable_namespaces")["namespaces"] == [], "own_tools = on"
        for path in root.rglob("*"):
            assert not path.is_file() or SECRET[4:24].encode() not in path.read_bytes(), path
    finally:
        palace.engine.end()


def test_own_tools_are_confined_sessions_alone_where_the_owner_says_so(
    model_home: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store" / "palace"
    set_to(model_home, root, "own_tools=off")
    palace = Palace(model_home, root)
    try:
        palace.ask("workspace_add", id="lead")
        assert "Unknown tool" in palace.text("palace_search_memory", "lead")
        assert palace.ask("search_memory", "!lead") == {"memories": []}
    finally:
        palace.engine.end()


def test_a_store_without_drawers_has_no_memories(model_home: Path, tmp_path: Path) -> None:
    palace = Palace(model_home, tmp_path / "store" / "palace")
    try:
        palace.ask("workspace_add", id="lead")
        assert palace.ask("search_memory", "lead") == {"memories": []}
        assert palace.found("lead", query="x") == []
        assert palace.ask("forget_memory", "lead", id="mem-a")["code"] == INVALID
        assert palace.commit("lead", "the first of all drawers")
        assert len(palace.found("lead")) == 1
    finally:
        palace.engine.end()
