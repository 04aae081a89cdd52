"""The locks of files that several palaces use: shared by brokers, and had alone to replace one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.data_locks import SharedLock, alone_with, take_data_locks, take_other_locks
from palace.protocol.errors import ForeignWriter, StoreUnavailable
from palace.settings.config import Config, load_config
from palace.settings.paths import Paths

KERNEL = Kernel()


class Palaces:
    """Palaces of one parent, each with an owner; `close` ends them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"HOME": str(root / "home")}
        self.owners: list[lock.Ownership] = []

    def own(self, name: str, *, alone: bool = False) -> lock.Ownership:
        """Take a palace and its data files, as a broker or as maintenance."""
        path = self.root / name
        path.mkdir(mode=0o700, exist_ok=True)
        owner = lock.take_lock(Paths(str(path)), KERNEL)
        self.owners.append(owner)
        if alone:
            take_other_locks(owner, self.config(owner), self.environ, KERNEL)
        else:
            take_data_locks(owner, self.config(owner), self.environ, KERNEL)
        return owner

    def config(self, owner: lock.Ownership) -> Config:
        return load_config(owner.paths, self.environ, KERNEL)

    def leave(self, owner: lock.Ownership) -> None:
        for fd in (owner.lock_fd, *owner.other_fds):
            os.close(fd)
        self.owners.remove(owner)

    def close(self) -> None:
        for owner in list(self.owners):
            self.leave(owner)


@pytest.fixture
def palaces(tmp_path: Path) -> Iterator[Palaces]:
    (tmp_path / "home").mkdir()
    found = Palaces(tmp_path)
    yield found
    found.close()


def tunnels(palaces: Palaces) -> str:
    return f"{palaces.root}/tunnels.json"


def lock_of(owner: lock.Ownership, data_file: str) -> SharedLock:
    (found,) = [
        one for one in owner.others if isinstance(one, SharedLock) and one.data_file == data_file
    ]
    return found


def test_brokers_of_two_palaces_share_what_lies_beside_both(palaces: Palaces) -> None:
    first, second = palaces.own("a"), palaces.own("b")

    for owner in (first, second):
        assert KERNEL.same_file(
            lock_of(owner, tunnels(palaces)).fd, f"{tunnels(palaces)}.owner.lock"
        )


def test_maintenance_names_the_palace_whose_broker_has_to_be_stopped(palaces: Palaces) -> None:
    broker = palaces.own("a")

    with pytest.raises(ForeignWriter, match=r"tunnels\.json is shared") as caught:
        palaces.own("b", alone=True)
    assert caught.value.message.endswith(f"palace stop --palace {palaces.root}/a.")
    palaces.leave(palaces.owners[-1])
    palaces.leave(broker)
    palaces.own("b", alone=True)


def test_no_broker_starts_beside_maintenance_or_an_earlier_version(palaces: Palaces) -> None:
    alone = palaces.own("a", alone=True)

    with pytest.raises(ForeignWriter, match=r"(?s)tunnels\.json.*earlier version"):
        palaces.own("b")
    palaces.leave(palaces.owners[-1])
    palaces.leave(alone)
    palaces.own("b")


def test_a_broker_replaces_a_shared_file_only_while_no_other_one_has_it(palaces: Palaces) -> None:
    first = palaces.own("a")
    with alone_with(first, [tunnels(palaces)], KERNEL):
        with pytest.raises(ForeignWriter):
            palaces.own("b")
        palaces.leave(palaces.owners[-1])
    second = palaces.own("b")

    with pytest.raises(StoreUnavailable, match=f"palace stop --palace {palaces.root}/b"):
        with alone_with(first, [tunnels(palaces)], KERNEL):
            raise AssertionError("another broker has it open")
    palaces.own("c")  # the first one shares it again, and keeps whoever wants it alone out
    palaces.leave(second)
    with pytest.raises(ForeignWriter):
        palaces.own("d", alone=True)


def test_a_file_of_the_palaces_own_needs_no_lock(palaces: Palaces) -> None:
    first = palaces.own("a")
    palaces.own("b")

    with alone_with(first, [f"{first.paths.root}/logstream.sqlite3"], KERNEL):
        pass


def test_a_removed_lock_is_shared_again(palaces: Palaces) -> None:
    first, second = palaces.own("a"), palaces.own("b")
    path = f"{tunnels(palaces)}.owner.lock"
    os.unlink(path)

    for owner in (first, second):
        held = lock_of(owner, tunnels(palaces))
        held.take_again(KERNEL)
        assert KERNEL.same_file(held.fd, path)
    assert b"/b" in Path(path).read_bytes()
    with pytest.raises(ForeignWriter):
        palaces.own("c", alone=True)


def test_a_removed_lock_that_another_one_has_alone_is_lost(palaces: Palaces) -> None:
    first = palaces.own("a")
    os.unlink(f"{tunnels(palaces)}.owner.lock")
    os.unlink(f"{palaces.root}/hallways.json.owner.lock")
    palaces.own("b", alone=True)

    with pytest.raises(ForeignWriter, match="another process has locked it since"):
        lock_of(first, tunnels(palaces)).take_again(KERNEL)


def test_what_maintenance_has_alone_it_takes_again_alone(palaces: Palaces) -> None:
    alone = palaces.own("a", alone=True)
    path = f"{tunnels(palaces)}.owner.lock"
    os.unlink(path)
    (held,) = [one for one in alone.others if one.path == path]

    held.take_again(KERNEL)
    assert KERNEL.same_file(held.fd, path)
    with pytest.raises(ForeignWriter, match=r"tunnels\.json is shared"):
        palaces.own("b")


@pytest.mark.parametrize("is_list", [True, False])
def test_a_graph_that_was_replaced_meanwhile_is_not_written_any_more(
    palaces: Palaces, is_list: bool
) -> None:
    """A list is replaced at each change; a database is another one then."""
    path = palaces.root / ("tunnels.json" if is_list else "graph.sqlite3")
    path.write_text("[]")
    fd = KERNEL.open_lock(f"{path}.owner.lock")
    held = SharedLock(str(path), fd, note=b"pid 1 serves /p", kernel=KERNEL)
    os.unlink(held.path)
    with path.open():  # so that its inode is not used again
        path.unlink()
        path.write_text("[]")

        if is_list:
            held.take_again(KERNEL)
        else:
            with pytest.raises(ForeignWriter, match="replaced after its lock had been removed"):
                held.take_again(KERNEL)
    os.close(held.fd)


def test_a_list_is_brought_into_a_palace_once(palaces: Palaces) -> None:
    palaces.root.chmod(0o777)  # others may put files beside the palace
    for name in ("tunnels.json", "hallways.json"):
        (palaces.root / name).write_text("[]")
    palaces.leave(palaces.own("a"))
    inside = palaces.root / "a"
    assert (inside / "tunnels.json").exists()
    assert (inside / "hallways.json").exists()

    (inside / "hallways.json").rename(inside / "hallways.json.imported-1")
    (inside / "hallways.sqlite3").touch()
    palaces.leave(palaces.own("a"))
    assert not (inside / "hallways.json").exists(), "it would be imported again"
