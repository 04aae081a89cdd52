"""Drawers of a real PostgreSQL by their ids: what stock finds, and without reading all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mempalace.backends.base import PalaceRef
from mempalace.backends.pgvector import PgVectorBackend, PgVectorCollection, _PgVectorClient

from palace.engine.hosting import by_ids
from palace.engine.patches import Patches
from tests.support.engines.postgres import Postgres

pytestmark = pytest.mark.engine

MANY = 50
IDS = [f"d{number}" for number in range(MANY)]


@pytest.fixture
def collection(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PgVectorCollection]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEMPALACE_PGVECTOR_DSN", postgres.dsn())
    backend = PgVectorBackend()
    root = str(tmp_path / "palace")
    made = backend.get_collection(
        palace=PalaceRef(id=root, local_path=root), collection_name="drawers", create=True
    )
    yield made
    backend.close()


def fill(collection: PgVectorCollection) -> None:
    collection.upsert(
        ids=IDS,
        documents=[f"text {number}" for number in range(MANY)],
        metadatas=[{"wing": f"w{number % 2}"} for number in range(MANY)],
        embeddings=[[float(number), 1.0] for number in range(MANY)],
    )


ASKED: dict[str, dict[str, Any]] = {
    "one": {"ids": ["d7"]},
    "in its order": {"ids": ["d9", "d3", "d5"]},
    "twice": {"ids": ["d3", "d3"]},
    "none": {"ids": []},
    "some that are not there": {"ids": ["d3", "x", "", "d3' OR true --", "%", "%s"]},
    "what no table can hold": {"ids": ["d3\0", "\ud800", "d4"]},
    "what is no text": {"ids": [3, None, "d4"]},
    "whether they are there": {"ids": ["d3", "x"], "include": []},
    "with vectors": {"ids": ["d3", "d4"], "include": ["embeddings", "documents"]},
    "with a filter": {"ids": ["d3", "d4"], "where": {"wing": "w1"}},
    "with a filter of texts": {"ids": ["d3", "d4"], "where_document": {"$contains": "3"}},
    "a page of them": {"ids": ["d3", "d4", "d5"], "limit": 1, "offset": 1},
    "by a filter alone": {"where": {"wing": "w1"}},
    "all": {},
}


@pytest.mark.parametrize("what", ASKED)
def test_what_is_found_is_what_stock_finds(collection: PgVectorCollection, what: str) -> None:
    fill(collection)
    stock = collection.get(**ASKED[what])
    patches = Patches()
    patches.apply(by_ids.patches())
    try:
        assert collection.get(**ASKED[what]) == stock
    finally:
        patches.undo()


def test_no_more_rows_are_read_than_are_asked_for(
    collection: PgVectorCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(collection)
    read: list[int] = []
    stock = _PgVectorClient._execute

    def counting(client: _PgVectorClient, *given: Any, **named: Any) -> Any:
        rows = stock(client, *given, **named)
        read.append(len(rows or ()))
        return rows

    monkeypatch.setattr(_PgVectorClient, "_execute", counting)
    collection.get(ids=["d3"], include=[])
    assert max(read) == MANY
    patches = Patches()
    patches.apply(by_ids.patches())
    try:
        read.clear()
        for include in ([], ["documents", "metadatas", "embeddings"]):
            assert collection.get(ids=["d3", "x"], include=include).ids == ["d3"]
        collection.update(ids=["d3"], documents=["another text"])
        assert max(read) == 1
    finally:
        patches.undo()
    assert collection.get(ids=["d3"]).documents == ["another text"]


def test_where_there_is_no_table_yet_nothing_is_found(collection: PgVectorCollection) -> None:
    patches = Patches()
    patches.apply(by_ids.patches())
    try:
        assert collection.get(ids=["d3"]).ids == []
    finally:
        patches.undo()
