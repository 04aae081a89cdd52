"""The memory contract's operations at the gate: whose namespaces they are, and when they end."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from palace.protocol.principals import Principal, plugin_with, refusal_of
from palace.protocol.resolver import Tree, is_there
from palace.protocol.tools import CONTRACT_TOOLS
from palace.protocol.workspaces import Namespace, called, checked_namespace
from tests.support.disks.memory import Stopped
from tests.support.stores.team import Team, team

PLUGIN = plugin_with("")
CODER = Principal("coder", confined=True)
SECRET = "ghp_" + "a1B2c3D4e5F6" * 3
UUID = "0b0c4d1e-8f3a-4c55-9d2e-5a6b7c8d9e0f"


def ask(office: Team, who: Principal, tool: str, /, **arguments: Any) -> tuple[int, Any]:
    told = office.ask(who, f"v1_{tool}", **arguments)
    return told["status"], told.get("body")


def put(office: Team, name: str, **more: Any) -> int:
    kind = name.partition(":")[0]
    body = {"kind": kind if kind in ("workspace", "team", "org") else "custom"} | more
    return ask(office, PLUGIN, "put_namespace", name=name, body=body)[0]


def commit(office: Team, name: str, content: str, who: Principal = PLUGIN, **more: Any) -> Any:
    body = {"content": content, "kind": "fact", "source": "agent"} | more
    return ask(office, who, "commit", name=name, body=body)


def found(office: Team, *names: str, who: Principal = PLUGIN) -> list[str]:
    status, body = ask(office, who, "search", body={"namespaces": list(names)})
    assert status == 200
    return [one["content"] for one in body["memories"]]


def after(office: Team, seconds: float) -> str:
    return (datetime.fromtimestamp(office.now[0], UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_plugins_namespace_is_none_of_the_trees_of_that_name(office: Team) -> None:
    office.commit("coder", "the agents'", namespace="team:lead")
    assert found(office, "team:lead") == []
    assert commit(office, "team:lead", "x")[0] == 404
    assert put(office, "team:lead") == 200
    assert commit(office, "team:lead", "the plugin's")[0] == 201

    status, body = commit(office, "team:lead", "another")
    assert (status, uuid.UUID(body["id"]).version) == (201, 4)
    assert sorted(found(office, "team:lead")) == ["another", "the plugin's"]
    assert [one["content"].partition("]: ")[2] for one in office.found("coder")] == ["the agents'"]
    shown = next(one for one in office.found("") if "plugin" in one["namespace"])
    assert shown["content"].startswith(f"[MEMORY id={shown['id']} scope=PLUGIN ns=plugin:")
    assert found(office, shown["namespace"], who=CODER) == []
    assert commit(office, shown["namespace"], "x", CODER)[0] == 403


def test_a_later_namespace_of_a_name_has_nothing_of_an_earlier_one(office: Team) -> None:
    lives = set()
    for ends in ("by itself", "by deletion"):
        put(office, "custom:x", expires_at=after(office, 10))
        commit(office, "custom:x", ends)
        lives |= {one["namespace"] for one in office.memories.values()}
        if ends == "by itself":
            office.now[0] += 10
        else:
            assert ask(office, PLUGIN, "delete_namespace", name="custom:x") == (204, None)
        assert found(office, "custom:x") == []
        assert office.found("") == [], "nor does the owner see what is over"
    put(office, "custom:x")

    assert len(lives) == 2
    assert found(office, "custom:x") == []
    assert office.ask("", "sweep")["forgotten"] == 2
    assert office.ask("", "sweep")["forgotten"] == 0
    assert office.memories == {}
    [kept] = office.ask("", "namespace_list")["namespaces"]
    assert called(kept["name"]) == "custom:x"


def test_a_name_is_the_clients_own_word_and_leads_nowhere(office: Team) -> None:
    longest = "a" + ":" + "b" * 254
    for name in ("a:..", "workspace:...x", "plugin:deadbeef:org:x", longest):
        assert put(office, name) == 200, name
        assert commit(office, name, name)[0] == 201
    for name in ("a:..", "plugin:deadbeef:org:x", longest):
        assert found(office, name) == [name]
    stored = {one["namespace"] for one in office.memories.values()}
    assert {checked_namespace(name) for name in stored} == stored


def test_what_is_stored_has_no_secret_and_what_is_decreed_is_audited(office: Team) -> None:
    put(office, "org:theirs")
    status, body = commit(office, "org:theirs", f"use {SECRET}", id=UUID)
    assert (status, body) == (201, {"id": UUID, "namespace": "org:theirs"})
    refused = commit(office, "org:theirs", "x", propagation={"k": SECRET})
    named = ask(
        office, PLUGIN, "put_namespace", name="a:b", body={"kind": "org", "metadata": {"k": SECRET}}
    )

    assert found(office, "org:theirs") == ["use [REDACTED:github-token]"]
    assert (refused[0], named[0]) == (400, 400)
    assert SECRET not in repr(refused) + repr(named)
    [decree] = office.audits
    assert (decree["memory_id"], decree["action"]) == (f"mem-{UUID}", "commit")
    assert called(decree["namespace"]) == "org:theirs"


def test_what_a_workspace_may_not_change_is_refused(office: Team) -> None:
    for tool, more in (
        ("put_namespace", {"body": {"kind": "team"}}),
        ("patch_namespace", {"body": {"metadata": {}}}),
        ("delete_namespace", {}),
    ):
        assert ask(office, CODER, tool, name="team:lead", **more)[0] == 403
    assert commit(office, "org:lead", "x", CODER)[0] == 403
    assert commit(office, "team:lead", "x", CODER)[0] == 201
    assert office.ask("", "namespace_list")["namespaces"] == []


def test_a_death_in_the_middle_leaves_all_or_nothing(tmp_path: Path) -> None:
    """An owner that dies at any of the kernel's calls: what was answered is there, and no half."""
    died = 0
    for step in range(200):
        office, told = team(tmp_path / f"p{step}"), []
        office.disk.stop_after(step)
        try:
            told.append(put(office, "org:x"))
            told.append(commit(office, "org:x", "kept", id=UUID)[0])
        except Stopped:
            died += 1
        heir = office.heir()
        there = found(heir, "org:x")
        assert there == ["kept"] if 201 in told else there in ([], ["kept"])
        assert len(heir.audits) == len(there)
        put(heir, "org:x")
        assert commit(heir, "org:x", "again", id=UUID)[0] == 201
        assert found(heir, "org:x") == ["again"]
        if 201 in told:
            break
    assert died > 3


def test_a_plugin_is_confined_to_the_contract() -> None:
    shown = plugin_with("a" * 64)
    tree = Tree(plugins=frozenset({"a" * 64}))
    for tool in CONTRACT_TOOLS:
        assert refusal_of(tree, shown, tool) == ""
        assert "revoked" in refusal_of(Tree(), shown, tool)
    for tool in ("mempalace_search", "palace_search_memory", "palace_workspace_add"):
        assert "no operation" in refusal_of(tree, shown, tool)


@pytest.mark.parametrize(("at", "there"), [(9.0, True), (10.0, False)])
def test_a_namespace_is_over_at_its_instant(at: float, *, there: bool) -> None:
    space = Namespace(name="plugin:deadbeef:a:b", until=10.0)
    tree = Tree(spaces={"a:b": space})

    assert is_there(tree, space.name, at) is there
    assert not is_there(tree, "plugin:deadbee0:a:b", 1.0)
    assert is_there(tree, "team:gone", at), "the tree's own have no end"
