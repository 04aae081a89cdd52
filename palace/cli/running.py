"""Commands that run a broker, reach it, end it, and show what it does."""

from typing import Annotated

import typer

from palace.cli.options import FollowOption, PalaceOption, find
from palace.kernel.output import say


def shim(palace: PalaceOption = "") -> int:
    """Relay one MCP client (stdin, stdout) to the palace's broker."""
    from palace.shim.relay import main

    return main(_given(palace))


def serve(palace: PalaceOption = "") -> int:
    """Run the broker in the foreground; shims start one on demand."""
    from palace.broker.serve import main

    return main(_given(palace))


def ensure(palace: PalaceOption = "") -> int:
    """Start a broker unless one is running; print its record as one line of JSON."""
    from palace.shim.ensure import main

    return main(_given(palace))


def dial(palace: PalaceOption = "") -> int:
    """Carry bytes between stdin, stdout and the palace's broker, for shims over ssh."""
    from palace.shim.dial import main

    return main(_given(palace))


def _given(palace: str) -> list[str]:
    return [f"--palace={palace}"] if palace else []


def status(
    palace: PalaceOption = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh every second, until ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Of every palace that `palace list` shows.")
    ] = False,
) -> int:
    """Show who owns the palace, who is connected, and what is queued."""
    from palace.commands.status import print_status, watch_status

    if every:
        from palace.commands.palaces import print_all

        if watch or palace:
            raise typer.BadParameter("--all goes with neither --watch nor --palace")
        return print_all(*find(palace), as_json=as_json)
    show = watch_status if watch else print_status
    return show(*find(palace), as_json=as_json)


def list_palaces(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> int:
    """List the palaces that this user's brokers have served: owner, size, last use."""
    from palace.commands.palaces import print_list

    return print_list(*find(""), as_json=as_json)


def stop(
    palace: PalaceOption = "",
    now: Annotated[bool, typer.Option("--now", help="Don't wait for running calls.")] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Let no broker start until `palace start`.")
    ] = False,
) -> int:
    """Stop the broker. Running calls finish and are answered first, unless --now is given."""
    from palace.commands.running import stop_broker

    say(stop_broker(*find(palace), now=now, hold=hold))
    return 0


def start(palace: PalaceOption = "") -> int:
    """Start the broker unless one is running, and wait until the palace is open; end a hold.

    Exit codes: 69 it can't be opened, or the broker has left again; 73 another program has it.
    """
    from palace.commands.running import start_broker

    say(start_broker(*find(palace)))
    return 0


def logs(
    palace: PalaceOption = "",
    since: Annotated[
        str,
        typer.Option("--since", metavar="WHEN", help="Start 10m, 2h or 3d ago, or at a UTC time."),
    ] = "",
    last: Annotated[
        int, typer.Option("-n", metavar="N", min=0, help="Only the last N lines; 0 for all.")
    ] = 0,
    follow: FollowOption = False,
    lifecycle: Annotated[
        bool,
        typer.Option("--lifecycle", help="Show what became of brokers: one line an event."),
    ] = False,
) -> int:
    """Show the broker's own log: starts, exits, failures; never the text of a memory."""
    from palace.commands.logs import print_logs

    paths, _ = find(palace)
    return print_logs(paths, since=since, last=last, follow=follow, lifecycle=lifecycle)


def service(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="install, uninstall or status.")],
    palace: PalaceOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even if the unit has been edited since.")
    ] = False,
) -> int:
    """Keep a broker running with systemd or launchd: install or remove its unit, or show it."""
    from palace.commands.service import install_service, service_status, uninstall_service

    if action not in ("install", "uninstall", "status"):
        raise typer.BadParameter(f"{action!r} is neither install, uninstall nor status")
    paths, environment = find(palace)
    if action == "status":
        text, installed = service_status(paths, environment)
        say(text)
        return 0 if installed else 69
    act = install_service if action == "install" else uninstall_service
    say(act(paths, environment, force=force))
    return 0
