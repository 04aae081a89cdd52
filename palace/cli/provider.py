"""The commands of the slot of memory: `palace provider`, `provision-peer`, `unprovision-peer`."""

from collections.abc import Callable
from typing import Annotated

import typer

from palace.cli.options import PalaceOption, find, path
from palace.kernel.output import say

ABOUT = """Say who brings memory to agents that are born, and takes it away when they leave.

\b
    palace provider claim
    palace workspace add reviewer --cwd ~/project/review --runtime claude-code

A provider declares two commands in a file of your configuration; `palace workspace add`, `remove`,
`on` and `off` run them. palace is a provider as well, for this slot or for another program's.
"""
SlotOption = Annotated[
    str,
    typer.Option(
        "--slot",
        metavar="FILE",
        callback=path,
        help="Another program's slot; by default palace's own.",
    ),
]
CwdOption = Annotated[
    str,
    typer.Option(
        "--cwd", metavar="DIR", callback=path, help="The directory in which the agent runs."
    ),
]
RuntimeOption = Annotated[
    str, typer.Option("--runtime", metavar="HOST", help="What it runs as: palace install --list.")
]
PersonalityOption = Annotated[
    str, typer.Option("--personality", metavar="ID", help="Its workspace's id.")
]


def show(
    slot: SlotOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show the provider, its commands and how old its heartbeat is."""
    from palace.commands.provider import slot_json, slot_text
    from palace.settings.environment import read_environment

    environ = read_environment().all
    say(slot_json(slot, environ) if as_json else slot_text(slot, environ))
    return 0


def claim(
    palace: PalaceOption = "",
    slot: SlotOption = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Even if another provider is there.")
    ] = False,
) -> int:
    """Make palace the provider; with --palace, for that one alone."""
    from palace.commands.provider import claim as claim_it

    say(claim_it(*find(palace), slot, replace=replace))
    return 0


def release(slot: SlotOption = "") -> int:
    """Take palace out of the slot; agents keep what they have."""
    from palace.provider.claim import release_slot
    from palace.provider.declaration import slot_file
    from palace.settings.environment import read_environment

    say(release_slot(slot or slot_file(read_environment().all)))
    return 0


def provision_peer(
    cwd: CwdOption,
    runtime: RuntimeOption,
    personality: PersonalityOption,
    occasion: Annotated[
        str, typer.Option("--occasion", metavar="WORD", help="birth or sweep-on.")
    ] = "birth",
    palace: PalaceOption = "",
) -> int:
    """Give an agent palace, as its declaration asks: workspace and entry, as often as it is run."""
    from palace.commands.provider import Call, provision_peer

    call = Call(cwd=cwd, runtime=runtime, personality=personality, occasion=occasion)
    say(provision_peer(*find(palace), call))
    return 0


def unprovision_peer(
    cwd: CwdOption,
    runtime: RuntimeOption,
    personality: PersonalityOption,
    occasion: Annotated[
        str, typer.Option("--occasion", metavar="WORD", help="off-peer, off-all or remove.")
    ] = "off-peer",
    palace: PalaceOption = "",
) -> int:
    """Take from an agent what provision-peer gave it, to the byte; its memories stay."""
    from palace.commands.provider import Call, unprovision_peer

    call = Call(cwd=cwd, runtime=runtime, personality=personality, occasion=occasion)
    say(unprovision_peer(*find(palace), call))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {"show": show, "claim": claim, "release": release}
