"""Which calls may have to ask a server that holds namespaces elsewhere: they have a lane of theirs.

Whether one does can't be told before its turn, since rights are settled then.  So whatever may is
in that lane, where waiting for a server holds up nobody but others who wait for it.

Pure.
"""

from collections.abc import Collection

import attrs

from palace.protocol.request import ToolCall
from palace.protocol.tools import BASIC_TOOLS, Lane, body_of
from palace.protocol.workspaces import WORKSPACE

LOCAL = "LOCAL"  # one's own namespace, in stock's words
_OF_ONE = {"palace_commit_memory", "palace_commit_summary"}  # one's own where none is named
_OF_ANY = {"palace_forget_memory"}  # where none is named, of any
_WITHOUT_MODEL = _OF_ONE | {"palace_v1_commit"}
# Stock's for confined sessions: what is filed under a wing, and what is looked for everywhere.
_BY_WING = frozenset(
    f"mempalace_{name}" for name in ("add_drawer", "diary_write", "diary_read", "update_drawer")
)
_HERE = frozenset({"mempalace_get_drawer", "mempalace_get_drawers"})  # by ids, which are local


def may_go_elsewhere(call: ToolCall, kinds: Collection[str], *, is_confined: bool) -> bool:
    """Tell whether a call may be about a namespace of these kinds."""
    name, arguments = call.name, call.arguments
    if name in _OF_ONE:
        named = arguments.get("namespace")
        return WORKSPACE in kinds if named is None else _is_held(named, kinds)
    if name in _OF_ANY:
        named = arguments.get("namespace")
        return named is None or _is_held(named, kinds)
    if name == "palace_search_memory":
        return _any_held(arguments.get("namespaces"), kinds)
    if name == "palace_v1_commit":
        return _is_held(arguments.get("name"), kinds)
    if name == "palace_v1_search":
        return _any_held(body_of(arguments).get("namespaces"), kinds)
    if name == "palace_v1_forget":
        return _is_held(body_of(arguments).get("requested_by_namespace"), kinds)
    if not is_confined or name not in BASIC_TOOLS or name in _HERE:
        return False
    wing = arguments.get("wing")
    if wing == LOCAL or (name in _BY_WING and wing in (None, "")):
        return WORKSPACE in kinds
    return True


def in_its_lane(call: ToolCall) -> ToolCall:
    """Return a call that may ask a server, to be run where that holds up nobody else.

    What would have to wait for the embedding model waits for it only to look at what is here.
    """
    embeds = call.tool.embeds and call.name not in _WITHOUT_MODEL
    tool = attrs.evolve(call.tool, lane=Lane.REMOTE, embeds=embeds)
    return attrs.evolve(call, tool=tool, group="")


def _is_held(namespace: object, kinds: Collection[str]) -> bool:
    return isinstance(namespace, str) and namespace.partition(":")[0] in kinds


def _any_held(namespaces: object, kinds: Collection[str]) -> bool:
    if not isinstance(namespaces, list) or not namespaces:
        return True  # all there are
    return any(_is_held(name, kinds) for name in namespaces)
