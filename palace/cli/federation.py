"""Commands for what other palaces know."""

from typing import Annotated

import typer

from palace.cli.options import PalaceOption, find

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
