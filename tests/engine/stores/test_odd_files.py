"""A FIFO in the place of a store's file is refused at once, and not waited for."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from palace.engine.stores.health import WHOLE_IDLE, database_damage
from palace.engine.stores.hnsw_files import METADATA, IndexDamaged, check_files, labels_of
from palace.engine.stores.rows import FILE_ENDS
from palace.journal.schema import FILE_NAMES
from palace.kernel.kernel import Kernel
from palace.ownership.directory import check_no_links
from palace.protocol.errors import UnsafePalace
from palace.settings.paths import Paths


def test_of_an_index(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / METADATA)
    os.mkfifo(tmp_path / "header.bin")

    with pytest.raises(IndexDamaged, match=METADATA):
        labels_of(str(tmp_path))
    with pytest.raises(IndexDamaged, match=r"header\.bin"):
        check_files(str(tmp_path), {}, deep=True)


def test_a_directory_in_a_databases_place_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "chroma.sqlite3"
    path.mkdir()

    assert "is a directory" in database_damage(str(path), WHOLE_IDLE)


@pytest.mark.parametrize("end", FILE_ENDS)
def test_of_a_database_and_of_what_sqlite_adds_to_it(tmp_path: Path, end: str) -> None:
    path = tmp_path / "chroma.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    Path(f"{path}{end}").unlink(missing_ok=True)
    os.mkfifo(f"{path}{end}")

    assert f"{path}{end} is a FIFO or a device" in database_damage(str(path), WHOLE_IDLE)


@pytest.mark.parametrize("name", ["epoch", "protocol", "palace.sqlite3-journal", *FILE_NAMES])
def test_of_a_palace(tmp_path: Path, name: str) -> None:
    """What stock reads, too: an owner would wait for it in the midst of opening its engine."""
    os.mkfifo(tmp_path / name)

    with pytest.raises(UnsafePalace, match=f"{name} is a FIFO or a device"):
        check_no_links(Paths(str(tmp_path)), Kernel())
