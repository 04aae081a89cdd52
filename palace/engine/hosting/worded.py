"""Memories found by words in them, beside those that are found by their meaning.

mempalace's backends keep an index of words.  Stock's own search of Chroma's reads everything that
holds one of the words before it looks whose it is: of what is common among 100,000 drawers, for
seconds.  So that index is asked in a statement of ours, which reads the latest rows with a word
first, and stops at HITS_MAX that are wanted; where few rows can be wanted, these are read.  The
other backends read all of a palace's rows at each search of memories in any case, and stock's own
search by words does no more there.

All this happens within stock's read lock, which whoever changes something waits for.  The index
looks at each three characters of a word in each row that has them all, so a long word among many
rows takes it seconds: words are cut, and after WORDS_S a search is by meaning alone.

How much a word tells is how few memories it is in.  What is found by words and what is found by
meaning take their places by their ranks in both (reciprocal rank fusion), since the two measure
nothing that could be compared.
"""

import logging
import math
import re
import sqlite3
from collections.abc import Sequence

from palace.engine.hosting.chroma_rows import (
    JOINED,
    LOGICAL,
    are_few,
    conditions,
    joined,
    limited,
    of_namespaces,
    snapshot_of,
)
from palace.engine.stock import Server
from palace.memory.gate import Wanted

WORDS_MAX = 8  # of a query, the longest
WORD_CHARS_MAX = 40  # of a word, its beginning, which is as rare as all of it
WORDS_S = 1.0  # for all words of a query
HITS_MAX = 200  # memories of a word
ROWS_MAX = 5_000  # that are looked at for a word, latest first; one that is in more tells little
INDEXED = 3  # characters; Chroma's index knows no shorter words
FUSED = 60  # by how much the first ranks are damped, as is usual

_WORD = re.compile(r"\w+")

logger = logging.getLogger("palace.engine")

_WITH_WORD = """
SELECT {logical}
FROM (
    SELECT rowid AS id FROM embedding_fulltext_search WHERE embedding_fulltext_search MATCH ?
    ORDER BY rowid DESC LIMIT ?
) AS found {joined} WHERE {which} LIMIT ?
"""
_TEXTS = """
SELECT {logical}, text.string_value
FROM ({found} ORDER BY id DESC LIMIT ?) AS found
CROSS JOIN embedding_metadata AS text ON text.id = found.id AND text.key = 'chroma:document'
{joined} WHERE {which}
"""


def in_chroma(server: Server, wanted: Wanted) -> list[str] | None:
    """Return the ids of memories with words of a query in them, those first that tell most.

    None where Chroma doesn't keep them.  None is found where its database can't be asked, lacks
    what was written last, or takes too long: stock's own search would take much longer.
    """
    if not server._is_chroma_backend():  # noqa: SLF001
        return None
    name = server._config.collection_name  # noqa: SLF001
    try:
        with snapshot_of(server) as database:
            if database is None:
                logger.info("words are not looked for: Chroma has yet to take in what was written")
                return []
            with limited(database, WORDS_S):
                return _found(database, name, wanted)
    except sqlite3.Error as error:
        logger.warning("words are not looked for: %s", error)
        return []


def _found(database: sqlite3.Connection, name: str, wanted: Wanted) -> list[str]:
    words = _words_of(wanted.query)
    if words and not are_few(database, wanted):
        found = [_with_word(database, name, wanted, word) for word in words]
    else:
        texts = _texts(database, name, wanted)
        asked = words or [wanted.query.strip().casefold()]  # which no index knows
        found = [[ident for ident, text in texts if word in text] for word in asked]
    return by_weight(found)[: wanted.limit]


def by_weight(found: Sequence[Sequence[str]]) -> list[str]:
    """Return what is in these lists, one for each word: a word that is in few weighs most."""
    weights: dict[str, float] = {}
    for hits in found:
        for ident in dict.fromkeys(hits):
            weights[ident] = weights.get(ident, 0.0) + math.log1p(HITS_MAX / len(hits))
    return sorted(weights, key=weights.__getitem__, reverse=True)


def fused(*rankings: Sequence[str]) -> list[str]:
    """Return what stands in any of these rankings, by its places in all of them."""
    weights: dict[str, float] = {}
    for ranking in rankings:
        for place, ident in enumerate(ranking):
            weights[ident] = weights.get(ident, 0.0) + 1 / (FUSED + place)
    return sorted(weights, key=weights.__getitem__, reverse=True)


def _words_of(query: str) -> list[str]:
    """Return those of a query's words that are looked for."""
    words = dict.fromkeys(word[:WORD_CHARS_MAX] for word in _WORD.findall(query.casefold()))
    known = [word for word in words if len(word) >= INDEXED]
    return sorted(known, key=len, reverse=True)[:WORDS_MAX]


def _with_word(database: sqlite3.Connection, name: str, wanted: Wanted, word: str) -> list[str]:
    which, given = conditions(wanted)
    asked = [f'"{word}"', ROWS_MAX, *joined(name), *given, HITS_MAX]
    return [
        ident
        for (ident,) in database.execute(
            _WITH_WORD.format(logical=LOGICAL, joined=JOINED, which=which), asked
        )
    ]


def _texts(database: sqlite3.Connection, name: str, wanted: Wanted) -> list[tuple[str, str]]:
    """Return the latest texts that are wanted, without regard to case, and whose they are."""
    found, names = of_namespaces(wanted)
    which, given = conditions(wanted)
    statement = _TEXTS.format(logical=LOGICAL, joined=JOINED, found=found, which=which)
    rows = database.execute(statement, [*names, ROWS_MAX, *joined(name), *given])
    return [(ident, str(text).casefold()) for ident, text in rows]
