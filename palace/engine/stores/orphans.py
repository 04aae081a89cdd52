"""What rows that were deleted by SQL leave behind in Chroma's database.

A new row gets the number after the largest that is there, so that it may get one of a row which was
deleted past Chroma.  The text that this has left in the index for words keeps the new one from
being stored, and with it all that waits in the queue: Chroma can neither be written nor opened.
"""

import logging
import os
import sqlite3
from contextlib import closing

_TABLES = {"embeddings", "embedding_metadata", "embedding_fulltext_search_docsize"}
_COUNT = """
SELECT count(*) FROM embedding_fulltext_search_docsize
WHERE id > (SELECT coalesce(max(id), 0) FROM embeddings)
"""
_REMOVE = (
    """
    DELETE FROM embedding_fulltext_search
    WHERE rowid > (SELECT coalesce(max(id), 0) FROM embeddings)
    """,
    """
    DELETE FROM embedding_metadata WHERE id > (SELECT coalesce(max(id), 0) FROM embeddings)
    """,
)

logger = logging.getLogger("palace.journal")


def remove_orphans(path: str) -> int:
    """Remove what is left of rows above the largest that is there; return how many.

    Only while no process has the database open.  What can't be done is logged: opening Chroma says
    what is wrong with it.
    """
    if not os.path.exists(path) or not os.path.getsize(path):
        return 0
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as connection, connection:
            there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            found: int = connection.execute(_COUNT).fetchone()[0] if there >= _TABLES else 0
            for statement in _REMOVE if found else ():
                connection.execute(statement)
    except sqlite3.Error as error:
        logger.warning("what is left of deleted rows can't be looked for: %s", error)
        return 0
    if found:
        logger.warning("chroma: what was left of %d deleted rows was removed", found)
    return found
