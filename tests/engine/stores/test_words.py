"""The index of words: what is wrong with it is found, however a database may be opened, and mended.

The tables are those of mempalace's backends, as far as they matter here;
tests/engine/durability/test_damage.py and test_backends.py have palaces that stock has filled.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from palace.engine.stores import words
from palace.engine.stores.words import SHADOWS, Look, mend_words, without_words, words_damage

COUNT = 60
TABLES = {
    "embedding_fulltext_search": (
        "CREATE TABLE embeddings (id INTEGER PRIMARY KEY)",
        "CREATE TABLE embedding_metadata (id, key, string_value, PRIMARY KEY (id, key))",
        "CREATE VIRTUAL TABLE embedding_fulltext_search "
        "USING fts5(string_value, tokenize='trigram')",
    ),
    "docs_fts": (
        "CREATE TABLE documents (collection_id INTEGER, id TEXT, document TEXT)",
        "CREATE VIRTUAL TABLE docs_fts "
        "USING fts5(collection_id UNINDEXED, doc_id UNINDEXED, document)",
    ),
}
WAYS = {
    "pages": "DELETE FROM {t}_data",
    "a page": "UPDATE {t}_data SET block = x'00' WHERE id = (SELECT max(id) FROM {t}_data)",
    "a text": "DELETE FROM {t}_content WHERE id = 3",
    "another text": "UPDATE {t}_content SET {c} = 'something else' WHERE id = 7",
    "a size": "DELETE FROM {t}_docsize WHERE id = 4",
    "a row": "DELETE FROM {t} WHERE rowid = 5",
    "a row of other words": "UPDATE {t} SET {d} = 'something else' WHERE rowid = 8",
    "all rows": "DELETE FROM {t}",
    **{f"the table {name}": f"DROP TABLE {{t}}_{name}" for name in SHADOWS},
}
ALIKE = ["", "Σ", "?!", "two words", "ein Käfer", None]


def always() -> bool:
    return True


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path, table: str) -> str:
    """A database of documents, and their words."""
    path = f"{tmp_path}/palace.sqlite3"
    texts = [*ALIKE, *(f"the otter of number {number}" for number in range(COUNT))]
    with closing(sqlite3.connect(path)) as opened, opened:
        for statement in TABLES[table]:
            opened.execute(statement)
        for number, text in enumerate(texts, 1):
            if table == "docs_fts":
                opened.execute("INSERT INTO documents VALUES (1, ?, ?)", [str(number), text])
                opened.execute("INSERT INTO docs_fts VALUES (1, ?, ?)", [str(number), text])
                continue
            opened.execute("INSERT INTO embeddings VALUES (?)", [number])
            if text is not None:
                row = [number, "chroma:document", text]
                opened.execute("INSERT INTO embedding_metadata VALUES (?, ?, ?)", row)
                row = [number, text]
                columns = "rowid, string_value"
                opened.execute(f"INSERT INTO {table} ({columns}) VALUES (?, ?)", row)
    return path


def change(path: str, statement: str, table: str) -> None:
    column, shadow = ("document", "c2") if table == "docs_fts" else ("string_value", "c0")
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute(statement.format(t=table, d=column, c=shadow))


def found(path: str, table: str, word: str) -> int:
    with closing(sqlite3.connect(path)) as opened:
        query = f"SELECT count(*) FROM {table} WHERE {table} MATCH ?"
        return int(opened.execute(query, [word]).fetchone()[0])


@pytest.mark.parametrize("look", Look)
@pytest.mark.parametrize("mode", ["mode=rw", "mode=ro", "immutable=1"])
def test_a_whole_one_is_left_alone(path: str, mode: str, look: Look) -> None:
    before = Path(path).read_bytes()
    assert words_damage(f"file:{path}?{mode}", look) == ""
    assert mend_words(path, look, always) == ""
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("way", WAYS)
def test_what_is_wrong_is_found_and_mended(path: str, table: str, way: str) -> None:
    change(path, WAYS[way], table)
    before = Path(path).read_bytes()

    for mode in ("mode=rw", "mode=ro", "immutable=1"):
        assert words_damage(f"file:{path}?{mode}", Look.WHOLE).startswith("its index of words ")
    assert Path(path).read_bytes() == before, "looking changes nothing"
    assert mend_words(path, Look.COUNT, always), "a small one is read whole"

    assert words_damage(f"file:{path}?mode=ro", Look.WHOLE) == ""
    assert found(path, table, "otter") == COUNT
    with closing(sqlite3.connect(path)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("table", ["docs_fts"], indirect=True)
def test_words_of_a_document_that_is_gone_are_found(path: str, table: str) -> None:
    """In Chroma's they lead to no row."""
    change(path, "INSERT INTO {t} VALUES (1, 'gone', 'otters')", table)
    assert "is not that of 1 of" in words_damage(f"file:{path}?mode=ro", Look.WHOLE)
    assert mend_words(path, Look.WHOLE, always)
    assert found(path, table, "otters") == 0


@pytest.mark.parametrize("way", ["pages", "a row", "all rows", "the table data"])
def test_of_a_large_one_an_opening_sees_what_is_cheap_to_see(
    path: str, table: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "QUICK_DOCUMENTS", 0)
    assert words_damage(f"file:{path}?mode=ro", Look.COUNT) == ""
    change(path, WAYS[way], table)
    assert words_damage(f"file:{path}?mode=ro", Look.COUNT)


def test_of_a_large_one_the_rest_is_seen_by_a_look_at_all_of_it(
    path: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "QUICK_DOCUMENTS", 0)
    change(path, WAYS["another text"], table)
    assert words_damage(f"file:{path}?mode=ro", Look.COUNT) == ""
    assert words_damage(f"file:{path}?mode=ro", Look.WHOLE)


def test_pages_that_no_word_leads_to_are_missed_by_a_sample(path: str, table: str) -> None:
    """FTS5's own check passes over them."""
    with closing(sqlite3.connect(path)) as opened, opened:  # until there is more than one page
        column = "document" if table == "docs_fts" else "string_value"
        for number in range(2000):
            text = f"{number * 7919:o} {number * 104729:x} otters"
            if table == "docs_fts":
                opened.execute("INSERT INTO documents VALUES (2, ?, ?)", [str(number), text])
                row = [2, str(number), text]
                opened.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", row)
            else:
                row = [1000 + number, "chroma:document", text]
                opened.execute("INSERT INTO embeddings VALUES (?)", row[:1])
                opened.execute("INSERT INTO embedding_metadata VALUES (?, ?, ?)", row)
                row = [row[0], text]
                opened.execute(f"INSERT INTO {table} (rowid, {column}) VALUES (?, ?)", row)
    assert words_damage(f"file:{path}?mode=ro", Look.WHOLE) == ""
    change(path, "DELETE FROM {t}_idx", table)
    assert "is not that of" in words_damage(f"file:{path}?mode=ro", Look.WHOLE)


def test_nothing_is_written_to_a_database_that_is_damaged_elsewhere(path: str, table: str) -> None:
    change(path, WAYS["pages"], table)
    before = Path(path).read_bytes()
    assert mend_words(path, Look.WHOLE, lambda: False) == ""
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("table", ["embedding_fulltext_search"], indirect=True)
def test_a_document_whose_row_is_gone_keeps_its_words(path: str, table: str) -> None:
    """What is mended is whole, whatever else another program has done to the rows."""
    change(path, "DELETE FROM embeddings WHERE id = 20", table)
    change(path, WAYS["pages"], table)
    assert mend_words(path, Look.WHOLE, always)
    assert words_damage(f"file:{path}?mode=ro", Look.WHOLE) == ""


def test_a_probe_reads_little_and_sees_what_keeps_it_from_answering(path: str, table: str) -> None:
    change(path, WAYS["a row"], table)
    assert words_damage(f"file:{path}?mode=ro", Look.PROBE) == ""
    change(path, WAYS["pages"], table)
    assert words_damage(f"file:{path}?mode=ro", Look.PROBE)


def test_a_database_of_other_tables_has_none(tmp_path: Path) -> None:
    path = f"{tmp_path}/other.sqlite3"
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("CREATE TABLE documents (id)")
    assert words_damage(f"file:{path}?mode=ro", Look.WHOLE) == ""
    assert mend_words(path, Look.WHOLE, always) == ""
    assert mend_words(f"{tmp_path}/none", Look.WHOLE, always) == ""


def test_what_can_not_be_mended_is_left(path: str, table: str) -> None:
    change(path, WAYS["pages"], table)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert mend_words(path, Look.WHOLE, always) == ""
    assert words_damage(f"file:{path}?mode=ro", Look.WHOLE)


def test_what_newer_checks_of_sqlite_say_of_it_is_no_damage_of_the_database() -> None:
    said = [
        "malformed inverted index for FTS5 table main.embedding_fulltext_search",
        'fts5: corruption found reading blob 7 from table "docs_fts"',
        "row 3 missing from index x",
    ]
    assert without_words(said) == ["row 3 missing from index x"]
