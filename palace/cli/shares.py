"""The commands for what others may pull from here: `palace share`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from palace.cli.options import PalaceOption, find, path
from palace.kernel.output import say

if TYPE_CHECKING:
    from palace.commands.shares import Shares
    from palace.settings.config import Config

ABOUT = """Let others pull from here over https, each with a token of its own.

\b
    palace config set serve_http=192.0.2.7:7254
    palace share new team --wing project --out team.token
    palace share revoke team

Whoever has the token may read the drawers of these wings, and nothing else. A fact is in no wing:
facts are shared with --all, or where --kind fact names them.
"""


def _open(palace: str) -> "tuple[Shares, Config]":
    from palace.commands.shares import Shares
    from palace.settings.config import load_config

    shares = Shares(*find(palace))
    return shares, load_config(shares.paths, shares.environment.all, shares.kernel)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The share.", show_default=False)],
    palace: PalaceOption = "",
    wing: Annotated[
        list[str] | None,
        typer.Option("--wing", metavar="WING", help="Drawers of this wing; once or more often."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Drawers of all wings.")] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="What is shared: drawer or fact."),
    ] = None,
    out: Annotated[
        str,
        typer.Option("--out", metavar="FILE", callback=path, help="The new file for its token."),
    ] = "",
) -> int:
    """Share some of a palace: make a token that opens it, in a new file."""
    from palace.broker.certificate import door_fingerprint
    from palace.commands.shares import Wish, new_share

    wish = Wish(
        name=name,
        wings=tuple(wing or ()),
        kinds=tuple(kind or ()),
        everything=everything,
        out=out,
    )
    say(new_share(*_open(palace), wish, door_fingerprint))
    return 0


def list_all(palace: PalaceOption = "") -> int:
    """Show what is shared, and how others come for it."""
    from palace.broker.certificate import door_fingerprint
    from palace.commands.shares import shares_text

    say(shares_text(*_open(palace), door_fingerprint))
    return 0


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The share.", show_default=False)],
    palace: PalaceOption = "",
) -> int:
    """Share something no more; its token opens nothing from now on."""
    from palace.commands.shares import revoke_share

    shares, _ = _open(palace)
    say(revoke_share(shares, name))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {"new": new, "list": list_all, "revoke": revoke}
