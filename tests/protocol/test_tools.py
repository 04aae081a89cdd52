from typing import Any

import pytest

from palace.protocol.request import tool_call
from palace.protocol.tools import (
    GROUP_CHARS_MAX,
    LARGE_TEXTS,
    LONG_CHARS,
    LONG_ITEMS,
    TOOLS,
    UNKNOWN,
    Kind,
    Lane,
    Tool,
)


def classified(params: Any) -> Tool:
    return tool_call({"method": "tools/call", "params": params}).tool


def test_a_call_is_what_its_tool_is() -> None:
    assert classified({"name": "mempalace_search"}) is TOOLS["mempalace_search"]


@pytest.mark.parametrize(
    "params", [None, [1], {}, {"name": ["x"]}, {"name": "of_tomorrow"}, {"name": None}]
)
def test_what_can_not_be_told_is_a_mutation(params: object) -> None:
    assert classified(params) is UNKNOWN
    assert UNKNOWN.kind is Kind.MUTATION


def checkpoint(items: Any) -> Tool:
    params = {"name": "mempalace_checkpoint", "arguments": {"items": items}}
    return classified(params)


@pytest.mark.parametrize(
    ("idents", "lane"),
    [
        (["d"] * LONG_ITEMS, Lane.LONG),
        (["d"] * (LONG_ITEMS - 1), Lane.WRITER),
        ("d" * LONG_ITEMS, Lane.WRITER),
        (None, Lane.WRITER),
    ],
)
def test_a_deletion_of_many_drawers_lets_others_come_between(idents: Any, lane: Lane) -> None:
    arguments = {"drawer_ids": idents}
    params = {"name": "mempalace_delete_drawers", "arguments": arguments}

    assert classified(params).lane is lane
    assert classified(params | {"arguments": None}).lane is Lane.WRITER


def test_a_checkpoint_of_many_items_or_much_text_lets_others_come_between() -> None:
    item = {"content": "x"}

    assert checkpoint([item] * LONG_ITEMS).lane is Lane.LONG
    assert checkpoint([{"content": "x" * LONG_CHARS}]).lane is Lane.LONG
    assert checkpoint([{"content": "x" * LONG_CHARS}]).non_atomic
    assert checkpoint([item] * (LONG_ITEMS - 1)).lane is Lane.WRITER


@pytest.mark.parametrize("items", [None, "x" * LONG_CHARS, {}, [None, 5, {"content": 5}], []])
def test_a_checkpoint_of_anything_else_is_a_short_one(items: Any) -> None:
    assert checkpoint(items) is TOOLS["mempalace_checkpoint"]
    assert classified({"name": "mempalace_checkpoint"}).lane is Lane.WRITER


@pytest.mark.parametrize(("tool", "argument"), LARGE_TEXTS.items())
def test_a_change_with_much_text_is_embedded_before_its_turn(tool: str, argument: str) -> None:
    def change(text: Any) -> Tool:
        return classified({"name": tool, "arguments": {argument: text}})

    assert change("x" * (GROUP_CHARS_MAX + 1)).lane is Lane.LARGE
    assert not change("x" * (GROUP_CHARS_MAX + 1)).non_atomic
    for other in ("x" * GROUP_CHARS_MAX, None, 5, [], ["x"] * GROUP_CHARS_MAX * 2):
        assert change(other) is TOOLS[tool]
    assert classified({"name": tool, "arguments": [1]}) is TOOLS[tool]
    assert classified({"name": tool}) is TOOLS[tool]
