"""Which stores a tool's answer depends on, by its name."""

from palace.engine.hosting.degraded import reads_drawers, reads_lists, stores_of
from palace.settings.catalogue import load_catalogue

LISTS = ("hallways", "tunnels")


def test_tools_that_open_lists_are_those_of_hallways_tunnels_and_walks_along_them() -> None:
    names = {tool["name"].removeprefix("mempalace_") for tool in load_catalogue(None).tools}
    found = {name for name in names if reads_lists(name)}

    assert found == {name for name in names if set(stores_of(name)) & set(LISTS)}
    assert {"list_tunnels", "list_hallways", "traverse", "mine"} <= found
    assert not found & {"search", "status", "kg_query", "kg_stats", "event_list", "get_drawer"}


def test_tools_of_the_graph_the_events_and_the_lists_need_no_drawers() -> None:
    names = {tool["name"].removeprefix("mempalace_") for tool in load_catalogue(None).tools}
    without = {name for name in names if not reads_drawers(f"mempalace_{name}")}

    assert {"kg_query", "event_list", "list_tunnels", "list_hallways"} <= without
    assert not without & {"search", "status", "list_drawers", "diary_read", "traverse", "mine"}
    assert not without & {"follow_tunnels", "graph_stats", "check_duplicate"}
