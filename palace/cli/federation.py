"""Commands for what other palaces know."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from palace.cli.options import PalaceOption, find, path
from palace.cli.output import end_failed
from palace.kernel.output import say

if TYPE_CHECKING:
    from palace.commands.federation import Owner

WingOption = Annotated[
    list[str] | None,
    typer.Option("--wing", metavar="WING", help="Only drawers of this wing; once or more often."),
]
KindOption = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="KIND", help="Only this: drawer or fact."),
]


def feed(
    palace: PalaceOption = "",
    since: Annotated[
        str,
        typer.Option("--since", metavar="JSON", help="What a line of it said last of a position."),
    ] = "",
    wing: WingOption = None,
    kind: KindOption = None,
) -> int:
    """Print drawers and facts for a palace that pulls from this one, as lines of JSON.

    Diaries, memories of namespaces, and what came from other palaces are left out.
    """
    from palace.commands.feed import print_offers

    paths, environment = find(palace)
    return print_offers(
        paths, environment.all, since=since, wings=tuple(wing or ()), kinds=tuple(kind or ())
    )


ABOUT = """Add palaces to pull from: directories of other palaces, or other machines.

\b
    palace remote add desk /mnt/desk/.mempalace/palace --wing project
    palace remote add lab ssh://ada@lab.example.org
    palace remote add team https://lab.example.org:7254#FINGERPRINT --token-file ~/team.token
    palace pull desk
    palace candidates list

What they know is shown as candidates, and changes nothing here until you accept it.
"""
CANDIDATES = """Decide on what other palaces know: each is accepted, dismissed, or waits.

\b
    palace candidates list
    palace candidates search node build
    palace candidates accept cand_0123
    palace candidates dismiss cand_4567

A candidate that says something else after it was accepted is `changed`, one that is gone there is
`withdrawn`: what was accepted stays as it is, until you change it.
"""
KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="As it is listed.", show_default=False)
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The remote.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def _owner(palace: str) -> "Owner":
    from palace.commands.federation import Owner

    return Owner(*find(palace))


def _address(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Return an address as it was given, and what names a directory as a path."""
    return value if "://" in value else path(context, parameter, value)


def add(
    name: NameArgument,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            callback=_address,
            help="The palace: a directory; or ssh://[USER@]HOST[:PORT][/PALACE], which runs palace "
            "feed there; or a share of it, "
            "https://HOST[:PORT][#FINGERPRINT], as palace share shows it.",
            show_default=False,
        ),
    ],
    palace: PalaceOption = "",
    wing: WingOption = None,
    kind: KindOption = None,
    token_file: Annotated[
        str,
        typer.Option(
            "--token-file",
            metavar="FILE",
            callback=path,
            help="Of a share at https://: the file with its token, which nobody else may read.",
        ),
    ] = "",
) -> int:
    """Add a palace to pull from; nothing is pulled yet."""
    from palace.commands.federation import NewRemote, add_remote

    new = NewRemote(
        name=name,
        address=address,
        wings=wing or [],
        kinds=kind or [],
        token_file=os.path.abspath(token_file) if token_file else "",
    )
    say(add_remote(_owner(palace), new))
    return 0


def list_remotes(palace: PalaceOption = "", as_json: JsonOption = False) -> int:
    """Show the palaces that are pulled from."""
    from palace.commands.federation import remotes_text

    say(remotes_text(_owner(palace), as_json=as_json))
    return 0


def remove(name: NameArgument, palace: PalaceOption = "") -> int:
    """Forget a remote and its candidates; what was accepted stays."""
    from palace.commands.federation import remove_remote

    say(remove_remote(_owner(palace), name))
    return 0


def pull(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The remote; all without it.")] = "",
    palace: PalaceOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and take nothing over.")
    ] = False,
) -> int:
    """See what other palaces know that is new, as candidates."""
    from palace.commands.federation import pull as pull_from

    done = pull_from(_owner(palace), name, is_trial=dry_run)
    if done.told:
        say("\n".join(done.told))
    codes = [end_failed("pull", problem) for problem in done.failed]
    return codes[0] if codes else 0


def list_candidates(
    palace: PalaceOption = "",
    remote: Annotated[str, typer.Option("--remote", metavar="NAME", help="Only of this.")] = "",
    status: Annotated[
        str, typer.Option("--status", metavar="STATUS", help="Only of this status.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Also those that were decided on.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Show the candidates that wait for a decision."""
    from palace.commands.federation import candidates_text

    text = candidates_text(_owner(palace), remote, status, every=every, as_json=as_json)
    if text:
        say(text)
    return 0


def search(
    words: Annotated[
        list[str],
        typer.Argument(metavar="WORD...", help="All of these, in any order.", show_default=False),
    ],
    palace: PalaceOption = "",
    remote: Annotated[str, typer.Option("--remote", metavar="NAME", help="Only of this.")] = "",
    as_json: JsonOption = False,
) -> int:
    """Find candidates by the words that they hold, whether they were decided on or not."""
    from palace.commands.federation import found_text

    text = found_text(_owner(palace), " ".join(words), remote, as_json=as_json)
    if text:
        say(text)
    return 0


def show(key: KeyArgument, palace: PalaceOption = "") -> int:
    """Show all that a candidate says, as JSON."""
    from palace.commands.federation import show_text

    say(show_text(_owner(palace), key))
    return 0


def accept(
    key: KeyArgument,
    palace: PalaceOption = "",
    wing: Annotated[
        str, typer.Option("--wing", metavar="WING", help="Where to file it; as there without it.")
    ] = "",
    room: Annotated[str, typer.Option("--room", metavar="ROOM", help="As --wing.")] = "",
) -> int:
    """File what a candidate says as your own."""
    from palace.commands.federation import accept as accept_one

    say(accept_one(_owner(palace), key, wing=wing, room=room))
    return 0


def dismiss(key: KeyArgument, palace: PalaceOption = "") -> int:
    """Have a candidate not shown until it says something else."""
    from palace.commands.federation import dismiss as dismiss_one

    say(dismiss_one(_owner(palace), key))
    return 0


REMOTE_COMMANDS: dict[str, Callable[..., int]] = {
    "add": add,
    "list": list_remotes,
    "remove": remove,
}
CANDIDATE_COMMANDS: dict[str, Callable[..., int]] = {
    "list": list_candidates,
    "search": search,
    "show": show,
    "accept": accept,
    "dismiss": dismiss,
}
