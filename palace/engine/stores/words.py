"""The index of words beside the documents of a database: is it whole, and does it know them all?

It is an FTS5 table that mempalace's backends keep next to the rows, and that searches by words read
alone.  SQLite's checks of a database pass over it before 3.44, and later ones call the database
damaged.  Neither is so bad: all that it holds is in the rows as well, so that it is made again from
them in place, whatever the journal knows.

What is damaged in there keeps every change from being stored ("database disk image is malformed"),
or finds less without a word.
"""

import enum
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import attrs

SHADOWS = ("data", "idx", "content", "docsize", "config")  # where FTS5 keeps what it holds
QUICK_DOCUMENTS = 5000  # an index of more is checked whole only where no call waits
SAMPLE, QUICK_SAMPLE = 24, 2  # documents that are looked for by a word of theirs
_WORD = re.compile(r"(?<!\w)[A-Za-z]{3,40}(?!\w)")  # one to any tokenizer
_ITS_OWN_CHECKS = ("malformed inverted index for FTS5 table", "fts5:")  # SQLite's words, since 3.44

_IN_USE = (5, 6)  # SQLite's codes for busy and locked

logger = logging.getLogger("palace.journal")


class Look(enum.Enum):
    """How much of an index is read."""

    PROBE = "probe"  # whether it answers, and finds a few documents
    COUNT = "count"  # and whether it has as many as there are
    WHOLE = "whole"  # all of it: some 20 s for a million documents


@attrs.frozen(kw_only=True)
class Words:
    """One backend's index, as queries.

    `quick` counts how many more documents there are than rows in it, `whole` the documents that
    have no row with their text, and rows that have no document.  `sample` yields texts, and what
    `find` wants to know besides a word.  `fill` writes a row for each document.
    """

    table: str
    needs: frozenset[str]  # tables
    quick: str
    whole: str
    sample: str
    find: str
    fill: str

    def shadows(self) -> list[str]:
        return [f"{self.table}_{name}" for name in SHADOWS]


CHROMA = Words(
    table="embedding_fulltext_search",
    needs=frozenset({"embedding_metadata"}),
    quick="""
    SELECT max(0, count(*) - (SELECT count(*) FROM embedding_fulltext_search_docsize))
    FROM embedding_metadata WHERE key = 'chroma:document' AND string_value IS NOT NULL
    """,
    whole="""
    SELECT count(*) FROM embedding_metadata m
    LEFT JOIN embedding_fulltext_search_content c ON c.id = m.id
    WHERE m.key = 'chroma:document' AND m.string_value IS NOT NULL AND typeof(m.id) = 'integer'
    AND c.c0 IS NOT m.string_value
    """,
    sample="""
    SELECT string_value, id FROM embedding_metadata
    WHERE key = 'chroma:document' AND string_value IS NOT NULL
    AND id IN (SELECT id FROM embedding_fulltext_search_docsize ORDER BY {order} LIMIT ?)
    """,
    find="""
    SELECT 1 FROM embedding_fulltext_search WHERE embedding_fulltext_search MATCH ? AND rowid = ?
    """,
    fill="""
    INSERT INTO embedding_fulltext_search (rowid, string_value)
    SELECT id, string_value FROM embedding_metadata
    WHERE key = 'chroma:document' AND string_value IS NOT NULL AND typeof(id) = 'integer'
    """,
)
EXACT = Words(
    table="docs_fts",
    needs=frozenset({"documents"}),
    quick="""
    SELECT abs((SELECT count(*) FROM documents) - (SELECT count(*) FROM docs_fts_docsize))
    """,
    whole="""
    WITH known AS (SELECT collection_id, id, document FROM documents),
    indexed AS (SELECT c0, c1, c2 FROM docs_fts_content)
    SELECT (SELECT count(*) FROM (SELECT * FROM known EXCEPT SELECT * FROM indexed))
    + (SELECT count(*) FROM (SELECT * FROM indexed EXCEPT SELECT * FROM known))
    """,
    sample="""
    SELECT document, collection_id, id FROM documents WHERE document IS NOT NULL
    ORDER BY {order} LIMIT ?
    """,
    find="""
    SELECT 1 FROM docs_fts WHERE docs_fts MATCH ? AND collection_id = ? AND doc_id = ?
    """,
    fill="""
    INSERT INTO docs_fts (collection_id, doc_id, document)
    SELECT collection_id, id, document FROM documents
    """,
)


def words_damage(uri: str, look: Look) -> str:
    """Return what is wrong with a database's index of words, "" where it is whole or has none.

    `uri` says how SQLite is to open it.  A small index is read whole unless it is to be probed.
    Changes nothing.  Raises sqlite3.Error where the database can't be read.
    """
    with closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as connection:
        # What is no text any more is another check's business.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        return _damage(connection, uri, look)


def _damage(connection: sqlite3.Connection, uri: str, look: Look) -> str:
    for words in _of(connection):
        if missing := _missing(connection, words):
            return f"its index of words lacks {', '.join(missing)}"
        query = f"SELECT count(*) FROM {words.table}_docsize"
        is_small = connection.execute(query).fetchone()[0] <= QUICK_DOCUMENTS
        is_read = look is Look.WHOLE or (look is Look.COUNT and is_small)
        if problem := _contradiction(connection, words, uri if is_read else ""):
            return f"its index of words is damaged: {problem}"
        count = 0
        if look is not Look.PROBE:
            count = connection.execute(words.whole if is_read else words.quick).fetchone()[0]
        count = count or _not_found(connection, words, whole=is_read)
        if count:
            return f"its index of words is not that of {count} of its documents"
    return ""


def without_words(said: list[str]) -> list[str]:
    """Return what a check of SQLite's found, but for what is looked at here."""
    return [text for text in said if not text.startswith(_ITS_OWN_CHECKS)]


def make_words_again(path: str) -> None:
    """Make a database's index of words from its documents, in one transaction.

    Only while no process has the database open.  Raises sqlite3.Error, and then nothing is changed.
    """
    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)) as opened:
        opened.execute("BEGIN IMMEDIATE")
        for words in _of(opened):
            made = _definition(opened, words)
            # FTS5 can't even drop a table of which it misses something.
            opened.execute("PRAGMA writable_schema = ON")
            opened.execute("DELETE FROM sqlite_master WHERE name = ?", [words.table])
            opened.execute("PRAGMA writable_schema = RESET")
            for name in words.shadows():
                opened.execute(f'DROP TABLE IF EXISTS "{name}"')
            opened.execute(made)
            opened.execute(words.fill)
        opened.execute("COMMIT")


def mend_words(path: str, look: Look, is_whole: Callable[[], bool]) -> str:
    """Make a database's index of words again where it is damaged; return what was wrong with it.

    Only while no process has the database open, and only where `is_whole` says that all else in it
    is: whoever writes to a damaged database may harm more.  What can't be done is logged, and the
    damage stays.
    """
    if not os.path.exists(path) or not os.path.getsize(path):
        return ""
    try:
        problem = words_damage(f"file:{path}?mode=rw", look)
        if not problem or not is_whole():
            return ""
        make_words_again(path)
    except sqlite3.Error as error:
        logger.warning("the index of words of %s can't be mended: %s", path, error)
        return ""
    return problem


def _of(connection: sqlite3.Connection) -> Iterator[Words]:
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    for words in (CHROMA, EXACT):
        if there >= {words.table, *words.needs}:
            yield words


def _missing(connection: sqlite3.Connection, words: Words) -> list[str]:
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    return [name for name in words.shadows() if name not in there]


def _definition(connection: sqlite3.Connection, words: Words) -> str:
    query = "SELECT sql FROM sqlite_master WHERE name = ?"
    return str(connection.execute(query, [words.table]).fetchone()[0])


def _contradiction(connection: sqlite3.Connection, words: Words, uri: str) -> str:
    """Return what FTS5 finds wrong with an index by itself; "" for `uri`: at a first use of it.

    Its own check is a statement that writes, as far as SQLite knows, so that it runs over a copy:
    the database may be open in its owner, or on a disk that nothing may be written to.
    """
    table = words.table
    try:
        connection.execute(words.find, ["nowhere", *[0] * (words.find.count("?") - 1)]).fetchone()
    except sqlite3.DatabaseError as error:
        if is_in_use(error):
            raise
        return str(error)
    if not uri:
        return ""
    with closing(sqlite3.connect("", uri=True)) as copy:  # in memory as far as that is small
        copy.execute(_definition(connection, words))
        copy.execute("ATTACH DATABASE ? AS original", [uri])
        for name in words.shadows():
            copy.execute(f"DELETE FROM main.{name}")
            copy.execute(f"INSERT INTO main.{name} SELECT * FROM original.{name}")
        try:
            copy.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")
        except sqlite3.DatabaseError as error:
            return str(error)
    return ""


def _not_found(connection: sqlite3.Connection, words: Words, *, whole: bool) -> int:
    """Return how many of a sample of documents are not found by a word of theirs."""
    order, size = ("random()", SAMPLE) if whole else ("rowid DESC", QUICK_SAMPLE)
    sample = connection.execute(words.sample.format(order=order), [size]).fetchall()
    missed = 0
    for text, *place in sample:
        known = _WORD.findall(str(text))
        asked = [f'"{max(known, key=len, default="")}"', *place]
        missed += bool(known) and connection.execute(words.find, asked).fetchone() is None
    return missed


def is_in_use(error: sqlite3.Error) -> bool:
    """Tell whether another process has a database locked, so that nothing is known of it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _IN_USE
