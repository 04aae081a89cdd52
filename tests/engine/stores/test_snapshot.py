"""Copies of stores that are being written: rows and index of one moment, and the writer unhurt."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from palace.engine.stores import snapshot
from palace.engine.stores.snapshot import Originals, copy_stores
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreUnavailable
from palace.settings.config import Config
from palace.settings.paths import Paths

INDEX = "00000000-0000-0000-0000-000000000000"
BATCH = 50


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    """A palace's files as stock leaves them: a database in each mode, an index, lists beside it."""
    root = tmp_path / "home" / "palace"
    (root / INDEX).mkdir(parents=True)
    (root / INDEX / "header.bin").write_bytes(b"index")
    (root / f"{INDEX}.drift-20260101").mkdir()
    (root / f"{INDEX}.drift-20260101" / "header.bin").write_bytes(b"distrusted")
    (root / "replica.json").write_text("{}")
    (root / "broker.json").write_text("{}")
    (root.parent / "tunnels.json").write_text("[]")
    make_table(root / "chroma.sqlite3")
    make_table(root / "logstream.sqlite3", "WAL")
    graph = tmp_path / "elsewhere.sqlite3"
    make_table(graph, "WAL")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return Originals(Paths(str(root)), Config(graph=str(graph), config_dir=""), Kernel())


def make_table(path: Path, mode: str = "DELETE") -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE found (number INTEGER, text TEXT)")


def add(connection: sqlite3.Connection, numbers: range) -> None:
    rows = [(number, "x" * 500) for number in numbers]
    connection.executemany("INSERT INTO found VALUES (?, ?)", rows)


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("SELECT count(*) FROM found").fetchone()[0])


@pytest.fixture
def into(tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    path.mkdir()
    return path


def test_what_readers_need_is_copied_and_nothing_else(originals: Originals, into: Path) -> None:
    stamp = copy_stores(originals, str(into))

    assert {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()} == {
        *("palace/chroma.sqlite3", f"palace/{INDEX}/header.bin", "palace/replica.json"),
        *("palace/logstream.sqlite3", "knowledge_graph.sqlite3", "tunnels.json"),
    }
    assert stamp == originals.stamp()


def test_lists_are_copied_from_where_this_palace_has_them(originals: Originals, into: Path) -> None:
    """Where others may put files beside a palace, its lists are in it."""
    root = Path(originals.paths.root)
    root.parent.chmod(0o1777)
    (root.parent / "tunnels.json").write_text('["somebody else\'s"]')
    (root / "tunnels.json").write_text('["ours"]')

    copy_stores(originals, str(into))

    assert (into / "tunnels.json").read_text() == '["ours"]'
    assert not (into / "palace" / "tunnels.json").exists()


def test_what_is_committed_in_a_log_that_is_not_written_back_is_copied(
    originals: Originals, into: Path
) -> None:
    with closing(sqlite3.connect(originals.config.graph)) as writer:
        with writer:
            add(writer, range(7))
        add(writer, range(3))  # and not committed
        copy_stores(originals, str(into))

        assert count(into / "knowledge_graph.sqlite3") == 7


def test_a_transaction_that_has_begun_is_not_copied(originals: Originals, into: Path) -> None:
    with closing(sqlite3.connect(originals.paths.store)) as writer:
        with writer:
            add(writer, range(BATCH))
        add(writer, range(BATCH))
        assert originals.begun_transaction()
        copy_stores(originals, str(into))
        writer.commit()

    assert count(into / "palace" / "chroma.sqlite3") == BATCH
    assert count(Path(originals.paths.store)) == 2 * BATCH


@pytest.fixture
def busy(originals: Originals) -> Iterator[list[BaseException]]:
    """A writer that commits all the time, as stock's `mine` does at its fastest; its errors."""
    problems: list[BaseException] = []
    may_end, has_begun = threading.Event(), threading.Event()

    def write() -> None:
        try:
            with closing(sqlite3.connect(originals.paths.store, timeout=5)) as writer:
                while not may_end.is_set():
                    with writer:
                        add(writer, range(BATCH))
                    has_begun.set()
        except sqlite3.Error as error:
            problems.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert has_begun.wait(60)
    yield problems
    may_end.set()
    thread.join()


def test_a_writer_that_never_rests_is_copied_between_two_commits(
    originals: Originals, into: Path, busy: list[BaseException]
) -> None:
    copy_stores(originals, str(into))

    rows = count(into / "palace" / "chroma.sqlite3")
    assert rows
    assert rows % BATCH == 0
    assert busy == []


class Meddling(Kernel):
    """The real kernel, under which the index changes while a copy is being made."""

    def __init__(self, *, always: bool) -> None:
        self.always = always
        self.listings = 0

    def list_directory(self, path: str) -> list[str]:
        self.listings += 1
        # The third is after the room and the time of all files have been looked at.
        if self.always or self.listings == 3:
            Path(path, INDEX, "header.bin").write_bytes(b"a longer index")
        return super().list_directory(path)


def test_an_index_that_changes_all_the_time_is_not_taken_for_one_of_the_rows(
    originals: Originals, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "GIVE_UP_S", 0.5)
    meddled = Originals(originals.paths, originals.config, Meddling(always=True))

    with pytest.raises(StoreUnavailable, match="written so often"):
        copy_stores(meddled, str(into))


def test_an_index_that_changes_once_is_copied_with_the_rows_of_that_time(
    originals: Originals, into: Path
) -> None:
    meddled = Originals(originals.paths, originals.config, Meddling(always=False))

    assert copy_stores(meddled, str(into)) == originals.stamp()
    assert (into / "palace" / INDEX / "header.bin").read_bytes() == b"a longer index"
