"""Chroma's index is written after 100 records, whoever opened the store first."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from palace.engine.api import Call
from palace.engine.persist import PERSIST_MIN
from tests.support.hosted import HostedEngine

pytestmark = pytest.mark.engine

CHUNK = 800  # characters of a record


def file_long_drawer(engine: HostedEngine, records: int) -> None:
    """File one drawer of so many records."""
    arguments = {"wing": "w", "room": "r", "content": "x" * records * CHUNK}  # soon embedded
    params = {"name": "mempalace_add_drawer", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    reply = json.loads(engine.call(Call(message=message, session=str(records), ordinal=1)).payload)
    told = json.loads(reply["result"]["content"][0]["text"])
    assert told["chunks"] == records, told


def asked(root: Path, question: str) -> Any:
    with closing(sqlite3.connect(root / "chroma.sqlite3")) as store:
        return store.execute(question).fetchone()[0]


def is_written(root: Path) -> bool:
    """Tell whether the index on the disk holds anything: Chroma notes up to which record."""
    return bool(
        asked(
            root,
            "SELECT count(*) FROM max_seq_id JOIN segments ON segments.id = segment_id "
            "WHERE scope = 'VECTOR'",
        )
    )


@pytest.mark.parametrize("lives", [1, 2])
def test_an_index_is_written_after_a_hundred_records(
    lives: int, tmp_path: Path, model_home: Path
) -> None:
    root = tmp_path / "p" / "palace"
    for life in range(lives):
        engine = HostedEngine(model_home, root)
        try:
            engine.load()
            if life < lives - 1:
                file_long_drawer(engine, 2)
                continue
            file_long_drawer(engine, PERSIST_MIN // 2)
            assert not is_written(root)
            file_long_drawer(engine, PERSIST_MIN // 2 + 1)
            assert is_written(root)
        finally:
            engine.end()

    schema = asked(root, "SELECT schema_str FROM collections")
    assert '"sync_threshold":1000' in schema  # as stock makes it
    assert '"sync_threshold":100,' not in schema


def test_a_setting_that_somebody_has_chosen_is_kept(tmp_path: Path, model_home: Path) -> None:
    root = tmp_path / "p" / "palace"
    for life in range(2):
        engine = HostedEngine(model_home, root)
        try:
            engine.load()
            file_long_drawer(engine, 2 + life)
        finally:
            engine.end()
        schema = asked(root, "SELECT schema_str FROM collections")
        assert f'"sync_threshold":{(1000, 300)[life]}' in schema
        with closing(sqlite3.connect(root / "chroma.sqlite3")) as store, store:
            chosen = schema.replace('"sync_threshold":1000', '"sync_threshold":300')
            store.execute("UPDATE collections SET schema_str = ?", (chosen,))
