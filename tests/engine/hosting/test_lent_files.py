"""What a call that is held to a lent directory opens, by stock's own functions and by Python's."""

import io
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mempalace import convo_miner, miner

from palace.engine.hosting.lent_files import LentFiles
from palace.engine.patches import Patches
from palace.kernel.beneath import OutsideError

SECRET = "# plans\nthe vault code of the host\n"


@pytest.fixture
def lent(tmp_path: Path) -> Path:
    for name in ("lent/deep/er", "host", "own"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "host" / "plans.md").write_text(SECRET)
    (tmp_path / "own" / "config").write_text("own")
    (tmp_path / "lent" / "deep" / "er" / "notes.md").write_text("# notes\nof the guest\n")
    return tmp_path / "lent"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LentFiles]:
    files = LentFiles((str(tmp_path / "own"),))
    patches = Patches()
    patches.apply(files.patches())
    try:
        yield files
    finally:
        patches.undo()


def reads(path: Path) -> list[str]:
    """Return what each way to read a file says, "" where it is refused."""
    found = []
    for way in (_by_open, _by_descriptor, Path.read_text, _by_stock):
        try:
            found.append(way(path))
        except OSError:
            found.append("")
    return found


def _by_open(path: Path) -> str:
    with open(path) as file, io.open(str(path).encode()) as again:  # noqa: UP020
        assert file.read() == again.read()
        file.seek(0)
        return file.read()


def _by_descriptor(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1000).decode()
    finally:
        os.close(fd)


def _by_stock(path: Path) -> str:
    found = miner._read_text_no_follow(path, path.parent)
    return found[0] if found else ""


def test_what_is_lent_is_read_as_ever(files: LentFiles, lent: Path) -> None:
    path = lent / "deep" / "er" / "notes.md"
    expected = reads(path), miner.scan_project(str(lent)), sorted(os.walk(lent)), os.stat(path)
    with files.held_to(str(lent)):
        held = reads(path), miner.scan_project(str(lent)), sorted(os.walk(lent)), os.stat(path)
        assert [entry.path for entry in os.scandir(lent)] == [str(lent / "deep")]
        assert os.path.realpath(path, strict=True) == str(path)
        assert list(Path(lent).rglob("*.md")) == [path]
    assert held == expected
    assert expected[0] == ["# notes\nof the guest\n"] * 4


def test_no_link_is_followed(files: LentFiles, lent: Path, tmp_path: Path) -> None:
    (lent / "link.md").symlink_to(tmp_path / "host" / "plans.md")
    (lent / "way").symlink_to(tmp_path / "host")
    (lent / "inside.md").symlink_to(lent / "deep" / "er" / "notes.md")
    for name in ("link.md", "way/plans.md", "inside.md"):
        assert reads(lent / name)[0], name
        with files.held_to(str(lent)):
            assert reads(lent / name) == [""] * 4, name
            assert not os.path.exists(lent / name)
    with files.held_to(str(lent)):
        assert (lent / "way").is_symlink()
        assert miner.scan_project(str(lent / "way")) == []
        assert convo_miner.scan_convos(str(lent)) == [lent / "deep" / "er" / "notes.md"]
        with pytest.raises(OSError, match="no plain name"):
            os.listdir(lent / "way")


def test_a_link_does_not_even_lead_to_the_engines_own_places(
    files: LentFiles, lent: Path, tmp_path: Path
) -> None:
    (tmp_path / "own" / "notes.md").write_text(SECRET)
    (lent / "way").symlink_to(tmp_path / "own")
    assert miner.scan_project(str(lent / "way")) == [tmp_path / "own" / "notes.md"]
    with files.held_to(str(lent)):
        assert miner.scan_project(str(lent / "way")) == []


def test_nothing_is_written_through_a_link(files: LentFiles, lent: Path, tmp_path: Path) -> None:
    (lent / "link.md").symlink_to(tmp_path / "host" / "plans.md")
    with files.held_to(str(lent)):
        with pytest.raises(PermissionError):
            (lent / "link.md").write_text("overwritten")
        (lent / "new.md").write_text("new")
    assert (tmp_path / "host" / "plans.md").read_text() == SECRET
    assert (lent / "new.md").read_text() == "new"


def test_elsewhere_only_the_engines_own_places_are_open(
    files: LentFiles, lent: Path, tmp_path: Path
) -> None:
    own, host = tmp_path / "own" / "config", tmp_path / "host" / "plans.md"
    assert reads(host)[0] == SECRET
    with files.held_to(str(lent)):
        assert own.read_text() == "own"
        assert reads(host) == [""] * 4
        assert reads(lent / ".." / "host" / "plans.md") == [""] * 4
        with pytest.raises(PermissionError, match="lent"):
            os.listdir(host.parent)
        with pytest.raises(PermissionError, match="lent"):
            os.scandir(host.parent)


def test_other_threads_and_later_calls_are_free(
    files: LentFiles, lent: Path, tmp_path: Path
) -> None:
    host = tmp_path / "host" / "plans.md"
    found: list[list[str]] = []
    with files.held_to(str(lent)):
        thread = threading.Thread(target=lambda: found.append(reads(host)))
        thread.start()
        thread.join()
    assert [*found, reads(host)] == [[SECRET] * 4] * 2
    with files.held_to(""):
        assert reads(host) == [SECRET] * 4


def test_a_directory_that_comes_and_goes_as_a_link_never_shows_the_host(
    files: LentFiles, lent: Path, tmp_path: Path
) -> None:
    (lent / "real").mkdir()
    (lent / "real" / "plans.md").write_text("the guest's")
    ended = threading.Event()

    def flip() -> None:
        # By descriptors of the system's own, which are quicker than Python's.
        while not ended.is_set():
            for target in (lent / "real", tmp_path / "host"):
                os.symlink(target, lent / "new")
                os.rename(lent / "new", lent / "sub")
            os.unlink(lent / "sub")
            os.rename(lent / "real", lent / "sub")
            os.rename(lent / "sub", lent / "real")

    flipper = threading.Thread(target=flip)
    flipper.start()
    seen: set[str] = set()
    try:
        for _ in range(300):
            # A `mine` that meets the link fails as a whole, which shows nothing either.
            with suppress(OutsideError), files.held_to(str(lent)):
                for path in miner.scan_project(str(lent / "sub")):
                    seen |= set(reads(path))
                seen |= set(reads(lent / "sub" / "plans.md"))
    finally:
        ended.set()
        flipper.join()
    assert SECRET not in seen


def test_where_temporary_files_go_is_known_before_a_call_is_held(
    files: LentFiles, lent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looking for it opens files, under a lock that the check of what is opened would take again.
    monkeypatch.setattr(tempfile, "tempdir", None)

    with files.held_to(str(lent)):
        assert tempfile.tempdir is not None
