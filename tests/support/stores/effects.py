"""What a palace's stores hold, past all engines and in the order in which it came."""

import sqlite3

from tests.model.history import Call, check
from tests.support.processes.clients import Site

_TEXTS = "select string_value from embedding_metadata where key = 'chroma:document' order by id"
_FACTS = "select subject, object from triples order by rowid"


def texts_in(site: Site) -> list[str]:
    """Return every stored document."""
    return [row[0] for row in _ask(site, "chroma.sqlite3", _TEXTS)]


def facts_in(site: Site) -> list[str]:
    """Return every fact as `SUBJECT OBJECT`."""
    return [" ".join(row) for row in _ask(site, "knowledge_graph.sqlite3", _FACTS)]


def _ask(site: Site, store: str, query: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(f"file:{site.palace}/{store}?mode=ro", uri=True)
    try:
        return list(connection.execute(query))
    finally:
        connection.close()


def assert_explained(asked: dict[str, list[str]], applied: list[str]) -> None:
    """Check answered changes, by session and in their order, against what is in a store."""
    calls = [
        Call(session=session, name=name, waited=False)
        for session, names in asked.items()
        for name in names
    ]
    assert check(calls, applied) == []
