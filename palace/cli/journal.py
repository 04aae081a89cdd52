"""Commands that read the journal, and those that make stores or backups from it."""

from typing import Annotated

import typer

from palace.cli.options import FollowOption, PalaceOption, StopOption, find, path
from palace.kernel.output import say

TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Even if somebody else wrote it, or nobody knows who did."),
]


def history(
    palace: PalaceOption = "",
    since: Annotated[
        int, typer.Option("--since", metavar="SEQ", min=1, help="Start at this record.")
    ] = 1,
    follow: FollowOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per record.")
    ] = False,
    cursor: Annotated[
        str,
        typer.Option("--cursor", metavar="NAME", help="Start where this name has stopped before."),
    ] = "",
) -> int:
    """Show every change that the journal holds, one line per record."""
    from palace.commands.history import print_feed, print_history
    from palace.kernel.kernel import Kernel

    if cursor and since != 1:
        raise typer.BadParameter("one of --since and --cursor")
    paths, environment = find(palace)
    kernel, environ = Kernel(), environment.all
    if cursor:
        return print_feed(paths, kernel, environ, name=cursor, follow=follow, as_json=as_json)
    return print_history(
        paths, kernel, since=since, follow=follow, as_json=as_json, environ=environ
    )


def trust(
    palace: PalaceOption = "",
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Seal what counts in the journal with this user's own key."),
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Remove what brokers have set aside.")
    ] = False,
    show_keys: Annotated[
        bool,
        typer.Option("--show-keys", help="Print the keys, which are secret, for another owner."),
    ] = False,
    add: Annotated[
        str,
        typer.Option(
            "--add-keys", metavar="FILE", callback=path, help="Accept another owner's keys."
        ),
    ] = "",
    stop_first: StopOption = False,
) -> int:
    """Show who wrote the journal's records, and say whose records count.

    What nobody with a known key wrote is never carried out: brokers set it aside.
    """
    from palace.commands import trust as trusting

    if sum(map(bool, (yes, discard, show_keys, add))) > 1:
        raise typer.BadParameter("one of --yes, --discard, --show-keys and --add-keys")
    paths, environment = find(palace)
    if yes:
        say(trusting.trust_journal(paths, environment, stop=stop_first))
    elif discard:
        say(trusting.discard_aside(paths, environment, stop=stop_first))
    elif add:
        say(trusting.add_keys(paths, environment, add))
    elif show_keys:
        say(trusting.keys_text(paths, environment))
    else:
        say(trusting.writers_text(paths, environment))
    return 0


def rebuild(
    palace: PalaceOption = "",
    stop_first: StopOption = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Even if records are missing from the journal.")
    ] = False,
    downgrade: Annotated[
        bool,
        typer.Option("--downgrade", help="For a mempalace older than one that has served it."),
    ] = False,
) -> int:
    """Rebuild the stores and their indexes from the journal; the old ones are kept."""
    from palace.commands.maintenance import rebuild_palace

    made = rebuild_palace(*find(palace), stop=stop_first, allow_gaps=partial, downgrade=downgrade)
    say(f"{made.entities} entities are in new stores; the old ones are in {made.kept}.")
    return 0


def move_store(
    backend: Annotated[
        str,
        typer.Argument(
            metavar="BACKEND", help="chroma, sqlite_exact, rust_exact, pgvector or milvus."
        ),
    ],
    palace: PalaceOption = "",
    stop_first: StopOption = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Even if records are missing from the journal.")
    ] = False,
) -> int:
    """Let another of mempalace's backends keep the drawers; the old store is kept.

    They are made from the journal and checked before anything is replaced.
    """
    from palace.commands.move_store import move_store as move
    from palace.commands.move_store import moved_text

    say(moved_text(move(*find(palace), backend, stop=stop_first, partial=partial)))
    return 0


def set_embedder(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="minilm, embeddinggemma, embeddinggemma2 or openai-compat.",
        ),
    ],
    palace: PalaceOption = "",
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="Of a server that speaks as OpenAI's.")
    ] = "",
    api_model: Annotated[
        str, typer.Option("--api-model", metavar="MODEL", help="What that server is asked for.")
    ] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Even if it has made the vectors already.")
    ] = False,
    stop_first: StopOption = False,
) -> int:
    """Embed all memories anew with another embedder; the old stores are kept.

    Interrupted, it goes on where it was when it is asked again.
    """
    from palace.commands.set_embedder import Wish, changed_text
    from palace.commands.set_embedder import set_embedder as change

    wish = Wish(name=name, url=url, model=api_model, again=again)
    say(changed_text(change(*find(palace), wish, stop=stop_first)))
    return 0


def purge(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids that search shows.")],
    palace: PalaceOption = "",
    stop_first: StopOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
) -> int:
    """Remove memories, and what was made of them, from all files of palace's for good.

    Exit code 65: something that palace can reach still holds some of their words, and is named.
    """
    from palace.commands.purge import preview_purge, preview_text, purge_memories, purge_text

    paths, environment = find(palace)
    if dry_run:
        seen = preview_purge(paths, environment, ids)
        say(preview_text(paths, seen))
        return 0 if seen.derived.entities else seen.exit_code
    purged = purge_memories(paths, environment, ids, stop=stop_first)
    say(purge_text(paths, purged))
    return purged.exit_code


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
    trust: TrustOption = False,
) -> int:
    """Copy the journal into a new directory below DIR, whether or not a broker is running.

    `palace restore` turns the copy into a palace again.
    """
    from palace.commands.backup import adopt_first, backup_text, find_backup, keys_of, make_backup
    from palace.commands.progress import progress_shown
    from palace.kernel.kernel import Kernel
    from palace.settings.environment import read_environment

    if verify:
        from palace.commands.restore import prove_backup

        found, environment = find_backup(into, Kernel()), read_environment()
        keys = keys_of(found, environment.all, Kernel(), trust=trust)
        entities = prove_backup(environment, found, keys).entities
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
    trust: TrustOption = False,
    keep_tokens: Annotated[
        bool,
        typer.Option("--keep-tokens", help="Let the workspaces' tokens count that counted then."),
    ] = False,
    stop_first: StopOption = False,
) -> int:
    """Create a palace from a backup: its journal, and new stores built from that.

    The palace's directory must be new or empty. Tokens of workspaces don't count any more.
    """
    from palace.commands.backup import find_backup, keys_of
    from palace.commands.restore import How, restore_backup, restored_text
    from palace.kernel.kernel import Kernel

    paths, environment = find(palace)
    found = find_backup(source, Kernel())
    keys = keys_of(found, environment.all, Kernel(), trust=trust)
    how = How(replace=replace, stop=stop_first, keep_tokens=keep_tokens)
    made = restore_backup(paths, environment, found, keys, how)
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
