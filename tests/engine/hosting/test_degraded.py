"""Which stores a tool's answer depends on, by its name."""

from palace.engine.hosting.degraded import reads_lists, stores_of
from palace.settings.catalogue import load_catalogue

LISTS = ("hallways", "tunnels")


def test_tools_that_open_lists_are_those_of_hallways_tunnels_and_walks_along_them() -> None:
    names = {tool["name"].removeprefix("mempalace_") for tool in load_catalogue(None).tools}
    found = {name for name in names if reads_lists(name)}

    assert found == {name for name in names if set(stores_of(name)) & set(LISTS)}
    assert {"list_tunnels", "list_hallways", "traverse", "mine"} <= found
    assert not found & {"search", "status", "kg_query", "kg_stats", "event_list", "get_drawer"}
