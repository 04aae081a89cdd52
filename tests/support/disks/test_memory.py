"""The disk that the journal's tests trust: it is a kernel, and loses no more than it may."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from tests.support.disks.memory import ROOT, Disk, Stopped, all_kept, all_lost


@pytest.fixture(params=["kernel", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Kernel, str]]:
    if request.param == "memory":
        yield Disk(), ROOT
    else:
        yield Kernel(), str(tmp_path)


def test_it_is_a_kernel(place: tuple[Kernel, str]) -> None:
    kernel, root = place
    path, other = f"{root}/one", f"{root}/two"
    fd = kernel.open_append(path)

    assert kernel.write(fd, b"abc") == 3
    assert kernel.write(fd, b"defg") == 4
    assert (kernel.size(fd), kernel.read_at(fd, 2, 3), kernel.read_at(fd, 9, 3)) == (7, b"cde", b"")
    assert kernel.reserve(fd, 7, 100) in (True, False)
    assert kernel.size(fd) == 7
    kernel.truncate(fd, 5)
    kernel.sync(fd)
    kernel.write(fd, b"!")
    kernel.rename(path, other)
    assert kernel.write(fd, b"?") == 1
    kernel.close(fd)
    assert kernel.read_file(other) == b"abcde!?"
    assert kernel.read_hint(path) is None
    assert (kernel.signature(path), kernel.file_id(path)) == (None, None)
    found = kernel.signature(other)
    assert found is not None
    assert found[1] == 7
    kernel.make_directory(f"{root}/d")
    kernel.make_directory(f"{root}/d")
    kernel.write_durable(other, b"new")
    assert sorted(kernel.list_directory(root)) == ["d", "two"]
    assert kernel.list_directory(f"{root}/none") == []
    fd = kernel.open_read(other)
    assert kernel.read_at(fd, 0, 9) == b"new"
    kernel.close(fd)
    assert kernel.unlink(other)
    assert not kernel.unlink(other)
    for call in (kernel.open_read, lambda path: kernel.rename(path, other)):
        with pytest.raises(FileNotFoundError):
            call(path)
    with pytest.raises(FileNotFoundError):
        kernel.open_append(f"{root}/none/file")
    with pytest.raises(OSError, match="Bad file"):
        kernel.read_at(fd, 0, 1)


def _written(disk: Disk) -> int:
    fd = disk.open_append(f"{ROOT}/f")
    disk.sync_directory(ROOT)
    disk.write(fd, b"safe")
    disk.sync(fd)
    disk.write(fd, b"soft")
    return fd


def test_a_power_cut_takes_only_what_was_not_synced() -> None:
    disk = Disk()
    _written(disk)

    assert disk.power_cut(all_kept).read(f"{ROOT}/f") == b"safesoft"
    assert disk.power_cut(all_lost).read(f"{ROOT}/f") == b"safe"
    found = {
        disk.power_cut(lambda low, high, n=n: min(low + n, high)).read(f"{ROOT}/f")
        for n in range(5)
    }
    assert found == {b"safe", b"safes\0", b"safeso\0\0", b"safesof\0", b"safesoft"}


def test_names_are_as_lasting_as_their_directory() -> None:
    disk = Disk()
    fd = _written(disk)
    disk.close(fd)
    disk.rename(f"{ROOT}/f", f"{ROOT}/g")
    disk.make_directory(f"{ROOT}/d")
    disk.close(disk.open_append(f"{ROOT}/d/h"))
    disk.sync_directory(f"{ROOT}/d")

    assert disk.power_cut().list_directory(ROOT) == ["f"]
    disk.sync_directory(ROOT)
    assert sorted(disk.power_cut().list_directory(ROOT)) == ["d", "g"]
    assert disk.power_cut().list_directory(f"{ROOT}/d") == ["h"]


def test_a_failed_fsync_drops_what_it_should_have_kept() -> None:
    disk = Disk()
    fd = _written(disk)
    disk.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        disk.sync(fd)

    disk.sync(fd)

    assert disk.power_cut().read(f"{ROOT}/f") == b"safe"


def test_a_full_disk_takes_a_part_and_what_was_reserved() -> None:
    disk = Disk()
    disk.room = 10
    fd = disk.open_append(f"{ROOT}/f")
    other = disk.open_append(f"{ROOT}/g")

    assert disk.reserve(fd, 0, 6)
    assert disk.write(other, b"123456") == 4
    with pytest.raises(OSError, match="No space"):
        disk.write(other, b"56")
    with pytest.raises(OSError, match="No space"):
        disk.reserve(fd, 6, 1)
    assert disk.write(fd, b"abcdef") == 6
    disk.truncate(other, 0)
    assert disk.write(fd, b"ghijkl") == 4


def test_a_dead_process_does_nothing_more() -> None:
    disk = Disk()
    fd = _written(disk)
    disk.stop_after(1)
    disk.write(fd, b"er")

    for _ in range(2):
        with pytest.raises(Stopped):
            disk.sync(fd)
    assert disk.power_cut(all_kept).read(f"{ROOT}/f") == b"safesofter"
    assert disk.power_cut().read(f"{ROOT}/f") == b"safe"
