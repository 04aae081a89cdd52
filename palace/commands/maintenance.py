"""`palace rebuild`, and what it shares with `palace purge`: they need the palace to themselves."""

from collections.abc import Callable
from functools import partial

from palace.client.control import ask_to_leave
from palace.commands.progress import progress_shown
from palace.engine.durability.offline import hold_palace, opened_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import Rebuild, Rebuilt
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths


def leave_request(
    paths: Paths, environment: ShimEnvironment, *, stop: bool
) -> Callable[[], None] | None:
    """Return a function that asks a running broker to leave, None if it is to be left alone."""
    return partial(ask_to_leave, paths, environment) if stop else None


def rebuild_palace(
    paths: Paths, environment: ShimEnvironment, *, stop: bool, allow_gaps: bool
) -> Rebuilt:
    """Build new stores from the journal and swap them in; the old ones are kept."""
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        return rebuild_held(held, allow_gaps=allow_gaps, keep=True)


def rebuild_held(held: OwnedPalace, *, allow_gaps: bool, keep: bool) -> Rebuilt:
    """Build new stores for a palace whose lock is held, and swap them in."""
    with opened_journal(held) as journal:
        progress = progress_shown()
        return Rebuild(
            palace=held, journal=journal, progress=progress, partial=allow_gaps, keep=keep
        ).run()
