"""`palace rebuild` and `palace doctor --compact`, and what they share with `palace purge`.

All of them need the palace to themselves.
"""

from collections.abc import Callable
from functools import partial

import attrs

from palace.client.control import ask_to_leave
from palace.commands.progress import progress_shown
from palace.engine.durability.offline import hold_palace, opened_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import Rebuild, Rebuilt
from palace.journal.checkpoint import make_checkpoint
from palace.journal.replay import newest_checkpoint, replay
from palace.journal.segment import ARCHIVE, SUFFIX
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalBroken
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths


def leave_request(
    paths: Paths, environment: ShimEnvironment, *, stop: bool
) -> Callable[[], None] | None:
    """Return a function that asks a running broker to leave, None if it is to be left alone."""
    return partial(ask_to_leave, paths, environment) if stop else None


def rebuild_palace(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    stop: bool,
    allow_gaps: bool,
    downgrade: bool = False,
) -> Rebuilt:
    """Build new stores from the journal and swap them in; the old ones are kept."""
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        return rebuild_held(held, allow_gaps=allow_gaps, keep=True, downgrade=downgrade)


@attrs.frozen(kw_only=True)
class Compacted:
    """What a checkpoint made of a journal; `before` and `after` are bytes beside the archive."""

    seq: int
    entities: int
    before: int
    after: int
    archived: int


def compact_journal(paths: Paths, environment: ShimEnvironment, *, stop: bool) -> Compacted:
    """Make a checkpoint of all that the journal holds, however little has been written.

    Nothing is deleted: the segments that it covers move to the archive.  Raises JournalBroken where
    the journal isn't whole, and what `hold_palace` raises.
    """
    leave = leave_request(paths, environment, stop=stop)
    progress = progress_shown()
    with (
        hold_palace(paths, environment, ask_to_leave=leave) as held,
        opened_journal(held) as journal,
    ):
        known = partial(replay, paths.journal, held.kernel, progress, keys=journal.keys)
        adopting = journal.tail.adopting
        if adopting is not None:
            raise JournalBroken(adopting.problem(len(known().live)))
        before = _bytes_in(paths.journal, held.kernel)
        journal.roll()
        progress("making a checkpoint", 0.0)
        made = make_checkpoint(paths.journal, held.kernel, journal.stamp)
        newest = newest_checkpoint(paths.journal, held.kernel)
        if newest is None or newest[1] < journal.seq:
            raise JournalBroken(
                f"The journal in {paths.journal} lacks records, which a checkpoint would hide. "
                "Nothing was moved. See which: palace doctor"
            )
        journal.note_archived()
        return Compacted(
            seq=newest[1],
            entities=len(known().live) if made is None else made.entities,
            before=before,
            after=_bytes_in(paths.journal, held.kernel),
            archived=_bytes_in(f"{paths.journal}/{ARCHIVE}", held.kernel),
        )


def compacted_text(made: Compacted, paths: Paths) -> str:
    return (
        f"The journal is read from a checkpoint of {made.entities} entities, up to record "
        f"{made.seq}: {made.before} bytes before, {made.after} now. Nothing was deleted: "
        f"{paths.journal}/{ARCHIVE} holds {made.archived} bytes, which backups leave out."
    )


def _bytes_in(directory: str, kernel: Kernel) -> int:
    names = (name for name in kernel.list_directory(directory) if name.endswith(SUFFIX))
    found = (kernel.signature(f"{directory}/{name}") for name in names)
    return sum(one[1] for one in found if one is not None)


def rebuild_held(
    held: OwnedPalace, *, allow_gaps: bool, keep: bool, downgrade: bool = False, scratch: str = ""
) -> Rebuilt:
    """Build new stores for a palace whose lock is held, and swap them in.

    `scratch` is the backend that keeps the drawers of a palace that is only to be looked at.
    """
    with opened_journal(held) as journal:
        progress = progress_shown()
        return Rebuild(
            palace=held,
            journal=journal,
            progress=progress,
            partial=allow_gaps,
            keep=keep,
            downgrade=downgrade,
            backend=scratch,
            is_proof=bool(scratch),
        ).run()
