"""Whose directories are: what lies above them, and what others could put beside them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palace.kernel.whose import above_problem, is_shared, read_own, shares_mounts
from tests.support.machines.needs import need_root

OTHER = 65533


def test_what_lies_in_directories_of_ours_and_of_roots_is_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(0o755)
    assert above_problem(str(tmp_path / "a" / "palace")) == ""
    assert above_problem(str(tmp_path / "not" / "yet" / "there")) == ""
    assert above_problem("/x") == ""


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_directory_that_everybody_may_write_to_is_named(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a" / "b" / "c" / "palace"
    path.mkdir(parents=True)
    open_one = path.parents[depth]
    open_one.chmod(0o777)
    assert f"{open_one}, in which it lies, may be written to by everybody" in above_problem(
        str(path)
    )
    open_one.chmod(0o1777)
    assert above_problem(str(path)) == ""


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_directory_of_another_user_is_named(tmp_path: Path, depth: int) -> None:
    need_root()
    path = tmp_path / "a" / "b" / "c" / "palace"
    path.mkdir(parents=True)
    os.chown(path.parents[depth], OTHER, OTHER)
    assert f"{path.parents[depth]}, in which it lies, belongs to uid {OTHER}" in above_problem(
        str(path)
    )


def test_a_link_is_followed_to_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "open" / "in").mkdir(parents=True)
    (tmp_path / "way").symlink_to("open/in")
    assert above_problem(str(tmp_path / "way" / "palace")) == ""
    (tmp_path / "open").chmod(0o777)
    assert f"{tmp_path}/open," in above_problem(str(tmp_path / "way" / "palace"))


@pytest.mark.parametrize(
    ("mode", "owner", "group", "shared"),
    [
        (0o700, None, None, False),
        (0o755, None, None, False),
        (0o775, None, None, False),  # a group of one's own
        (0o775, None, OTHER, True),
        (0o757, None, None, True),
        (0o1777, None, None, True),
        (0o755, OTHER, None, True),
    ],
)
def test_where_others_may_put_files(
    tmp_path: Path, mode: int, owner: int | None, group: int | None, shared: bool
) -> None:
    if owner or group:
        need_root()
        os.chown(tmp_path, owner or -1, group or -1)
    tmp_path.chmod(mode)
    try:
        assert is_shared(str(tmp_path)) is shared
    finally:
        os.chown(tmp_path, os.geteuid(), os.getegid())
    assert not is_shared(str(tmp_path / "none"))


def test_only_a_plain_file_of_ones_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(b"own")
    assert read_own(str(tmp_path / "own")) == b"own"
    (tmp_path / "link").symlink_to("own")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "none", "."):
        assert read_own(str(tmp_path / name)) is None
    (tmp_path / "second").hardlink_to(tmp_path / "own")
    assert read_own(str(tmp_path / "own")) is None


def test_a_file_of_another_user_is_not_read(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "theirs").write_bytes(b"planted")
    os.chown(tmp_path / "theirs", OTHER, OTHER)
    assert read_own(str(tmp_path / "theirs")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize(
    "call",
    ["os.chroot('.')", "ctypes.CDLL(None).unshare(0x20000)", "0"],
    ids=["root", "mounts", "0"],
)
def test_that_a_process_sees_other_files_shows_in_its_mounts_and_in_its_root(
    tmp_path: Path, call: str
) -> None:
    need_root()
    script = f"import ctypes, os; {call}; print(1)"  # os.unshare is of Python 3.12
    process = subprocess.Popen(
        [sys.executable, "-uc", f"{script}; input()"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert shares_mounts(process.pid) == (call == "0")
    assert not shares_mounts(process.pid)
    assert not shares_mounts(0)
