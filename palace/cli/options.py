"""Options that several commands share, and the palace that they name."""

from typing import TYPE_CHECKING, Annotated

import typer

from palace.settings.environment import read_environment
from palace.settings.given_path import GivenPath
from palace.settings.paths import expanded, find_palace

if TYPE_CHECKING:
    from palace.settings.environment import ShimEnvironment
    from palace.settings.paths import Paths


def path(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Return a path as it was given, with its home; raises ConfigError for what is none.

    The callback of every option and argument that is a path. An empty one was given, too.
    """
    source = context.get_parameter_source(parameter.name or "")
    if source is None or source.name != "COMMANDLINE":
        return value
    option = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
    return expanded(GivenPath(value, option or ""), read_environment().all)


PalaceOption = Annotated[
    str,
    typer.Option(
        "--palace",
        metavar="DIR",
        callback=path,
        help="The palace; by default the one that stock mempalace would find.",
    ),
]
StopOption = Annotated[
    bool,
    typer.Option("--stop", help="Stop a running broker first; shims start a new one afterwards."),
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until ctrl-C.")]
ProjectOption = Annotated[
    str,
    typer.Option(
        "--project",
        metavar="DIR",
        callback=path,
        help="Use the configuration file of the project in DIR.",
    ),
]
HooksOption = Annotated[
    bool, typer.Option("--hooks", help="Stock's save hooks instead of the MCP server.")
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Show the change and write it without asking.")
]


def find(palace: str) -> "tuple[Paths, ShimEnvironment]":
    """Return the palace that the option or the environment names, and the environment."""
    environment = read_environment()
    return find_palace(palace, environment.all), environment
