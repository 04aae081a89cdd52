"""The commands that examine a palace and the way to it, and what has become of its brokers."""

from typing import Annotated

import typer

from palace.cli.options import PalaceOption, StopOption, find
from palace.kernel.output import complain, say


def doctor(
    palace: PalaceOption = "",
    journal: Annotated[  # True compares, False compacts: one excludes the other
        bool | None,
        typer.Option(
            "--drift/--compact",
            help="Compare every memory with the journal; or only make a checkpoint of it.",
        ),
    ] = None,
    stop_first: StopOption = False,
    boundary: Annotated[
        bool,
        typer.Option("--boundary", help="Show how this machine reaches the palace's broker."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per finding.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="First mend what can be mended without a loss.")
    ] = False,
) -> int:
    """Why can't I write? Show what is wrong with a palace, causes first, each with its remedy.

    The exit code is 65 if there is an error, 1 if there are only warnings.
    """
    from palace.commands.progress import progress_shown
    from palace.doctor.examine import examine_palace, exit_code_of
    from palace.doctor.mending import fixes_of, mend
    from palace.doctor.report import print_report

    paths, environment = find(palace)
    if journal is False:
        from palace.commands.maintenance import compact_journal, compacted_text

        say(compacted_text(compact_journal(paths, environment, stop=stop_first), paths))
        return 0
    if boundary:
        from palace.doctor.boundary import explore, print_boundary

        return print_boundary(explore(paths, environment), as_json=as_json)
    if fix:
        for line in mend(fixes_of(examine_palace(paths, environment))):
            complain(line) if as_json else say(line, flush=True)
    findings = examine_palace(
        paths, environment, drift=bool(journal), stop=stop_first, progress=progress_shown()
    )
    print_report(paths, findings, as_json=as_json)
    return exit_code_of(findings)


def deaths(
    palace: PalaceOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per death.")
    ] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the records.")] = False,
) -> int:
    """Show which brokers died, of what, and the file with what was known then."""
    from palace.commands.deaths import clear_deaths, print_deaths

    paths, _ = find(palace)
    if clear:
        say(f"Removed {clear_deaths(paths)} records.")
        return 0
    return print_deaths(paths, as_json=as_json)


def delegations(
    palace: PalaceOption = "",
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that are stuck.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Those that are completed or have failed, too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per task.")
    ] = False,
) -> int:
    """Show which tasks agents have given each other, who works on them, and which are stuck.

    They are mempalace's own (task_create, event_ack, patch_submit), as its events tell of them.
    """
    from palace.commands.delegations import print_delegations

    if stuck and every:
        raise typer.BadParameter("one of --stuck and --all")
    return print_delegations(*find(palace), stuck=stuck, every=every, as_json=as_json)
