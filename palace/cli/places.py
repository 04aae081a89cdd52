"""Commands that say which machine serves a palace, and where it is reached from others."""

from typing import Annotated

import typer

from palace.cli.options import PalaceOption, find
from palace.kernel.output import say


def own(
    palace: PalaceOption = "",
    here: Annotated[
        bool, typer.Option("--here", help="Claim the palace for this machine.")
    ] = False,
    release: Annotated[bool, typer.Option("--release", help="Give the claim up.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Override another machine's claim, if it is gone for good."),
    ] = False,
) -> int:
    """Claim a palace on another kernel's mount for this machine alone, or show who owns it."""
    from palace.commands.own import claim_palace, release_palace, show_owner

    if here and release:
        raise typer.BadParameter("either --here or --release")
    if force and not (here or release):
        raise typer.BadParameter("--force goes with --here or --release")
    paths, environment = find(palace)
    if here:
        say(claim_palace(paths, environment, force=force))
    elif release:
        say(release_palace(paths, environment, force=force))
    else:
        say(show_owner(paths, environment))
    return 0


def expose(
    to: Annotated[
        str, typer.Argument(metavar="[TO]", help="docker, or off; without it, show the setting.")
    ] = "",
    palace: PalaceOption = "",
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="N", min=0, max=65535, help="7253 by default.", show_default=False
        ),
    ] = 0,
) -> int:
    """Let containers behind another kernel reach the broker (docker), or stop that (off)."""
    from palace.commands.expose import expose_docker, expose_off, show_exposure

    if to not in ("", "docker", "off"):
        raise typer.BadParameter(f"{to!r} is neither docker nor off")
    if port and to != "docker":
        raise typer.BadParameter("--port goes with docker")
    paths, environment = find(palace)
    if to == "docker":
        say(expose_docker(paths, environment, port=port))
    elif to == "off":
        say(expose_off(paths, environment))
    else:
        say(show_exposure(paths, environment))
    return 0
