"""Commands that say which machine serves a palace, and where it is reached from others."""

import os
from typing import Annotated

import typer

from palace.cli.options import PalaceOption, find, path
from palace.kernel.output import say


def own(
    palace: PalaceOption = "",
    here: Annotated[
        bool, typer.Option("--here", help="Claim the palace for this machine.")
    ] = False,
    release: Annotated[bool, typer.Option("--release", help="Give the claim up.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Override another machine's claim, if it is gone for good; alone: take a "
            "database's tables from an owner that ended in the middle.",
        ),
    ] = False,
    through: Annotated[
        str,
        typer.Option(
            "--through",
            metavar="DIR",
            callback=path,
            help="While the palace that made this guest's directory has the tables, carry agents "
            "there.",
        ),
    ] = "",
    forget: Annotated[
        str,
        typer.Option("--forget", metavar="PALACE", help="Forget the way to that palace."),
    ] = "",
) -> int:
    """Claim a palace on another kernel's mount for this machine alone, or show who owns it.

    Where a database keeps its drawers, say who has the right to write its tables, too, and by which
    ways agents are carried to another palace that has it.
    """
    from palace.commands.own import claim_palace, keeps_tables, release_palace, show_owner

    if sum(map(bool, (here, release, through, forget))) > 1:
        raise typer.BadParameter("one of --here, --release, --through and --forget")
    paths, environment = find(palace)
    if through or forget:
        from palace.commands.own_ways import forget_way, keep_way

        change, given = (keep_way, through) if through else (forget_way, forget)
        say(change(paths, environment, given))
    elif here:
        say(claim_palace(paths, environment, force=force))
    elif release:
        say(release_palace(paths, environment, force=force))
    elif force:
        from palace.commands.own_tables import take_tables

        say(take_tables(paths, environment))
    else:
        say(show_owner(paths, environment))
        if keeps_tables(paths, environment):
            from palace.commands.own_tables import tables_text

            say(tables_text(paths, environment))
            from palace.commands.own_ways import ways_text

            say(ways_text(paths, environment))
    return 0


def expose(
    to: Annotated[
        str,
        typer.Argument(metavar="[TO]", help="docker, guest, revoke or off; without it, show them."),
    ] = "",
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The guest; docker by default.")
    ] = "",
    palace: PalaceOption = "",
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="N", min=0, max=65535, help="7253 by default.", show_default=False
        ),
    ] = 0,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="The guest may change nothing.")
    ] = False,
    into: Annotated[
        str,
        typer.Option(
            "--into", metavar="DIR", callback=path, help="Where the guest's directory is made."
        ),
    ] = "",
) -> int:
    """Let containers behind another kernel reach the broker, each with a token of its own.

    `docker` sets where the broker listens, and makes a directory with its address and a token,
    which is all that a container needs; `guest` makes another one, `revoke` ends a guest's token,
    `off` ends listening.
    """
    from palace.commands.expose import (
        expose_docker,
        expose_off,
        expose_to_guest,
        show_exposure,
    )
    from palace.commands.guests import Wish, revoke_guest

    if to not in ("", "docker", "guest", "revoke", "off"):
        raise typer.BadParameter(f"{to!r} is neither docker, guest, revoke nor off")
    if (port and to != "docker") or ((read_only or into) and to not in ("docker", "guest")):
        raise typer.BadParameter("--port goes with docker, --read-only and --into with guest, too")
    if (name and to in ("", "off")) or (to in ("guest", "revoke") and not name):
        raise typer.BadParameter("guest and revoke need a NAME, docker takes one")
    paths, environment = find(palace)
    wish = Wish(
        name=name or "docker", read_only=read_only, into=os.path.abspath(into) if into else ""
    )
    if to in ("docker", "guest"):
        from palace.broker.certificate import keep_identity

        if to == "docker":
            say(expose_docker(paths, environment, wish, keep_identity, port=port))
        else:
            say(expose_to_guest(paths, environment, wish, keep_identity))
    elif to == "revoke":
        say(revoke_guest(paths, environment, name))
    elif to == "off":
        say(expose_off(paths, environment))
    else:
        say(show_exposure(paths, environment))
    return 0


def mesh(
    palace: PalaceOption = "",
    trust: Annotated[
        bool, typer.Option("--trust", help="Agree to the addresses that peers.json names now.")
    ] = False,
) -> int:
    """Show the peers of mempalace's mesh, and where the token is that they are given."""
    from palace.commands.mesh import mesh_text, trust_peers

    paths, environment = find(palace)
    say(trust_peers(paths, environment) if trust else mesh_text(paths, environment))
    return 0
