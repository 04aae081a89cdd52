"""What may stand in a palace where its own files belong."""

import os
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership.directory import check_no_links
from palace.protocol.errors import UnsafePalace
from palace.settings.paths import Paths


@pytest.mark.parametrize(
    "name", ["chroma.sqlite3", "palace.toml", "logstream.sqlite3", "palace.sqlite3", "epoch"]
)
def test_a_fifo_where_a_file_belongs_is_refused_by_name(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)

    with pytest.raises(UnsafePalace, match=f"{name} is a FIFO or a device"):
        check_no_links(Paths(str(tmp_path)), Kernel())


def test_a_fifo_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "theirs")

    check_no_links(Paths(str(tmp_path)), Kernel())

    assert (tmp_path / "theirs").is_fifo()
