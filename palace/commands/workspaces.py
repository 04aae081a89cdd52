"""`palace workspace`: who works here, as a tree."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from palace.commands.agent import ask_broker
from palace.commands.namespaces import swept
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.protocol.resolver import Tree
from palace.protocol.workspaces import Workspace
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

NONE_YET = "There is no workspace. Register the first: palace workspace add ID --cwd DIR"


@attrs.frozen(kw_only=True)
class Wish:
    """What is asked for a new workspace; `uid` is None for no user of its own."""

    parent: str = ""
    cwd: str = ""
    uid: int | None = None
    confined: bool = False
    runtimes: tuple[str, ...] = ()


def add_workspace(paths: Paths, environment: ShimEnvironment, ident: str, wish: Wish) -> str:
    """Register a workspace; return what is told of it."""
    given = attrs.asdict(wish) | {"id": ident, "cwd": _directory(wish.cwd)}
    given["runtimes"] = list(wish.runtimes)
    found = _read(ask_broker(paths, environment, "palace_workspace_add", **given)["workspace"])
    text = f"{found.id} is registered{_place(found)}."
    if found.cwd:
        text += f" Agents that are started in {found.cwd} act as it."
    if found.uid is not None:
        text += f" Processes of uid {found.uid} act as it, and are confined."
        allowed = load_config(paths, environment.all, Kernel()).allow_uids
        if found.uid not in allowed:
            uids = ",".join(map(str, [*allowed, found.uid]))
            text += f" Let them in: palace config set allow_uids={uids}; palace stop"
    if found.runtimes:
        from palace.commands.provisioning import born

        text = "\n".join([text, *born(paths, environment, found)])
    return text


def move_workspace(paths: Paths, environment: ShimEnvironment, ident: str, parent: str) -> str:
    """Give a workspace another parent, "" to make it a root; return what is told of it."""
    given = {"id": ident, "parent": parent}
    found = _read(ask_broker(paths, environment, "palace_workspace_move", **given)["workspace"])
    return f"{found.id} is{_place(found)} now."


def remove_workspace(
    paths: Paths, environment: ShimEnvironment, ident: str, *, purge: bool = False
) -> str:
    """Remove a workspace; return what is told of it, and of those below it.

    With `purge` the memories that it had for itself are forgotten; those that it shared stay.
    """
    told = ask_broker(paths, environment, "palace_workspace_remove", id=ident, purge=purge)
    found, below = _read(told["workspace"]), told["below"]
    rows: list[str] = []
    if found.runtimes:  # before anything that was filed under it goes
        from palace.commands.provisioning import gone

        rows = gone(paths, environment, found)
    text = f"{found.id} is removed. What was filed under it, and its directory, stay."
    if purge:
        many, at_server = swept(paths, environment)
        text = (
            f"{found.id} is removed, and {many} memories were forgotten, those that were over "
            f"among them. What it shared stays: team:{found.id} and org:{found.id}, or those of "
            f"the workspaces above it. The journal and backups hold what was forgotten until they "
            "are renewed; palace purge ID takes single memories out of them. Its directory stays."
            f"{at_server}"
        )
    if below:
        names = ", ".join(below[:5]) + (", ..." if len(below) > 5 else "")
        text += f" Those below it stay where they are in the tree: {names}."
    return "\n".join([text, *rows])


def list_text(paths: Paths, environment: ShimEnvironment, *, as_json: bool) -> str:
    """Return all workspaces, one a line."""
    told = ask_broker(paths, environment, "palace_workspace_list")["workspaces"]
    if as_json:
        return "\n".join(json.dumps(one) for one in told)
    return "\n".join(_line(_read(one)) for one in told) or NONE_YET


def audit_text(paths: Paths, environment: ShimEnvironment, *, as_json: bool) -> str:
    """Return what was decreed to organisations, one a line, the newest last."""
    told = ask_broker(paths, environment, "palace_workspace_audit")["audit"]
    if as_json:
        return "\n".join(json.dumps(one) for one in told)
    return "\n".join(map(_audited, told)) or "Nothing was decreed to an organisation yet."


def _audited(row: Mapping[str, Any]) -> str:
    who = row["workspace"] or "the owner"
    what = f"{row['action']}  {row['namespace']}  {row['memory_id']}"
    return f"{row['at']}  {what}  by {who}  {row['bytes']} bytes  sha256 {row['sha256']}"


def tree_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Return the workspaces as a tree; removed ones only where others are below them."""
    told = ask_broker(paths, environment, "palace_workspace_list")["workspaces"]
    found = map(_read, told)
    tree = Tree({workspace.id: workspace for workspace in found})
    return "\n".join(tree_lines(tree)) or NONE_YET


def tree_lines(tree: Tree) -> Iterator[str]:
    """Yield a line for each workspace, below its parent; each once, whatever the tree is like."""
    roots = [one.id for one in tree.workspaces.values() if one.parent not in tree.workspaces]
    waiting = [(ident, 0) for ident in sorted(roots, reverse=True)]
    while waiting:
        ident, depth = waiting.pop()
        workspace, below = tree.workspaces[ident], list(tree.below(ident))
        waiting += [(other, depth + 1) for other in reversed(below)]
        if not workspace.removed or below:
            yield "  " * depth + _line(workspace, placed=True)


def _directory(given: str) -> str:
    """Return where a directory really is, "" for none; raises ConfigError for what is none."""
    if given and not os.path.isdir(given):
        raise ConfigError(
            f"--cwd {given} is no directory. Name the one in which the workspace's agents run."
        )
    return os.path.realpath(given) if given else ""


def _read(told: Mapping[str, Any]) -> Workspace:
    return Workspace(**{**told, "runtimes": tuple(told["runtimes"])})


def _place(workspace: Workspace) -> str:
    return f" below {workspace.parent}" if workspace.parent else " as a root"


def _line(workspace: Workspace, *, placed: bool = False) -> str:
    words = [workspace.id]
    if workspace.removed:
        words.append("(removed)")
    if not placed and workspace.parent:
        words.append(f"below {workspace.parent}")
    if workspace.uid is not None:
        words.append(f"uid {workspace.uid}")
    if workspace.confined:
        words.append("confined")
    if workspace.runtimes:
        words.append(",".join(workspace.runtimes))
    if workspace.cwd:
        words.append(workspace.cwd)
    return "  ".join(words)
