"""The error that a failed attempt ends with: what the client is told, and what would help.

Loaded before it is needed: a shim that fails may have no descriptor left to import it with.
"""

import os

from palace.protocol import election
from palace.protocol.errors import (
    BrokerFull,
    BrokerUnreachable,
    ConfigError,
    ElectionError,
    ForeignKernel,
    ForeignWriter,
    LockFailed,
    OnHold,
    PalaceError,
    PalaceReplaced,
    SpawnFailed,
    StoreUnavailable,
    UnsafePalace,
    VersionMismatch,
)
from palace.settings.paths import SUN_PATH_BYTES_MAX, Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.settings.site import Site

ERRORS = {
    kind.name: kind
    for kind in (
        BrokerFull,
        ConfigError,
        ForeignKernel,
        ForeignWriter,
        LockFailed,
        OnHold,
        PalaceReplaced,
        SpawnFailed,
        StoreUnavailable,
        UnsafePalace,
        VersionMismatch,
    )
}


def failure_of(name: str, text: str, site: "Site", *, patience_s: float) -> PalaceError:
    """Return the error for what the election machine says that it failed with."""
    if name == "broker_unreachable":
        return BrokerUnreachable(_unreachable_text(text, site, patience_s))
    if name == "no_spawn":
        return BrokerUnreachable(_no_spawn_text(text, site))
    kind = ERRORS.get(name, ElectionError)
    begins_with_address = "://" in text.partition(" ")[0]
    shown = text if begins_with_address else f"{text[:1].upper()}{text[1:]}"
    return kind(shown, refused=name)


def _no_spawn_text(why: str, site: "Site") -> str:
    paths, named = site.paths, site.environment.broker
    kind, _, path = named.partition(":")
    if kind == "unix" and len(os.fsencode(path)) > SUN_PATH_BYTES_MAX:
        return (
            f"MEMPALACE_BROKER={named} is longer than a socket's path may be, so that no broker "
            "listens there: it has a shorter one elsewhere. Name the one that palace status shows "
            f"(palace status --palace {paths.root}), or unset the variable."
        )
    if named:
        return (
            f"No broker answers at MEMPALACE_BROKER={named}, which is used "
            "as it stands. Start the broker there, or unset the variable."
        )
    found = "No broker runs" if why == election.ABSENT else f"The broker is {why}"
    return (
        f"{found} for {paths.root}, and PALACE_NO_SPAWN forbids starting one. "
        f"Start it by hand (palace serve --palace {paths.root}) or unset PALACE_NO_SPAWN."
    )


def older_text(epoch: int, known: int, paths: Paths) -> str:
    """Say why an owner was turned away from whose epoch is below one that was known."""
    return (
        f"its owner has epoch {epoch}, and this session knew epoch {known}, as after an older copy "
        f"of the palace was put back by hand: write {known} into {paths.epoch}, "
        "and that owner leaves"
    )


def _unreachable_text(why: str, site: "Site", patience_s: float) -> str:
    from palace.ownership.holders import HOW_TO_SHOW, hidden_text
    from palace.ownership.lock import held_text

    kernel, paths = site.kernel, site.paths
    holder = kernel.lock_holder(paths.lock)
    who = (
        held_text(paths.lock, kernel)
        if holder
        else "no process that can be seen from here holds its lock"
    )
    hidden = hidden_text(holder, kernel) if holder else ""
    if hidden:
        who += f". {hidden} {HOW_TO_SHOW}"
    return (
        f"No broker answered for {paths.root} within {patience_s:.0f} s ({why}); "
        f"{who}. Its log: {paths.log}"
    )
