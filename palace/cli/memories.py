"""The commands for memories of namespaces: `palace memory`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from palace.cli.options import PalaceOption, find
from palace.kernel.output import complain, say

if TYPE_CHECKING:
    from palace.commands.moving import Told

ABOUT = """Store, find and forget memories of namespaces, from scripts.

\b
    palace memory commit "tests come first" --namespace org:lead
    palace memory search "what comes first?"
    palace memory list --namespace team:lead

A command acts as the workspace in whose directory it is started, or whose token
PALACE_WORKSPACE_TOKEN_FILE names, and otherwise for the palace's owner.
"""
NamespacesOption = Annotated[
    list[str] | None,
    typer.Option("--namespace", metavar="NAME", help="Where to look; all without it."),
]
KindsOption = Annotated[
    list[str] | None, typer.Option("--kind", metavar="KIND", help="Of what kind; all without it.")
]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", help="How many at most.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per memory.")]


def search(
    query: Annotated[
        str, typer.Argument(metavar="[QUERY]", help="What they are about; the newest without it.")
    ] = "",
    palace: PalaceOption = "",
    namespace: NamespacesOption = None,
    kind: KindsOption = None,
    limit: LimitOption = 10,
    as_json: JsonOption = False,
) -> int:
    """Show the memories that are nearest to a query, or the newest."""
    from palace.commands.memories import Asked, search_text

    asked = Asked(query=query, namespaces=namespace or (), kinds=kind or (), limit=limit)
    text = search_text(*find(palace), asked, as_json=as_json)
    if text:
        say(text)
    return 0


def list_all(
    palace: PalaceOption = "",
    namespace: NamespacesOption = None,
    kind: KindsOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> int:
    """Show the newest memories that one may read."""
    return search("", palace, namespace, kind, limit, as_json)


def commit(
    content: Annotated[
        str, typer.Argument(metavar="CONTENT", help='What it says; "-" reads standard input.')
    ],
    palace: PalaceOption = "",
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Where; one's own without it.")
    ] = "",
    ident: Annotated[
        str, typer.Option("--id", metavar="mem-NAME", help="To replace it by later.")
    ] = "",
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="What sort it is.")] = "",
    expires_at: Annotated[
        str, typer.Option("--expires-at", metavar="TIME", help="When it ends, as RFC 3339.")
    ] = "",
) -> int:
    """Store a memory; secrets are taken out of it."""
    from palace.commands.memories import commit_text

    given = {"namespace": namespace, "id": ident, "kind": kind, "expires_at": expires_at}
    say(commit_text(*find(palace), content, given))
    return 0


def forget(
    ident: Annotated[str, typer.Argument(metavar="ID", help="Which, as it was told or is listed.")],
    palace: PalaceOption = "",
) -> int:
    """Forget a memory, where one may write."""
    from palace.commands.memories import forget_text

    say(forget_text(*find(palace), ident))
    return 0


def export(
    target: Annotated[str, typer.Argument(metavar="FILE", help="A new file.")],
    palace: PalaceOption = "",
    namespace: NamespacesOption = None,
) -> int:
    """Write the palace's memories to a file, one JSON object a line, without secrets."""
    from palace.commands import moving

    told = moving.export(*find(palace), target, namespace or ())
    return _ended(told, f"{told.done} memories are exported.")


def import_all(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help='What was exported; "-" is standard input.')
    ],
    palace: PalaceOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would become of it.")
    ] = False,
) -> int:
    """Store exported memories under their ids, so that doing it twice changes nothing."""
    from palace.commands import moving

    told = moving.import_all(*find(palace), source, is_trial=dry_run)
    would = "would be" if dry_run else "are"
    skipped = f", {told.skipped} of namespaces that aren't here are passed over"
    return _ended(told, f"{told.done} memories {would} stored{skipped if told.skipped else ''}.")


def backfill(
    palace: PalaceOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be copied.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Copy it; what is here stays.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Look for it there as its readers would.")
    ] = False,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=0, help="Verify N of each namespace.")
    ] = 0,
) -> int:
    """Copy memories to the server that memory_plugin names: say exactly one of three.

    Several namespaces at once: $PALACE_BACKFILL_CONCURRENCY, 4 unless set, 0 for all.
    """
    from palace.commands import moving

    ways = {"dry-run": dry_run, "apply": apply, "verify": verify}
    chosen = [name for name, is_chosen in ways.items() if is_chosen]
    if len(chosen) != 1:
        raise typer.BadParameter("say exactly one of --dry-run, --apply and --verify")
    done = {"dry-run": "would be copied", "apply": "are copied", "verify": "are there as here"}
    told = moving.backfill(*find(palace), what=chosen[0], sample=sample, say=say)
    return _ended(told, f"{told.done} memories {done[chosen[0]]}.")


def retire(
    ident: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Which, by their ids at the server or here."),
    ] = None,
    palace: PalaceOption = "",
    every: Annotated[
        bool, typer.Option("--all", help="All that the server is found to have.")
    ] = False,
) -> int:
    """Forget copies that were left here once a server holds them; there is no going back."""
    from palace.commands import moving

    if bool(ident) == every:
        raise typer.BadParameter("say which by their ids, or --all")
    told = moving.retire(*find(palace), idents=ident or (), say=say)
    return _ended(told, f"{told.done} copies that were left here are forgotten.")


def _ended(told: "Told", text: str) -> int:
    """Say how many it were, and what was not done; return the exit code."""
    for problem in told.problems:
        complain(problem)
    complain(text)
    return 1 if told.problems else 0


COMMANDS: dict[str, Callable[..., int]] = {
    "list": list_all,
    "search": search,
    "commit": commit,
    "forget": forget,
    "export": export,
    "import": import_all,
    "backfill": backfill,
    "retire": retire,
}
