"""Whom a session acts as, and what that forbids."""

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.principals import (
    OWNER,
    Principal,
    Whence,
    is_confined,
    principal_of,
    proven,
    refusal_of,
)
from palace.protocol.resolver import Tree
from palace.protocol.rights import GUEST, OVER_HTTP, Peer, Who
from palace.protocol.tools import BASIC_TOOLS, OWN_TOOLS, OWNER_TOOLS, TOOLS
from palace.protocol.workspaces import Workspace, digest_of

NEIGHBOUR = Peer(who=Who.OWNER, pid=7, uid=1000)
MAPPED = Peer(who=Who.ALLOWED, pid=8, uid=2000)


def tree_of(*workspaces: Workspace) -> Tree:
    return Tree({workspace.id: workspace for workspace in workspaces})


TREE = tree_of(
    Workspace(id="lead", cwd="/src"),
    Workspace(id="coder", parent="lead", cwd="/src/app"),
    Workspace(id="locked", parent="lead", cwd="/locked", confined=True),
    Workspace(id="other", parent="lead", uid=2000, cwd="/other"),
    Workspace(id="gone", parent="lead", uid=3000, cwd="/gone", removed=True),
)


@pytest.mark.parametrize(
    ("cwd", "expected"),
    [
        ("/src", "lead"),
        ("/src/app", "coder"),
        ("/src/app/deep/er", "coder"),
        ("/src/apparent", "lead"),
        ("/srcs", ""),
        ("/", ""),
        ("", ""),
        ("src/app", ""),
        ("/gone/x", ""),
    ],
)
def test_an_agent_of_the_owners_is_the_workspace_in_which_it_was_started(
    cwd: str, expected: str
) -> None:
    assert principal_of(TREE, Whence(peer=NEIGHBOUR, cwd=cwd)) == Principal(expected)


def test_a_root_directory_is_around_all() -> None:
    tree = tree_of(Workspace(id="all", cwd="/"))

    assert principal_of(tree, Whence(peer=NEIGHBOUR, cwd="/a")) == Principal("all")


@pytest.mark.parametrize(
    ("said", "expected"), [("lead", "lead"), ("", ""), ("gone", "gone"), ("nobody", "coder")]
)
def test_what_a_session_was_it_stays(said: str, expected: str) -> None:
    whence = Whence(peer=NEIGHBOUR, cwd="/src/app", said=said)

    assert principal_of(TREE, whence) == Principal(expected)


@pytest.mark.parametrize("said", [None, "", "lead", "gone"])
def test_a_user_with_a_workspace_is_it_whatever_is_said(said: str | None) -> None:
    whence = Whence(peer=MAPPED, cwd="/src", said=said)

    assert principal_of(TREE, whence) == Principal("other", confined=True)
    assert proven(TREE, MAPPED, "") == Principal("other", confined=True)
    assert proven(TREE, NEIGHBOUR, "") is None


@pytest.mark.parametrize("peer", [NEIGHBOUR, MAPPED, GUEST, OVER_HTTP], ids=lambda one: one.called)
def test_a_token_proves_more_than_all_else(peer: Peer) -> None:
    tree = attrs.evolve(TREE, tokens={"d1": "coder", "d2": "gone"})
    for said in (None, "", "lead"):
        whence = Whence(peer=peer, token="d1", cwd="/src", said=said)
        coder = Principal("coder", confined=True, token="d1")
        assert principal_of(tree, whence) == coder
        assert not refusal_of(tree, coder, "palace_list_readable_namespaces")
        assert "confined" in refusal_of(tree, coder, "mempalace_kg_query")
        assert "was revoked" in refusal_of(TREE, coder, "palace_list_readable_namespaces")

    wrong = principal_of(tree, Whence(peer=peer, token="no such", cwd="/src", said=""))
    assert wrong != OWNER
    for tool in (*TOOLS, *OWN_TOOLS, *OWNER_TOOLS):
        assert "is no workspace's" in refusal_of(tree, wrong, tool)
    gone = principal_of(tree, Whence(peer=peer, token="d2"))
    assert "was removed" in refusal_of(tree, gone, "palace_list_readable_namespaces")


def test_ten_thousand_wrong_tokens_are_nobodys() -> None:
    """What is compared are digests, so that how long it takes tells nothing of a token."""
    tree = attrs.evolve(TREE, tokens={digest_of(f"{n:064x}"): "coder" for n in range(1000)})
    right = digest_of(f"{7:064x}")
    assert proven(tree, NEIGHBOUR, right) == Principal("coder", confined=True, token=right)
    for n in range(1000, 11_000):
        digest = digest_of(f"{n:064x}")
        found = principal_of(tree, Whence(peer=NEIGHBOUR, token=digest, cwd="/src", said="lead"))
        assert found == Principal("", confined=True, token=digest)
        assert refusal_of(tree, found, "mempalace_search")


def test_a_user_whose_workspace_was_removed_is_not_the_owner() -> None:
    peer = Peer(who=Who.ALLOWED, uid=3000)
    gone = Principal("gone", confined=True)
    again = Tree({**TREE.workspaces, "again": Workspace(id="again", uid=3000)})

    assert principal_of(TREE, Whence(peer=peer)) == gone
    assert refusal_of(TREE, gone, "mempalace_search")
    assert principal_of(again, Whence(peer=peer)) == Principal("again", confined=True)


@pytest.mark.parametrize(
    "peer",
    [
        *(GUEST, OVER_HTTP, Peer(who=Who.CONTAINER, uid=1000)),
        Peer(who=Who.ALLOWED, uid=4000),
    ],
    ids=lambda peer: f"{peer.who.value} {peer.uid}",
)
def test_the_words_of_others_say_nothing(peer: Peer) -> None:
    assert principal_of(TREE, Whence(peer=peer, cwd="/src/app", said="lead")) == OWNER


def test_what_the_confined_may_use() -> None:
    every = [*TOOLS, *OWN_TOOLS, *OWNER_TOOLS, "no such tool"]

    def allowed(principal: Principal) -> set[str]:
        return {tool for tool in every if not refusal_of(TREE, principal, tool)}

    assert allowed(OWNER) == allowed(Principal("coder")) == set(every)
    kept = {*OWN_TOOLS, *BASIC_TOOLS}
    for who in (Principal("locked"), *(Principal(i, confined=True) for i in ("other", "coder"))):
        assert is_confined(TREE, who)
        assert allowed(who) == kept
    assert allowed(Principal("gone")) == allowed(Principal("never")) == set()
    assert "the workspace locked" in refusal_of(TREE, Principal("locked"), "mempalace_mine")
    assert not any(is_confined(TREE, who) for who in (OWNER, Principal("coder"), Principal("gone")))
    assert "was removed" in refusal_of(TREE, Principal("gone"), "mempalace_search")


@given(
    st.sampled_from([NEIGHBOUR, MAPPED, GUEST, OVER_HTTP, Peer(who=Who.ROOT, uid=0)]),
    st.sampled_from(["", "/", "/src", "/src/app", "/gone", "/locked/x"]),
    st.none() | st.sampled_from(["", *TREE.workspaces, "nobody"]),
)
def test_nothing_that_is_said_makes_a_mapped_user_more_than_its_workspace(
    peer: Peer, cwd: str, said: Any
) -> None:
    found = principal_of(TREE, Whence(peer=peer, cwd=cwd, said=said))

    if peer.uid == 2000:
        assert found == Principal("other", confined=True)
    else:
        assert not found.confined
        again = principal_of(TREE, Whence(peer=peer, cwd=cwd, said=found.workspace))
        assert again == found, "the next broker finds what this one found"
