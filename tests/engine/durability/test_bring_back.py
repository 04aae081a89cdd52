"""Which journal is brought back to a directory that another program has replaced."""

import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.engine.durability.bring_back import bring_back
from palace.engine.durability.opening import open_journal
from palace.engine.durability.owned import OwnedPalace
from palace.journal.journal import Journal
from palace.journal.origin import begun_in
from palace.journal.record import ADOPT, Draft, Stamp
from palace.journal.replay import replay
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.lock import LockReplaced
from palace.ownership.served import Memory, Served, is_empty, read_served, write_served
from palace.protocol.errors import StoreUnavailable
from palace.protocol.keyring import ANYBODYS
from palace.settings.config import load_config
from palace.settings.paths import Paths

KERNEL = Kernel()
IDENTITY = "1" * 32


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "palace").mkdir(mode=0o700)
    return Paths(str(tmp_path / "palace"))


def write(root: Path, epoch: int, payloads: range) -> None:
    """Let an owner of an epoch open the journal of a palace, or begin it, and write to it."""
    root.mkdir(mode=0o700, exist_ok=True)
    (root / "palace_id").write_text(f"{IDENTITY}\n")
    stamp = Stamp(epoch=epoch, writer=f"w{epoch}", keys=ANYBODYS, origin=IDENTITY)
    journal = Journal.open(f"{root}/journal", KERNEL, stamp)
    for payload in payloads:
        journal.append([Draft(action=ADOPT, kind="graph:entity", id="a", payload=payload)])
    journal.close()


def remember(paths: Paths, environ: dict[str, str], *, epoch: int, begun: int) -> None:
    served = Served(paths.root, IDENTITY)
    served.epoch, served.seq, served.begun = epoch, 3, begun
    write_served(served, environ, KERNEL)


def owned(paths: Paths, environ: dict[str, str], memory: Memory) -> OwnedPalace:
    return OwnedPalace(
        paths=paths,
        config=load_config(paths, environ, KERNEL),
        kernel=KERNEL,
        stamp=Stamp(epoch=6, writer="w6", keys=ANYBODYS, origin=IDENTITY),
        memory=memory,
    )


def last_value(paths: Paths) -> object:
    return replay(paths.journal, KERNEL, keys=ANYBODYS).payload(("graph:entity", "a"))


@pytest.mark.parametrize("where", ["palace", "palace.pre-rebuild-20260101-000000"])
@pytest.mark.parametrize("begun", [4, 0])
def test_a_journal_that_was_begun_beside_the_palaces_own_counts_last(
    tmp_path: Path, paths: Paths, environ: dict[str, str], where: str, begun: int
) -> None:
    """However many records it has: an owner began it in what took the directory's place."""
    write(tmp_path / "palace.pre-rebuild-20251231-000000", 4, range(3))
    write(tmp_path / where, 7, range(100, 200))
    if where == "palace":
        Path(paths.palace_id).unlink()
    remember(paths, environ, epoch=7, begun=begun)
    owner = lock.take_lock(paths, KERNEL)

    said = bring_back(owner, environ, KERNEL)

    assert last_value(paths) == (2 if begun else 199), "a note of an older version doesn't tell"
    assert ("20251231" in said) is bool(begun)
    kept = list(Path(paths.root).glob("replaced-*/journal")) if where == "palace" and begun else []
    assert len(kept) == (1 if where == "palace" and begun else 0)


@pytest.mark.parametrize("saved", ["", "gone", "unreadable"])
def test_what_a_broker_had_saved_and_is_gone_is_why_records_are_lost(
    tmp_path: Path, paths: Paths, environ: dict[str, str], saved: str
) -> None:
    """Whoever clears the state directory of a user takes what was saved there along."""
    write(tmp_path / "palace.pre-migrate.20260101_000000", 4, range(1))
    served = Served(paths.root, IDENTITY)
    served.epoch, served.seq = 5, 3
    if saved:
        served.saved = f"{tmp_path}/saved-5"
    if saved == "unreadable":
        Path(served.saved).mkdir()
    write_served(served, environ, KERNEL)

    bring_back(lock.take_lock(paths, KERNEL), environ, KERNEL)

    found = read_served(paths.root, environ, KERNEL)
    assert found is not None
    assert (found.lost_from, found.lost_to) == (2, 3)
    assert found.lost_with == (f"{tmp_path}/saved-5" if saved == "gone" else "")


def test_a_journal_that_no_longer_has_its_beginning_counts_as_the_palaces_own(
    tmp_path: Path, paths: Paths, environ: dict[str, str]
) -> None:
    archive = tmp_path / "palace.pre-rebuild-20260101-000000"
    write(archive, 4, range(3))
    stamp = Stamp(epoch=5, writer="w5", keys=ANYBODYS, origin=IDENTITY)
    journal = Journal.open(f"{archive}/journal", KERNEL, stamp)
    journal.roll()
    journal.close()
    first, second = list_segments(f"{archive}/journal", KERNEL)
    assert begun_in([first, second], KERNEL) == 4
    Path(first.path).unlink()
    assert begun_in([second], KERNEL) == 0
    write(tmp_path / "palace.pre-rebuild-20260202-000000", 4, range(1))
    remember(paths, environ, epoch=5, begun=4)
    owner = lock.take_lock(paths, KERNEL)

    assert "20260101" in bring_back(owner, environ, KERNEL)


class Returning(Kernel):
    """A kernel under which the palace itself comes back before one of the calls.

    `looks` are the calls that ask whether the lock is still in place.
    """

    def __init__(self, palace: Path, *, before: int) -> None:
        self._palace, self._before = palace, before
        self.calls = 0
        self.looks: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        if self.calls == self._before:
            self._palace.rename(self._palace.with_name("made"))
            self._palace.with_name("away").rename(self._palace)
        self.calls += 1
        if name == "same_file":
            self.looks.append(self.calls)
        return found


def files_of(root: Path) -> dict[str, bytes]:
    return {f"{path}": path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_palace_that_comes_back_meanwhile_is_left_to_its_own_owner(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """Before any call up to the last look, which follows all that takes long."""

    def tried(number: int, before: int) -> Returning:
        parent = tmp_path / f"{number}"
        parent.mkdir()
        palace = parent / "palace"
        write(palace, 4, range(3))
        write(parent / "palace.pre-rebuild-20260101-000000", 4, range(2))
        there = files_of(palace)
        palace.rename(parent / "away")
        paths = Paths(str(palace))
        palace.mkdir(mode=0o700)
        remember(paths, environ, epoch=4, begun=4)
        owner = lock.take_lock(paths, KERNEL)
        kernel = Returning(palace, before=before)
        try:
            bring_back(owner, environ, kernel)
        except (LockReplaced, FileNotFoundError):
            pass
        finally:
            KERNEL.close(owner.lock_fd)
        if before >= 0:
            assert files_of(palace) == there, f"it came back before call {before}"
        return kernel

    last = tried(0, -1).looks[-1]
    assert last > 20
    for before in (*range(0, last - 1, 4), last - 1):
        tried(before + 1, before)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_journal_that_was_opened_where_the_directory_was_replaced_is_not_the_palaces(
    tmp_path: Path, paths: Paths, environ: dict[str, str], in_place: bool
) -> None:
    write(Path(paths.root), 4, range(3))
    remember(paths, environ, epoch=5, begun=4)
    served = read_served(paths.root, environ, KERNEL)
    assert served is not None
    memory = Memory(served, environ, KERNEL)
    if not in_place:
        shutil.move(paths.root, tmp_path / "palace.pre-rebuild-20260101-000000")
        Path(paths.root).mkdir(mode=0o700)
        memory.in_place = lambda: False
    palace = owned(paths, environ, memory)

    if in_place:
        open_journal(palace).close()
    else:
        with pytest.raises(LockReplaced):
            open_journal(palace)
    remembered = read_served(paths.root, environ, KERNEL)
    assert remembered is not None
    assert remembered.begun == 4, "what was begun in the other directory is not remembered"


@pytest.mark.parametrize("in_place", [True, False])
def test_a_journal_that_was_removed_is_missed_and_what_it_had_answered_is_not_run_again(
    paths: Paths, environ: dict[str, str], in_place: bool
) -> None:
    remember(paths, environ, epoch=5, begun=4)
    served = read_served(paths.root, environ, KERNEL)
    assert served is not None
    memory = Memory(served, environ, KERNEL)
    memory.in_place = lambda: in_place
    palace = owned(paths, environ, memory)
    if not in_place:  # what has no journal is not the palace
        with pytest.raises(LockReplaced):
            open_journal(palace)
        assert (served.seq, served.lost_to, is_empty(served)) == (3, 0, False)
        return
    journal = open_journal(palace)

    assert (served.seq, served.lost_from, served.lost_to) == (0, 1, 3)
    assert not is_empty(served), "its stores hold what the journal did"
    assert journal.is_forgotten("s", 1, 5)
    journal.close()
    open_journal(palace).close()
    assert (served.lost_from, served.lost_to) == (1, 3), "the next owner says the same"


def test_a_store_that_cant_be_written_is_named_before_anything_is_opened(
    paths: Paths, environ: dict[str, str]
) -> None:
    """Stock's own words would be of another cause: its store can't be opened."""
    Path(paths.store).touch(0o400)
    remember(paths, environ, epoch=5, begun=0)
    served = read_served(paths.root, environ, KERNEL)
    assert served is not None
    palace = owned(paths, environ, Memory(served, environ, KERNEL))

    with pytest.raises(StoreUnavailable, match=r"can't be written .* its mode is 0400\. Let its"):
        open_journal(attrs.evolve(palace, kernel=Unprivileged()))
    assert not Path(paths.journal).exists()


class Unprivileged(Kernel):
    """A kernel that goes by modes alone, as for everybody but root."""

    def writable(self, path: str) -> bool:
        return bool(Path(path).stat().st_mode & 0o200)
