"""Options that several commands share, and the palace that they name."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palace.settings.environment import ShimEnvironment
    from palace.settings.paths import Paths

PalaceOption = Annotated[
    str,
    typer.Option(
        "--palace",
        metavar="DIR",
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
        "--project", metavar="DIR", help="Use the configuration file of the project in DIR."
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
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    return find_palace(palace, environment.all), environment
