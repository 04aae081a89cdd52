"""The commands that say who works in a palace: `palace workspace`."""

from collections.abc import Callable
from typing import Annotated

import typer

from palace.cli.options import PalaceOption, find, path
from palace.kernel.output import say

ABOUT = """Register the agents that work here, as a tree.

\b
    palace workspace add lead --cwd ~/project
    palace workspace add reviewer --parent lead --cwd ~/project/review
    palace workspace tree
    palace workspace add coder --cwd ~/project/code --runtime claude-code

With --runtime, the provider of memory gives the agent what it needs: palace provider.
Each change goes through the broker, and is in the palace's journal and backups. From the first
workspace on, palaces of older versions refuse to serve.
"""
IdArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Its id: lower-case letters, digits and hyphens.", show_default=False
    ),
]

RuntimesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="HOST",
        help="What its agents run as, once or more often: palace install --list.",
        show_default=False,
    ),
]
IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="Their ids; or --all.", show_default=False),
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are registered.")]


def add(  # noqa: PLR0913, PLR0917 - Typer reads options from parameters
    ident: IdArgument,
    palace: PalaceOption = "",
    parent: Annotated[
        str, typer.Option("--parent", metavar="ID", help="The workspace above it.")
    ] = "",
    cwd: Annotated[
        str,
        typer.Option(
            "--cwd", metavar="DIR", callback=path, help="The directory in which its agents run."
        ),
    ] = "",
    uid: Annotated[
        int | None,
        typer.Option("--uid", metavar="N", help="The user whose processes are it, confined."),
    ] = None,
    confined: Annotated[
        bool, typer.Option("--confined", help="Keep its agents to palace's own tools.")
    ] = False,
    runtime: RuntimesOption = None,
) -> int:
    """Register a workspace; without --parent, as a root."""
    from palace.commands.workspaces import Wish, add_workspace

    wish = Wish(parent=parent, cwd=cwd, uid=uid, confined=confined, runtimes=tuple(runtime or ()))
    say(add_workspace(*find(palace), ident, wish))
    return 0


def list_all(
    palace: PalaceOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per workspace.")
    ] = False,
) -> int:
    """Show all workspaces, removed ones as well."""
    from palace.commands.workspaces import list_text

    text = list_text(*find(palace), as_json=as_json)
    if text:
        say(text)
    return 0


def audit(
    palace: PalaceOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per change.")
    ] = False,
) -> int:
    """Show who changed what in organisations' namespaces: the last 1,000 changes, by digest."""
    from palace.commands.workspaces import audit_text

    text = audit_text(*find(palace), as_json=as_json)
    if text:
        say(text)
    return 0


def tree(palace: PalaceOption = "") -> int:
    """Show which workspace is below which."""
    from palace.commands.workspaces import tree_text

    say(tree_text(*find(palace)))
    return 0


def move(
    ident: IdArgument,
    palace: PalaceOption = "",
    parent: Annotated[
        str, typer.Option("--parent", metavar="ID", help="The workspace above it from now on.")
    ] = "",
    root: Annotated[bool, typer.Option("--root", help="None is above it from now on.")] = False,
) -> int:
    """Give a workspace another parent; those below move along."""
    from palace.commands.workspaces import move_workspace

    if bool(parent) is root:
        raise typer.BadParameter("one of --parent and --root")
    say(move_workspace(*find(palace), ident, parent))
    return 0


def remove(
    ident: IdArgument,
    palace: PalaceOption = "",
    purge: Annotated[
        bool, typer.Option("--purge", help="Forget the memories that it had for itself.")
    ] = False,
) -> int:
    """Remove a workspace; what was filed under it stays, unless --purge says otherwise."""
    from palace.commands.workspaces import remove_workspace

    say(remove_workspace(*find(palace), ident, purge=purge))
    return 0


def on(
    idents: IdsArgument = None,
    palace: PalaceOption = "",
    every: AllOption = False,
    runtime: RuntimesOption = None,
) -> int:
    """Let the provider of memory give workspaces what they need, as often as it is run.

    Several at once: $PALACE_PROVISION_CONCURRENCY, 3 unless set, 0 for all. Exits with 1 where one
    failed.
    """
    from palace.commands.provisioning import switch_on

    names = _targets(idents, every=every)
    if runtime and not names:
        raise typer.BadParameter("--runtime is for workspaces that are named")
    rows, well = switch_on(*find(palace), names, runtime or ())
    say("\n".join(rows))
    return 0 if well else 1


def off(idents: IdsArgument = None, palace: PalaceOption = "", every: AllOption = False) -> int:
    """Let the provider of memory take back what it gave; they stay registered. As `on`."""
    from palace.commands.provisioning import switch_off

    rows, well = switch_off(*find(palace), _targets(idents, every=every))
    say("\n".join(rows))
    return 0 if well else 1


def _targets(idents: list[str] | None, *, every: bool) -> list[str]:
    """Return what is named, [] for all of them; raises where neither is asked for, or both."""
    if bool(idents) is every:
        raise typer.BadParameter("either the IDs of workspaces or --all")
    return idents or []


COMMANDS: dict[str, Callable[..., int]] = {
    "add": add,
    "list": list_all,
    "tree": tree,
    "audit": audit,
    "move": move,
    "remove": remove,
    "on": on,
    "off": off,
}
