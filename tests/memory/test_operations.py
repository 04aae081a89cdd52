"""The memory contract's operations at the gate: whose namespaces they are, and when they end."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from palace.engine.durability import namespaces
from palace.engine.durability.own_tools import SWEPT_MAX
from palace.memory.memory import metadata_of
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


def test_neither_a_kind_nor_a_name_may_be_a_secret(office: Team) -> None:
    """Both are kept as they are, so that nothing would take it out."""
    put(office, "custom:x")
    kind = "sk-proj-" + "a1b2c3d4e5f6" * 2
    secret = f"custom:{SECRET}"
    named = ask(office, PLUGIN, "put_namespace", name=secret, body={"kind": "custom"})
    refused = [commit(office, "custom:x", "x", kind=kind), named]
    lacking = ask(office, PLUGIN, "delete_namespace", name=secret)

    assert [status for status, _ in refused] == [400, 400]
    assert lacking[0] == 404
    assert SECRET not in repr([*refused, lacking])
    assert office.memories == {}
    assert len(office.ask("", "namespace_list")["namespaces"]) == 1


@pytest.mark.parametrize(
    ("token", "who"), [("", "plugin"), ("0123456789abcdef", "plugin:0123456789ab")]
)
def test_what_a_plugin_does_is_recorded_as_its_own(office: Team, token: str, who: str) -> None:
    plugin = plugin_with(token)
    ask(office, plugin, "put_namespace", name="org:theirs", body={"kind": "org"})
    ident = commit(office, "org:theirs", "x", plugin)[1]["id"]
    stored = office.shelf.get(f"mem-{ident}")

    assert stored is not None
    assert metadata_of(stored)["added_by"] == stored.by == who
    ask(office, plugin, "forget", id=ident, body={"requested_by_namespace": "org:theirs"})
    decreed = office.ask("", "workspace_audit")["audit"]
    assert [(one["action"], one["workspace"]) for one in decreed] == [
        ("commit", who),
        ("forget", who),
    ]


ENDS = ["deleted", "ended", "expired", "purged"]


@pytest.mark.parametrize("how", ENDS)
def test_what_is_over_keeps_no_id(office: Team, how: str) -> None:
    past, ident = after(office, 5), f"mem-{UUID}"
    if how == "purged":
        office.ask("", "namespace_add", name="custom:old", members=["coder"])
        office.commit("coder", "old", namespace="custom:old", id=ident)
        office.ask("", "namespace_remove", name="custom:old", purge=True)
    else:
        put(office, "org:old", **({"expires_at": past} if how == "ended" else {}))
        more: dict[str, Any] = {"expires_at": past} if how == "expired" else {}
        assert commit(office, "org:old", "old", id=UUID, **more)[0] == 201
        put(office, "custom:new")
        assert commit(office, "custom:new", "new", id=UUID)[0] == 403, "while it is there"
    if how == "deleted":
        ask(office, PLUGIN, "delete_namespace", name="org:old")
    office.now[0] += 5
    put(office, "custom:new")

    assert office.found("") == []
    assert commit(office, "custom:new", "new", id=UUID) == (
        201,
        {"id": UUID, "namespace": "custom:new"},
    )
    assert found(office, "custom:new") == ["new"]
    assert [one["content"] for one in office.memories.values()] == ["new"]
    said = [(one["action"], one["workspace"]) for one in office.audits]
    assert sorted(said) == ([] if how == "purged" else [("commit", "plugin"), ("end", "")])


def test_what_is_deleted_takes_nobodys_place_in_what_the_owner_finds(office: Team) -> None:
    office.commit("coder", "kept")
    for name, more in (("custom:x", {}), ("custom:y", {"expires_at": after(office, 9)})):
        put(office, name, **more)
        for number in range(3):
            office.now[0] += 1
            commit(office, name, f"note {number}")
    ask(office, PLUGIN, "delete_namespace", name="custom:x")
    office.now[0] += 9

    assert [one["content"][-4:] for one in office.found("", limit=1)] == ["kept"]


def test_many_namespaces_end_in_parts(office: Team) -> None:
    for number in range(SWEPT_MAX + 3):
        put(office, f"custom:n{number}")
    commit(office, f"custom:n{SWEPT_MAX + 1}", "x")
    for number in range(SWEPT_MAX + 3):
        ask(office, PLUGIN, "delete_namespace", name=f"custom:n{number}")
    left, said = [], []
    for _ in range(5):
        said.append(office.ask("", "sweep"))
        left.append(len(office.register.namespaces()))

    assert sum(one["forgotten"] for one in said) == 1
    assert 3 in left, "no more than that many end in one turn"
    assert all(
        one.get("more") or one["forgotten"] for one, many in zip(said, left, strict=True) if many
    )
    assert left[-1] == 0
    assert said[-1] == {"forgotten": 0}
    assert office.memories == {}


def test_the_owner_removes_a_plugins_namespace_with_what_is_in_it(office: Team) -> None:
    put(office, "custom:x")
    commit(office, "custom:x", "x")
    [name] = {one["namespace"] for one in office.memories.values()}
    stays = office.ask("", "namespace_remove", name=name)
    assert "--purge" in stays["message"]
    assert found(office, "custom:x") == ["x"]

    assert office.ask("", "namespace_remove", name=name, purge=True) == {"removed": name}
    assert found(office, "custom:x") == []
    assert office.ask("", "sweep") == {"forgotten": 1}
    assert office.ask("", "sweep") == {"forgotten": 0}
    for gone in (name, "plugin:deadbeef:custom:x"):
        told = office.ask("", "namespace_remove", name=gone, purge=True)
        assert "There is no" in told["message"]
    made = office.ask("", "namespace_add", name=name, members=["coder"])
    assert "Only custom:NAME" in made["message"]


def test_what_plugins_make_leaves_room_for_custom_ones(
    office: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces, "CUSTOMS_MAX", 2)
    for number in range(3):
        put(office, f"custom:n{number}")
    added = [
        office.ask("", "namespace_add", name=f"custom:n{number}", members=["coder"])
        for number in range(3)
    ]

    assert ["namespace" in one for one in added] == [True, True, False]
