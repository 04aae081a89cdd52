"""Names, tokens and texts of workspaces: what they may be, and how they are told."""

import hashlib

import pytest

from palace.protocol.errors import WorkspaceRefused
from palace.protocol.request import tool_call
from palace.protocol.resolver import Tree
from palace.protocol.rights import is_out_of_place
from palace.protocol.workspaces import (
    RESTORED,
    TEXT_CHARS_MAX,
    Token,
    Workspace,
    checked_id,
    checked_line,
    checked_namespace,
    digest_of,
    id_in,
    is_digits,
    key_of,
)


def test_a_workspace_is_known_by_its_own_namespace() -> None:
    assert Workspace(id="reviewer").key == key_of("reviewer") == "workspace:reviewer"
    assert id_in("workspace:reviewer") == "reviewer"


def test_a_token_counts_until_it_is_revoked_or_its_palace_restored() -> None:
    token = Token(digest=digest_of("secret"), workspace="reviewer", epoch=7)

    assert token.counts(7)
    assert token.counts(7 + RESTORED - 1)
    assert not token.counts(7 + RESTORED)
    assert not Token(digest="", workspace="r", epoch=7, revoked_at="now").counts(7)


def test_of_a_token_its_digest_alone_is_kept() -> None:
    assert digest_of("secret") == hashlib.sha256(b"secret").hexdigest()
    assert digest_of("\ud800")


def test_digits_are_hexadecimal_and_as_many_as_asked_for() -> None:
    assert is_digits("0af9", 4, 4)
    assert not is_digits("0af", 4, 8)
    assert not is_digits("0AF9", 4, 4)
    assert not is_digits(1234, 1, 9)


@pytest.mark.parametrize("text", ["", "-a", "A", "a b", "a" * 200, "..", None, 7])
def test_what_cant_be_an_id_is_named(text: object) -> None:
    assert checked_id("a-1") == "a-1"
    with pytest.raises(WorkspaceRefused, match="can't be a workspace's id"):
        checked_id(text)


@pytest.mark.parametrize("text", ["custom:..", "custom:a..b", "custom:", "workspace:A", "x:a", 7])
def test_what_cant_be_a_namespace_is_named(text: object) -> None:
    for known in ("workspace:a", "team:a-1", "org:a", "custom:a.b"):
        assert checked_namespace(known) == known
    with pytest.raises(WorkspaceRefused, match="can't be a namespace"):
        checked_namespace(text)


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "x" * (TEXT_CHARS_MAX + 1), None])
def test_a_text_of_several_lines_is_refused(text: object) -> None:
    assert checked_line("a label", "a label") == "a label"
    with pytest.raises(WorkspaceRefused, match="can't be a label"):
        checked_line(text, "a label")


def test_those_below_a_workspace_are_told_in_order() -> None:
    named = {name: Workspace(id=name, parent="lead") for name in ("tern", "eider")}
    tree = Tree(named | {"lead": Workspace(id="lead")})

    assert list(tree.below("lead")) == ["eider", "tern"]
    assert list(tree.below("tern")) == []


def test_the_owners_tools_are_for_palaces_own_commands_and_the_others_are_not() -> None:
    def call(name: str) -> object:
        return {"id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}}

    owners, stocks = tool_call(call("palace_workspace_add")), tool_call(call("mempalace_search"))
    assert is_out_of_place(owners, from_command=False)
    assert not is_out_of_place(owners, from_command=True)
    assert is_out_of_place(stocks, from_command=True)
    assert not is_out_of_place(stocks, from_command=False)
