"""The real kernel behind the port."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel, peer_of
from palace.kernel.odd_files import is_odd, open_regular

KERNEL = Kernel()


def test_a_durable_write_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    KERNEL.write_durable(str(path), b"one")
    KERNEL.write_durable(str(path), b"two")

    assert path.read_bytes() == b"two"
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "in the way").touch()

    with pytest.raises(OSError, match="directory"):
        KERNEL.write_durable(str(tmp_path / "file"), b"two")
    assert os.listdir(tmp_path) == ["file"]


def test_only_regular_files_are_read_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "fifo")

    assert KERNEL.read_file(str(tmp_path / "real")) == b"x" * 10
    assert KERNEL.read_file(str(tmp_path / "real"), 4) == b"x" * 5
    for name in ("missing", "real/below"):
        assert KERNEL.read_file(str(tmp_path / name)) is None
    for name in ("link", "fifo", "."):
        assert KERNEL.read_hint(str(tmp_path / name)) is None
        with pytest.raises(OSError, match=r"link|regular"):
            KERNEL.read_file(str(tmp_path / name))


def test_a_lock_excludes_other_descriptions_and_ends_with_its_last_descriptor(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "lock")
    first, second = KERNEL.open_lock(path), KERNEL.open_lock(path)

    assert KERNEL.try_lock(first)
    assert not KERNEL.try_lock(second)
    assert KERNEL.lock_holder(path) == os.getpid()
    KERNEL.close(first)
    assert KERNEL.try_lock(second)
    KERNEL.close(second)
    assert KERNEL.lock_holder(path) is None


def test_a_replaced_file_is_not_the_same(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    fd = KERNEL.open_lock(str(path))

    assert KERNEL.same_file(fd, str(path))
    path.unlink()
    assert not KERNEL.same_file(fd, str(path))
    path.touch()
    assert not KERNEL.same_file(fd, str(path))
    KERNEL.close(fd)


def test_the_peer_of_a_socket_is_known() -> None:
    ours, theirs = socket.socketpair()

    assert peer_of(ours) == (os.getpid(), os.geteuid())
    ours.close()
    theirs.close()


def test_a_spawned_process_gets_its_descriptors_and_no_others(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    reading, writing = os.pipe()
    code = (
        "import os; print(os.getsid(0) == os.getpid()); os.write(5, b'x');"
        "[os.fstat(fd) for fd in (0, 1, 2, 5)];"
        "print([fd for fd in (3, 4, 6, 7, 8, 9) if os.path.exists(f'/proc/self/fd/{fd}')])"
    )

    pid = KERNEL.spawn(
        [sys.executable, "-c", code], {}, log_fd=log, pass_fds={writing: 5}, detached=True
    )
    os.close(writing)
    assert os.read(reading, 9) == b"x"
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert (tmp_path / "log").read_text() == "True\n[]\n"
    os.close(log)
    os.close(reading)


def test_an_ended_child_is_reaped_once_with_its_status() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(75)"])
    status = None
    while status is None:
        status = KERNEL.reap(child.pid)
    child.returncode = status

    assert status == 75
    assert KERNEL.reap(child.pid) == -1


def test_processes_are_told_apart_by_when_they_started() -> None:
    assert KERNEL.start_time(os.getpid()).isdigit()
    assert KERNEL.start_time(2**22 + 1) == ""
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before that it may still be on its way to its new title
        assert " ".join(program) in KERNEL.process_title(process.pid)
        process.communicate(b"\n")


def test_this_machine_has_a_boot_and_a_local_disk(tmp_path: Path) -> None:
    assert len(KERNEL.boot_id()) >= 32
    assert KERNEL.mount_of(str(tmp_path)).is_local


def test_chance_is_spread_over_the_unit_interval() -> None:
    draws = [KERNEL.random() for _ in range(200)]

    assert all(0 <= draw < 1 for draw in draws)
    assert min(draws) < 0.2
    assert max(draws) > 0.8
    assert KERNEL.token() != KERNEL.token()


def test_a_process_is_told_by_command_user_and_age() -> None:
    waits = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        # Popen returns while the kernel may still be writing the new program's arguments.
        assert child.stdout is not None
        child.stdout.readline()
        found = KERNEL.process_of(child.pid)
        child.kill()

    assert found is not None
    assert "input()" in found.title
    assert not found.stopped
    assert 0 <= found.age_s < 600
    assert found.home == os.environ.get("HOME", "")
    assert KERNEL.process_of(child.pid) is None


def test_who_has_a_file_open_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w"):
        assert KERNEL.openers(str(path)) == [os.getpid()]
    assert KERNEL.openers(str(path)) == []


def test_a_fifo_is_neither_read_nor_appended_to_and_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)

    for open_it in (KERNEL.open_append, KERNEL.open_read, KERNEL.read_file):
        with pytest.raises(OSError, match="no regular file"):
            open_it(path)
    assert is_odd(path)
    assert not is_odd(str(tmp_path))
    assert not is_odd(str(tmp_path / "none"))


def test_a_fifo_is_refused_where_a_file_is_read(tmp_path: Path) -> None:
    fifo, file = tmp_path / "fifo", tmp_path / "file"
    os.mkfifo(fifo)
    file.write_bytes(b"text")

    with pytest.raises(OSError, match="no regular file"):
        open_regular(str(fifo))
    with open_regular(str(file)) as opened:
        assert opened.read() == b"text"
    with pytest.raises(FileNotFoundError):
        open_regular(str(tmp_path / "none"))
