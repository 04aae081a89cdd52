"""Commands that read the journal, and those that make stores or backups from it."""

from typing import Annotated

import typer

from palace.cli.options import FollowOption, PalaceOption, StopOption, find, path
from palace.kernel.output import say


def history(
    palace: PalaceOption = "",
    since: Annotated[
        int, typer.Option("--since", metavar="SEQ", min=1, help="Start at this record.")
    ] = 1,
    follow: FollowOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per record.")
    ] = False,
) -> int:
    """Show every change that the journal holds, one line per record."""
    from palace.commands.history import print_history
    from palace.kernel.kernel import Kernel

    paths, _ = find(palace)
    return print_history(paths, Kernel(), since=since, follow=follow, as_json=as_json)


def rebuild(
    palace: PalaceOption = "",
    stop_first: StopOption = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Even if records are missing from the journal.")
    ] = False,
) -> int:
    """Rebuild the stores and their indexes from the journal; the old ones are kept."""
    from palace.commands.maintenance import rebuild_palace

    made = rebuild_palace(*find(palace), stop=stop_first, allow_gaps=partial)
    say(f"{made.entities} entities are in new stores; the old ones are in {made.kept}.")
    return 0


def purge(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids that search shows.")],
    palace: PalaceOption = "",
    stop_first: StopOption = False,
) -> int:
    """Remove memories from the journal, its archive and the stores for good."""
    from palace.commands.maintenance import purge_memories, purge_text

    paths, environment = find(palace)
    purged = purge_memories(paths, environment, ids, stop=stop_first)
    say(purge_text(paths, purged))
    return 0 if purged.records else 66


def backup(
    into: Annotated[
        str, typer.Argument(metavar="DIR", callback=path, help="Created if it does not exist.")
    ],
    palace: PalaceOption = "",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Make no backup; restore the newest one in DIR into a scratch palace and compare.",
        ),
    ] = False,
) -> int:
    """Copy the journal into a new directory below DIR, whether or not a broker is running.

    `palace restore` turns the copy into a palace again.
    """
    from palace.commands.backup import adopt_first, backup_text, find_backup, make_backup
    from palace.commands.progress import progress_shown
    from palace.kernel.kernel import Kernel
    from palace.settings.environment import read_environment

    if verify:
        from palace.commands.restore import prove_backup

        found = find_backup(into, Kernel())
        entities = prove_backup(read_environment(), found).entities
        say(f"{found.path}: stores rebuilt from it hold its {entities} entities, unchanged.")
        return 0
    paths, environment = find(palace)
    note = adopt_first(paths, environment)
    made = make_backup(paths, environment.all, into, progress_shown())
    say(backup_text(paths, made, Kernel()) + note)
    return 0


def restore(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            callback=path,
            help="A backup, or a directory of backups: the newest is taken.",
        ),
    ],
    palace: PalaceOption = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing palace; its files are kept.")
    ] = False,
    stop_first: StopOption = False,
) -> int:
    """Create a palace from a backup: its journal, and new stores built from that.

    The palace's directory must be new or empty.
    """
    from palace.commands.backup import find_backup
    from palace.commands.restore import restore_backup, restored_text
    from palace.kernel.kernel import Kernel

    paths, environment = find(palace)
    found = find_backup(source, Kernel())
    made = restore_backup(paths, environment, found, replace=replace, stop=stop_first)
    say(restored_text(paths, environment, found, made))
    return 0


def recover(
    palace: PalaceOption = "",
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Give up what is not there, with what was saved of it."),
    ] = False,
    stop_first: StopOption = False,
) -> int:
    """Bring back a palace whose directory another program moved, removed or replaced.

    Its journal, identity and settings are looked for in what brokers saved and stock archived.
    """
    from palace.commands.recover import forget_palace, recover_palace

    paths, environment = find(palace)
    if forget:
        say(forget_palace(paths, environment))
    else:
        say(recover_palace(paths, environment, stop=stop_first))
    return 0
