"""The commands for what proves a process to be a workspace: `palace token`."""

from collections.abc import Callable
from typing import Annotated

import typer

from palace.cli.options import PalaceOption, find, path
from palace.kernel.output import say

ABOUT = """Give a workspace to processes that no directory or user tells from others.

\b
    palace token new workspace:reviewer --out ~/reviewer.token
    PALACE_WORKSPACE_TOKEN_FILE=~/reviewer.token palace shim

Whoever has a token is that workspace, confined, wherever it runs. palace keeps its digest alone.
Over HTTP it is shown as any other: Authorization: Bearer TOKEN.
"""


def new(
    scope: Annotated[
        str,
        typer.Argument(
            metavar="SCOPE",
            help="Whose token it is: workspace:ID, or its id alone; or the word plugin, for "
            "programs that keep namespaces of their own here (the memory contract).",
        ),
    ],
    palace: PalaceOption = "",
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="FILE",
            callback=path,
            help="The new file that holds it; printed without it.",
        ),
    ] = "",
    label: Annotated[
        str, typer.Option("--label", metavar="TEXT", help="What it is for, as the list shows it.")
    ] = "",
) -> int:
    """Make a token for a workspace or a plugin's client, in a new file or on standard output."""
    from palace.commands.tokens import new_token

    say(new_token(*find(palace), scope, label=label, out=out))
    return 0


def list_all(palace: PalaceOption = "") -> int:
    """Show all tokens, revoked ones as well."""
    from palace.commands.tokens import tokens_text

    say(tokens_text(*find(palace)))
    return 0


def revoke(
    prefix: Annotated[
        str, typer.Argument(metavar="TOKEN", help="The digits that the list shows of it.")
    ],
    palace: PalaceOption = "",
) -> int:
    """Revoke a token; it counts no more from the next call on."""
    from palace.commands.tokens import revoke_token

    say(revoke_token(*find(palace), prefix))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {"new": new, "list": list_all, "revoke": revoke}
