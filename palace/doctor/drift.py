"""Comparing a palace's stores with its journal, for `palace doctor --drift`: it needs the lock."""

import sqlite3
from collections.abc import Callable

from palace.doctor.finding import ERROR, Finding
from palace.engine.durability.offline import drift_of, hold_palace
from palace.journal.replay import Progress
from palace.protocol.errors import StoreCorrupt
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths


def drifted(
    paths: Paths,
    environment: ShimEnvironment,
    progress: Progress,
    *,
    ask_to_leave: Callable[[], None] | None,
) -> list[Finding]:
    """Return where the stores differ from the journal; raises as `exclusive_use`."""
    with hold_palace(paths, environment, ask_to_leave=ask_to_leave) as held:
        try:
            drifts = drift_of(held, progress)
        except (sqlite3.Error, StoreCorrupt) as error:
            return [_unreadable(error)]
        return [
            Finding(
                level=ERROR,
                code="drift",
                text=f"{found.kind}: {found.missing} missing, {found.foreign} unknown to the "
                f"journal, {found.different} different, such as {found.example}.",
                remedy="To take over what other programs wrote: palace start. To make the stores "
                "match the journal instead, and keep the old ones: palace rebuild --partial",
            )
            for found in drifts
        ]


def _unreadable(error: Exception) -> Finding:
    return Finding(
        level=ERROR,
        code="drift",
        text=f"The stores can't be compared with the journal, since one can't be read: {error}.",
        remedy="To write again what it lacks: palace start. To make new stores from the journal, "
        "and keep the old ones: palace rebuild --partial",
    )
