"""Who brings memory to agents: a declaration that counts for nothing, and why."""

import os
from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import WARNING, Finding
from palace.protocol.errors import ConfigError
from palace.provider.declaration import read_slot, slot_file, writable_for_others


def check_provider(found: Diagnostics) -> Iterator[Finding]:
    """Yield why births of agents are asked of nobody; nothing where no provider is declared."""
    try:
        slot = read_slot(slot_file(found.environ))
    except ConfigError:
        return  # there is no home; others say so
    if slot.problem:
        yield Finding(
            level=WARNING,
            code="slot_unsound",
            text=f"{slot.path} counts as empty: {slot.problem}. No provider of memory is asked "
            "when an agent is born or leaves.",
            remedy="Look at what it says; then write it anew: palace provider claim --replace",
        )
    if slot.declaration is None:
        return
    blocks = {slot.declaration.provision, slot.declaration.unprovision} - {None}
    for command in sorted({block.command for block in blocks if block is not None}):
        if not os.access(command, os.X_OK) or os.path.isdir(command):
            why = "can't be executed"
        elif writable_for_others(command):
            why = "may be written to by others, who then run it as you"
        else:
            continue
        yield Finding(
            level=WARNING,
            code="provider_command",
            text=f"{command}, which {slot.declaration.provider} has agents provided with, {why}.",
            remedy="Put that right, or let the provider declare itself again; palace: palace "
            "provider claim --replace",
        )
