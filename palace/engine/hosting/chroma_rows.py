"""Memories where they lie with Chroma: in its own database, which is read in statements of ours.

Chroma's interface sorts nothing and counts nothing that it filters, and what it lets through it
makes Python's, metadata and all.  The database does either in a hundredth of the time, and without
the interpreter's lock.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from palace.engine.patches import need
from palace.engine.stock import Server
from palace.memory.gate import Wanted
from palace.memory.memory import KIND, NAMESPACE, UNTIL

NAME = "memories"
FEW = 512  # rows, of which all may be read
STEPS = 1000  # of SQLite's machine, some milliseconds, after which it asks whether to go on
LOGICAL = "coalesce(whole.string_value, record.embedding_id)"  # the memory of a row

# Each join is a look by a key, so the order in which they stand is the one that is wanted.
JOINED = """
CROSS JOIN embedding_metadata AS ns ON ns.id = found.id AND ns.key = ?
CROSS JOIN embedding_metadata AS kind ON kind.id = found.id AND kind.key = ?
CROSS JOIN embedding_metadata AS ends ON ends.id = found.id AND ends.key = ?
CROSS JOIN embedding_metadata AS filed ON filed.id = found.id AND filed.key = 'filed_at'
CROSS JOIN embeddings AS record ON record.id = found.id
CROSS JOIN segments ON segments.id = record.segment_id
CROSS JOIN collections ON collections.id = segments.collection AND collections.name = ?
LEFT JOIN embedding_metadata AS whole ON whole.id = found.id AND whole.key = 'parent_drawer_id'
"""

T = TypeVar("T")
Snapshot = Callable[[str, str], AbstractContextManager[sqlite3.Connection | None]]


def joined(collection: str) -> list[object]:
    """Return what is asked for in `JOINED`."""
    return [NAMESPACE, KIND, UNTIL, collection]


def snapshot_of(server: Server) -> AbstractContextManager[sqlite3.Connection | None]:
    """Return Chroma's database for reading; None while it lacks what was written last."""
    from mempalace.backends import chroma

    snapshot: Snapshot = need(chroma, "sqlite_metadata_snapshot", NAME)
    config = server._config  # noqa: SLF001
    return snapshot(config.palace_path, config.collection_name)


def read(server: Server, look: Callable[[sqlite3.Connection, str], T | None]) -> T | None:
    """Return what a look at Chroma's database finds, given it and the name of the collection.

    None where that has to be found out otherwise: so it is with another backend, while Chroma has
    not yet taken in all that was written, and where its database can't be read.
    """
    if not server._is_chroma_backend():  # noqa: SLF001
        return None
    try:
        with snapshot_of(server) as database:
            if database is None:
                return None
            return look(database, server._config.collection_name)  # noqa: SLF001
    except sqlite3.Error:
        return None


@contextmanager
def limited(database: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Let a statement that runs `seconds` from now fail: sqlite3.OperationalError, interrupted."""
    end_s = time.monotonic() + seconds
    database.set_progress_handler(lambda: time.monotonic() >= end_s, STEPS)
    try:
        yield
    finally:
        database.set_progress_handler(None, 0)


def of_namespaces(wanted: Wanted) -> tuple[str, list[object]]:
    """Return the statement that finds the rows of the namespaces that are wanted, by an index."""
    which, names = among("string_value", wanted.namespaces)
    # It holds no value but by a mark.
    found = f"SELECT id FROM embedding_metadata WHERE key = ? AND {which}"  # noqa: S608
    return found, [NAMESPACE, *names]


def are_few(database: sqlite3.Connection, wanted: Wanted) -> bool:
    """Tell whether these namespaces have so few rows that reading all takes no time."""
    found, names = of_namespaces(wanted)
    statement = f"SELECT count(*) FROM ({found} LIMIT ?)"  # noqa: S608
    ((many,),) = database.execute(statement, [*names, FEW + 1])
    return bool(many <= FEW)


def conditions(wanted: Wanted) -> tuple[str, list[object]]:
    """Return what rows have to be like, in terms of `ns`, `kind`, `ends` and `filed`."""
    found = list(_conditions(wanted))
    return " AND ".join(text for text, _ in found), [one for _, many in found for one in many]


def _conditions(wanted: Wanted) -> Iterator[tuple[str, Sequence[object]]]:
    yield "coalesce(ends.float_value, ends.int_value) > ?", [wanted.now_s]
    yield "filed.string_value >= ?", [wanted.since]
    if wanted.before:
        yield "filed.string_value < ?", [wanted.before]
    yield among("ns.string_value", wanted.namespaces)
    if wanted.without:
        which, names = among("ns.string_value", wanted.without)
        yield f"NOT {which}", names
    if wanted.kinds:
        yield among("kind.string_value", wanted.kinds)


def among(name: str, values: Sequence[str] | None) -> tuple[str, Sequence[object]]:
    """Return the condition that a column is one of these values, for None any."""
    if values is None:
        return f"{name} <> ''", []
    return f"{name} IN ({', '.join('?' * len(values))})", values
