"""What each tool of the engine does to the palace, and which lane therefore runs it.

The table is checked against the installed engine by tests/engine/test_tools.py.  A tool that is
not in it counts as a mutation: refusing to guess costs speed, guessing wrong costs memories.

Kinds: a *query* changes nothing a user would miss and may be sent twice; a *mutation* changes the
palace; an *external effect* changes something outside of it and is never sent twice.
"""

import enum
from collections.abc import Mapping
from typing import Any

import attrs


class Kind(enum.Enum):
    QUERY = "query"
    MUTATION = "mutation"
    EXTERNAL = "external"


class Lane(enum.Enum):
    """WRITER runs one at a time; READER some; POLL waits for events; BULK runs `mine` alone.

    LONG are changes that others may come between: each part of them is like a change of its own.
    LARGE are changes with much text, which is embedded before they have their turn.  REMOTE waits
    for a server that holds namespaces elsewhere (palace/protocol/elsewhere.py).
    """

    WRITER = "writer"
    READER = "reader"
    POLL = "poll"
    BULK = "bulk"
    LONG = "long"
    LARGE = "large"
    REMOTE = "remote"

    # Members are compared by identity, so that of the object will do; Enum's own hashes the name
    # in Python, and lanes are looked up fourteen times for each call.
    __hash__ = object.__hash__


@attrs.frozen
class Tool:
    """A `non_atomic` call that was interrupted runs again from its start, however far it came.

    Where it reports boundaries, as `mine` does between files, what it did up to the last one stays.
    One that `embeds` can do nothing without the embedding model.
    """

    kind: Kind
    lane: Lane
    non_atomic: bool = False
    embeds: bool = False


_QUERY = Tool(Kind.QUERY, Lane.READER)
_SEARCH = Tool(Kind.QUERY, Lane.READER, embeds=True)
_FILING = Tool(Kind.MUTATION, Lane.WRITER, embeds=True)
_MUTATION = Tool(Kind.MUTATION, Lane.WRITER)
_EXTERNAL = Tool(Kind.EXTERNAL, Lane.WRITER)
# A checkpoint of many items: it would keep the writer for minutes, so it yields between items.
_LONG_FILING = Tool(Kind.MUTATION, Lane.LONG, non_atomic=True, embeds=True)
# A deletion of any number of drawers, in parts.
_LONG_DELETING = Tool(Kind.MUTATION, Lane.LONG, non_atomic=True)
# Of a part of what is over; beside the writer's lane, and put back behind others' changes.
_SWEEPING = Tool(Kind.MUTATION, Lane.LONG)
# One change with much text: it would keep the writer for as long as its embedding takes.
_LARGE_FILING = Tool(Kind.MUTATION, Lane.LARGE, embeds=True)
LONG_ITEMS = 16
LONG_CHARS = 16_384
GROUP_CHARS_MAX = 8192  # a longer text is many drawers: it would keep short ones waiting
LARGE_TEXTS = {  # the argument that may be a long text
    "mempalace_add_drawer": "content",
    "mempalace_update_drawer": "content",
    "mempalace_diary_write": "entry",
}
UNKNOWN = _MUTATION

TOOLS: dict[str, Tool] = {
    "mempalace_status": _QUERY,
    "mempalace_list_wings": _QUERY,
    "mempalace_list_rooms": _QUERY,
    "mempalace_get_taxonomy": _QUERY,
    "mempalace_get_aaak_spec": _QUERY,
    "mempalace_kg_query": _QUERY,
    "mempalace_kg_add": _MUTATION,
    "mempalace_kg_invalidate": _MUTATION,
    "mempalace_kg_supersede": _MUTATION,
    "mempalace_kg_timeline": _QUERY,
    "mempalace_kg_stats": _QUERY,
    "mempalace_traverse": _QUERY,
    "mempalace_find_tunnels": _QUERY,
    "mempalace_graph_stats": _QUERY,
    "mempalace_mesh_peers": _QUERY,
    "mempalace_create_tunnel": _MUTATION,
    "mempalace_list_tunnels": _QUERY,
    "mempalace_delete_tunnel": _MUTATION,
    "mempalace_list_hallways": _QUERY,
    "mempalace_delete_hallway": _MUTATION,
    # Counts the crossing in tunnels.json: written by one at a time, and harmless when sent twice.
    "mempalace_follow_tunnels": Tool(Kind.QUERY, Lane.WRITER),
    "mempalace_search": _SEARCH,
    "mempalace_check_duplicate": _SEARCH,
    "mempalace_add_drawer": _FILING,
    "mempalace_checkpoint": _FILING,
    "mempalace_delete_drawer": _MUTATION,
    "mempalace_delete_drawers": _MUTATION,
    # Runs for hours and yields between files: it must not keep the writer lane.
    "mempalace_mine": Tool(Kind.MUTATION, Lane.BULK, non_atomic=True, embeds=True),
    "mempalace_delete_by_source": _LONG_DELETING,
    "mempalace_sync": _LONG_DELETING,
    "mempalace_get_drawer": _QUERY,
    "mempalace_get_drawers": _QUERY,
    "mempalace_list_drawers": _QUERY,
    "mempalace_update_drawer": _FILING,
    "mempalace_diary_write": _FILING,
    "mempalace_diary_read": _QUERY,
    "mempalace_hook_settings": _EXTERNAL,
    "mempalace_memories_filed_away": _EXTERNAL,
    "mempalace_reconnect": _EXTERNAL,
    "mempalace_event_append": _MUTATION,
    "mempalace_task_create": _MUTATION,
    "mempalace_event_list": _QUERY,
    # Long-polls for minutes: among the readers it would starve them.
    "mempalace_event_wait": Tool(Kind.QUERY, Lane.POLL),
    "mempalace_event_ack": _MUTATION,
    "mempalace_artifact_put": _MUTATION,
    "mempalace_artifact_get": _QUERY,
    "mempalace_patch_submit": _MUTATION,
}

# palace's own, for the sessions of a palace that has workspaces
# (palace/engine/durability/own_tools.py).
OWN_TOOLS: dict[str, Tool] = {
    "palace_list_readable_namespaces": _QUERY,
    "palace_list_writable_namespaces": _QUERY,
    "palace_commit_memory": _FILING,
    "palace_commit_summary": _FILING,
    "palace_search_memory": _SEARCH,
    "palace_forget_memory": _MUTATION,
    "palace_delegate": _MUTATION,
    "palace_heartbeat": _MUTATION,  # one that says only that somebody is there changes nothing
    "palace_delegations": _QUERY,
}
# palace's own, for the sessions of a palace that pulls from others, confined ones excepted
# (palace/engine/durability/candidate_agents.py).
CANDIDATE_TOOLS: dict[str, Tool] = {
    "palace_search_candidates": _QUERY,
    "palace_accept_candidate": _LARGE_FILING,
    "palace_dismiss_candidate": _MUTATION,
}
# Stock's that a confined session has as well, carried out by the gate in stock's place
# (palace/memory/confined.py).
BASIC_TOOLS = frozenset(
    f"mempalace_{name}"
    for name in (
        *("status", "search", "check_duplicate", "add_drawer", "checkpoint"),
        *("get_drawer", "get_drawers", "list_drawers", "update_drawer"),
        *("delete_drawer", "delete_drawers", "diary_write", "diary_read"),
    )
)
# Those that need stores, each with the tool of stock's that needs the same of them.
STANDS_FOR = {
    "palace_commit_memory": "mempalace_add_drawer",
    "palace_commit_summary": "mempalace_add_drawer",
    "palace_search_memory": "mempalace_search",
    "palace_forget_memory": "mempalace_delete_drawer",
    "palace_delegate": "mempalace_task_create",
    "palace_heartbeat": "mempalace_event_ack",
    "palace_delegations": "mempalace_event_list",
    "palace_sweep": "mempalace_delete_drawer",
    "palace_memory_drop": "mempalace_delete_drawer",
    "palace_memory_page": "mempalace_list_drawers",
    "palace_memory_copy": "mempalace_list_drawers",
    "palace_memory_store": "mempalace_add_drawer",
    "palace_memory_retire": "mempalace_delete_drawer",
    "palace_v1_commit": "mempalace_add_drawer",
    "palace_v1_search": "mempalace_search",
    "palace_v1_forget": "mempalace_delete_drawer",
}
# palace's own, for commands of its owner alone: no list names them, and no MCP client may call them
# (palace/engine/durability/owner_tools.py).
OWNER_TOOLS: dict[str, Tool] = {
    "palace_workspace_list": _QUERY,
    "palace_workspace_add": _MUTATION,
    "palace_workspace_move": _MUTATION,
    "palace_workspace_runtimes": _MUTATION,
    "palace_workspace_remove": _MUTATION,
    "palace_workspace_audit": _QUERY,
    "palace_namespace_list": _QUERY,
    "palace_namespace_add": _MUTATION,
    "palace_namespace_remove": _MUTATION,
    "palace_sweep": _SWEEPING,
    "palace_delegation_list": _QUERY,
    "palace_token_list": _QUERY,
    "palace_token_add": _MUTATION,
    "palace_token_revoke": _MUTATION,
    # What it copies is there once, however often it is sent.
    "palace_memory_page": Tool(Kind.QUERY, Lane.REMOTE),
    "palace_memory_copy": Tool(Kind.QUERY, Lane.REMOTE),
    "palace_memory_store": Tool(Kind.MUTATION, Lane.REMOTE, embeds=True),
    "palace_memory_drop": Tool(Kind.MUTATION, Lane.REMOTE),
    "palace_memory_retire": Tool(Kind.MUTATION, Lane.REMOTE),
}
# Of the owner's, those about other palaces (palace/engine/durability/federation.py).
FEDERATION_TOOLS: dict[str, Tool] = {
    "palace_remote_list": _QUERY,
    "palace_remote_add": _MUTATION,
    "palace_remote_remove": _MUTATION,
    "palace_remote_fold": _MUTATION,
    "palace_candidate_known": _QUERY,
    "palace_candidate_list": _QUERY,
    "palace_candidate_show": _QUERY,
    "palace_candidate_accept": _LARGE_FILING,
    "palace_candidate_dismiss": _MUTATION,
}
# Those whose text is a candidate's, and not in their arguments.
ACCEPTING = frozenset({"palace_accept_candidate", "palace_candidate_accept"})
OWNER_TOOLS |= FEDERATION_TOOLS
# Of the owner's, those that move memories: they may ask a server that holds namespaces elsewhere
# (palace/memory/moving.py).
MOVING_TOOLS = (
    *("palace_memory_page", "palace_memory_copy", "palace_memory_store", "palace_memory_drop"),
    "palace_memory_retire",
)
# The memory contract's operations (contract/memory-plugin-v1.yaml), for what is served below /v1:
# no list names them, and no MCP client may call them.
CONTRACT_TOOLS: dict[str, Tool] = {
    "palace_v1_put_namespace": _MUTATION,
    "palace_v1_patch_namespace": _MUTATION,
    "palace_v1_delete_namespace": _MUTATION,
    "palace_v1_commit": _FILING,
    "palace_v1_search": _SEARCH,
    "palace_v1_forget": _MUTATION,
}
# What watches over tasks (palace/broker/task_watch.py) asks, and what shows them over HTTP, in the
# way of the mesh's below.
WATCHING_TOOLS: dict[str, Tool] = {
    "palace_task_list": _QUERY,
    "palace_task_watched": _QUERY,
    "palace_task_stuck": _MUTATION,
}
# What stock's mesh takes (palace/engine/hosting/mesh.py), for what serves peers and pulls from
# them: no list names them, and no MCP client may call them.  What peers are shown is read in the
# writer's lane, where no change is half done: an event of ours that was taken back after a peer has
# it would leave its number to another one, which that peer then refuses for ever.
_SHOWN_TO_PEERS = Tool(Kind.QUERY, Lane.WRITER)
MESH_TOOLS: dict[str, Tool] = {
    "palace_mesh_vector": _SHOWN_TO_PEERS,
    "palace_mesh_ops": _SHOWN_TO_PEERS,
    "palace_mesh_artifact": _SHOWN_TO_PEERS,
    "palace_mesh_tail": _SHOWN_TO_PEERS,
    "palace_mesh_cursor": _SHOWN_TO_PEERS,
    "palace_mesh_latest": _QUERY,
    "palace_mesh_lacking": _QUERY,
    "palace_mesh_profile": _QUERY,
    "palace_mesh_peers": _QUERY,
    "palace_mesh_note": _QUERY,
    "palace_mesh_fold": _MUTATION,
    **WATCHING_TOOLS,
}
# Of those, the ones whose answer leaves only once all that it can tell of is durable.
SHOWN_TO_PEERS = frozenset(name for name, tool in MESH_TOOLS.items() if tool is _SHOWN_TO_PEERS)
# Stock's tools whose replies show what drawers hold, memories of namespaces among them.
SHOW_DRAWERS = frozenset(
    f"mempalace_{name}"
    for name in (
        *("search", "check_duplicate", "get_drawer", "get_drawers", "list_drawers"),
        *("diary_read", "checkpoint"),
    )
)
# Stock's tools that file the texts which they are given.
FILE_TEXTS = frozenset(
    f"mempalace_{name}"
    for name in (
        *("add_drawer", "update_drawer", "diary_write", "checkpoint", "kg_add", "kg_supersede"),
        *("event_append", "task_create", "event_ack", "artifact_put", "patch_submit"),
        "create_tunnel",
    )
) | {"palace_delegate", "palace_heartbeat"}
_KNOWN = TOOLS | OWN_TOOLS | CANDIDATE_TOOLS | OWNER_TOOLS | CONTRACT_TOOLS | MESH_TOOLS


def classify_call(name: str, arguments: Mapping[str, Any]) -> Tool:
    """Return what a call will do; what can't be told is a mutation."""
    if name == "mempalace_checkpoint" and _is_long(arguments):
        return _LONG_FILING
    if name == "mempalace_delete_drawers" and _names_many(arguments):
        return _LONG_DELETING
    if name in LARGE_TEXTS and _is_large(arguments.get(LARGE_TEXTS[name])):
        return _LARGE_FILING
    if name == "palace_v1_commit" and _is_large(body_of(arguments).get("content")):
        return _LARGE_FILING
    if name == "palace_heartbeat" and arguments.keys().isdisjoint(("note", "status")):
        return _QUERY
    return _KNOWN.get(name, UNKNOWN)


def _is_long(arguments: Mapping[str, Any]) -> bool:
    items = arguments.get("items")
    if not isinstance(items, list):
        return False
    texts = (item.get("content") for item in items if isinstance(item, dict))
    chars = sum(len(text) for text in texts if isinstance(text, str))
    return len(items) >= LONG_ITEMS or chars >= LONG_CHARS


def _names_many(arguments: Mapping[str, Any]) -> bool:
    idents = arguments.get("drawer_ids")
    return isinstance(idents, list) and len(idents) >= LONG_ITEMS


def _is_large(text: object) -> bool:
    return isinstance(text, str) and len(text) > GROUP_CHARS_MAX


def group_key(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the key under which a call may share a batch with calls of other keys; "" for none.

    Two calls that would file the same drawer have the same key, whatever blanks surround its names:
    the second one has to see the first one's drawer.  Diary entries are all different.  So are
    memories, but for those whose id is named, which have that for their key.
    """
    if not arguments:
        return ""
    if name == "mempalace_diary_write":
        return _joined("diary", arguments, ("agent_name", "wing", "entry"))
    if name == "mempalace_add_drawer":
        return _joined("drawer", arguments, ("wing", "room", "content"))
    if name == "palace_commit_memory":
        return _memory_key(arguments)
    if name == "palace_v1_commit":
        ident = body_of(arguments).get("id")
        return _memory_key(
            {
                "namespace": arguments.get("name"),
                "content": body_of(arguments).get("content"),
                "id": None if ident is None else f"mem-{ident}",
            }
        )
    return ""


def body_of(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the body of a request of the memory contract; nothing for one that is no object."""
    body = arguments.get("body")
    return body if isinstance(body, dict) else {}


def _memory_key(arguments: Mapping[str, Any]) -> str:
    key = _joined("memory", arguments, ("namespace", "content"))
    return f"memory\0{arguments['id']}" if key and arguments.get("id") is not None else key


def _joined(what: str, arguments: Mapping[str, Any], names: tuple[str, ...]) -> str:
    values = [arguments.get(name, "") for name in names]
    if not all(isinstance(value, str) for value in values):
        return ""
    if len(values[-1]) > GROUP_CHARS_MAX:
        return ""
    return "\0".join([what, *(value.strip() for value in values[:-1]), values[-1]])
