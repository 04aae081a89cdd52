"""Is the directory the palace that was served there: what is remembered outside of it."""

import os
from collections.abc import Iterator, Mapping

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, NOTE, WARNING, Finding
from palace.engine.durability.bring_back import find_sources
from palace.engine.durability.purge_plan import PlanFile
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.ownership.served import (
    Served,
    copy_of,
    find_missing,
    gone,
    holds,
    is_empty,
    is_on_another_disk,
    read_served,
    saved_copies,
    where_moved,
)
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths


def check_remembered(found: Diagnostics) -> Iterator[Finding]:
    """Yield what was served at this path and is not there, and what is there twice."""
    served = read_served(found.paths.root, found.environ, found.kernel)
    if found.foreign is not None:
        return
    if served is not None and not is_empty(served) and not found.exists:
        yield _gone(found, served)
        return
    missing = find_missing(found.paths, found.environ, found.kernel)
    if missing is not None:
        yield from _replaced(found, missing)
        return
    if served is not None and not is_empty(served):
        yield from _incomplete(found, served)
    yield from _copies(found, served)
    yield from unfinished_purge(found.paths, found.environ, found.kernel)


def unfinished_purge(paths: Paths, environ: Mapping[str, str], kernel: Kernel) -> Iterator[Finding]:
    """Yield that a purge has died, and that the next one will finish it."""
    identity = identity_of(kernel.read_hint(paths.palace_id, 200))
    if identity and PlanFile(identity, environ, kernel).read() is not None:
        yield Finding(
            level=WARNING,
            code="purge_unfinished",
            text="A purge was interrupted, or is under way: what it was asked to remove may still "
            "be in the stores.",
            remedy="Unless one runs, ask for it again; any ID will do: palace purge ID --stop "
            f"--palace {paths.root}",
        )


def _gone(found: Diagnostics, served: Served) -> Finding:
    text, _, remedy = gone(served, found.environ, found.kernel).message.rpartition(". ")
    return Finding(level=ERROR, code="palace_gone", text=f"{text}.", remedy=remedy)


def _replaced(found: Diagnostics, missing: Served) -> Iterator[Finding]:
    root = found.paths.root
    what = (
        f"Another program has replaced {root}: {missing.name}, which was served there, is not in "
        "it, and neither are its settings"
    )
    has_identity = holds(root, missing.palace_id, found.kernel)
    if has_identity:
        what = f"Another program has replaced files in {root}: {missing.name} is not whole there"
    held = " It was stopped on hold." if missing.held else ""
    if is_on_another_disk(missing, found.kernel):
        yield _gone(found, missing)
        return
    sources = find_sources(found.paths, found.environ, found.kernel, missing)
    if not sources:
        where = where_moved(missing, found.kernel)
        yield Finding(
            level=ERROR,
            code="palace_replaced",
            text=f"{what}. No broker starts there, so that it isn't taken for a new palace.{held}",
            remedy=f"It was moved to {where}. Bring it back: palace recover --palace {root}"
            if where
            else "If you know where it is, put it back. Otherwise look for it, and see how to "
            f"begin a new one: palace recover --palace {root}",
        )
        return
    best = max(sources, key=lambda source: source.rank)
    lost = missing.seq - best.seq
    if has_identity and best.root == root and lost <= 0:
        return  # it is back, whole; the next broker removes what another one had saved
    lacks = f", {lost} records less than were acknowledged" if lost > 0 else ""
    yield Finding(
        level=ERROR,
        code="palace_replaced",
        text=f"{what}. Its journal is in {best.root}, up to record {best.seq}{lacks}.{held}",
        remedy=f"A broker brings it back when it starts: palace start --palace {root}",
    )


def _incomplete(found: Diagnostics, served: Served) -> Iterator[Finding]:
    root = found.paths.root
    journal = found.paths.journal
    is_gone = os.path.isdir(journal) or not os.path.lexists(journal)
    if served.seq and is_gone and not list_segments(journal, found.kernel):
        yield Finding(
            level=ERROR,
            code="journal_gone",
            text=f"The journal of {root} was removed: records up to {served.seq} were written, and "
            f"{journal} holds none.",
            remedy="Put it back before a broker starts, which begins another one with what the "
            "stores hold. Or restore a backup: palace restore DIR --replace",
        )
    if served.lost_to:
        why = "an older copy of its files was put back."
        if served.lost_from == 1:
            why = (
                "its journal was removed. The next broker began another one with what the stores "
                "held; what they lacked is gone, and so is all history."
            )
        elif served.lost_with:
            why = (
                f"another program had replaced the directory, and {served.lost_with}, where its "
                "broker had saved them, was removed before another one took them up."
            )
        yield Finding(
            level=ERROR,
            code="records_lost",
            text=f"Records {served.lost_from} to {served.lost_to} were acknowledged from {root} "
            f"and are not there: {why}",
            remedy="Restore a backup that has them (palace restore DIR --replace), or do without: "
            f"palace recover --forget --palace {root}",
        )
    if served.former_id:
        yield Finding(
            level=WARNING,
            code="other_palace",
            text=f"Another palace ({served.former_id[:8]}) was served at {root} before this one "
            f"({served.palace_id[:8]}) was put there.",
            remedy="If that was meant: palace recover --forget --palace "
            f"{root}. If not, put the other one back.",
        )
    for copy in saved_copies(root, found.environ, found.kernel):
        yield Finding(
            level=WARNING,
            code="saved_journal",
            text=f"{copy} holds what a broker of {root} saved when the directory was replaced, and "
            "another palace directory was put there since.",
            remedy=f"If {root} has it all, remove it: palace recover --forget --palace {root}",
        )


def _copies(found: Diagnostics, served: Served | None) -> Iterator[Finding]:
    paths, kernel = found.paths, found.kernel
    if served is not None and served.copied_from:
        yield Finding(
            level=NOTE,
            code="copy",
            text=f"It began as a copy of palace {served.copied_from}, and counts as a palace of "
            f"its own ({served.palace_id[:8]}) since it was first served here: neither sees what "
            "the other files.",
        )
    identity = identity_of(kernel.read_hint(paths.palace_id, 200))
    if not identity:
        return
    other = copy_of(paths, identity, found.environ, kernel)
    if other is not None:
        yield Finding(
            level=WARNING,
            code="two_copies",
            text=f"{paths.root} and {other.path} are copies of one palace ({identity[:8]}): what "
            "is filed in one is not in the other.",
            remedy=f"Use one of them and remove the other, or let a broker make {paths.root} a "
            f"palace of its own: palace start --palace {paths.root}",
        )
