"""The command that shows and changes a palace's settings."""

from typing import Annotated

import typer

from palace.cli.options import PalaceOption, YesOption, find
from palace.kernel.output import say

ACTIONS = ("", "set", "unset", "trust")


def config(
    action: Annotated[
        str, typer.Argument(metavar="[ACTION]", help="set, unset or trust; without it, show them.")
    ] = "",
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE...]", help="For set; only KEY for unset."),
    ] = None,
    palace: PalaceOption = "",
    yes: YesOption = False,
) -> int:
    """Show the settings that count, or change yours on this machine.

    What can run a program, open a port or name a path outside of the palace counts only there. What
    palace.toml says of it is ignored until `trust` has shown it and you have agreed.
    """
    from palace.commands.config import set_config, show_config, trust_settings, unset_config

    if action not in ACTIONS:
        raise typer.BadParameter(f"{action!r} is neither set, unset nor trust")
    if bool(given) != (action in ("set", "unset")):
        raise typer.BadParameter("set takes KEY=VALUE, unset KEY, and the others nothing")
    paths, environment = find(palace)
    if action == "trust":
        say(trust_settings(paths, environment, yes=yes))
    elif action == "set":
        say(set_config(paths, environment, given or []))
    elif action == "unset":
        say(unset_config(paths, environment, given or []))
    else:
        say(show_config(paths, environment))
    return 0
