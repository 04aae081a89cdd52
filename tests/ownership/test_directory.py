"""Directories that others could exchange, and lists that others could have put beside a palace."""

import os
from pathlib import Path

import pytest

from palace.broker import endpoint
from palace.client.spawn import _first_log
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.data_locks import take_other_locks
from palace.ownership.directory import prepare_palace, prepare_private
from palace.protocol.errors import UnsafePalace
from palace.settings.config import load_config
from palace.settings.paths import Paths
from tests.support.machines.needs import need_root

KERNEL = Kernel()
OTHER = 65533


def test_nothing_is_made_below_a_directory_of_another_user(short_dir: Path) -> None:
    need_root()
    theirs = short_dir / "theirs"
    theirs.mkdir()
    os.chown(theirs, OTHER, OTHER)
    with pytest.raises(UnsafePalace, match=f"{theirs}, in which it lies, belongs to uid {OTHER}"):
        prepare_private(str(theirs / "inner"), KERNEL, called="The directory", remedy="")
    (short_dir / "open").mkdir()
    (short_dir / "open").chmod(0o777)
    with pytest.raises(UnsafePalace, match=r"The directory .*open can't be used: .* Mend it"):
        prepare_private(str(short_dir / "open"), KERNEL, called="The directory", remedy="Mend it.")
    palace = Paths(str(short_dir / ("l" * 100)))
    lock.check_directory(palace, KERNEL, {})
    owner = lock.take_lock(palace, KERNEL)
    try:
        with pytest.raises(UnsafePalace, match="socket directory"):
            endpoint.listen(owner, {"XDG_RUNTIME_DIR": str(theirs)}, KERNEL)
    finally:
        os.close(owner.lock_fd)
    assert os.listdir(theirs) == []


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_palace_that_can_be_exchanged_is_refused(short_dir: Path, mode: int) -> None:
    above = short_dir / "above"
    (above / "inner" / "palace").mkdir(0o700, parents=True)
    prepare_palace(Paths(str(above / "inner" / "palace")), KERNEL)
    above.chmod(mode)
    with pytest.raises(UnsafePalace, match=f"{above}, in which it lies, may be written to"):
        prepare_palace(Paths(str(above / "inner" / "palace")), KERNEL)


def test_ones_own_lists_are_taken_over_once_and_others_never(short_dir: Path) -> None:
    need_root()
    beside = short_dir / "beside"
    beside.mkdir()
    beside.chmod(0o1777)
    palace = Paths(str(beside / "palace"))
    lock.check_directory(palace, KERNEL, {})
    (beside / "tunnels.json").write_text('["own"]')
    (beside / "hallways.json").write_text('["planted"]')
    os.chown(beside / "hallways.json", OTHER, OTHER)
    (beside / "tunnels.json.owner.lock").symlink_to("/nowhere")
    environ = {"HOME": str(short_dir)}
    config = load_config(palace, environ, KERNEL)
    for _ in range(2):
        owner = lock.take_lock(palace, KERNEL)
        take_other_locks(owner, config, environ, KERNEL)
        for fd in (*owner.other_fds, owner.lock_fd):
            os.close(fd)
        assert Path(palace.root, "tunnels.json").read_text() == '["own"]'
        assert not Path(palace.root, "hallways.json").exists()
        (beside / "tunnels.json").write_text('["later"]')


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "none"])
def test_first_words_go_into_a_log_of_ones_own_alone(tmp_path: Path, kind: str) -> None:
    tmp_path.chmod(0o700)
    other, log = tmp_path / "other", tmp_path / "broker.log"
    other.touch()
    make = {
        "link": lambda: log.symlink_to(other),
        "hard link": lambda: log.hardlink_to(other),
        "fifo": lambda: os.mkfifo(log),
        "none": lambda: None,
    }
    make[kind]()
    fds = [_first_log(Paths(str(tmp_path)), KERNEL)]
    if kind == "none":
        log.touch()
        fds.append(_first_log(Paths(str(tmp_path)), KERNEL))
        tmp_path.chmod(0o777)
        fds.append(_first_log(Paths(str(tmp_path)), KERNEL))
    found = [os.path.samestat(os.fstat(fd), os.stat(os.devnull)) for fd in fds]
    assert found == ([True, False, True] if kind == "none" else [True])
    for fd in fds:
        os.close(fd)
