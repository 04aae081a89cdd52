"""Stock's basic tools for confined sessions: its own memories, in stock's words, and no others."""

from typing import Any

import pytest

from palace.protocol.errors import Forbidden, InvalidMemory
from palace.protocol.tools import BASIC_TOOLS
from tests.support.stores.team import Team

FORBIDDEN, INVALID = Forbidden.wire_code, InvalidMemory.wire_code
SECRET = "ghp_" + "a1B2c3D4e5F6" * 3


def add(office: Team, who: str, content: str, wing: str = "", **more: Any) -> Any:
    return office.basic(who, "add_drawer", wing=wing, room="Notes", content=content, **more)


def test_what_is_filed_is_a_memory_of_ones_own(office: Team) -> None:
    told = add(office, "coder", "the cat sat", wing="my-project", added_by="lead", workspace="lead")

    [memory] = office.memories.values()
    assert told == {
        "success": True,
        "drawer_id": memory["id"],
        "wing": "LOCAL",
        "room": "notes",
        "chunks": 1,
    }
    assert (memory["namespace"], memory["by"]) == ("workspace:coder", "coder")
    [hit] = office.basic("coder", "search", query="cat")["results"]
    assert (hit["drawer_id"], hit["text"], hit["wing"]) == (memory["id"], "the cat sat", "LOCAL")
    assert office.basic("tester", "search", query="cat")["results"] == []
    assert [one["id"] for one in office.found("coder")] == [memory["id"]]


WINGS = {
    "": "workspace:coder",
    " LOCAL ": "workspace:coder",
    "coder": "workspace:coder",
    "wing_myproject": "workspace:coder",
    "other": "workspace:coder",  # which says nothing of whether there is such a workspace
    "local": "workspace:coder",
    "TEAM": "team:lead",
    "lead": "team:lead",
    "team:lead": "team:lead",
    "ns.team.lead": "team:lead",
    "GLOBAL": "",
    "org:lead": "",
    "ns.org.lead": "",
    "team:other": "",
    "workspace:lead": "",
    "org:nobody": "",
    "custom:x": "",
    "ns.workspace.lead": "",
    "NS.org.lead": "",
    "team:lead\n": "team:lead",
}


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_names_a_namespace(office: Team, wing: str) -> None:
    for name, arguments in (
        ("add_drawer", {"room": "r", "content": "x"}),
        ("diary_write", {"agent_name": "ada", "entry": "x"}),
    ):
        told = office.basic("coder", name, wing=wing, **arguments)
        if WINGS[wing]:
            assert told["success"]
        else:
            assert told["code"] == FORBIDDEN

    assert {one["namespace"] for one in office.memories.values()} == {WINGS[wing]} - {""}


def test_a_root_decrees_by_a_wing_and_it_is_audited(office: Team) -> None:
    told = add(office, "lead", f"obey, with {SECRET}", wing="GLOBAL")
    assert (told["wing"], told["redacted"]) == ("GLOBAL", True)
    office.basic("lead", "update_drawer", drawer_id=told["drawer_id"], content="obey me")
    assert office.basic("coder", "delete_drawer", drawer_id=told["drawer_id"])["code"] == FORBIDDEN
    [hit] = office.basic("coder", "search", query="obey")["results"]
    assert hit["text"] == f"[MEMORY id={told['drawer_id']} scope=ORG ns=org:lead]: obey me"
    assert hit["wing"] == "GLOBAL"
    assert office.basic("lead", "delete_drawer", drawer_id=told["drawer_id"])["success"]

    assert [row["action"] for row in office.audits] == ["commit", "commit", "forget"]


def test_what_one_may_not_read_doesnt_exist(office: Team) -> None:
    private = add(office, "lead", "private to the lead")["drawer_id"]
    office.shelf.careless = True
    for ident in (private, "mem-none", "drawer_w_r_x", private + "_chunk_000000", 7, None):
        lacking = f"Drawer not found: {ident if isinstance(ident, str) else ''}"
        slot = {"drawer_id": ident if isinstance(ident, str) else "", "error": lacking}
        assert office.basic("coder", "get_drawer", drawer_id=ident) == {"error": lacking}
        assert office.basic("coder", "get_drawers", drawer_ids=[ident])["results"] == [slot]
        for name, more in (("delete_drawer", {}), ("update_drawer", {"content": "forged"})):
            told = office.basic("coder", name, drawer_id=ident, **more)
            assert told == {"success": False, "error": lacking}
        told = office.basic("coder", "delete_drawers", drawer_ids=[ident])
        assert (told["results"], told["deleted"], told["errors"]) == ([slot], 0, 1)
    for name, more in (
        ("search", {"query": "private"}),
        ("search", {"query": "private", "wing": "workspace:lead"}),
        ("list_drawers", {}),
        ("list_drawers", {"wing": "ns.workspace.lead"}),
        ("check_duplicate", {"content": "private to the lead"}),
        ("diary_read", {"agent_name": "lead", "wing": "workspace:lead"}),
        ("status", {}),
    ):
        assert "private to" not in str(office.basic("coder", name, **more)).replace("'query'", "")
    assert office.basic("coder", "status")["total_drawers"] == 0
    add(office, "coder", "private to me")
    for wing in ("workspace:lead", "ns.org.lead.x", "org:nobody"):  # which hold nothing for it
        assert office.basic("coder", "search", query="private", wing=wing)["results"] == []
        assert office.basic("coder", "list_drawers", wing=wing)["total"] == 0
    assert office.memories[private]["content"] == "private to the lead"


def test_a_memory_is_changed_where_it_is_and_moved_nowhere(office: Team) -> None:
    ident = office.ask("coder", "commit_summary", content="one", ttl_s=50)["id"]
    until = office.memories[ident]["until"]
    assert office.basic("coder", "update_drawer", drawer_id=ident) == {
        "success": True,
        "drawer_id": ident,
        "noop": True,
    }
    told = office.basic("coder", "update_drawer", drawer_id=ident, content=f"two {SECRET}")
    assert told["redacted"]
    office.basic("coder", "update_drawer", drawer_id=ident, room="Other Things", wing="LOCAL")
    for wing in ("TEAM", "team:lead", "org:lead", "workspace:other"):
        told = office.basic("coder", "update_drawer", drawer_id=ident, wing=wing)
        assert told["code"] == FORBIDDEN

    memory = office.memories[ident]
    assert (memory["kind"], memory["until"]) == ("other-things", until)
    assert memory["content"] == "two [REDACTED:github-token]"
    assert memory["namespace"] == "workspace:coder"
    office.now[0] += 50
    assert "error" in office.basic("coder", "get_drawer", drawer_id=ident)
    assert "error" in office.basic("coder", "update_drawer", drawer_id=ident, content="x")


def test_a_diary_is_ones_own_unless_it_is_the_teams(office: Team) -> None:
    for n in range(3):
        office.now[0] += 1
        told = office.basic("coder", "diary_write", agent_name="Ada", entry=f"day {n}", topic="t")
        assert (told["agent"], told["topic"], told["chunks"]) == ("ada", "t", 1)
    office.basic("tester", "diary_write", agent_name="Ada", content="ours", wing="TEAM")

    read = office.basic("coder", "diary_read", agent_name="ada", last_n=2)
    assert [one["content"] for one in read["entries"]] == ["day 2", "day 1"]
    assert (read["total"], read["showing"]) == (3, 2)
    [ours] = office.basic("coder", "diary_read", agent_name="ada", wing="TEAM")["entries"]
    assert ours["content"].endswith("ns=team:lead]: ours")
    none = office.basic("other", "diary_read", agent_name="ada")
    assert none == {"agent": "ada", "entries": [], "message": "No diary entries yet."}


def test_a_secret_in_what_is_filed_beside_a_text_is_taken_out_too(office: Team) -> None:
    diary = {"agent_name": "ada", "entry": "done", "topic": f"using {SECRET}"}
    told = office.basic("coder", "diary_write", **diary)
    office.basic("coder", "checkpoint", items=[], diary=diary)

    assert told["topic"].startswith("using [REDACTED:")
    read = office.basic("coder", "diary_read", agent_name="ada")["entries"]
    assert [one["topic"] for one in read] == [told["topic"]] * 2
    kept = [bytes(file.data) for file in office.disk.names.values() if file is not None]
    assert not any(SECRET[4:20].encode() in data for data in kept)


def test_a_checkpoint_files_each_item_by_its_own_right(office: Team) -> None:
    add(office, "coder", "known already")
    items = [
        {"wing": "p", "room": "r", "content": "known already"},
        {"wing": "TEAM", "room": "r", "content": "for the team"},
        {"wing": "GLOBAL", "room": "r", "content": "decreed by nobody"},
        {"wing": "p", "room": "r", "content": f"mine, {SECRET}"},
        {"wing": "p", "room": "r", "content": 7},
        "no item",
    ]
    diary = {"agent_name": "ada", "entry": "done", "wing": f"team:{SECRET}"}
    told = office.basic("coder", "checkpoint", items=items, diary=diary, added_by=SECRET)

    assert [len(told[name]) for name in ("added", "duplicates", "errors")] == [2, 1, 3]
    assert "team:" in told["diary"]["error"]
    stored = {one["content"]: one["namespace"] for one in office.memories.values()}
    assert stored == {
        "known already": "workspace:coder",
        "for the team": "team:lead",
        "mine, [REDACTED:github-token]": "workspace:coder",
    }
    kept = [bytes(file.data) for file in office.disk.names.values() if file is not None]
    assert not any(SECRET[4:20].encode() in data for data in kept)


@pytest.mark.parametrize("many", [65, 500])
def test_what_is_too_much_for_one_turn_is_refused_whole(office: Team, many: int) -> None:
    items = [{"wing": "w", "room": "r", "content": f"item {n}"} for n in range(many)]
    assert office.basic("coder", "checkpoint", items=items)["code"] == INVALID
    large = [{"wing": "w", "room": "r", "content": "x" * 60_000}] * 2
    assert office.basic("coder", "checkpoint", items=large)["code"] == INVALID
    for name in ("get_drawers", "delete_drawers"):
        for idents in (["mem-a"] * many, [], "mem-a"):
            assert office.basic("coder", name, drawer_ids=idents)["code"] == INVALID

    assert office.memories == {}


def test_lists_are_paged_and_counted(office: Team) -> None:
    for n in range(5):
        office.now[0] += 86_400
        add(office, "coder", f"note {n} " + "x" * 300, wing="TEAM" if n == 4 else "w")
    listed = office.basic("coder", "list_drawers", limit=2, offset=1)
    previews = [one["content_preview"] for one in listed["drawers"]]
    assert previews == [f"note {n} ".ljust(200, "x") + "..." for n in (3, 2)]
    assert (listed["total"], listed["count"]) == (5, 2)
    since = office.basic("coder", "list_drawers")["drawers"][1]["metadata"]["filed_at"][:10]
    for name, more in (("list_drawers", {}), ("search", {"query": "note", "limit": 9})):
        told = office.basic("coder", name, since=since, **more)
        assert len(told.get("drawers", told.get("results"))) == 2
        told = office.basic("coder", name, before=since, wing="LOCAL", **more)
        assert len(told.get("drawers", told.get("results"))) == 3
    status = office.basic("coder", "status")
    assert (status["wings"], status["rooms"]) == ({"LOCAL": 4, "TEAM": 1}, {"notes": 5})
    assert "the workspace coder" in status["protocol"]


def test_what_is_like_it_is_found_but_by_its_own_threshold(office: Team) -> None:
    ident = add(office, "tester", f"use {SECRET} here", wing="TEAM")["drawer_id"]
    told = office.basic("coder", "check_duplicate", content=f"use {SECRET} here")
    assert told["is_duplicate"]
    assert told["matches"][0]["content"].startswith(f"[MEMORY id={ident} scope=TEAM")
    assert not office.basic(
        "coder", "check_duplicate", content=f"use {SECRET} here", threshold=1.1
    )["is_duplicate"]


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no content": ("add_drawer", {"wing": "w", "room": "r"}),
    "blanks": ("add_drawer", {"wing": "w", "room": "r", "content": " \n"}),
    "a wing that is no text": ("add_drawer", {"wing": 7, "content": "x"}),
    "a wing that is no text to look in": ("search", {"wing": ["a"], "query": "x"}),
    "a room that is no text": ("add_drawer", {"room": 7, "content": "x"}),
    "a secret for a room": ("add_drawer", {"room": SECRET, "content": "x"}),
    "a long room": ("add_drawer", {"room": "r" * 201, "content": "x"}),
    "no query": ("search", {}),
    "a long query": ("search", {"query": "x" * 100_001}),
    "a limit in words": ("search", {"query": "x", "limit": "9"}),
    "a limit that is true": ("search", {"query": "x", "limit": True}),
    "a distance in words": ("search", {"query": "x", "max_distance": "9"}),
    "what the command line asks": ("search", {"query": "x", "cli_compatible": True}),
    "a file": ("search", {"query": "x", "source_file": "/etc/passwd"}),
    "since when": ("search", {"query": "x", "since": "yesterday"}),
    "since a number": ("list_drawers", {"since": 7}),
    "before all years": ("list_drawers", {"before": "0001-01-01T00:00:00+14:00"}),
    "a threshold that is none": ("check_duplicate", {"content": "x", "threshold": float("nan")}),
    "no entry": ("diary_write", {"agent_name": "a"}),
    "a topic that is no text": ("diary_write", {"entry": "x", "topic": 7}),
    "items that are none": ("checkpoint", {"items": "x"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_done(office: Team, name: str) -> None:
    seq, (tool, arguments) = office.journal.seq, WRONG[name]

    assert office.basic("coder", tool, **arguments)["code"] == INVALID
    assert office.journal.seq == seq


def test_rooms_are_kinds(office: Team) -> None:
    for room, kind in (
        ("Design Decisions!", "design-decisions"),
        ("2027 plans", "r-2027-plans"),
        ("\u65e5\u672c", "memory"),
        ("", "memory"),
        ("a" * 60, "a" * 40),
        ("a" * 39 + "-b", "a" * 39),
    ):
        told = office.basic("coder", "add_drawer", room=room, content="x")
        assert told["room"] == kind
        assert office.basic("coder", "list_drawers", room=room)["total"] >= 1


def test_each_basic_tool_is_answered(office: Team) -> None:
    arguments: dict[str, dict[str, Any]] = {
        "add_drawer": {"content": "x"},
        "checkpoint": {"items": []},
        "check_duplicate": {"content": "x"},
        "search": {"query": "x"},
        "get_drawers": {"drawer_ids": ["mem-a"]},
        "delete_drawers": {"drawer_ids": ["mem-a"]},
        "diary_write": {"entry": "x"},
    }
    for tool in BASIC_TOOLS:
        name = tool.removeprefix("mempalace_")
        assert "code" not in office.basic("coder", name, **arguments.get(name, {})), name
