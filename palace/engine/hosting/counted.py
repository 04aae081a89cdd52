"""Memories counted where they lie: by Chroma's own database, in one statement.

Chroma's interface counts nothing that it filters, and reading the metadata of all that it lets
through takes a hundred times as long as the database takes to count it: 1 s for 10,000 memories
among 20,000.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from palace.engine.patches import need
from palace.engine.stock import Server
from palace.memory.gate import Wanted
from palace.memory.memory import KIND, NAMESPACE, UNTIL

NAME = "memories"

# The first part of a memory stands for all of it.
_COUNTS = """
SELECT ns.string_value, kind.string_value, count(*)
FROM embedding_metadata AS ns
JOIN embedding_metadata AS part ON part.id = ns.id AND part.key = 'chunk_index'
JOIN embedding_metadata AS kind ON kind.id = ns.id AND kind.key = ?
JOIN embedding_metadata AS ends ON ends.id = ns.id AND ends.key = ?
JOIN embedding_metadata AS filed ON filed.id = ns.id AND filed.key = 'filed_at'
JOIN embeddings AS record ON record.id = ns.id
JOIN segments ON segments.id = record.segment_id
JOIN collections ON collections.id = segments.collection AND collections.name = ?
WHERE ns.key = ? AND part.int_value = 0 AND {which}
GROUP BY 1, 2
"""

Snapshot = Callable[[str, str], AbstractContextManager[sqlite3.Connection | None]]
Counts = Mapping[tuple[str, str], int]


def count(server: Server, wanted: Wanted) -> Counts | None:
    """Count what is wanted, by namespace and kind; None where that has to be read.

    So it is with another backend, and while Chroma has not yet taken in all that was written.
    """
    if not server._is_chroma_backend():  # noqa: SLF001
        return None
    from mempalace.backends import chroma

    snapshot: Snapshot = need(chroma, "sqlite_metadata_snapshot", NAME)
    config = server._config  # noqa: SLF001
    try:
        with snapshot(config.palace_path, config.collection_name) as database:
            return None if database is None else _counted(database, config.collection_name, wanted)
    except sqlite3.Error:
        return None


def _counted(database: sqlite3.Connection, collection: str, wanted: Wanted) -> Counts:
    conditions = list(_conditions(wanted))
    statement = _COUNTS.format(which=" AND ".join(condition for condition, _ in conditions))
    given = [KIND, UNTIL, collection, NAMESPACE, *(one for _, many in conditions for one in many)]
    return {(namespace, kind): many for namespace, kind, many in database.execute(statement, given)}


def _conditions(wanted: Wanted) -> Iterator[tuple[str, Sequence[object]]]:
    yield "coalesce(ends.float_value, ends.int_value) > ?", [wanted.now_s]
    yield "filed.string_value >= ?", [wanted.since]
    if wanted.before:
        yield "filed.string_value < ?", [wanted.before]
    if wanted.namespaces is None:
        yield "ns.string_value <> ''", []
    else:
        yield _among("ns", wanted.namespaces)
    if wanted.kinds:
        yield _among("kind", wanted.kinds)


def _among(name: str, values: Sequence[str]) -> tuple[str, Sequence[object]]:
    return f"{name}.string_value IN ({', '.join('?' * len(values))})", values
