"""What plain tools may not write, by what they name and by what a record is."""

from typing import Any

import pytest

from palace.memory.memory import NAMESPACE
from palace.memory.reserved import refused_record, refused_write

NAMED: list[tuple[str, dict[str, Any]]] = [
    ("add_drawer", {"wing": "ns.team.a"}),
    ("add_drawer", {"wing": " NS.Team.a"}),
    ("add_drawer", {"wing": "\uff4e\uff53.team.a"}),
    ("diary_write", {"wing": "ns.org.a"}),
    ("mine", {"wing": "ns.org.a"}),
    ("update_drawer", {"wing": "ns.org.a", "drawer_id": "drawer_x"}),
    ("update_drawer", {"drawer_id": "mem-a"}),
    ("delete_drawer", {"drawer_id": "mem-a_chunk_000000"}),
    ("delete_drawers", {"drawer_ids": ["drawer_x", "mem-a"]}),
    ("checkpoint", {"items": [{"wing": "w"}, {"wing": "ns.org.a"}]}),
    ("checkpoint", {"items": "no list", "diary": {"wing": "ns.org.a"}}),
]


@pytest.mark.parametrize(("tool", "arguments"), NAMED, ids=str)
def test_what_plain_tools_name_is_refused(tool: str, arguments: dict[str, Any]) -> None:
    assert "Nothing was done" in refused_write(f"mempalace_{tool}", arguments)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("add_drawer", {"wing": "nsx", "content": "ns.team.a, mem-a"}),
        ("add_drawer", {"wing": 7}),
        ("update_drawer", {"drawer_id": "drawer_mem-a"}),
        ("delete_drawers", {"drawer_ids": [7, None]}),
        ("delete_drawers", {"drawer_ids": {"mem-a": 1}}),
        ("checkpoint", {"items": [7, {"wing": "w", "content": "ns.org.a"}], "diary": 7}),
        ("kg_add", {"subject": "ns.team.a"}),
        ("search", {"wing": "ns.team.a"}),
    ],
    ids=str,
)
def test_others_are_not(tool: str, arguments: dict[str, Any]) -> None:
    assert refused_write(f"mempalace_{tool}", arguments) == ""


MEMORY = {NAMESPACE: "team:a", "wing": "ns.team.a"}
PLAIN = {"wing": "w"}
ELSEWHERE = {NAMESPACE: "team:a", "wing": "w"}  # a memory by what the gate goes by
EARLIER = {"wing": "ns.mine"}  # filed before there were workspaces


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, MEMORY),
        (None, ELSEWHERE),
        (PLAIN, ELSEWHERE),
        (None, EARLIER),
        (PLAIN, MEMORY),
        (PLAIN, EARLIER),
        (MEMORY, MEMORY),
        (MEMORY, PLAIN),
        (MEMORY, None),
        (EARLIER, EARLIER),
    ],
)
def test_no_record_becomes_or_ceases_to_be_a_memory(before: Any, after: Any) -> None:
    text = refused_record(before, after)
    assert "memory of a namespace" in text
    assert "Nothing was" not in text, "of a long call that doesn't hold"


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, PLAIN), (PLAIN, PLAIN), (PLAIN, None), (EARLIER, None), (EARLIER, PLAIN)],
)
def test_plain_records_are_as_ever(before: Any, after: Any) -> None:
    assert refused_record(before, after) == ""
