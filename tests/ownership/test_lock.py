"""Becoming the owner, step by step, on a real kernel."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from palace.broker import endpoint
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.data_locks import outside_files, take_other_locks
from palace.ownership.epoch import take_epoch
from palace.ownership.format import (
    PLAIN,
    WITH_REGISTER,
    decode_served,
    keep_format,
    need_register,
)
from palace.ownership.record import publish
from palace.protocol import wire
from palace.protocol.broker_record import decode_broker_record
from palace.protocol.errors import (
    ForeignKernel,
    ForeignWriter,
    LockFailed,
    LockHeld,
    OnHold,
    UnsafePalace,
    VersionMismatch,
)
from palace.settings.config import Config
from palace.settings.paths import Paths

KERNEL = Kernel()


@pytest.fixture
def palace(short_dir: Path) -> Paths:
    root = short_dir / "palace"
    root.mkdir(mode=0o700)
    return Paths(str(root))


def settings(palace: Paths, **more: object) -> Config:
    graph = f"{palace.root}/knowledge_graph.sqlite3"
    return Config(**({"graph": graph, "config_dir": "/c", "mempalace_lock_wait_s": 0.0} | more))  # type: ignore[arg-type]


def held(path: str) -> int:
    """Hold a flock from an open file description of its own."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def test_the_lock_file_is_private_and_stays(palace: Paths) -> None:
    owner = lock.take_lock(palace, KERNEL)

    assert os.stat(palace.lock).st_mode & 0o777 == 0o600
    os.close(owner.lock_fd)
    assert os.path.exists(palace.lock)


def test_a_second_owner_is_refused_and_told_who_the_first_is(palace: Paths) -> None:
    owner = lock.take_lock(palace, KERNEL)

    with pytest.raises(LockHeld) as caught:
        lock.take_lock(palace, KERNEL)

    assert f"pid {os.getpid()}" in caught.value.message
    os.close(owner.lock_fd)
    os.close(lock.take_lock(palace, KERNEL).lock_fd)


class Replacing(Kernel):
    """A host on which somebody replaces the lock file just after it was opened."""

    def __init__(self, times: int) -> None:
        self.times = times

    def try_lock(self, fd: int, *, shared: bool = False) -> bool:
        taken = super().try_lock(fd, shared=shared)
        if self.times:
            self.times -= 1
            path = os.readlink(f"/proc/self/fd/{fd}")
            os.unlink(path)
            Path(path).touch()
        return taken


def test_a_lock_on_a_replaced_file_is_no_lock(palace: Paths) -> None:
    owner = lock.take_lock(palace, Replacing(2))

    assert KERNEL.same_file(owner.lock_fd, palace.lock)
    os.close(owner.lock_fd)


def test_a_lock_file_that_is_replaced_for_ever_is_refused(palace: Paths) -> None:
    with pytest.raises(LockFailed, match="keeps being replaced"):
        lock.take_lock(palace, Replacing(1000))


class Unlockable(Kernel):
    def try_lock(self, fd: int, *, shared: bool = False) -> bool:
        raise OSError(37, "No locks available")


def test_any_other_answer_of_the_kernel_means_no_lock(palace: Paths) -> None:
    with pytest.raises(LockFailed, match="ENOLCK"):
        lock.take_lock(palace, Unlockable())


def test_a_link_in_the_lock_files_place_is_not_followed(palace: Paths, tmp_path: Path) -> None:
    os.symlink(tmp_path / "target", palace.lock)

    with pytest.raises(LockFailed):
        lock.take_lock(palace, KERNEL)
    assert not (tmp_path / "target").exists()


def test_the_epoch_rises_durably_with_every_owner_and_the_identity_stays(palace: Paths) -> None:
    owners = []
    for _ in range(3):
        owner = lock.take_lock(palace, KERNEL)
        take_epoch(owner, KERNEL)
        os.close(owner.lock_fd)
        owners.append(owner)

    assert [owner.epoch for owner in owners] == [1, 2, 3]
    assert len({owner.palace_id for owner in owners}) == 1
    assert len({owner.incarnation for owner in owners}) == 3
    assert Path(palace.epoch).read_text() == "3\n"


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9" * 30, f"{2**63 - 1}", "²"])
def test_an_epoch_that_is_no_number_is_not_guessed(palace: Paths, text: str) -> None:
    Path(palace.epoch).write_text(text)
    owner = lock.take_lock(palace, KERNEL)

    with pytest.raises(LockFailed, match="no number"):
        take_epoch(owner, KERNEL)
    os.close(owner.lock_fd)


@pytest.mark.parametrize("text", ["", "\n", "x", "-1", "1.5 0.1.0", "9" * 30, "²"])
def test_a_protocol_that_is_no_number_is_not_taken_for_none(palace: Paths, text: str) -> None:
    """A newer palace may have served there, and would take turns with this one."""
    Path(palace.protocol).write_text(text)
    owner = lock.take_lock(palace, KERNEL)

    with pytest.raises(LockFailed, match="does not say by which protocol"):
        take_epoch(owner, KERNEL)
    os.close(owner.lock_fd)

    assert Path(palace.protocol).read_text() == text


def test_stocks_lock_is_taken_where_stock_looks_for_it(palace: Paths, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    owner = lock.take_lock(palace, KERNEL)
    take_other_locks(owner, settings(palace), environ, KERNEL)
    path = lock.mempalace_lock_path(palace, environ)

    with pytest.raises(BlockingIOError):
        held(path)
    assert Path(path).read_bytes()[1:].decode().startswith(f"{os.getpid()} palace serve")
    for fd in [owner.lock_fd, *owner.other_fds]:
        os.close(fd)


@pytest.mark.engine
def test_stock_itself_finds_its_lock_taken(
    palace: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mempalace import palace as stock

    monkeypatch.setenv("HOME", str(tmp_path))
    owner = lock.take_lock(palace, KERNEL)
    take_other_locks(owner, settings(palace), {"HOME": str(tmp_path)}, KERNEL)

    with pytest.raises(stock.MineAlreadyRunning):
        stock.mine_palace_lock(palace.root).__enter__()
    for fd in [owner.lock_fd, *owner.other_fds]:
        os.close(fd)


def test_a_stock_writer_is_named(palace: Paths, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    fd = held(lock.mempalace_lock_path(palace, environ))
    os.pwrite(fd, b"\x004711 mempalace mine", 0)
    owner = lock.take_lock(palace, KERNEL)

    with pytest.raises(ForeignWriter, match="4711 mempalace mine") as caught:
        take_other_locks(owner, settings(palace), environ, KERNEL)

    assert caught.value.exit_code == 73
    assert f"kill {os.getpid()}" in caught.value.message
    os.close(fd)
    os.close(owner.lock_fd)


def test_stocks_lock_is_taken_before_settings_are_known(palace: Paths, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    fd = lock.wait_for_mempalace(palace, environ, KERNEL)

    with pytest.raises(BlockingIOError):
        held(lock.mempalace_lock_path(palace, environ))
    os.close(fd)


def test_a_stock_writer_that_stays_is_named_before_settings_are_known(
    palace: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"HOME": str(tmp_path)}
    path = lock.mempalace_lock_path(palace, environ)
    fd = held(path)
    os.pwrite(fd, b"\x004711 mempalace mine", 0)
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    before = len(os.listdir("/dev/fd"))

    with pytest.raises(ForeignWriter, match="wrote '4711 mempalace mine' into it") as caught:
        lock.wait_for_mempalace(palace, environ, KERNEL)

    assert path in caught.value.message
    assert f"kill {os.getpid()}" in caught.value.message
    assert caught.value.details["holder"] == "4711 mempalace mine"
    assert len(os.listdir("/dev/fd")) == before
    os.close(fd)


def test_a_holder_of_stocks_lock_is_looked_up(palace: Paths, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}

    class Telling(Kernel):
        def process_title(self, pid: int) -> str:
            return f"python -m mempalace.mcp_server {pid}"

    fence = lock.Fence(lock.Ownership(palace, -1), settings(palace), environ, Telling())
    assert not fence.holder_stays(), "nobody has it"
    fd = held(lock.mempalace_lock_path(palace, environ))
    assert fence.holder_stays()
    os.close(fd)


def test_a_hook_that_holds_stocks_lock_for_a_moment_is_waited_for(
    palace: Paths, tmp_path: Path
) -> None:
    environ = {"HOME": str(tmp_path)}
    fd = held(lock.mempalace_lock_path(palace, environ))

    class Patient(Kernel):
        asked = 0

        def try_lock(self, fd_: int, *, shared: bool = False) -> bool:
            Patient.asked += 1
            if Patient.asked == 3:
                os.close(fd)
            return super().try_lock(fd_, shared=shared)

    owner = lock.take_lock(palace, KERNEL)
    take_other_locks(owner, settings(palace, mempalace_lock_wait_s=20.0), environ, Patient())

    assert Patient.asked >= 3
    for open_fd in [owner.lock_fd, *owner.other_fds]:
        os.close(open_fd)


def owner_with_fence(palace: Paths, home: Path) -> tuple[lock.Ownership, lock.HeldLock]:
    owner = lock.take_lock(palace, KERNEL)
    take_other_locks(owner, settings(palace), {"HOME": str(home)}, KERNEL)
    (fence,) = [one for one in owner.others if one.name == lock.FENCE]
    return owner, fence


def release(owner: lock.Ownership) -> None:
    for fd in [owner.lock_fd, *owner.other_fds]:
        os.close(fd)


def test_a_removed_lock_is_taken_again_and_the_old_file_stays_locked(
    palace: Paths, tmp_path: Path
) -> None:
    owner, fence = owner_with_fence(palace, tmp_path)
    waiting = os.open(fence.path, os.O_RDWR)  # a stock process that asks again and again
    note = Path(fence.path).read_bytes()
    shutil.rmtree(tmp_path / ".mempalace")

    fence.take_again(KERNEL)

    with pytest.raises(BlockingIOError):
        held(fence.path)
    with pytest.raises(BlockingIOError):
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert Path(fence.path).read_bytes() == note
    os.close(waiting)
    release(owner)
    os.close(held(fence.path))  # and it is free once the owner has ended


@pytest.mark.parametrize("still_held", [True, False])
def test_a_lock_that_another_process_may_have_had_is_lost(
    palace: Paths, tmp_path: Path, still_held: bool
) -> None:
    owner, fence = owner_with_fence(palace, tmp_path)
    os.unlink(fence.path)
    other = held(fence.path)
    if not still_held:
        os.close(other)

    with pytest.raises(ForeignWriter, match="made again by another process"):
        fence.take_again(KERNEL)

    if still_held:
        os.close(other)
    release(owner)


def test_a_lock_is_lost_to_whoever_is_faster(palace: Paths, tmp_path: Path) -> None:
    owner, fence = owner_with_fence(palace, tmp_path)
    os.unlink(fence.path)
    others = []

    class Slow(Kernel):
        def create_lock(self, path: str) -> int:
            fd = super().create_lock(path)
            others.append(held(path))
            return fd

    before = len(os.listdir("/dev/fd"))
    with pytest.raises(ForeignWriter, match="another process has locked it"):
        fence.take_again(Slow())

    assert len(os.listdir("/dev/fd")) == before + 1  # theirs
    os.close(others[0])
    release(owner)


def test_a_lock_whose_new_file_is_replaced_at_once_is_lost(palace: Paths, tmp_path: Path) -> None:
    owner, fence = owner_with_fence(palace, tmp_path)
    os.unlink(fence.path)

    class Cleaned(Kernel):
        def create_lock(self, path: str) -> int:
            fd = super().create_lock(path)
            os.unlink(path)
            Path(path).touch()
            return fd

    with pytest.raises(ForeignWriter, match="another process has locked it"):
        fence.take_again(Cleaned())
    release(owner)


def test_a_lock_that_is_removed_again_and_again_is_given_up(palace: Paths, tmp_path: Path) -> None:
    owner, fence = owner_with_fence(palace, tmp_path)
    for _ in range(lock.TAKEN_AGAIN_MAX):
        os.unlink(fence.path)
        fence.take_again(KERNEL)
    os.unlink(fence.path)

    with pytest.raises(ForeignWriter, match="16 times"):
        fence.take_again(KERNEL)
    release(owner)


def test_a_graph_outside_of_the_palace_has_a_lock_of_its_own(palace: Paths, tmp_path: Path) -> None:
    graph = tmp_path / "graphs" / "kg.sqlite3"
    owner = lock.take_lock(palace, KERNEL)
    take_other_locks(owner, settings(palace, graph=str(graph)), {"HOME": str(tmp_path)}, KERNEL)

    with pytest.raises(BlockingIOError):
        held(f"{graph}.owner.lock")
    for fd in [owner.lock_fd, *owner.other_fds]:
        os.close(fd)


def test_what_lies_beside_a_palace_of_a_longer_name_is_outside(palace: Paths) -> None:
    beside, within = f"{palace.root}-two/kg.sqlite3", f"{palace.root}/kg.sqlite3"

    assert beside in outside_files(palace, settings(palace, graph=beside))
    assert within not in outside_files(palace, settings(palace, graph=within))


def test_lists_that_a_palace_has_are_not_replaced_by_those_beside_it(
    palace: Paths, tmp_path: Path
) -> None:
    parent = Path(palace.root).parent
    parent.chmod(0o1777)  # others may put files beside the palace, so that its lists are in it
    (parent / "tunnels.json").write_text("beside")
    (parent / "hallways.json").write_text("beside")
    Path(palace.root, "tunnels.json").write_text("in it")
    owner = lock.take_lock(palace, KERNEL)

    take_other_locks(owner, settings(palace), {"HOME": str(tmp_path)}, KERNEL)

    assert Path(palace.root, "tunnels.json").read_text() == "in it"
    assert Path(palace.root, "hallways.json").read_text() == "beside"
    release(owner)


def test_stocks_lock_on_a_file_that_was_replaced_is_not_taken(
    palace: Paths, tmp_path: Path
) -> None:
    environ = {"HOME": str(tmp_path)}
    path = lock.mempalace_lock_path(palace, environ)

    class Cleaned(Replacing):
        def try_lock(self, fd: int, *, shared: bool = False) -> bool:
            taken = Kernel.try_lock(self, fd)
            if self.times:
                self.times -= 1
                os.unlink(path)
            return taken

    fence = lock.Fence(lock.Ownership(palace, -1), settings(palace), environ, Cleaned(1))

    assert not fence.take()
    assert not fence.taken
    assert fence.take()


@pytest.mark.parametrize("spoilt", ["the file, too", "the directory alone", "no file"])
def test_a_data_file_that_nobody_here_can_replace_needs_no_lock(
    palace: Paths, tmp_path: Path, spoilt: str
) -> None:
    graph = tmp_path / "graphs" / "kg.sqlite3"
    graph.parent.mkdir()
    if spoilt != "no file":
        graph.touch()
    closed = {str(graph.parent)} | ({str(graph)} if spoilt == "the file, too" else set())

    class Spoilt(Kernel):
        def writable(self, path: str) -> bool:
            return path not in closed and super().writable(path)

    owner = lock.take_lock(palace, KERNEL)
    config, home = settings(palace, graph=str(graph)), {"HOME": str(tmp_path)}
    if spoilt == "the directory alone":
        with pytest.raises(ForeignWriter, match="is not writable, so it can't be locked"):
            take_other_locks(owner, config, home, Spoilt())
    else:
        take_other_locks(owner, config, home, Spoilt())
    assert not Path(f"{graph}.owner.lock").exists()
    release(owner)


def test_a_hold_is_respected(palace: Paths) -> None:
    lock.check_hold(palace, KERNEL)
    Path(palace.hold).write_text("2026-01-01\n")

    with pytest.raises(OnHold, match="palace start"):
        lock.check_hold(palace, KERNEL)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_palace_that_others_may_write_to_is_refused(palace: Paths, mode: int) -> None:
    os.chmod(palace.root, mode)

    with pytest.raises(UnsafePalace, match="chmod go-w") as caught:
        lock.check_directory(palace, KERNEL, {})
    assert caught.value.exit_code == 77


def test_a_file_in_the_palaces_place_is_refused(short_dir: Path) -> None:
    (short_dir / "file").touch()

    with pytest.raises(UnsafePalace, match="not a directory"):
        lock.check_directory(Paths(str(short_dir / "file")), KERNEL, {})


def test_a_new_palace_is_made_private_and_a_missing_parent_is_no_typo(short_dir: Path) -> None:
    lock.check_directory(Paths(str(short_dir / "new")), KERNEL, {})
    assert os.stat(short_dir / "new").st_mode & 0o777 == 0o700

    with pytest.raises(UnsafePalace, match="mkdir -p"):
        lock.check_directory(Paths(str(short_dir / "no" / "mount")), KERNEL, {})
    lock.check_directory(Paths(str(short_dir / "def" / "mempalace" / "palace")), KERNEL, {})


class Shared(Kernel):
    """A host whose palace lies on a mount of another kernel."""

    def mount_of(self, path: str):
        from palace.kernel.mounts import Mount

        return Mount(point="/workspace", fs_type="virtiofs", source="share")


def test_another_kernels_file_system_is_refused_with_its_mount_and_remedies(palace: Paths) -> None:
    with pytest.raises(ForeignKernel) as caught:
        lock.check_directory(palace, Shared(), {})

    assert "/workspace, a virtiofs mount" in caught.value.message
    for remedy in ("palace expose docker", "bridge=ssh", "palace own --here", "doctor --boundary"):
        assert remedy in caught.value.message
    assert caught.value.exit_code == 72


def test_the_socket_is_private_and_published_only_with_its_own_record(palace: Paths) -> None:
    owner = lock.take_lock(palace, KERNEL)
    take_epoch(owner, KERNEL)
    Path(f"{palace.root}/broker.sock").write_text("left by somebody")
    bound = endpoint.listen(owner, {}, KERNEL)
    record = publish(owner, bound.path, KERNEL, mode="broker")

    assert os.stat(bound.path).st_mode & 0o777 == 0o600
    again = decode_broker_record(KERNEL.read_file(palace.record))
    assert again is not None
    assert again.to_dict() == record.to_dict()
    assert (record.endpoints, record.token, record.fingerprint) == ([f"unix:{bound.path}"], "", "")
    assert os.stat(palace.record).st_mode & 0o777 == 0o600
    endpoint.unpublish(owner, bound, KERNEL)
    assert not os.path.exists(bound.path)
    assert not os.path.exists(palace.record)
    bound.socket.close()
    os.close(owner.lock_fd)


def test_a_fenced_owner_leaves_its_successors_record_and_socket(palace: Paths) -> None:
    fenced, successor = lock.Ownership(palace, -1), lock.Ownership(palace, -1)
    old = endpoint.listen(fenced, {}, KERNEL)
    publish(fenced, old.path, KERNEL, mode="broker")
    new = endpoint.listen(successor, {}, KERNEL)
    publish(successor, new.path, KERNEL, mode="broker")

    endpoint.unpublish(fenced, old, KERNEL)

    record = decode_broker_record(KERNEL.read_file(palace.record))
    assert record is not None
    assert record.incarnation == successor.incarnation
    assert os.path.exists(new.path)
    endpoint.unpublish(successor, new, KERNEL)
    assert not os.path.exists(palace.record)
    assert not os.path.exists(new.path)
    for each in (old, new):
        each.socket.close()


def test_a_long_path_binds_in_the_runtime_directory_and_refuses_a_squatted_one(
    short_dir: Path,
) -> None:
    root = short_dir / ("x" * 100)
    root.mkdir(mode=0o700)
    environ = {"XDG_RUNTIME_DIR": str(short_dir / "run")}
    owner = lock.take_lock(Paths(str(root)), KERNEL)
    bound = endpoint.listen(owner, environ, KERNEL)
    bound.socket.close()
    directory = os.path.dirname(bound.path)

    assert directory.startswith(f"{short_dir}/run/palace-")
    assert os.stat(directory).st_mode & 0o777 == 0o700
    os.chmod(directory, 0o777)
    with pytest.raises(UnsafePalace, match="socket directory"):
        endpoint.listen(owner, environ, KERNEL)
    os.close(owner.lock_fd)


def test_a_lost_epoch_file_does_not_take_the_epoch_back(palace: Paths) -> None:
    first = lock.take_lock(palace, KERNEL)
    Path(palace.epoch).write_text("41\n")
    take_epoch(first, KERNEL)
    publish(first, "", KERNEL, mode="broker")
    os.close(first.lock_fd)
    os.unlink(palace.epoch)

    second = lock.take_lock(palace, KERNEL)
    take_epoch(second, KERNEL)
    os.close(second.lock_fd)

    assert (first.epoch, second.epoch) == (42, 43)


def test_a_link_in_place_of_the_epoch_is_refused_instead_of_replaced(palace: Paths) -> None:
    os.symlink(palace.log, palace.epoch)
    owner = lock.take_lock(palace, KERNEL)

    with pytest.raises(OSError, match="symbolic links"):
        take_epoch(owner, KERNEL)
    os.close(owner.lock_fd)


def _start(palace: Paths, kernel: Kernel = KERNEL) -> lock.Ownership:
    """Become the owner, publish, and leave as a killed process does."""
    owner = lock.take_lock(palace, kernel)
    take_epoch(owner, kernel)
    publish(owner, "", kernel, mode="broker")
    os.close(owner.lock_fd)
    return owner


@pytest.mark.parametrize("epoch", [10**18, 10**25])
def test_a_huge_epoch_in_the_record_does_not_poison_the_palace(palace: Paths, epoch: int) -> None:
    _start(palace)
    text = Path(palace.record).read_text()
    Path(palace.record).write_text(text.replace('"epoch": 1,', f'"epoch": {epoch},'))

    assert [_start(palace).epoch, _start(palace).epoch] == [2, 3]


def test_the_largest_epoch_that_a_record_may_name_leaves_room_for_others(palace: Paths) -> None:
    _start(palace)
    text = Path(palace.record).read_text()
    Path(palace.record).write_text(text.replace('"epoch": 1,', f'"epoch": {10**18 - 1},'))

    assert [_start(palace).epoch, _start(palace).epoch] == [10**18, 10**18 + 1]


class OthersRecord(Kernel):
    """A host on which the record, and nothing else, belongs to another user."""

    def file_owner(self, path: str) -> int | None:
        return os.geteuid() + 1 if path.endswith("/broker.json") else super().file_owner(path)


def test_a_record_of_another_user_says_nothing_about_the_epoch(palace: Paths) -> None:
    _start(palace)
    text = Path(palace.record).read_text()
    Path(palace.record).write_text(text.replace('"epoch": 1,', '"epoch": 77,'))

    assert _start(palace, OthersRecord()).epoch == 2


def test_a_file_has_its_owner_and_a_missing_one_none(palace: Paths) -> None:
    assert KERNEL.file_owner(palace.root) == os.geteuid()
    assert KERNEL.file_owner(f"{palace.root}/none") is None
    assert KERNEL.file_owner(f"{palace.root}/none/below") is None


@pytest.mark.parametrize(("shared", "mode"), [(False, 0o600), (True, 0o666)])
def test_the_socket_is_for_others_only_where_some_are_allowed(
    palace: Paths, shared: bool, mode: int
) -> None:
    owner = lock.take_lock(palace, KERNEL)
    bound = endpoint.listen(owner, {}, KERNEL, shared=shared)

    found = os.stat(bound.path).st_mode & 0o777

    bound.socket.close()
    KERNEL.close(owner.lock_fd)
    assert found == mode


def test_what_killed_owners_left_in_the_middle_of_a_write_is_removed(palace: Paths) -> None:
    left = ["epoch.12.tmp", "broker.json.7.tmp", "protocol.1.tmp"]
    theirs = ["epoch.tmp", "notes.12.tmp", "epoch.x.tmp", "palace.toml.3.tmp"]
    for name in (*left, *theirs):
        (Path(palace.root) / name).write_text("half")

    owner = lock.take_lock(palace, KERNEL)
    take_epoch(owner, KERNEL)
    KERNEL.close(owner.lock_fd)

    names = {path.name for path in Path(palace.root).iterdir()}
    assert names.isdisjoint(left)
    assert names >= set(theirs)


def test_a_palace_that_a_younger_protocol_has_served_is_left_to_it(palace: Paths) -> None:
    owner = lock.take_lock(palace, KERNEL)
    take_epoch(owner, KERNEL)
    assert Path(palace.protocol).read_text().split()[0] == str(wire.VERSION)
    for younger in (wire.VERSION + 1, 99):
        Path(palace.protocol).write_text(f"{younger} 7.0\n")
        with pytest.raises(VersionMismatch, match=r"remove .*protocol"):
            take_epoch(owner, KERNEL)
    KERNEL.close(owner.lock_fd)
    assert Path(palace.epoch).read_text() == "1\n"


def test_a_register_keeps_versions_away_that_know_of_none(palace: Paths) -> None:
    def format_of() -> int:
        return decode_served(Path(palace.protocol).read_bytes()).format

    keep_format(palace, KERNEL)
    assert format_of() == PLAIN

    need_register(palace, KERNEL)

    assert format_of() == WITH_REGISTER
    keep_format(palace, KERNEL)
    assert format_of() == WITH_REGISTER
