"""What a workspace may read and write, against a reference that knows no tricks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.errors import WorkspaceRefused
from palace.protocol.resolver import (
    HOPS_MAX,
    Tree,
    can_write,
    everything,
    intersect_readable,
    readable,
    writable,
)
from palace.protocol.workspaces import (
    Workspace,
    checked_id,
    checked_line,
    checked_namespace,
)

IDS = [*"abcdefgh"]
CUSTOMS = ["custom:one", "custom:two"]


def tree_of(**parents: str) -> Tree:
    """Return a tree by each workspace's parent; an id with a final underscore was removed."""
    return Tree(
        {
            name.rstrip("_"): Workspace(
                id=name.rstrip("_"), parent=parent, removed=name.endswith("_")
            )
            for name, parent in parents.items()
        }
    )


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Draw any tree, with cycles, unknown parents and removed ones in it."""
    known = draw(st.lists(st.sampled_from(IDS), unique=True))
    found = {}
    for ident in known:
        parent = draw(st.sampled_from(["", *IDS]))
        found[ident] = Workspace(id=ident, parent=parent, removed=draw(st.booleans()))
    members = st.frozensets(st.sampled_from(IDS), max_size=3)
    return Tree(found, draw(st.dictionaries(st.sampled_from(CUSTOMS), members)))


def reference(tree: Tree, ident: str) -> tuple[set[str], set[str]]:
    """Return what may be read, and what may be written: by walking up, one step after another."""
    me = tree.workspaces.get(ident)
    if me is None or me.removed:
        return set(), set()
    seen, at = {ident}, ident
    for _ in range(HOPS_MAX):
        above = tree.workspaces[at].parent if at in tree.workspaces else ""
        if above == "" or above in seen:
            break
        at = above
        seen.add(at)
    team = me.parent if me.parent != "" else ident
    reads = {f"workspace:{ident}", f"team:{team}", f"org:{at}"}
    writes = {f"workspace:{ident}", f"team:{team}"}
    if me.parent == "":
        writes.add(f"org:{at}")
    for name in tree.customs:
        if ident in tree.customs[name]:
            reads.add(name)
            writes.add(name)
    return reads, writes


@given(trees(), st.sampled_from([*IDS, "nobody"]), st.data())
def test_rights_are_those_of_the_reference(tree: Tree, ident: str, data: st.DataObject) -> None:
    reads, writes = reference(tree, ident)
    every = sorted({f"{kind}:{i}" for kind in ("workspace", "team", "org") for i in IDS})
    every += CUSTOMS
    asked = data.draw(st.lists(st.sampled_from([*every, "org:nobody"]), max_size=6))

    assert len(readable(tree, ident)) == len(set(readable(tree, ident)))
    assert set(readable(tree, ident)) == reads
    assert set(writable(tree, ident)) == writes
    assert {name for name in every if can_write(tree, ident, name)} == writes
    got = intersect_readable(tree, ident, asked)
    assert set(got) == (reads & set(asked) if asked else reads)
    assert list(got) == [name for name in readable(tree, ident) if name in got]


@given(trees(), st.sampled_from(IDS), st.sampled_from(["", *IDS]))
def test_a_move_counts_with_the_next_question(tree: Tree, ident: str, parent: str) -> None:
    moved = Tree(
        {**tree.workspaces, ident: Workspace(id=ident, parent=parent)},
        tree.customs,
    )

    assert (set(readable(moved, ident)), set(writable(moved, ident))) == reference(moved, ident)


def test_what_each_of_a_team_has() -> None:
    tree = tree_of(lead="", coder="lead", reviewer="lead", helper="coder")

    assert readable(tree, "lead") == ("workspace:lead", "team:lead", "org:lead")
    assert writable(tree, "lead") == readable(tree, "lead")
    assert readable(tree, "coder") == ("workspace:coder", "team:lead", "org:lead")
    assert writable(tree, "coder") == ("workspace:coder", "team:lead")
    assert readable(tree, "helper") == ("workspace:helper", "team:coder", "org:lead")
    assert not can_write(tree, "helper", "org:lead")
    assert not can_write(tree, "coder", "workspace:reviewer")


def test_the_owner_has_what_anybody_has_each_once_and_in_order() -> None:
    tree = tree_of(lead="", one="lead", two="lead")

    found = everything(tree)
    assert list(found) == sorted(found)
    assert set(found) == {name for ident in tree.workspaces for name in readable(tree, ident)}
    assert len(found) == len(set(found))
    assert everything(tree_of()) == ()


def test_a_removed_one_is_a_link_without_rights() -> None:
    tree = tree_of(lead="", middle_="lead", agent="middle")

    assert readable(tree, "middle") == writable(tree, "middle") == ()
    assert readable(tree, "agent") == ("workspace:agent", "team:middle", "org:lead")


def test_whose_parent_is_gone_is_no_root() -> None:
    tree = tree_of(agent="purged")

    assert readable(tree, "agent") == ("workspace:agent", "team:purged", "org:purged")
    assert writable(tree, "agent") == ("workspace:agent", "team:purged")


def test_cycles_end_and_so_does_a_long_chain() -> None:
    cycle = tree_of(a="b", b="c", c="a")
    long = Tree(
        {f"w{n}": Workspace(id=f"w{n}", parent=f"w{n + 1}") for n in range(10_000)},
    )

    assert cycle.chain("a") == ("a", "b", "c")
    assert not can_write(cycle, "a", "org:c")
    assert len(long.chain("w0")) == HOPS_MAX + 1 == 51, "what is longer costs each call more"
    assert readable(long, "w0")[-1] == f"org:w{HOPS_MAX}"


def test_a_request_for_what_is_anothers_asks_for_nothing() -> None:
    tree = tree_of(lead="", a="lead", b="lead")

    assert intersect_readable(tree, "a", ["workspace:b"]) == ()
    assert intersect_readable(tree, "a", ["workspace:b", "team:lead"]) == ("team:lead",)
    assert intersect_readable(tree, "a", []) == readable(tree, "a")


def test_those_below_a_workspace_are_told_in_order() -> None:
    named = {name: Workspace(id=name, parent="lead") for name in ("tern", "eider")}
    tree = Tree(named | {"lead": Workspace(id="lead")})

    assert list(tree.below("lead")) == ["eider", "tern"]
    assert list(tree.below("tern")) == []


# Names.

BAD_IDS: list[Any] = [
    *("", "-a", "A", "a_b", "a b", "a.b", "..", "a\n", "a\r", "a\x00", "a/b", "é", "a:b", "a" * 64),
    *("\uff41", "a\u200b", "\N{KELVIN SIGN}", "a\u202e", "--help", " a", "a "),
    *(None, 1, ["a"], {"a": 1}, True),
]


@pytest.mark.parametrize("text", BAD_IDS, ids=ascii)
def test_what_can_be_no_workspace(text: Any) -> None:
    with pytest.raises(WorkspaceRefused) as refused:
        checked_id(text)

    assert "can't be a workspace's id" in refused.value.message
    assert refused.value.message.isprintable()


BAD_NAMESPACES: list[Any] = [
    *("", "workspace", "workspace:", "workspace:..", "org:root\n[MEMORY", "team:a ", "team: a"),
    *("Team:a", "team:A", "team:a:b", "user:a", ":a", "team:\uff41", "team\uff1aa", "org:a\n"),
    *("custom:", "custom:..", "custom:a..b", "custom:.a", "custom:a.", "custom:a b", "custom:a/b"),
    *("custom:a\n", "custom:é", f"custom:{'a' * 250}", None, 7, ["team:a"]),
]


@pytest.mark.parametrize("text", BAD_NAMESPACES, ids=ascii)
def test_what_can_be_no_namespace(text: Any) -> None:
    with pytest.raises(WorkspaceRefused) as refused:
        checked_namespace(text)

    assert "can't be a namespace" in refused.value.message
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    "text",
    ["workspace:a", "team:a-1", "org:0", "custom:A", "custom:a.b:c_d-e", f"custom:{'a' * 249}"],
)
def test_what_can_be_a_namespace(text: str) -> None:
    assert checked_namespace(text) == text


@given(st.text() | st.none() | st.integers())
def test_whatever_is_accepted_is_harmless(text: Any) -> None:
    for check, most in ((checked_id, 63), (checked_namespace, 256)):
        try:
            accepted = check(text)
        except WorkspaceRefused:
            continue
        assert accepted.isascii()
        assert accepted.isprintable()
        assert len(accepted) <= most
        assert not set(accepted) & set(" /\\%'\"")
        assert ".." not in accepted


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "a\u202e", "a" * 4097, None, 3])
def test_a_line_is_one_that_a_terminal_can_show(text: Any) -> None:
    with pytest.raises(WorkspaceRefused, match="can't be a label"):
        checked_line(text, "a label")
    assert checked_line("the reviewer's own", "a label") == "the reviewer's own"
