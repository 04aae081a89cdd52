"""Tables of SQLite that nobody but palace writes: made, read and changed as one file of its own.

They are projections of the journal like stock's (rows.py).  Where such a file differs from the
journal it is the file that is wrong: nothing of it is ever adopted (reconciliation.py).
"""

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import attrs

from palace.engine.stores.projection import Change, ChangeJournal
from palace.engine.stores.rows import RowPayload, Rows
from palace.journal.record import Json, JsonObject
from palace.kernel.kernel import Kernel

Row = Mapping[str, Json]


@attrs.define(eq=False, kw_only=True)
class OwnRows(Rows):
    """One file of tables; a missing one is empty.

    `keep_older_away` is called before each change is journalled.
    """

    keep_older_away: Callable[[], None]

    def put(self, journal: ChangeJournal, kind: str, ident: str, row: Row | None) -> None:
        """Make a row what it should be (None: remove it), within the call that this thread runs.

        Raises JournalFailed and OSError, and then nothing was changed.
        """
        self.put_all(journal, kind, {ident: row})

    def put_all(self, journal: ChangeJournal, kind: str, rows: Mapping[str, Row | None]) -> None:
        """Make rows what they should be, in one operation; as `put`."""
        with self.lock:
            self.keep_older_away()
            known, number = self.read(kind, rows), self.next_rowid(kind)
            after: dict[str, RowPayload | None] = {}
            for ident, row in rows.items():
                before = known.get(ident)
                after[ident] = None
                if row is not None:
                    rowid = before["rowid"] if before is not None else number
                    number += before is None
                    after[ident] = {"rowid": rowid, "row": {**row}}
            changes = [Change(kind, ident, known.get(ident), after[ident]) for ident in rows]
            journal.change(self, changes, lambda: self.write(kind, after))

    def fingerprint(self) -> JsonObject | None:
        """Return None for an empty one: nothing is said of what isn't used."""
        found = self.sums()
        return found if any(count for count, _ in found.values()) else None


def file_of(path: str, schema: str, kernel: Kernel) -> dict[str, Any]:
    """Return what OwnRows has to know of a file: where it is, and how it is made."""

    def create() -> None:
        with closing(sqlite3.connect(":memory:")) as made:
            made.executescript(schema)
            kernel.write_durable(path, made.serialize())  # whole, or not at all

    return {
        "path": path,
        "schema": schema,
        "create": create,
        # One that somebody has emptied is none: SQLite would find no tables in it.
        "exists": lambda: os.path.exists(path) and os.path.getsize(path) > 0,
    }
