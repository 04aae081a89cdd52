"""Custom namespaces, those that end, what is over and swept, and the owner's settings."""

from typing import Any

import attrs
import pytest

from palace.engine.durability.own_tools import SWEPT_MAX
from palace.protocol.errors import Forbidden, InvalidMemory, WorkspaceRefused
from palace.protocol.policy import Policy
from tests.support.disks.memory import Stopped
from tests.support.stores.team import Team

FORBIDDEN, INVALID, REFUSED = (
    kind.wire_code for kind in (Forbidden, InvalidMemory, WorkspaceRefused)
)
DESIGN = "custom:design"
SECRET = "ghp_" + "a1B2c3D4e5F6" * 3


def code(reply: Any) -> int:
    return int(reply["code"])


def share(office: Team, *members: str, name: str = DESIGN) -> Any:
    return office.ask("", "namespace_add", name=name, members=list(members))


def names(office: Team, who: str, kind: str = "writable") -> list[str]:
    told = office.ask(who, f"list_{kind}_namespaces")
    return [one["name"] for one in told["namespaces"]]


def test_members_read_and_write_it_and_nobody_else(office: Team) -> None:
    assert share(office, "coder", "other")["namespace"]["members"] == ["coder", "other"]
    ident = office.commit("coder", "a blue button", namespace=DESIGN)["id"]

    [found] = office.found("other")
    assert found["content"] == f"[MEMORY id={ident} scope=CUSTOM ns={DESIGN}]: a blue button"
    assert office.found("tester") == office.found("lead") == []
    assert code(office.commit("lead", "x", namespace=DESIGN)) == FORBIDDEN
    assert names(office, "other") == ["workspace:other", "team:other", "org:other", DESIGN]
    assert names(office, "coder") == ["workspace:coder", "team:lead", DESIGN]
    assert office.ask("", "workspace_audit")["audit"] == [], "nothing was decreed"
    assert office.basic("other", "add_drawer", wing="design", content="red")["wing"] == DESIGN


def test_whom_it_is_for_counts_from_the_next_call_on(office: Team) -> None:
    share(office, "coder", "other")
    office.commit("coder", "kept", namespace=DESIGN)
    assert [one["name"] for one in office.ask("", "namespace_list")["namespaces"]] == [DESIGN]
    share(office, "tester")

    assert office.found("other") == office.found("coder") == []
    assert [one["content"][-4:] for one in office.found("tester")] == ["kept"]
    assert "removed" in office.ask("", "namespace_remove", name=DESIGN)
    assert office.found("tester") == []
    assert [one["content"][-4:] for one in office.found("")] == ["kept"], "the owner still has it"
    assert names(office.heir(), "tester") == ["workspace:tester", "team:lead"]


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "a team": ("add", {"name": "team:lead", "members": ["lead"]}),
    "a path": ("add", {"name": "custom:../x", "members": ["lead"]}),
    "no name": ("add", {"members": ["lead"]}),
    "nobody": ("add", {"name": DESIGN, "members": []}),
    "a text": ("add", {"name": DESIGN, "members": "lead"}),
    "a stranger": ("add", {"name": DESIGN, "members": ["lead", "nobody"]}),
    "one that was removed": ("add", {"name": DESIGN, "members": ["gone"]}),
    "too many": ("add", {"name": DESIGN, "members": ["lead"] * 101}),
    "what isn't there": ("remove", {"name": DESIGN}),
    "an organisation": ("remove", {"name": "org:lead"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_changed(office: Team, name: str) -> None:
    office.add("gone")
    office.ask("", "workspace_remove", id="gone")
    seq, (what, arguments) = office.journal.seq, WRONG[name]

    assert code(office.ask("", f"namespace_{what}", **arguments)) == REFUSED
    assert office.journal.seq == seq


NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "a namespace": ("namespace_add", {"name": f"custom:{SECRET}", "members": ["lead"]}),
    "a workspace's directory": ("workspace_add", {"id": "new", "cwd": f"/srv/{SECRET}"}),
    "a token's label": ("token_add", {"workspace": "lead", "sha256": "a" * 64, "label": SECRET}),
}


@pytest.mark.parametrize("what", NAMED)
def test_a_name_that_holds_a_secret_is_refused_and_not_repeated(office: Team, what: str) -> None:
    tool, arguments = NAMED[what]
    told = office.ask("", tool, **arguments)

    assert code(told) == REFUSED
    assert SECRET not in str(told)


def test_a_namesake_is_a_member_of_nothing(office: Team) -> None:
    share(office, "coder", "other")
    office.ask("", "workspace_remove", id="coder")
    row = office.register.rows("palace:workspace")
    assert row["workspace:coder"]["status"] == "removed"
    with office.groups.group("purge:1", non_atomic=False) as group:
        office.register.put(office.groups, "palace:workspace", "workspace:coder", None)
    office.groups.commit(group, "")
    office.add("coder")

    assert DESIGN not in names(office, "coder", "readable")
    assert DESIGN in names(office, "other", "readable")


# What ends.


def test_a_purge_forgets_what_one_had_for_itself_and_nothing_else(office: Team) -> None:
    for namespace in ("workspace:coder", "team:lead"):
        office.commit("coder", f"in {namespace}", namespace=namespace)
    office.commit("lead", "in org:lead", namespace="org:lead")
    office.commit("tester", "the tester's")
    office.ask("", "workspace_remove", id="coder", purge=True)
    assert "in workspace:coder" not in str(office.found("tester"))
    assert code(office.ask("", "workspace_add", id="coder")) == REFUSED

    assert office.ask("", "sweep") == {"forgotten": 1}
    assert office.ask("", "sweep") == {"forgotten": 0}
    kept = {one["content"] for one in office.memories.values()}
    assert kept == {"in team:lead", "in org:lead", "the tester's"}
    assert office.ask("", "namespace_list")["namespaces"] == []
    assert len(office.audits) == 1


def test_a_namespace_that_ends_is_nobodys_at_once(office: Team) -> None:
    share(office, "coder", "other")
    for n in range(SWEPT_MAX + 5):
        office.commit("coder", f"note {n}", namespace=DESIGN)
    office.ask("", "namespace_remove", name=DESIGN, purge=True)

    for who in ("coder", ""):
        assert code(office.commit(who, "late", namespace=DESIGN)) == FORBIDDEN
    assert office.found("coder") == []
    for refused in (share(office, "coder"), office.ask("", "namespace_remove", name=DESIGN)):
        assert code(refused) == REFUSED
    assert "being forgotten" in refused["message"]
    swept = [office.ask("", "sweep")["forgotten"] for _ in range(3)]
    assert swept == [SWEPT_MAX, 5, 0]
    assert office.memories == {}
    assert "namespace" in share(office, "coder")


def test_a_death_anywhere_leaves_the_rest_to_the_next_sweep(office: Team) -> None:
    """N5: none of its memories is left, or it is carried on; and none is seen meanwhile."""
    share(office, "coder")
    for n in range(3):
        office.commit("coder", f"note {n}", namespace=DESIGN)
    office.commit("coder", "mine")
    calls = died = 0
    while True:
        calls += 1
        office.disk.stop_after(calls)
        try:
            office.ask("", "namespace_remove", name=DESIGN, purge=True)
            while office.ask("", "sweep")["forgotten"]:
                pass
        except Stopped:
            died += 1
            office = office.heir()
            ends = [one.ends for one in office.register.namespaces()]
            seen = [one["content"] for one in office.found("coder")]
            assert ("mine" in seen, len(seen)) == (True, 1 if True in ends or not ends else 4)
            continue
        break

    assert died > 5
    assert [one["content"] for one in office.memories.values()] == ["mine"]


def test_what_is_over_goes_and_what_was_decreed_is_audited(office: Team) -> None:
    office.ask("lead", "commit_summary", content="short", namespace="org:lead", ttl_s=5)
    office.ask("coder", "commit_summary", content="long", ttl_s=500)
    assert office.ask("", "sweep") == {"forgotten": 0}
    office.now[0] += 5
    assert office.ask("", "sweep") == {"forgotten": 1}

    assert [one["content"] for one in office.memories.values()] == ["long"]
    assert [(row["action"], row["workspace"]) for row in office.audits] == [
        ("commit", "lead"),
        ("end", ""),
    ]


# What the owner settles.


def under(office: Team, **policy: str) -> Team:
    office.own = attrs.evolve(office.own, policy=Policy(**policy))
    return office


def test_redaction_is_off_where_the_owner_says_so(office: Team) -> None:
    told = under(office, redact="off").commit("coder", f"use {SECRET}")

    assert not told["redacted"]
    assert office.found("coder")[0]["content"] == f"use {SECRET}"


def test_what_is_decreed_is_marked_whatever_the_owner_says(office: Team) -> None:
    under(office, wrap="org")
    office.commit("coder", "ours", namespace="team:lead")
    office.commit("lead", "decreed", namespace="org:lead", id="mem-d")

    assert {one["content"] for one in office.found("tester")} == {
        "ours",
        "[MEMORY id=mem-d scope=ORG ns=org:lead]: decreed",
    }


def test_how_a_memory_spreads_comes_back_as_it_came(office: Team) -> None:
    told = {"to": ["team"], "depth": 2, "why": "caf\u00e9"}
    office.commit("coder", "x", propagation=told)

    assert office.found("coder")[0]["propagation"] == told
    for wrong in ("team", ["team"], {"a": "x" * 4096}, {"token": SECRET}):
        assert code(office.commit("coder", "x", propagation=wrong)) == INVALID
    office.commit("coder", "y")
    assert sum("propagation" in one for one in office.found("coder")) == 1
