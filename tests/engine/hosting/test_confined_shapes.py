"""What a confined session is told has stock's shape: each reply beside stock's own of that call.

`confined_shapes.json` holds the shape of each, what it has besides stock's, and what it lacks of
it; UPDATE_GOLDENS=1 writes it anew.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.protocol.tools import BASIC_TOOLS
from tests.engine.hosting.test_memories import Palace, palace

pytestmark = pytest.mark.engine

__all__ = ["palace"]

GOLDEN = Path(__file__).parent / "confined_shapes.json"
NAMED_BY_DATA = ("wings", "rooms")  # their keys are names of wings and rooms
ITEM = {"wing": "w", "room": "r", "content": "the ferry leaves at nine"}
DIARY = {"agent_name": "ada", "entry": "went by ferry"}
# Of each call: the tool, and its arguments; "first" stands for the id of a drawer that is there.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "status": ("status", {}),
    "diary_read of none": ("diary_read", {"agent_name": "ada"}),
    "search": ("search", {"query": "when does the ferry leave"}),
    "search without a hit": ("search", {"query": "ferry", "max_distance": 1e-7}),
    "check_duplicate": ("check_duplicate", {"content": ITEM["content"], "threshold": 0.5}),
    "check_duplicate of none": ("check_duplicate", {"content": "volcano", "threshold": 0.99}),
    "add_drawer": ("add_drawer", {**ITEM, "content": "the ferry is blue"}),
    "checkpoint": (
        "checkpoint",
        {"items": [{**ITEM, "content": "a crane in the harbour"}, ITEM], "diary": DIARY},
    ),
    "checkpoint of an odd item": ("checkpoint", {"items": [{**ITEM, "content": ""}, 7]}),
    "checkpoint with no diary": ("checkpoint", {"items": [], "diary": []}),
    "checkpoint with an empty diary": ("checkpoint", {"items": [], "diary": {"entry": ""}}),
    "get_drawer": ("get_drawer", {"drawer_id": "first"}),
    "get_drawer of none": ("get_drawer", {"drawer_id": "none"}),
    "get_drawers": ("get_drawers", {"drawer_ids": ["first", "none"]}),
    "list_drawers": ("list_drawers", {}),
    "update_drawer of nothing": ("update_drawer", {"drawer_id": "first"}),
    "update_drawer": ("update_drawer", {"drawer_id": "first", "content": "it leaves at ten"}),
    "update_drawer of none": ("update_drawer", {"drawer_id": "none", "content": "x"}),
    "diary_write": ("diary_write", {"agent_name": "ada", "entry": "came back by ferry"}),
    "diary_read": ("diary_read", {"agent_name": "ada"}),
    "delete_drawers": ("delete_drawers", {"drawer_ids": ["first", "none"]}),
    "delete_drawer of none": ("delete_drawer", {"drawer_id": "first"}),
    "delete_drawer": ("delete_drawer", {"drawer_id": "another"}),
}


def shape(told: Any, at: str = "") -> Iterator[str]:
    """Yield where a reply holds what kind of value: `results[].wing: str`."""
    if isinstance(told, dict) and told:
        named = at.endswith(NAMED_BY_DATA)
        for key, value in told.items():
            yield from shape(value, f"{at}.{'*' if named else key}".removeprefix("."))
    elif isinstance(told, list) and told:
        for value in told:
            yield from shape(value, f"{at}[]")
    else:
        kind = "number" if type(told) in (int, float) else type(told).__name__
        yield f"{at}: {kind}"


def shapes(palace: Palace, who: str) -> dict[str, set[str]]:
    """Return the shape of each call's reply, by what it is called."""
    ids = {
        name: palace.stock("add_drawer", who, **{**ITEM, "content": content})["drawer_id"]
        for name, content in (("first", ITEM["content"]), ("another", "a gull"))
    }
    found = {}
    for what, (tool, given) in CALLS.items():
        arguments = dict(given)
        if "drawer_id" in given:
            arguments["drawer_id"] = ids.get(given["drawer_id"], given["drawer_id"])
        if "drawer_ids" in given:
            arguments["drawer_ids"] = [ids.get(one, one) for one in given["drawer_ids"]]
        found[what] = set(shape(palace.stock(tool, who, **arguments)))
    return found


def roots(places: set[str], beside: set[str]) -> list[str]:
    """Return the shortest names of places that `beside` has nothing of."""
    known = {one.partition(":")[0] for one in beside}

    def shortest(place: str) -> str:
        parts = place.partition(":")[0].split(".")
        for count in range(1, len(parts)):
            head = ".".join(parts[:count])
            if not any(f"{one}.".startswith(f"{head}.") for one in known):
                return head
        return place

    return sorted(map(shortest, places - beside))


def test_each_reply_has_the_shape_that_is_written_down(palace: Palace) -> None:
    # Stock's first: what is like its drawers would find the memories of the other.
    stocks, ours = shapes(palace, ""), shapes(palace, "!other")
    told = {
        what: {
            "shape": sorted(ours[what]),
            "more": sorted(set(roots(ours[what], stocks[what]))),
            "lacks": sorted(set(roots(stocks[what], ours[what]))),
        }
        for what in CALLS
    }
    if os.environ.get("UPDATE_GOLDENS") == "1":
        GOLDEN.write_text(json.dumps(told, indent=1) + "\n")

    assert told == json.loads(GOLDEN.read_text())


def test_all_basic_tools_are_among_them() -> None:
    assert {f"mempalace_{tool}" for tool, _ in CALLS.values()} == set(BASIC_TOOLS)
