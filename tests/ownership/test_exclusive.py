"""Maintenance holds what a broker holds, looks after it, and has a broker's environment."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership import lock, lookout
from palace.ownership.data_locks import take_other_locks
from palace.ownership.exclusive import exclusive_use
from palace.ownership.lock import FENCE, Ownership
from palace.ownership.lookout import Lookout
from palace.protocol.errors import ForeignWriter, LockFailed
from palace.settings.config import load_config
from palace.settings.environment import read_environment
from palace.settings.paths import Paths
from tests.support.processes.clients import wait_until

KERNEL = Kernel()
HOLDING = """
import sys
from palace.ownership.exclusive import exclusive_use
from palace.settings.environment import read_environment
from palace.settings.paths import Paths
with exclusive_use(
    Paths(sys.argv[1]), read_environment(), ask_to_leave=None, prepare=lambda *_held: None
):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def palace(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("HOME", str(short_dir))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    root = short_dir / "palace"
    root.mkdir(mode=0o700)
    return Paths(str(root))


@pytest.fixture
def held(palace: Paths) -> Iterator[Ownership]:
    """What a command holds, without the thread that looks after it."""
    environ = dict(read_environment().all)
    lock.check_directory(palace, KERNEL, environ)
    ownership = lock.take_lock(palace, KERNEL)
    config = load_config(palace, environ, KERNEL)
    take_other_locks(ownership, config, environ, KERNEL)
    yield ownership
    for fd in (*ownership.other_fds, ownership.lock_fd):
        os.close(fd)


def path_of(held: Ownership, name: str) -> Path:
    return Path(next(lock.path for lock in held.others if lock.name == name))


def test_libraries_see_a_brokers_environment_and_directory_within_it(
    palace: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHROMA_SERVER_HOST", "the session's own")
    monkeypatch.chdir(tmp_path)
    seen: dict[str, object] = {}

    def prepare(_ownership: Ownership, _kernel: Kernel) -> None:
        seen["before"] = os.environ.get("CHROMA_SERVER_HOST")

    with exclusive_use(palace, read_environment(), ask_to_leave=None, prepare=prepare):
        seen["within"] = os.environ.get("CHROMA_SERVER_HOST"), os.getcwd()
        assert os.environ["HOME"] == str(Path(palace.root).parent)

    assert seen == {"before": "the session's own", "within": (None, "/")}
    assert os.environ["CHROMA_SERVER_HOST"] == "the session's own"
    assert os.getcwd() == str(tmp_path)


def test_a_lock_that_was_removed_is_taken_again(held: Ownership) -> None:
    fence = path_of(held, FENCE)
    fence.unlink()

    Lookout(held, KERNEL).look()

    with fence.open("r+b") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_another_process_has_made_again_is_lost(held: Ownership) -> None:
    fence = path_of(held, FENCE)
    fence.unlink()
    fence.touch()

    with pytest.raises(ForeignWriter, match="made again by another process"):
        Lookout(held, KERNEL).look()


def test_a_command_whose_palace_is_not_locked_any_more_ends(palace: Paths) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDING, palace.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == "held\n"
        os.unlink(palace.lock)

        assert command.wait(60) == LockFailed.exit_code
        said = command.stderr.read()

    assert said.startswith(f"palace: {palace.lock} was removed or replaced.")
    assert said.endswith("Run it again.\n")


def test_what_cant_be_looked_at_for_long_ends_the_command(held: Ownership) -> None:
    kernel = Doubtful()
    lookout = Lookout(held, kernel)

    for now_s in (100.0, 109.9):
        kernel.now_s = now_s
        lookout.look()
    kernel.in_trouble = False
    lookout.look()  # which ends the trouble
    kernel.in_trouble = True
    for now_s in (110.0, 119.9):
        kernel.now_s = now_s
        lookout.look()
    kernel.now_s = 120.0
    with pytest.raises(LockFailed, match=r"can't be taken again: .*no room"):
        lookout.look()


def test_locks_are_looked_after_until_the_end(
    held: Ownership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOOK_S", 0.01)
    fence = path_of(held, FENCE)
    looking = Lookout(held, KERNEL)
    looking.start()
    fence.unlink()
    wait_until(fence.exists, what="the lock is made again")
    looking.end()
    fence.unlink()

    assert "palace-lookout" not in [thread.name for thread in threading.enumerate()]
    assert not fence.exists()


class Doubtful(Kernel):
    """A kernel that can't tell whether a lock's file is there, and whose time stands still."""

    now_s = 0.0
    in_trouble = True

    def monotonic(self) -> float:
        return self.now_s

    def same_file(self, fd: int, path: str) -> bool:
        if self.in_trouble:
            raise OSError("no room")
        return super().same_file(fd, path)
