"""The app: its commands in the order that the overview shows, and how errors end them.

`shim`, `serve`, `ensure` and `dial` are dispatched before Typer is imported (palace/__main__.py);
they are registered for their help and their place in the overview.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated

import typer

from palace import __version__
from palace.cli import (
    agents,
    examining,
    federation,
    journal,
    memories,
    namespaces,
    places,
    provider,
    running,
    settings,
    shares,
    tokens,
    workspaces,
)
from palace.cli.output import end_failed
from palace.kernel.output import say
from palace.protocol.errors import PalaceError

Command = Callable[..., int]

COMMANDS: dict[str, Command] = {
    "shim": running.shim,
    "serve": running.serve,
    "ensure": running.ensure,
    "dial": running.dial,
    "status": running.status,
    "list": running.list_palaces,
    "stop": running.stop,
    "start": running.start,
    "history": journal.history,
    "logs": running.logs,
    "doctor": examining.doctor,
    "deaths": examining.deaths,
    "delegations": examining.delegations,
    "own": places.own,
    "expose": places.expose,
    "config": settings.config,
    "mesh": places.mesh,
    "feed": federation.feed,
    "pull": federation.pull,
    "rebuild": journal.rebuild,
    "move-store": journal.move_store,
    "set-embedder": journal.set_embedder,
    "purge": journal.purge,
    "backup": journal.backup,
    "restore": journal.restore,
    "recover": journal.recover,
    "trust": journal.trust,
    "install": agents.install,
    "uninstall": agents.uninstall,
    "provision-peer": provider.provision_peer,
    "unprovision-peer": provider.unprovision_peer,
    "service": running.service,
    "try": agents.try_out,
    "model": agents.model,
}
# Commands that have commands of their own, with what they say of themselves.
GROUPS: dict[str, tuple[str, dict[str, Command]]] = {
    "workspace": (workspaces.ABOUT, workspaces.COMMANDS),
    "memory": (memories.ABOUT, memories.COMMANDS),
    "namespace": (namespaces.ABOUT, namespaces.COMMANDS),
    "token": (tokens.ABOUT, tokens.COMMANDS),
    "provider": (provider.ABOUT, provider.COMMANDS),
    "share": (shares.ABOUT, shares.COMMANDS),
    "remote": (federation.ABOUT, federation.REMOTE_COMMANDS),
    "candidates": (federation.CANDIDATES, federation.CANDIDATE_COMMANDS),
}
# Spellings that keep working without a place in the overview.
ALIASES = {"log": "history"}


def reporting(name: str, command: Command) -> Callable[..., None]:
    """Return the command as Typer runs it: it ends with its code, errors become one line."""

    @wraps(command)
    def run(*args: object, **options: object) -> None:
        try:
            code = command(*args, **options)
            if sys.stdout is not None:
                sys.stdout.flush()
        except (PalaceError, OSError) as error:
            code = end_failed(name, error)
        raise typer.Exit(code)

    return run


def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        say(f"palace {__version__}")
        raise typer.Exit


def make_app() -> typer.Typer:
    """Return the app with all commands; a command's docstring is its help."""
    made = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="One memory, one writer, everywhere: many agents share one MemPalace.",
        epilog="Register `palace shim` as a stdio MCP server in every agent; the rest is "
        "automatic.",
    )
    made.callback()(show_version)
    for name, command in COMMANDS.items():
        made.command(name)(reporting(name, command))
    for name, (about, commands) in GROUPS.items():
        group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=about)
        for inner, command in commands.items():
            group.command(inner)(reporting(name, command))
        made.add_typer(group, name=name)
    for alias, name in ALIASES.items():
        made.command(alias, hidden=True)(reporting(name, COMMANDS[name]))
    return made


app = make_app()
