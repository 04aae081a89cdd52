"""Candidates that differ from what was accepted of them: nothing decides on these by itself."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import NOTE, Finding
from palace.engine.stores.candidates import CONFLICTS


def check_candidates(found: Diagnostics) -> Iterator[Finding]:
    """Yield how many accepted candidates say something else now, or are gone."""
    path = found.paths.candidates
    if not found.kernel.file_id(path):
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as connection:
            (many,) = connection.execute(CONFLICTS).fetchone()
    except sqlite3.Error:  # what is damaged is named as such
        return
    if many:
        yield Finding(
            level=NOTE,
            code="candidates_differ",
            text=f"{many} memories that were accepted from other palaces say something else there "
            "by now, or are gone there. They stay as they are here until you decide.",
            remedy="See them: palace candidates list",
        )
