"""`palace memory`: memories of namespaces for scripts, by whoever runs them.

A command is an agent like any other: it acts as the workspace in whose directory it is started, or
whose token its environment names, and otherwise for the owner.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from palace.commands.agent import Agent
from palace.protocol.errors import InvalidMemory
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, python_command

NOTHING = "Nothing was found."
CONTENT_BYTES_MAX = 1 << 20  # of standard input; a memory has 100,000 characters at most


@attrs.frozen(kw_only=True)
class Asked:
    """What is searched for; "" and () mean all."""

    query: str = ""
    namespaces: Sequence[str] = ()
    kinds: Sequence[str] = ()
    limit: int = 10


def search_text(paths: Paths, environment: ShimEnvironment, asked: Asked, *, as_json: bool) -> str:
    """Return the memories that are found: the nearest, or without a query the newest."""
    given: dict[str, object] = {"limit": asked.limit}
    given |= {"query": asked.query} if asked.query else {}
    given |= {"namespaces": list(asked.namespaces)} if asked.namespaces else {}
    given |= {"kinds": list(asked.kinds)} if asked.kinds else {}
    found = _asked(paths, environment, "palace_search_memory", given)["memories"]
    if as_json:
        return "\n".join(json.dumps(one) for one in found)
    return "\n".join(map(_line, found)) or NOTHING


def commit_text(
    paths: Paths, environment: ShimEnvironment, content: str, given: Mapping[str, str]
) -> str:
    """Store a memory, of standard input where the content is "-"; return what is told of it."""
    if content == "-":
        content = sys.stdin.read(CONTENT_BYTES_MAX)
        if not content:
            raise InvalidMemory("there is nothing on standard input. Nothing was stored.")
    arguments = {name: value for name, value in given.items() if value}
    told = _asked(paths, environment, "palace_commit_memory", {"content": content, **arguments})
    without = ", without the secrets that were in it" if told["redacted"] else ""
    return f"{told['id']} is stored in {told['namespace']}{without}."


def forget_text(paths: Paths, environment: ShimEnvironment, ident: str) -> str:
    """Forget a memory; return what is told of it."""
    told = _asked(paths, environment, "palace_forget_memory", {"id": ident})
    return f"{told['id']} of {told['namespace']} is forgotten."


def _asked(
    paths: Paths, environment: ShimEnvironment, tool: str, arguments: Mapping[str, object]
) -> dict[str, Any]:
    argv = [*python_command(), "shim", f"--palace={paths.root}"]
    agent = Agent("palace memory", argv, environment.all, quiet=True)
    try:
        return agent.tool(tool, **arguments)
    finally:
        agent.close()


def _line(told: Mapping[str, Any]) -> str:
    until = f"  until {told['expires_at']}" if told["expires_at"] else ""
    head = f"{told['id']}  {told['namespace']}  {told['kind']}  {told['created_at']}{until}"
    return head + "".join(f"\n    {line}" for line in str(told["content"]).splitlines())
