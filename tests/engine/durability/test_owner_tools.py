"""The owner's tools against a register that is a real file, journalled on a disk in memory."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.engine.durability import owner_tools
from palace.engine.durability.owner_tools import OwnerTools
from palace.engine.stores.register import WORKSPACE, open_register
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalFailed
from palace.protocol.request import ToolCall, tool_call
from palace.protocol.resolver import HOPS_MAX
from palace.protocol.tools import FEDERATION_TOOLS, MOVING_TOOLS, OWNER_TOOLS
from palace.protocol.workspaces import RESTORED, digest_of
from palace.settings.paths import Paths
from tests.support.disks.memory import Disk
from tests.support.stores.registers import Life, after, awake


class Owner:
    """One owner, and what it is answered."""

    def __init__(self, life: Life) -> None:
        self.life = life
        life.register.epoch = life.journal.stamp.epoch
        self.tools = OwnerTools(life.register, life.durable, Kernel())
        self.calls = 0

    def ask(self, name: str, *, read_only: bool = False, **arguments: Any) -> Any:
        """Return the result's text, or the error."""
        self.calls += 1
        call = message(name, arguments)
        epoch = self.life.journal.stamp.epoch
        with self.life.durable.group(f"s{epoch}:{self.calls}", non_atomic=False) as group:
            reply: Any = self.tools.answer(call, read_only=read_only)
        self.life.durable.commit(group, json.dumps(reply))
        if "error" in reply:
            return reply["error"]
        return json.loads(reply["result"]["content"][0]["text"])

    def add(self, ident: str, parent: str = "", **more: Any) -> Any:
        return self.ask("workspace_add", id=ident, parent=parent, **more)

    @property
    def parents(self) -> dict[str, str]:
        return {i: one.parent for i, one in self.life.register.tree().workspaces.items()}


def message(name: str, arguments: dict[str, Any]) -> ToolCall:
    params = {"name": f"palace_{name}", "arguments": arguments}
    return tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    owner = Owner(awake(Disk(), tmp_path / "palace"))
    owner.add("lead", cwd="/home/lead")
    owner.add("coder", "lead", uid=12345, confined=True)
    return owner


def text_of(problem: Any) -> str:
    assert problem["data"]["palace"] == "workspace_refused", problem
    text: str = problem["message"]
    return text


SHA = digest_of("a token")


def test_a_token_counts_until_it_is_revoked(owner: Owner) -> None:
    made = owner.ask("token_add", workspace="coder", sha256=SHA, label="ci")["token"]
    assert made["workspace"] == "coder"
    assert made["counts"]
    assert owner.life.register.tree().tokens == {SHA: "coder"}
    assert "begins with" in text_of(owner.ask("token_revoke", prefix="0" * 64))
    ended = owner.ask("token_revoke", prefix=SHA[:12])["token"]

    assert ended["revoked_at"]
    assert not ended["counts"]
    assert owner.life.register.tree().tokens == {}
    assert owner.ask("token_list")["tokens"] == [ended]
    assert owner.ask("token_revoke", prefix=SHA)["token"] == ended, "once is enough"
    owner.life.check()


def test_tokens_end_with_their_workspace_and_pass_to_no_namesake(owner: Owner) -> None:
    owner.ask("token_add", workspace="coder", sha256=SHA)
    owner.ask("workspace_remove", id="coder")
    assert owner.life.register.tree().tokens == {}

    other = digest_of("another")
    owner.ask("token_add", workspace="lead", sha256=other)
    with owner.life.durable.group("purge:1", non_atomic=False) as group:
        owner.life.register.put(owner.life.durable, WORKSPACE, "workspace:lead", None)
    owner.life.durable.commit(group, "")
    assert "workspace" in owner.add("lead")
    assert owner.life.register.tree().tokens == {}
    owner.life.check()


def test_a_restored_palace_accepts_no_token_of_before(owner: Owner) -> None:
    owner.ask("token_add", workspace="coder", sha256=SHA)
    register = owner.life.register
    for epoch, counts in (
        (1, True),
        (RESTORED, True),
        (RESTORED + 1, False),
        (RESTORED * 2, False),
    ):
        heir = open_register(Paths(str(owner.life.root)), Kernel())
        heir.epoch = epoch
        heir.read_fingerprint()
        assert bool(heir.tree().tokens) is counts
    assert register.tokens()[0].counts(1)


def test_every_tool_of_the_table_is_answered(owner: Owner) -> None:
    # What forgets memories goes through the gate, as palace's own tools do; and delegations are
    # mempalace's events.
    others = {"palace_sweep", "palace_delegation_list", *MOVING_TOOLS, *FEDERATION_TOOLS}
    assert set(owner.tools._answers) == set(OWNER_TOOLS) - others


def test_a_tree_is_made_moved_and_taken_apart(owner: Owner) -> None:
    assert owner.add("reviewer", "coder")["workspace"]["parent"] == "coder"
    assert (
        owner.ask("workspace_move", id="reviewer", parent="lead")["workspace"]["id"] == "reviewer"
    )
    assert owner.ask("workspace_move", id="coder", parent="")["workspace"]["parent"] == ""
    assert owner.ask("workspace_move", id="lead", parent="coder")["workspace"]["parent"] == "coder"
    removed = owner.ask("workspace_remove", id="lead")

    assert removed["below"] == ["reviewer"]
    told = {one["id"]: one for one in owner.ask("workspace_list")["workspaces"]}
    assert list(told) == ["coder", "lead", "reviewer"]
    assert told["lead"]["removed"]
    expected = {"id": "coder", "parent": "", "cwd": "", "runtimes": [], "uid": 12345}
    expected |= {"confined": True, "removed": False, "created_at": told["coder"]["created_at"]}
    assert told["coder"] == expected
    owner.life.check()
    assert Owner(after(owner.life)).parents == owner.parents


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no id": ("workspace_add", {}, "can't be a workspace's id"),
    "no such id": ("workspace_add", {"id": "../x"}, "can't be a workspace's id"),
    "a word of another meaning": ("workspace_add", {"id": "plugin"}, "palace token new plugin"),
    "twice": ("workspace_add", {"id": "lead"}, "palace workspace move lead --parent ID"),
    "unknown parent": ("workspace_add", {"id": "x", "parent": "who"}, "who isn't registered"),
    "a parent that is none": ("workspace_add", {"id": "x", "parent": 7}, "can't be a workspace's"),
    "below itself": ("workspace_move", {"id": "lead", "parent": "lead"}, "is below lead"),
    "a cycle": ("workspace_move", {"id": "lead", "parent": "coder"}, "move coder --root"),
    "unknown": ("workspace_move", {"id": "who", "parent": ""}, "who isn't registered"),
    "gone": ("workspace_remove", {"id": "who"}, "palace workspace list"),
    "no full path": ("workspace_add", {"id": "x", "cwd": "a/b"}, "no full path"),
    "no plain path": ("workspace_add", {"id": "x", "cwd": "/a/../b"}, "no full path"),
    "two lines": ("workspace_add", {"id": "x", "cwd": "/a\nb"}, "printable line"),
    "another's directory": ("workspace_add", {"id": "x", "cwd": "/home/lead"}, "workspace lead"),
    "another's user": ("workspace_add", {"id": "x", "uid": 12345}, "workspace coder"),
    "root": ("workspace_add", {"id": "x", "uid": 0}, "root has all"),
    "a uid that is none": ("workspace_add", {"id": "x", "uid": True}, "a number from 1"),
    "no token": ("token_add", {"workspace": "lead", "sha256": "ab"}, "64 digits"),
    "no digits": ("token_add", {"workspace": "lead", "sha256": "Z" * 64}, "64 digits"),
    "a token in two lines": (
        "token_add",
        {"workspace": "lead", "sha256": "ab" * 32, "label": "a\nb"},
        "printable line",
    ),
    "nobody's token": ("token_add", {"workspace": "who", "sha256": "ab" * 32}, "isn't registered"),
    "too few digits": ("token_revoke", {"prefix": "abc"}, "at least 8 digits"),
    "no such token": ("token_revoke", {"prefix": "abcdef01"}, "palace token list"),
    "a uid that is a text": ("workspace_add", {"id": "x", "uid": "1000"}, "a number from 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_is_refused_and_changes_nothing(owner: Owner, name: str) -> None:
    tool, arguments, expected = REFUSED[name]
    before, seq = owner.life.contents, owner.life.journal.seq

    assert expected in text_of(owner.ask(tool, **arguments))
    assert owner.life.contents == before
    assert owner.life.journal.seq == seq


def test_the_palaces_owner_is_no_workspace(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)

    assert "palace's owner" in text_of(owner.add("x", uid=4711))


def test_a_removed_ones_name_is_not_given_away(owner: Owner) -> None:
    owner.ask("workspace_remove", id="coder")

    assert "palace purge workspace:coder" in text_of(owner.add("coder", "lead"))
    assert "was removed" in text_of(owner.add("x", "coder"))
    assert "was removed" in text_of(owner.ask("workspace_remove", id="coder"))
    assert owner.add("x", "lead", uid=12345)["workspace"]["uid"] == 12345


def test_a_tree_is_no_deeper_than_rights_reach(owner: Owner) -> None:
    owner.add("w0")
    for depth in range(1, HOPS_MAX + 1):
        assert "workspace" in owner.add(f"w{depth}", f"w{depth - 1}")

    assert "deep" in text_of(owner.add("deeper", f"w{HOPS_MAX}"))
    assert "deep" in text_of(owner.ask("workspace_move", id="w0", parent="lead"))
    assert owner.ask("workspace_move", id=f"w{HOPS_MAX}", parent="coder")["workspace"]


def test_there_are_no_more_of_them_than_fit(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_tools, "WORKSPACES_MAX", 3)
    owner.add("third")

    assert "as many as it takes" in text_of(owner.add("fourth"))


def test_a_session_that_may_only_read_lists_them(owner: Owner) -> None:
    assert len(owner.ask("workspace_list", read_only=True)["workspaces"]) == 2
    problem = owner.ask("workspace_add", read_only=True, id="x")

    assert problem["data"]["palace"] == "forbidden"
    assert "x" not in owner.parents


def test_a_register_that_can_not_be_written_says_so_and_keeps_nothing(owner: Owner) -> None:
    before = owner.life.contents
    path = owner.life.register.path
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON workspace BEGIN "
            "SELECT RAISE(ABORT, 'the disk is odd'); END"
        )
        connection.commit()

    with pytest.raises(JournalFailed, match=r"Nothing was changed.*ask again"):
        owner.add("x", "lead")

    assert owner.life.contents == before
    assert "x" not in owner.parents
    owner.life.check()


asked = st.tuples(
    st.sampled_from(["workspace_add", "workspace_move", "workspace_remove"]),
    st.sampled_from("abcde"),
    st.sampled_from(["", *"abcde"]),
)


@given(st.lists(asked, max_size=25))
@settings(max_examples=25, deadline=None)
def test_no_order_of_requests_makes_a_cycle_or_gives_a_name_away(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[str, str, str]]
) -> None:
    root = tmp_path_factory.mktemp("orders") / "palace"
    owner = Owner(awake(Disk(), root))
    removed: set[str] = set()
    for tool, ident, parent in wanted:
        before = owner.parents
        told = owner.ask(tool, id=ident, parent=parent)
        if "data" in told:
            assert owner.parents == before
            continue
        assert ident not in removed
        if tool == "workspace_remove":
            removed.add(ident)
        tree = owner.life.register.tree()
        for one in tree.workspaces.values():
            assert tree.workspaces[tree.chain(one.id)[-1]].parent == "", "a chain ends at a root"
    assert {row["id"] for row in owner.life.register.rows(WORKSPACE).values()} == {
        f"workspace:{ident}" for ident in owner.parents
    }


def test_what_a_workspace_runs_as_is_kept_and_only_grows(owner: Owner) -> None:
    made = owner.add("agent", "lead", cwd="/home/agent", runtimes=["codex", "pi", "codex"])
    assert made["workspace"]["runtimes"] == ["codex", "pi"]
    more = owner.ask("workspace_runtimes", id="agent", runtimes=["pi", "claude-code"])
    assert more["workspace"]["runtimes"] == ["codex", "pi", "claude-code"]
    assert owner.life.register.tree().workspaces["agent"].runtimes == ("codex", "pi", "claude-code")
    owner.life.check()


@pytest.mark.parametrize(
    ("runtimes", "why"),
    [
        (["-c"], "can't be a workspace's id"),
        (["Codex"], "can't be a workspace's id"),
        ([7], "can't be a workspace's id"),
        ("codex", "a list"),
        ([f"r{n}" for n in range(33)], "a list"),
    ],
)
def test_what_can_be_no_runtime_is_refused(owner: Owner, runtimes: Any, why: str) -> None:
    before = owner.life.register.tree().workspaces

    assert why in text_of(owner.add("agent", cwd="/home/agent", runtimes=runtimes))
    assert why in text_of(owner.ask("workspace_runtimes", id="lead", runtimes=runtimes))
    assert owner.life.register.tree().workspaces == before


def test_who_runs_something_needs_a_place_for_it(owner: Owner) -> None:
    assert "--cwd DIR" in text_of(owner.add("agent", runtimes=["codex"]))
    assert "--cwd DIR" in text_of(owner.ask("workspace_runtimes", id="coder", runtimes=["codex"]))
