"""Which calls may share a batch: those that can't see each other's drawers."""

from typing import Any

import pytest

from palace.protocol.request import tool_call
from palace.protocol.tools import GROUP_CHARS_MAX, TOOLS


def group_of(params: Any) -> str:
    return tool_call({"method": "tools/call", "params": params}).group


def key(tool: str, **arguments: Any) -> str:
    return group_of({"name": f"mempalace_{tool}", "arguments": arguments})


def drawer(**more: Any) -> str:
    return key("add_drawer", **({"wing": "w", "room": "r", "content": "c"} | more))


def test_what_would_be_the_same_drawer_has_one_key() -> None:
    assert drawer() == drawer(wing=" w ", room="r\n", added_by="somebody")
    assert len({drawer(), drawer(wing="v"), drawer(room="s"), drawer(content="c ")}) == 4
    assert drawer(wing="a", room="bc") != drawer(wing="ab", room="c")


def test_a_diary_entry_shares_no_key_with_a_drawer() -> None:
    entries = {key("diary_write", agent_name="a", entry=text) for text in ("x", "y")}

    assert len(entries | {drawer()}) == 3
    assert "" not in entries


def memory(**arguments: Any) -> str:
    return group_of({"name": "palace_commit_memory", "arguments": arguments})


def test_memories_of_one_id_or_of_one_text_in_one_place_have_one_key() -> None:
    keys = {memory(content="c"), memory(content="d"), memory(content="c", namespace="org:a")}
    assert len(keys | {drawer(), memory(content="c", id="mem-1")}) == 5
    assert memory(content="c", id="mem-1") == memory(content="d", id="mem-1", namespace="org:a")
    assert memory(content="c" * (GROUP_CHARS_MAX + 1), id="mem-1") == ""


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_every_other_tool_runs_alone(tool: str) -> None:
    name = tool.removeprefix("mempalace_")
    if name not in ("add_drawer", "diary_write"):
        assert key(name, wing="w", room="r", content="c") == ""


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        [],
        {"name": "mempalace_add_drawer"},
        {"name": "mempalace_add_drawer", "arguments": ["c"]},
        {"name": ["mempalace_add_drawer"], "arguments": {"content": "c"}},
        {"name": "mempalace_add_drawer", "arguments": {"wing": 1}},
        {"name": "mempalace_add_drawer", "arguments": {"content": None}},
    ],
)
def test_what_is_no_such_call_has_no_key(params: object) -> None:
    assert group_of(params) == ""


def test_a_long_text_runs_alone() -> None:
    assert drawer(content="c" * GROUP_CHARS_MAX)
    assert drawer(content="c" * (GROUP_CHARS_MAX + 1)) == ""


def test_what_is_left_out_is_empty() -> None:
    assert key("add_drawer", room="r", content="c") == drawer(wing="")
