"""A journal whose directory is replaced is copied whole from what its owner keeps open."""

import shutil
from pathlib import Path

import pytest

from palace.journal.checkpoint import make_checkpoint
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, STATE, Draft, Stamp
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel

KERNEL = Kernel()
STAMP = Stamp(epoch=1, writer="w")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.open(str(tmp_path / "journal"), KERNEL, STAMP)


def adopt(journal: Journal, *idents: str) -> None:
    journal.append([Draft(action=ADOPT, kind="k", id=ident, payload=ident) for ident in idents])
    journal.sync(journal.close_key("", STATE))


def ids_in(directory: Path) -> list[str]:
    known = replay(str(directory), KERNEL)
    assert (known.gaps, known.broken) == ([], [])
    return sorted(known.ids("k"))


@pytest.mark.parametrize("checkpoint", [False, True], ids=["segments", "checkpoint"])
def test_all_that_was_acknowledged_is_in_the_copy(
    journal: Journal, tmp_path: Path, *, checkpoint: bool
) -> None:
    adopt(journal, "a")
    journal.roll()
    adopt(journal, "b")
    if checkpoint:
        assert make_checkpoint(journal.directory, KERNEL, STAMP)
        journal.note_archived()
    journal.roll()
    adopt(journal, "c")
    shutil.rmtree(journal.directory)
    adopt(journal, "d")  # its descriptor still takes it

    assert journal.save_to(str(tmp_path / "copy")) > 1
    assert ids_in(tmp_path / "copy") == ["a", "b", "c", "d"]


def test_a_directory_that_was_put_in_its_place_is_not_looked_at(
    journal: Journal, tmp_path: Path
) -> None:
    adopt(journal, "a")
    Path(journal.directory).rename(tmp_path / "moved")
    Path(journal.directory).mkdir()
    Path(f"{journal.directory}/{1:020d}.jsonl").write_text("not ours\n")
    journal.note_archived()
    journal.save_to(str(tmp_path / "copy"))

    assert ids_in(tmp_path / "copy") == ["a"]


def test_a_copy_that_failed_is_made_again(journal: Journal, tmp_path: Path) -> None:
    adopt(journal, "a")
    with pytest.raises(OSError, match="No such file"):
        journal.save_to(str(tmp_path / "nowhere" / "copy"))

    assert journal.save_to(str(tmp_path / "copy")) == 1
    assert ids_in(tmp_path / "copy") == ["a"]
