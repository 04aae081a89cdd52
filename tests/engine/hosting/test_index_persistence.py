"""Chroma's index is written after 100 records, whoever opened the store first."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from palace.engine.api import Call
from palace.engine.hosting.index_persistence import PERSIST_MIN
from palace.protocol.request import tool_call
from tests.support.engines.hosted import HostedEngine

pytestmark = pytest.mark.engine

CHUNK = 800  # characters of a record


def file_long_drawer(engine: HostedEngine, records: int) -> None:
    """File one drawer of so many records."""
    arguments = {"wing": "w", "room": "r", "content": "x" * records * CHUNK}  # soon embedded
    params = {"name": "mempalace_add_drawer", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    call = Call(request=tool_call(message), session=str(records), ordinal=1)
    reply = json.loads(engine.call(call).payload or b"")
    told = json.loads(reply["result"]["content"][0]["text"])
    assert told["chunks"] == records, told


@contextmanager
def running(home: Path, root: Path) -> Iterator[HostedEngine]:
    engine = HostedEngine(home, root)
    try:
        engine.load()
        yield engine
    finally:
        engine.end()


def asked(root: Path, question: str) -> Any:
    with closing(sqlite3.connect(root / "chroma.sqlite3")) as store:
        return store.execute(question).fetchone()[0]


def written_upto(root: Path) -> int:
    """Return up to which record the index is on the disk, as Chroma notes it."""
    question = (
        "SELECT coalesce(max(seq_id), 0) FROM max_seq_id "
        "JOIN segments ON segments.id = segment_id WHERE scope = 'VECTOR'"
    )
    return int(asked(root, question))


def settings_of(root: Path) -> set[str]:
    schema = asked(root, "SELECT schema_str FROM collections")
    return set(re.findall(r'"sync_threshold":(\d+)', schema))


def choose(root: Path, setting: int) -> None:
    """Do what somebody does who wants another setting."""
    with closing(sqlite3.connect(root / "chroma.sqlite3")) as store, store:
        store.execute(
            "UPDATE collections SET schema_str = replace(schema_str, ?, ?)",
            ('"sync_threshold":1000', f'"sync_threshold":{setting}'),
        )


def test_an_index_is_written_after_a_hundred_records_whoever_opened_the_store(
    tmp_path: Path, model_home: Path
) -> None:
    root = tmp_path / "p" / "palace"
    with running(model_home, root) as engine:  # a new palace
        file_long_drawer(engine, PERSIST_MIN // 2)
        assert written_upto(root) == 0
        file_long_drawer(engine, PERSIST_MIN // 2 + 1)
        assert written_upto(root) > PERSIST_MIN
    assert settings_of(root) == {"1000"}  # as stock makes it

    before = written_upto(root)
    choose(root, 300)
    shutil.rmtree(root / "journal")  # what is there is read and adopted first
    with running(model_home, root) as engine:
        file_long_drawer(engine, PERSIST_MIN + 1)
        assert written_upto(root) > before
    assert settings_of(root) == {"300"}
