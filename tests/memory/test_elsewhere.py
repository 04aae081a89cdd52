"""What the gate does of namespaces that another store holds, and of copies that were left here."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from palace.engine.durability.spaces import RegisteredSpaces
from palace.memory import confined
from palace.memory.asked import Commit
from palace.memory.gate import Gate, Wanted
from palace.memory.held import HeldStore
from palace.memory.memory import Memory, metadata_of
from palace.memory.moving import Moving
from palace.memory.operations import Operations
from palace.plugin.client import Client
from palace.plugin.elsewhere import Elsewhere
from palace.plugin.wire import Wire
from palace.protocol.errors import InvalidMemory
from palace.protocol.plugin_address import address_in
from palace.protocol.policy import OFF, Policy
from palace.protocol.principals import Principal
from palace.protocol.request import tool_call
from tests.support.stores.team import Team


@attrs.define
class There:
    """Teams' memories in another store, under the ids that they have here."""

    memories: dict[str, Memory] = attrs.field(factory=dict)
    names: dict[str, str] = attrs.field(factory=dict)  # ids there, by those here

    def holds(self, namespace: str) -> bool:
        return namespace.startswith("team:")

    def id_of(self, ident: str) -> str:
        return self.names.get(ident, ident)

    def commit(self, memory: Memory) -> Memory:
        self.memories[memory.id] = memory
        return memory

    def search(self, _wanted: Wanted, namespaces: Sequence[str]) -> list[Memory]:
        return [one for one in self.memories.values() if one.namespace in namespaces]

    def forget(self, ident: str, namespaces: Sequence[str]) -> str:
        found = self.memories.get(ident)
        if found is None or found.namespace not in namespaces:
            return ""
        return self.memories.pop(ident).namespace


def gate_of(office: Team, there: There | None, who: str = "coder") -> Gate:
    """Return a gate on what is stored in the office; what it changes is not journalled."""
    return Gate(
        tree=office.register.tree(),
        principal=Principal(who, confined=True),
        store=office.shelf,
        audit=lambda _decree: None,
        new_id=lambda: "new",
        now_s=office.now[0],
        at="2030-01-01T00:00:00Z",
        elsewhere=there,
    )


def left(office: Team) -> Memory:
    stored = office.commit("coder", "as it was", namespace="team:lead", id="mem-a")
    found = office.shelf.get(stored["id"])
    assert found is not None
    return found


@pytest.mark.parametrize("has_it", [True, False], ids=["there", "forgotten there"])
def test_a_copy_that_was_left_here_is_not_there(office: Team, has_it: bool) -> None:

    copy, there = left(office), There()
    if has_it:
        there.commit(attrs.evolve(copy, content="as it is"))

    def asked(name: str, **arguments: Any) -> Any:
        return confined.answer(gate_of(office, there), name, {"drawer_id": copy.id, **arguments})

    for name, more in (("get_drawer", {}), ("update_drawer", {"room": "fact"})):
        told = asked(f"mempalace_{name}", **more)
        assert told["error"].startswith("Drawer not found: mem-a. What team:lead holds is at")
    assert office.shelf.get(copy.id) == copy, "nothing was changed"

    with office.groups.group("s1:99", non_atomic=False):
        told = asked("mempalace_delete_drawer")
        assert told["success"] is has_it
    assert there.memories == {}
    is_back = confined.answer(gate_of(office, None), "mempalace_get_drawer", {"drawer_id": copy.id})
    assert ("error" in is_back) is has_it, "going back shows what was not forgotten"


def test_forgetting_by_any_tool_asks_where_it_is(office: Team) -> None:
    copy, there = left(office), There()
    there.commit(copy)
    with office.groups.group("s1:99", non_atomic=False):
        told = gate_of(office, there).forget({"id": copy.id})
        assert (told["namespace"], told["forgotten"]) == ("team:lead", True)
        with pytest.raises(InvalidMemory, match="there is no memory"):
            gate_of(office, there).forget({"id": copy.id})
    assert there.memories == {}
    assert office.shelf.get(copy.id) is None


def test_forgetting_by_its_id_there_takes_the_copy_that_was_left_here(office: Team) -> None:
    copy, there = left(office), There(names={"mem-a": "mem-b"})
    kept = office.commit("coder", "another", namespace="team:lead", id="mem-c")["id"]
    there.commit(attrs.evolve(copy, id="mem-b"))
    with office.groups.group("s1:99", non_atomic=False):
        told = gate_of(office, there).forget({"id": "mem-b", "namespace": "team:lead"})
        assert (told["namespace"], told["forgotten"]) == ("team:lead", True)
    assert there.memories == {}
    assert office.shelf.get(copy.id) is None, "going back would show it"
    assert office.shelf.get(kept) is not None


def test_forgetting_by_the_contract_asks_where_it_is(office: Team) -> None:
    copy, there = left(office), There()

    def forgotten() -> Any:
        own = office.own
        operations = Operations(
            gate=gate_of(office, there),
            spaces=RegisteredSpaces(register=own.register, groups=own.groups, at="x"),
            new_id=str,
            new_life=str,
        )
        given = {"id": "a", "body": {"requested_by_namespace": "team:lead"}}
        return operations.answer("palace_v1_forget", given)["status"]

    with office.groups.group("s1:99", non_atomic=False):
        assert forgotten() == 404
        assert office.shelf.get(copy.id) == copy, "the copy is not what was asked for"
        there.commit(copy)
        assert forgotten() == 204
    assert there.memories == {}


# What became of a memory between two holds of the store.


def held(office: Team) -> HeldStore:
    params = {"name": "mempalace_update_drawer", "arguments": {}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return HeldStore(store=office.shelf, call=tool_call(asked))


@pytest.mark.parametrize("meanwhile", ["forgotten", "changed", "moved"])
def test_what_became_of_a_memory_meanwhile_is_not_undone(office: Team, meanwhile: str) -> None:
    stored = office.commit("coder", "first", id="mem-b")
    old = office.shelf.get(stored["id"])
    assert old is not None
    now = None
    if meanwhile == "forgotten":
        office.ask("coder", "forget_memory", id=old.id)
    else:
        is_moved = meanwhile == "moved"
        now = attrs.evolve(old, namespace="team:other" if is_moved else old.namespace, content="x")
        with office.groups.group("s1:98", non_atomic=False):
            office.shelf.put(now, old)

    with office.groups.group("s1:99", non_atomic=False):
        with pytest.raises(InvalidMemory, match="meanwhile"):
            held(office).put(attrs.evolve(old, kind="fact"), old)
        if meanwhile == "moved":
            with pytest.raises(InvalidMemory, match="meanwhile"):
                held(office).put(old, None)
    assert office.shelf.get(old.id) == now


def test_an_update_replaces_what_it_was_shown_and_nothing_else(office: Team) -> None:
    """The gate's two steps of it: what was forgotten between them stays forgotten."""
    office.commit("coder", "first", id="mem-b")
    gate = attrs.evolve(gate_of(office, There()), store=held(office))
    found = gate.fetch("mem-b")
    assert found is not None
    office.ask("coder", "forget_memory", id="mem-b")
    with office.groups.group("s1:99", non_atomic=False), pytest.raises(InvalidMemory):
        gate.put(Commit(content="again", namespace=found.namespace, id="mem-b"), instead=found)
    assert office.shelf.get("mem-b") is None


def test_stocks_own_tools_show_no_copy_that_was_left_here(office: Team) -> None:
    copy = left(office)
    client = Client(called="it", wire=Wire(address=address_in("http://127.0.0.1:9")))
    row = (copy.id, copy.content, metadata_of(copy))
    assert office.own.marked_row(*row) is not None
    for kind, is_shown in (("team", False), ("org", True)):
        own = attrs.evolve(office.own, elsewhere=Elsewhere(client=client, kinds=[kind]))
        assert (own.marked_row(*row) is not None) is is_shown


def test_what_was_stored_with_its_secrets_leaves_the_palace_without_them(office: Team) -> None:
    """Stored where the owner had switched that off: exported, or copied to a server."""
    secret = "ghp_" + "a1B2c3D4e5F6" * 3
    office.own = attrs.evolve(office.own, policy=Policy(redact=OFF))
    stored = office.commit("coder", f"use {secret}", namespace="team:lead")
    there = There()
    moving = Moving(gate=gate_of(office, None), server=there)

    page: Any = moving.page({"namespace": "team:lead"})
    [row] = page["memories"]
    assert (row["id"], row["content"]) == (stored["id"], "use [REDACTED:github-token]")
    assert moving.copy({"namespace": "team:lead"})["done"] == 1
    assert [one.content for one in there.memories.values()] == ["use [REDACTED:github-token]"]
    assert moving.copy({"namespace": "team:lead", "verify": True})["problems"] == []
