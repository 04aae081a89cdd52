"""A way to another palace counts from where its user has put it, and under that palace's name."""

import json
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership.guest_file import GuestFile
from palace.ownership.owners import owners_directory, read_way, way_path

KERNEL = Kernel()
ID = "a" * 32


def way(palace_id: str = ID) -> GuestFile:
    texts = {"name": "b", "palace": "/srv/p", "token": "t", "fingerprint": "f"}
    return GuestFile(["wss://db:7253", "ws://elsewhere"], palace_id=palace_id, **texts)


def test_a_way_is_found_by_its_palaces_identity(tmp_path: Path) -> None:
    Path(way_path(str(tmp_path), ID)).write_bytes(way().encode())

    found = read_way(str(tmp_path), ID, KERNEL)

    assert found is not None
    assert (found.endpoints, found.token) == (["wss://db:7253"], "t")
    assert read_way(str(tmp_path), "b" * 32, KERNEL) is None
    assert read_way("", ID, KERNEL) is None


@pytest.mark.parametrize("name", ["", "../a", "..", "a" * 31, "A" * 32, "\udc80" * 32, "a" * 99])
def test_what_a_row_calls_its_owner_names_no_other_file(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "ways", tmp_path):
        path.mkdir(exist_ok=True)
        (path / "a.json").write_bytes(way(name.encode(errors="replace").decode()).encode())
    assert read_way(str(tmp_path / "ways"), name, KERNEL) is None


def test_one_palaces_file_is_not_taken_for_anothers(tmp_path: Path) -> None:
    Path(way_path(str(tmp_path), ID)).write_bytes(way("b" * 32).encode())
    assert read_way(str(tmp_path), ID, KERNEL) is None
    Path(way_path(str(tmp_path), ID)).write_text(json.dumps({"v": 1}))
    assert read_way(str(tmp_path), ID, KERNEL) is None


def test_ways_lie_with_the_user_and_not_in_the_palace(tmp_path: Path) -> None:
    directory = owners_directory("/lent/palace", {"XDG_STATE_HOME": str(tmp_path)})
    assert Path(directory).is_relative_to(tmp_path)
    assert directory != owners_directory("/lent/other", {"XDG_STATE_HOME": str(tmp_path)})
