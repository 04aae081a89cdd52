"""Memories counted where they lie: by Chroma's own database, in one statement.

Chroma's interface counts nothing that it filters, and reading the metadata of all that it lets
through takes a hundred times as long as the database takes to count it: 1 s for 10,000 memories
among 20,000.
"""

import sqlite3
from collections.abc import Mapping
from functools import partial

from palace.engine.hosting.chroma_rows import conditions, read
from palace.engine.stock import Server
from palace.memory.gate import Wanted
from palace.memory.memory import KIND, NAMESPACE, UNTIL

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

Counts = Mapping[tuple[str, str], int]


def count(server: Server, wanted: Wanted) -> Counts | None:
    """Count what is wanted, by namespace and kind; None where that has to be read."""
    return read(server, partial(_counted, wanted))


def _counted(wanted: Wanted, database: sqlite3.Connection, collection: str) -> Counts:
    which, values = conditions(wanted)
    given = [KIND, UNTIL, collection, NAMESPACE, *values]
    rows = database.execute(_COUNTS.format(which=which), given)
    return {(namespace, kind): many for namespace, kind, many in rows}
