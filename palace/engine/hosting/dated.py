"""The newest memories, by the index that Chroma's own database keeps of numbers.

A look at it takes a tenth of what Chroma takes for the same rows (newest.py), and none of that is
Python's.  Where wanted ones are few, and old, among many that are newer, this gives up.
"""

import sqlite3
from collections.abc import Iterator
from functools import partial

from palace.engine.hosting.chroma_rows import (
    JOINED,
    LOGICAL,
    are_few,
    conditions,
    joined,
    of_namespaces,
    read,
)
from palace.engine.stock import Server
from palace.memory.gate import Wanted
from palace.memory.memory import AT

ROWS_MAX = 5_000  # that are looked at, the latest first

_LATEST = """
SELECT id, int_value FROM embedding_metadata WHERE key = ? AND int_value IS NOT NULL
ORDER BY int_value DESC LIMIT ?
"""
_ROWS = """
SELECT {logical}, filed.string_value, at.int_value FROM ({found}) AS found
{joined} LEFT JOIN embedding_metadata AS at ON at.id = found.id AND at.key = ?
WHERE {which}
"""

Row = tuple[str, str, int]  # a memory, when it was filed, and the second


def newest(server: Server, wanted: Wanted) -> list[str] | None:
    """Return the ids of the newest memories that are wanted, the newest first.

    None where that has to be found out otherwise.
    """
    return read(server, partial(_newest, wanted))


def _newest(wanted: Wanted, database: sqlite3.Connection, name: str) -> list[str] | None:
    which, given = conditions(wanted)
    given = [*joined(name), AT, *given]
    if are_few(database, wanted):
        found, names = of_namespaces(wanted)
        statement = _ROWS.format(logical=LOGICAL, joined=JOINED, found=found, which=which)
        return _ordered(list(database.execute(statement, [*names, *given])), wanted)
    statement = _ROWS.format(logical=LOGICAL, joined=JOINED, found=_LATEST, which=which)
    rows = database.execute(statement, [AT, ROWS_MAX, *given])
    newest = _ordered(list(_enough(rows, wanted.limit)), wanted)
    return newest if len(newest) >= wanted.limit else None


def _enough(rows: Iterator[Row], limit: int) -> Iterator[Row]:
    """Yield rows until there are so many memories, and none of the same second is left."""
    met: set[str] = set()
    second = 0
    for row in rows:
        if len(met) >= limit and row[2] != second:
            return
        met.add(row[0])
        second = row[2]
        yield row


def _ordered(rows: list[Row], wanted: Wanted) -> list[str]:
    rows.sort(key=lambda row: (row[1], row[0]), reverse=True)
    return list(dict.fromkeys(ident for ident, _, _ in rows))[: wanted.limit]
