"""What the memory contract asks of pure code: exact JSON, whose what is, and what is over."""

import pytest

from palace.protocol.decoding import decode_json_exact
from palace.protocol.errors import WorkspaceRefused
from palace.protocol.principals import OWNER, Principal, plugin_with, refusal_of
from palace.protocol.request import ToolCall
from palace.protocol.resolver import Tree, is_there, over
from palace.protocol.rights import is_out_of_place
from palace.protocol.tools import CONTRACT_TOOLS, UNKNOWN, Lane, classify_call, group_key
from palace.protocol.workspaces import Namespace, called, checked_namespace

LIFE = "0123abcd"
SPACE = f"plugin:{LIFE}:custom:notes"
NOW = 1000.0


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        (b"[]", []),
        (b"7", 7),
        (b'"\\u00e4 \\ud83d\\ude00"', "ä 😀"),
        (b"[" * 64 + b"]" * 64, None),
    ],
)
def test_what_is_json_to_the_letter_is_taken(data: bytes, value: object) -> None:
    found = decode_json_exact(data)
    assert value is None or found == value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b"NaN", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"1e999", "too large"),
        (b'"\\ud800"', "surrogate"),
        (b"\xff", "utf-8"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{", "Expecting"),
    ],
)
def test_what_readers_differ_about_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_json_exact(data)


def test_whose_a_record_is_says_which_token_it_was() -> None:
    digest = "ab" * 32
    assert OWNER.signature == ""
    assert Principal("lead").signature == "lead"
    assert plugin_with(digest).signature == f"plugin:{digest[:12]}"
    assert plugin_with("").signature == "plugin"
    assert plugin_with(digest).called == "a client of the memory contract"


def test_the_contracts_client_calls_its_operations_alone() -> None:
    digest = "ab" * 32
    tree = Tree(plugins=frozenset({digest}))
    operation = min(CONTRACT_TOOLS)
    assert refusal_of(tree, plugin_with(digest), operation) == ""
    assert "no operation of the memory contract" in refusal_of(
        tree, plugin_with(digest), "mempalace_search"
    )
    assert refusal_of(Tree(), plugin_with(digest), operation), "its token was revoked"


@pytest.mark.parametrize("from_contract", [False, True])
def test_operations_come_from_the_contracts_door_and_nothing_else_does(
    *, from_contract: bool
) -> None:
    operation = ToolCall(message=None, name=min(CONTRACT_TOOLS), tool=UNKNOWN)
    search = ToolCall(message=None, name="mempalace_search", tool=UNKNOWN)
    told = [
        is_out_of_place(call, from_command=False, from_contract=from_contract)
        for call in (operation, search)
    ]
    assert told == [not from_contract, from_contract]


def test_what_is_over_is_not_there() -> None:
    spaces = {
        "custom:notes": Namespace(name=SPACE, until=NOW + 1),
        "custom:past": Namespace(name=f"plugin:{LIFE}:custom:past", until=NOW),
    }
    tree = Tree(spaces=spaces, ended=frozenset({"custom:gone"}))
    assert is_there(tree, SPACE, NOW)
    assert not is_there(tree, SPACE, NOW + 1)
    assert not is_there(tree, f"plugin:{LIFE}:custom:past", NOW)
    assert not is_there(tree, "plugin:ffffffff:custom:notes", NOW), "another one of that name"
    assert not is_there(tree, f"plugin:{LIFE}:custom:none", NOW)
    assert not is_there(tree, "custom:gone", NOW)
    assert is_there(tree, "team:lead", NOW)
    assert over(tree, NOW) == ("custom:gone", f"plugin:{LIFE}:custom:past")
    assert tree.has_memories
    assert not Tree(ended=frozenset({"custom:gone"})).has_memories
    assert Tree(keeps=True).has_memories


def test_a_plugins_namespace_has_a_name_of_its_own() -> None:
    assert checked_namespace(SPACE) == SPACE
    assert called(SPACE) == Namespace(name=SPACE).called == "custom:notes"
    assert called("team:lead") == ""
    for text in ("plugin:custom:notes", f"plugin:{LIFE}:", f"plugin:{LIFE}:custom:a b", "plugin:x"):
        with pytest.raises(WorkspaceRefused, match="can't be a namespace"):
            checked_namespace(text)


def test_a_commit_is_as_heavy_as_its_body() -> None:
    def commit(body: object) -> dict[str, object]:
        return {"name": "custom:notes", "body": body}

    short, long = commit({"content": "a"}), commit({"content": "a" * 200_000})
    assert classify_call("palace_v1_commit", short).lane is not Lane.LARGE
    assert classify_call("palace_v1_commit", long).lane is Lane.LARGE
    assert classify_call("palace_v1_commit", commit("a" * 200_000)).lane is not Lane.LARGE

    named = [commit({"content": text, "id": "7"}) for text in "ab"]
    assert len({group_key("palace_v1_commit", one) for one in named}) == 1, "one memory, twice"
    unnamed = [commit({"content": text}) for text in "aab"]
    assert len({group_key("palace_v1_commit", one) for one in unnamed}) == 2
    assert group_key("palace_v1_commit", named[0]) != group_key("palace_v1_commit", unnamed[0])
