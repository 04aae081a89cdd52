"""Hallways as mempalace 3.12 and later keep them: in hallways.sqlite3, no longer in a JSON file.

How they lie in it is mempalace's own: its functions load and save the list here as well, and to the
journal a hallway is the record that it has always been.  So the journal of an earlier version is
the journal of a later one, in both directions.

mempalace imports the JSON file of an earlier version when it first needs the list, and keeps it as
`hallways.json.imported-*`.  Until then that file is the list, and nothing here begins the import:
whoever only looks must not write.
"""

import inspect
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

import attrs

from palace.engine.stores.lists import JsonList, stamp_of
from palace.engine.stores.rows import FILE_ENDS, TIMEOUT_S
from palace.journal.record import Json
from palace.kernel.odd_files import is_odd
from palace.protocol.errors import StoreCorrupt

SINCE = "3.12"  # the first version of mempalace that keeps them so


class StockHallways(Protocol):
    """The module mempalace.hallways, as far as it is used here."""

    _load_hallways: Callable[[object], list[Json]]
    _save_hallways: Callable[[list[Json], object], None]


@attrs.frozen
class Place:
    """mempalace's settings, as far as its functions for hallways ask them."""

    hallway_file: str


@attrs.define(eq=False, kw_only=True)
class Hallways(JsonList):
    """`path` is the database, `earlier` the JSON file that it was made of."""

    earlier: str
    stock: Callable[[], StockHallways]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(f"{self.path}{end}" for end in FILE_ENDS)

    @property
    def place(self) -> str:
        is_imported = os.path.exists(self.path) or not os.path.exists(self.earlier)
        return self.path if is_imported else self.earlier

    def load(self) -> list[Json]:
        """Return the list; a missing one is empty, one that can't be read raises."""
        if not os.path.exists(self.path):
            return self._listed_in(self.earlier)
        self._check_readable()
        try:
            # Not what the journal has put in their place: that would ask here again.
            return list(inspect.unwrap(self.stock()._load_hallways)(Place(self.earlier)))  # noqa: SLF001
        except (OSError, ValueError, sqlite3.Error) as error:
            raise StoreCorrupt(f"{self.path} can't be read: {error}") from None

    def store(self, records: list[Json]) -> None:
        stock, place = self.stock(), Place(self.earlier)
        if os.path.exists(self.earlier):
            inspect.unwrap(stock._load_hallways)(place)  # noqa: SLF001 (later it would be added)
        inspect.unwrap(stock._save_hallways)(records, place)  # noqa: SLF001
        self.make_durable()
        self.note(records)

    def _check_readable(self) -> None:
        """Raise StoreCorrupt for a damaged file: stock takes whatever it can't read for empty."""
        problem = ""
        if any(map(is_odd, self.files)):  # SQLite would wait for a FIFO's other end
            problem = "it is a FIFO or a device"
        else:
            try:
                with closing(sqlite3.connect(self.path, timeout=TIMEOUT_S)) as connection:
                    [said] = connection.execute("PRAGMA quick_check(1)").fetchone()
                    problem = "" if said == "ok" else str(said)
            except sqlite3.Error as error:
                problem = str(error)
        if problem:
            raise StoreCorrupt(f"{self.path} can't be read: {problem}")

    def _stamp_now(self) -> tuple[int, ...]:
        if not os.path.exists(self.path):
            return stamp_of(self.earlier)
        # What is committed may lie in the log beside it alone.
        return stamp_of(self.path) + stamp_of(f"{self.path}-wal")
