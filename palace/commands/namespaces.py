"""`palace namespace`: what workspaces share across the tree."""

from collections.abc import Mapping, Sequence
from typing import Any

from palace.commands.agent import ask_broker
from palace.protocol.workspaces import PLUGIN
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

NONE_YET = "There is no custom namespace. Make one: palace namespace add custom:NAME --member ID"


def add_namespace(
    paths: Paths, environment: ShimEnvironment, name: str, members: Sequence[str]
) -> str:
    """Make a custom namespace, or change whom it is for; return what is told of it."""
    given = {"name": name, "members": list(members)}
    return f"{_line(ask_broker(paths, environment, 'palace_namespace_add', **given)['namespace'])}."


def namespaces_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Return the namespaces that the register knows, one a line."""
    told = ask_broker(paths, environment, "palace_namespace_list")["namespaces"]
    return "\n".join(map(_line, told)) or NONE_YET


def remove_namespace(paths: Paths, environment: ShimEnvironment, name: str, *, purge: bool) -> str:
    """Remove a namespace; return what has become of its memories."""
    told = ask_broker(paths, environment, "palace_namespace_remove", name=name, purge=purge)
    if not purge:
        return f"{told['removed']} is removed. Its memories stay, for the palace's owner alone."
    many, at_server = swept(paths, environment)
    return f"{told['removed']} is removed, and {many} memories were forgotten.{at_server}"


def swept(paths: Paths, environment: ShimEnvironment) -> tuple[int, str]:
    """Forget all that is over or in namespaces that end.

    Return how many memories that were here, and what is to be said of a memory server.
    """
    many, is_more = 0, True
    while is_more:
        told = ask_broker(paths, environment, "palace_sweep")
        many += told["forgotten"]
        is_more = bool(told["forgotten"]) or told.get("more") is True
    return many, _dropped(paths, environment) if told.get("server") is True else ""


def _dropped(paths: Paths, environment: ShimEnvironment) -> str:
    """Have the memory server forget namespaces that end; say what it has not forgotten."""
    told = ask_broker(paths, environment, "palace_memory_drop")
    while told["ended"] and told["left"]:
        told = ask_broker(paths, environment, "palace_memory_drop")
    if not told["left"]:
        return " So did the memory server."
    why = told["why"] or "It is not done yet."
    return (
        f" The memory server has not forgotten {', '.join(told['left'])}: {why} It is asked again "
        "while the palace is in use, and until it has, no namespace of that name can be made."
    )


def _line(told: Mapping[str, Any]) -> str:
    if told["ends"]:
        return f"{told['name']}  ends: its memories are being forgotten"
    if told["name"].startswith(f"{PLUGIN}:"):
        until = f", until {told['expires_at']}" if told["expires_at"] else ""
        return f"{told['name']}  of the memory contract's clients{until}"
    return f"{told['name']}  for {', '.join(told['members']) or 'nobody'}"
