"""A FIFO in the place of a store's file is refused at once, and not waited for."""

import os
from pathlib import Path

import pytest

from palace.engine.stores.health import WHOLE_IDLE, database_damage
from palace.engine.stores.hnsw_files import METADATA, IndexDamaged, check_files, labels_of


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


def test_of_a_database(tmp_path: Path) -> None:
    path = tmp_path / "chroma.sqlite3"
    os.mkfifo(path)

    assert "is a FIFO or a device" in database_damage(str(path), WHOLE_IDLE)
