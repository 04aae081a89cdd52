"""palace's own tools, for the sessions of a palace that has workspaces.

The caller is known from the session, never from an argument.
"""

import json
from collections.abc import Callable, Iterable, Mapping

from palace.protocol import jsonrpc
from palace.protocol.principals import Principal
from palace.protocol.request import ToolCall
from palace.protocol.resolver import Tree, readable, writable


def answer_own(tree: Tree, principal: Principal, call: ToolCall) -> dict[str, object]:
    """Return the reply to a call of `protocol.tools.OWN_TOOLS`."""
    names = _RIGHTS[call.name](tree, principal.workspace) if principal.workspace else _all(tree)
    told = {
        "workspace": principal.workspace,
        "namespaces": [{"name": name, "kind": name.partition(":")[0]} for name in names],
    }
    content = [{"type": "text", "text": json.dumps(told, ensure_ascii=False)}]
    return jsonrpc.result(call.id, {"content": content})


def _all(tree: Tree) -> Iterable[str]:
    """Return what the palace's owner may read and write: whatever anybody may."""
    found = {name: None for ident in sorted(tree.workspaces) for name in readable(tree, ident)}
    return sorted(found)


_RIGHTS: Mapping[str, Callable[[Tree, str], Iterable[str]]] = {
    "palace_list_readable_namespaces": readable,
    "palace_list_writable_namespaces": writable,
}
