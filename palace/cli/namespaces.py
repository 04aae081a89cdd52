"""The commands for namespaces of one's own making: `palace namespace`."""

from collections.abc import Callable
from typing import Annotated

import typer

from palace.cli.options import PalaceOption, find
from palace.kernel.output import say

ABOUT = """Let workspaces share memories across the tree.

\b
    palace namespace add custom:design --member ui --member api
    palace namespace list

Its members read and write it, wherever they are in the tree, and nobody else does. Those of
workspaces, teams and organisations are there by themselves.
"""
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Its name: custom:NAME.", show_default=False)
]


def add(
    name: NameArgument,
    members: Annotated[
        list[str], typer.Option("--member", metavar="ID", help="A workspace that it is for.")
    ],
    palace: PalaceOption = "",
) -> int:
    """Make a namespace for some workspaces, or say anew for which one is."""
    from palace.commands.namespaces import add_namespace

    say(add_namespace(*find(palace), name, members))
    return 0


def list_all(palace: PalaceOption = "") -> int:
    """Show custom namespaces, the memory contract's, and those that are being forgotten."""
    from palace.commands.namespaces import namespaces_text

    say(namespaces_text(*find(palace)))
    return 0


def remove(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="custom:NAME; or with --purge one of the memory contract's, as the list shows it: "
            "plugin:LIFE:NAME.",
            show_default=False,
        ),
    ],
    palace: PalaceOption = "",
    purge: Annotated[bool, typer.Option("--purge", help="Forget its memories, too.")] = False,
) -> int:
    """Remove a namespace; its memories stay for the owner, unless --purge says otherwise."""
    from palace.commands.namespaces import remove_namespace

    say(remove_namespace(*find(palace), name, purge=purge))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {"add": add, "list": list_all, "remove": remove}
