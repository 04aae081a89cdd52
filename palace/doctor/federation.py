"""Remotes, and candidates that differ from what was accepted of them: nothing decides by itself."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import NOTE, Finding
from palace.engine.stores.candidates import CONFLICTS, REMOTES
from palace.kernel.kernel import Kernel
from palace.settings.paths import Paths


def remotes_line(paths: Paths, kernel: Kernel) -> str:
    """Return what `palace status` says of remotes, "" where there are none."""
    remotes, undecided = _counted(paths, kernel, REMOTES) or (0, 0)
    waiting = f", {undecided} candidates to decide: palace candidates list" if undecided else ""
    return f"{'remotes':<11} {remotes}{waiting}" if remotes else ""


def _counted(paths: Paths, kernel: Kernel, query: str) -> tuple[int, ...] | None:
    """Return what a query counts among candidates; None where they can't be read now."""
    path = paths.candidates
    if not kernel.file_id(path):
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as connection:
            return tuple(connection.execute(query).fetchone())
    except sqlite3.Error:  # what is damaged is named as such
        return None


def check_candidates(found: Diagnostics) -> Iterator[Finding]:
    """Yield how many accepted candidates say something else now, or are gone."""
    (many,) = _counted(found.paths, found.kernel, CONFLICTS) or (0,)
    if many:
        yield Finding(
            level=NOTE,
            code="candidates_differ",
            text=f"{many} memories that were accepted from other palaces say something else there "
            "by now, or are gone there. They stay as they are here until you decide.",
            remedy="See them: palace candidates list",
        )
