"""A journal's files that stay readable after their names are gone."""

import os
from pathlib import Path

import pytest

from palace.journal.keeping import FILES_MAX, KeptFiles
from palace.journal.segment import ARCHIVE, CHUNK
from palace.kernel.kernel import Kernel


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "palace" / "journal"
    (directory / ARCHIVE).mkdir(parents=True)
    for number in (1, 2):
        (directory / f"{number:020d}.jsonl").write_text(f"segment {number}\n")
    (directory / "head").write_text("not a segment")
    return directory


@pytest.fixture
def kept(directory: Path) -> KeptFiles:
    return KeptFiles(directory=str(directory), kernel=Kernel())


def copied(kept: KeptFiles, target: Path) -> list[str]:
    count = kept.copy_to(str(target))
    texts = sorted(path.read_text() for path in target.iterdir())
    assert len(texts) == count
    return texts


def test_what_was_open_is_copied_after_the_directory_is_gone(
    directory: Path, kept: KeptFiles, tmp_path: Path
) -> None:
    kept.refresh()
    with (directory / f"{2:020d}.jsonl").open("a") as file:
        file.write("and more\n")
    os.rename(directory.parent, tmp_path / "old")
    for path in (tmp_path / "old").rglob("*"):
        if path.is_file():
            path.unlink()

    assert copied(kept, tmp_path / "saved") == ["segment 1\n", "segment 2\nand more\n"]


def test_a_file_of_many_pieces_is_copied_whole(
    directory: Path, kept: KeptFiles, tmp_path: Path
) -> None:
    text = "".join(f"{number}\n" for number in range(3 * CHUNK // 6))
    (directory / f"{1:020d}.jsonl").write_text(text)
    kept.refresh()

    assert copied(kept, tmp_path / "saved") == sorted([text, "segment 2\n"])


def test_a_directory_that_another_program_put_there_is_not_read(
    directory: Path, kept: KeptFiles, tmp_path: Path
) -> None:
    kept.refresh()
    os.rename(directory, tmp_path / "old")
    (directory / ARCHIVE).mkdir(parents=True)
    (directory / f"{9:020d}.jsonl").write_text("somebody's\n")
    kept.refresh()

    assert copied(kept, tmp_path / "saved") == ["segment 1\n", "segment 2\n"]


def test_what_was_archived_is_closed_and_what_was_removed_is_kept(
    directory: Path, kept: KeptFiles, tmp_path: Path
) -> None:
    kept.refresh()
    os.rename(directory / f"{1:020d}.jsonl", directory / ARCHIVE / f"{1:020d}.jsonl")
    (directory / f"{2:020d}.jsonl").unlink()
    (directory / f"{3:020d}.jsonl").write_text("segment 3\n")
    kept.refresh()

    assert copied(kept, tmp_path / "saved") == ["segment 2\n", "segment 3\n"]


def test_a_file_that_was_written_again_takes_the_place_of_the_old_one(
    directory: Path, kept: KeptFiles, tmp_path: Path
) -> None:
    kept.refresh()
    (directory / "new").write_text("segment 1, purged\n")
    os.rename(directory / "new", directory / f"{1:020d}.jsonl")
    before = len(os.listdir("/proc/self/fd"))
    kept.refresh()
    kept.refresh()

    assert copied(kept, tmp_path / "saved") == ["segment 1, purged\n", "segment 2\n"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_the_newest_files_are_kept_and_close_gives_them_back(
    directory: Path, kept: KeptFiles
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3, FILES_MAX + 5):
        (directory / f"{number:020d}.jsonl").touch()
    kept.refresh()
    assert len(os.listdir("/proc/self/fd")) == before + FILES_MAX
    assert f"{FILES_MAX + 4:020d}.jsonl" in kept._fds
    kept.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_trouble_with_the_disk_is_left_to_others(directory: Path, kept: KeptFiles) -> None:
    (directory / ARCHIVE).rmdir()
    (directory / ARCHIVE).touch()
    kept.refresh()

    kept.close()
