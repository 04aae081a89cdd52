"""Memories read from Chroma's own database, beside the same found by reading all of them.

The database is made by Chroma's own statements, and filled with rows as Chroma writes them.
"""

import functools
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from palace.engine.hosting import chroma_rows, counted, dated, worded
from palace.memory.gate import Wanted
from palace.memory.memory import Memory, metadata_of

pytestmark = pytest.mark.engine

NAMES = ("team:a", "team:b", "team:c")
WORDS = ("tide", "quokka", "build", "node", "Ärger", "go")
NOW_S = 1_800_000_000.0
COLLECTION = "mempalace_drawers"


@attrs.frozen
class Rows:
    """What is in a database, as whoever reads all of it knows."""

    database: sqlite3.Connection
    memories: list[Memory]

    def wanted(self, wanted: Wanted) -> list[Memory]:
        return [
            one
            for one in self.memories
            if wanted.namespaces is None or one.namespace in wanted.namespaces
            if one.namespace not in wanted.without
            if not wanted.kinds or one.kind in wanted.kinds
            if one.until > wanted.now_s and one.created_at >= wanted.since
            if not wanted.before or one.created_at < wanted.before
        ]


@functools.cache
def filled(count: int) -> Rows:
    chance = random.Random(count)
    database = sqlite3.connect(":memory:")
    folder = files("chromadb").joinpath("migrations", "metadb")
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".sql"):
            database.executescript(file.read_text())
    database.executescript(
        "CREATE TABLE segments (id, collection); CREATE TABLE collections (id, name);"
        "INSERT INTO segments VALUES ('s', 'c');"
        f"INSERT INTO collections VALUES ('c', '{COLLECTION}')"
    )
    rows = Rows(database, [])
    for number in range(1, count + 1):
        second = f"{chance.randrange(40):02}.{number:06}"
        memory = Memory(
            id=f"mem-{number}",
            namespace=chance.choice(NAMES),
            content=" ".join(chance.sample(WORDS, 2)),
            kind=chance.choice(("fact", "rule")),
            until=NOW_S + chance.choice((-1, 1)) if chance.random() < 0.2 else 1e17,
            created_at=f"2026-11-30T08:00:{second}Z",
        )
        rows.memories.append(memory)
        put(database, number, memory.id, memory.content, metadata_of(memory))
        text = chance.choice(WORDS)
        put(database, number + count, f"drawer_{number}", text, {"filed_at": memory.created_at})
    return rows


def put(database: sqlite3.Connection, number: int, ident: str, text: str, entry: Any) -> None:
    database.execute(
        "INSERT INTO embeddings (id, segment_id, embedding_id, seq_id) VALUES (?, 's', ?, ?)",
        [number, ident, number],
    )
    for key, value in {"chroma:document": text, **entry}.items():
        column = {str: "string_value", float: "float_value", bool: "bool_value"}.get(type(value))
        statement = f"INSERT INTO embedding_metadata (id, key, {column or 'int_value'})"
        database.execute(f"{statement} VALUES (?, ?, ?)", [number, key, value])
    database.execute(
        "INSERT INTO embedding_fulltext_search (rowid, string_value) VALUES (?, ?)", [number, text]
    )


@pytest.fixture(params=["few", "many"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """What is read where few rows can be wanted, and where they are found by indexes."""
    if request.param == "many":
        monkeypatch.setattr(chroma_rows, "FEW", 3)
    rows = filled(120)

    @contextmanager
    def snapshot(_server: object) -> Iterator[sqlite3.Connection]:
        yield rows.database

    for module in (chroma_rows, worded):
        monkeypatch.setattr(module, "snapshot_of", snapshot)
    return rows


SERVER: Any = SimpleNamespace(
    _is_chroma_backend=lambda: True, _config=SimpleNamespace(collection_name=COLLECTION)
)
ASKED: tuple[dict[str, Any], ...] = (
    {},
    {"namespaces": NAMES[:1]},
    {"namespaces": NAMES[1:], "kinds": ("rule",)},
    {"namespaces": None},
    {"namespaces": None, "without": NAMES[:2]},
    {"namespaces": NAMES, "since": "2026-11-30T08:00:20"},
    {"namespaces": NAMES, "before": "2026-11-30T08:00:20", "kinds": ("fact",)},
    {"namespaces": ("team:none",)},
)


def wanted(limit: int = 5, **more: Any) -> Wanted:
    asked: dict[str, Any] = {"query": "", "namespaces": NAMES[:2], "kinds": ()} | more
    return Wanted(limit=limit, now_s=NOW_S, by_words=True, **asked)


@pytest.mark.parametrize("limit", [1, 5, 30])
@pytest.mark.parametrize("asked", ASKED)
def test_the_newest_are_those_that_are_newest(rows: Rows, asked: Any, limit: int) -> None:
    found = dated.newest(SERVER, wanted(limit, **asked))
    there = sorted(rows.wanted(wanted(limit, **asked)), key=lambda one: one.created_at)
    if found is None:  # fewer than are asked for, of many: that is found out otherwise
        assert chroma_rows.FEW == 3
        assert len(there) < limit
    else:
        assert found == [one.id for one in reversed(there)][:limit]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    "query", ["quokka", "TIDE, or ärger?", "o", "go", "är", "nothing", "%", '"']
)
def test_what_holds_a_word_is_found(rows: Rows, asked: Any, query: str) -> None:
    """By a part of it, too; where none is long enough for the index, by all of the query."""
    found = worded.in_chroma(SERVER, wanted(200, query=query, **asked))
    words = [word for word in ("quokka", "tide", "ärger", "nothing") if word in query.lower()]
    there = {
        one.id
        for one in rows.wanted(wanted(**asked))
        if any(word in one.content.lower() for word in words or [query.lower()])
    }
    assert found is not None
    assert len(found) == len(set(found))
    assert set(found) == there


def test_what_holds_more_words_and_rarer_ones_comes_first(rows: Rows) -> None:
    asked = wanted(200, query="quokka tide", namespaces=NAMES)
    found = worded.in_chroma(SERVER, asked)
    texts = {one.id: one.content for one in rows.memories}
    assert found is not None
    both = ["quokka" in texts[ident] and "tide" in texts[ident] for ident in found]
    assert True in both
    assert both == sorted(both, reverse=True)
    assert worded.by_weight([["a", "b", "c"], ["d"], []]) == ["d", "a", "b", "c"]


def test_a_long_word_is_looked_for_by_its_beginning(rows: Rows) -> None:
    """The index takes seconds for thousands of characters, while stock's read lock is held."""
    long = [f"{letter * 1_249}" for letter in "abcdefghi"]
    for query in ("x" * 10_000, " ".join(long), "é" * 10_000):
        words = worded._words_of(query)
        assert 1 <= len(words) <= worded.WORDS_MAX
        assert {len(word) for word in words} == {worded.WORD_CHARS_MAX}
    assert worded._words_of("quokka") == ["quokka"]
    rows.database.execute("SAVEPOINT before")
    entry = metadata_of(attrs.evolve(rows.memories[0], until=1e17))
    put(rows.database, 999, "mem-long", "z" * 60, entry)
    found = worded.in_chroma(SERVER, wanted(200, query="z" * 50, namespaces=NAMES))
    rows.database.execute("ROLLBACK TO before")
    assert found == ["mem-long"]


def test_words_that_take_too_long_are_not_found(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = wanted(200, query="quokka tide build node", namespaces=NAMES)
    assert worded.in_chroma(SERVER, asked)
    monkeypatch.setattr(worded, "WORDS_S", 0.0)
    monkeypatch.setattr(chroma_rows, "STEPS", 1)
    assert worded.in_chroma(SERVER, asked) == []
    assert "words are not looked for: interrupted" in caplog.text
    monkeypatch.undo()
    assert rows.database.execute("SELECT count(*) FROM embeddings").fetchone()[0], (
        "no limit is left"
    )


@contextmanager
def none_of(problem: Exception | None, _server: object) -> Iterator[None]:
    """Yield no snapshot: Chroma has yet to take in what was written, or there is a problem."""
    if problem is not None:
        raise problem
    yield None


@pytest.mark.parametrize("problem", [None, sqlite3.OperationalError("database is locked")])
def test_stocks_own_search_by_words_is_never_asked_of_chroma(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: Exception | None
) -> None:
    """It reads all of the palace's rows with a word, while stock's read lock is held."""
    caplog.set_level("INFO", "palace.engine")
    monkeypatch.setattr(worded, "snapshot_of", partial(none_of, problem))
    assert worded.in_chroma(SERVER, wanted(query="quokka")) == []
    assert ("database is locked" if problem else "yet to take in") in caplog.text


def test_ranks_count_and_not_measures() -> None:
    assert worded.fused(["a", "b", "c"], ["c", "d"]) == ["c", "a", "b", "d"]
    assert worded.fused(["a"], []) == ["a"]
    assert worded.fused([], []) == []


def test_another_backend_is_asked_otherwise() -> None:
    server: Any = SimpleNamespace(_is_chroma_backend=lambda: False)
    assert dated.newest(server, wanted()) is None
    assert worded.in_chroma(server, wanted(query="x")) is None


@pytest.mark.parametrize("problem", [None, sqlite3.OperationalError("database is locked")])
def test_what_chroma_has_not_taken_in_is_found_out_otherwise(
    problem: sqlite3.Error | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chroma_rows, "snapshot_of", partial(none_of, problem))
    assert dated.newest(SERVER, wanted()) is None
    assert counted.count(SERVER, wanted()) is None
