"""What is remembered of a path outside of its palace, and what is concluded from it."""

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership import lock, served
from palace.ownership.place import take_place
from palace.ownership.served import (
    Memory,
    Served,
    beside_path,
    check_remembered_hold,
    check_there,
    entry_path,
    find_missing,
    forget_served,
    gone,
    is_on_another_disk,
    keep,
    note_hold,
    note_restored,
    notices,
    read_served,
    saved_copies,
    saved_copy_path,
    where_moved,
)
from palace.protocol.errors import LockHeld, OnHold, PalaceReplaced
from palace.settings.paths import Paths
from tests.support.machines.needs import need_root

KERNEL = Kernel()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home")}


def make(root: Path) -> Paths:
    root.mkdir(mode=0o700)
    return Paths(str(root))


def take(
    paths: Paths, environ: dict[str, str], *, serves: bool = True, kernel: Kernel = KERNEL
) -> Memory:
    """Own a palace for a moment, as a broker or as maintenance does."""
    owner = lock.take_lock(paths, KERNEL)
    try:
        return take_place(owner, environ, kernel, serves=serves)
    finally:
        KERNEL.close(owner.lock_fd)


def serve(paths: Paths, environ: dict[str, str], seq: int = 7) -> Memory:
    """Serve a palace for as long as it takes to journal some records."""
    memory = take(paths, environ)
    memory.note_seq(seq)
    os.makedirs(paths.journal, exist_ok=True)
    Path(f"{paths.journal}/{1:020d}.jsonl").touch()
    return memory


def test_an_owner_is_remembered_for_its_user_alone(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)

    found = read_served(paths.root, environ, KERNEL)
    assert found is not None
    assert (found.epoch, found.seq, found.held) == (1, 7, False)
    assert found.palace_id == Path(paths.palace_id).read_text().strip()
    path = Path(entry_path(paths.root, environ))
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    beside = Path(beside_path(paths.root))
    assert beside.stat().st_mode & 0o777 == 0o600
    beside.unlink()
    assert read_served(paths.root, {"HOME": str(tmp_path / "other")}, KERNEL) is None


def test_a_palace_between_two_renames_of_migrates_is_waited_for(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    os.rename(paths.root, f"{paths.root}.old")
    looks = []

    class Swapping(Kernel):
        def file_id(self, path: str) -> tuple[int, int] | None:
            looks.append(path)
            if looks.count(paths.root) == 3:
                os.makedirs(paths.root)
            return super().file_id(path)

    check_there(paths, environ, Swapping())
    assert looks.count(paths.root) == 3

    os.rmdir(paths.root)  # it was killed in between
    monkeypatch.setattr(served, "SWAP_S", 0.1)
    with pytest.raises(PalaceReplaced):
        check_there(paths, environ, KERNEL)


def test_a_note_of_a_later_schema_or_of_no_palace_is_none(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    os.unlink(beside_path(paths.root))
    entry = Path(entry_path(paths.root, environ))
    fields = json.loads(entry.read_bytes())
    for change in ({"v": fields["v"] + 1}, {"palace_id": ""}, {"palace_id": "x"}):
        entry.write_text(json.dumps(fields | change))
        assert read_served(paths.root, environ, KERNEL) is None


@pytest.mark.parametrize("what", ["hold", "restored", "served"])
def test_what_must_outlast_a_crash_is_remembered_durably(
    tmp_path: Path, environ: dict[str, str], what: str
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    durable = []

    class Noting(Kernel):
        def write_durable(self, path: str, data: bytes, mode: int = 0o600) -> None:
            durable.append(path)
            super().write_durable(path, data, mode)

    if what == "hold":
        note_hold(paths, environ, Noting(), held=True)
    elif what == "restored":
        note_restored(paths, environ, Noting(), seq=5)
    else:
        take(paths, environ, kernel=Noting())
    assert {entry_path(paths.root, environ), beside_path(paths.root)} <= set(durable)


def test_a_note_of_an_older_version_is_read_without_what_it_lacks(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ, seq=9)
    os.unlink(beside_path(paths.root))
    entry = Path(entry_path(paths.root, environ))
    fields = json.loads(entry.read_bytes())
    newer = ("saved", "begun", "disk", "lost_with", "unjournalled")
    entry.write_text(json.dumps({key: fields[key] for key in fields if key not in newer}))

    found = read_served(paths.root, environ, KERNEL)
    assert found is not None
    assert (found.seq, found.epoch) == (9, 1)
    assert [getattr(found, name) for name in newer] == ["", 0, "", "", False]
    for lacking in ("v", "path", "palace_id", "since", "moved_to", "former_id", "held"):
        entry.write_text(json.dumps({key: fields[key] for key in fields if key != lacking}))
        assert read_served(paths.root, environ, KERNEL) is None, lacking


@pytest.mark.parametrize(
    ("head", "seq"),
    [
        ('{"seq": 12}', 12),
        *((text, 9) for text in ("", "{", "[]", "{}", '{"seq": "12"}', '{"seq": 3}', "[" * 399)),
    ],
)
def test_what_the_journal_says_is_remembered_where_it_is_further(
    tmp_path: Path, environ: dict[str, str], head: str, seq: int
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ, seq=9)
    Path(paths.journal_head).parent.mkdir(exist_ok=True)
    Path(paths.journal_head).write_text(head)

    assert take(paths, environ).served.seq == seq


def test_a_new_palaces_journal_says_nothing_where_there_is_none(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    memory = take(make(tmp_path / "palace"), environ)

    assert (memory.served.seq, memory.is_first) == (0, True)
    assert saved_copies(str(tmp_path / "nothing"), environ, KERNEL) == []


def test_saved_copies_are_listed_oldest_first_with_another_homes_before(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    memory = serve(paths, environ)
    for epoch in (10, 9, 2):
        os.mkdir(saved_copy_path(paths.root, epoch, environ))
    os.mkdir(saved_copy_path(paths.root, 1, environ) + "x")
    elsewhere = saved_copy_path(paths.root, 11, other_home(tmp_path))
    memory.note_saved(elsewhere)
    ours = [saved_copy_path(paths.root, epoch, environ) for epoch in (2, 9, 10)]

    assert saved_copies(paths.root, environ, KERNEL) == ours, "it is not there yet"
    os.makedirs(elsewhere)
    assert saved_copies(paths.root, environ, KERNEL) == [elsewhere, *ours]


def test_what_an_owner_notes_is_remembered(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    memory = serve(paths, environ, seq=9)
    memory.note_begun(3)
    memory.note_seq(8)
    memory.note_unjournalled()
    memory.note_moved("/elsewhere")
    memory.note_lost(5, 7)

    found = read_served(paths.root, environ, KERNEL)
    assert found is not None
    assert (found.begun, found.seq, found.unjournalled, found.moved_to) == (
        *(3, 9, True, "/elsewhere"),
    )
    assert (found.lost_from, found.lost_to, found.lost_with) == (5, 7, "")
    assert where_moved(found, KERNEL) == ""


def test_what_is_remembered_already_is_not_written_again(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    note_hold(paths, environ, KERNEL, held=True)
    before = os.stat(entry_path(paths.root, environ)).st_ino

    note_hold(paths, environ, KERNEL, held=True)

    assert os.stat(entry_path(paths.root, environ)).st_ino == before


def test_its_past_is_told_as_far_as_there_is_one() -> None:
    past = Served("/p", "a" * 32)
    assert notices(past) == []
    past.copied_from, past.former_id = "b" * 32, "c" * 32
    past.lost_from, past.lost_to = 8, 9

    copied, replaced, lost = notices(past)
    assert f"copy of palace {'b' * 32}" in copied
    assert "another palace (cccccccc)" in replaced
    assert "records 8 to 9 were acknowledged" in lost


def other_home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "other")}


def test_what_one_home_has_served_the_others_miss(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ, seq=7)
    serve(paths, other_home(tmp_path), seq=9)
    for home in (environ, other_home(tmp_path), {"HOME": str(tmp_path / "third")}):
        found = read_served(paths.root, home, KERNEL)
        assert found is not None
        assert (found.epoch, found.seq) == (2, 9)

    shutil.rmtree(paths.root)
    for home in (environ, {"HOME": str(tmp_path / "third")}):
        with pytest.raises(PalaceReplaced, match="palace recover"):
            check_there(paths, home, KERNEL)
    forget_served(paths.root, environ, KERNEL)
    check_there(paths, {"HOME": str(tmp_path / "third")}, KERNEL)


def test_what_the_broker_of_another_home_has_saved_is_found(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    memory = serve(paths, other_home(tmp_path), seq=9)
    Path(memory.save_path).mkdir()
    memory.note_saved(memory.save_path)
    os.unlink(paths.palace_id)

    assert saved_copies(paths.root, environ, KERNEL) == [memory.save_path]
    found = find_missing(paths, environ, KERNEL)
    assert found is not None
    assert found.seq == 9


@pytest.mark.parametrize(
    "name", ["", "precious", "{entry}", "{entry}.saved-x", "a/../{entry}.saved-2"]
)
def test_a_note_names_no_directory_that_is_not_a_saved_one(
    tmp_path: Path, environ: dict[str, str], name: str
) -> None:
    paths = make(tmp_path / "palace")
    memory = serve(paths, environ)
    entry = Path(entry_path(paths.root, environ)).stem
    os.makedirs(tmp_path / "a")
    saved = f"{tmp_path}/{name.format(entry=entry)}"
    os.makedirs(saved, exist_ok=True)
    memory.note_saved(saved)

    assert saved_copies(paths.root, environ, KERNEL) == []


@pytest.mark.parametrize("whose", ["a link", "another user's"])
def test_a_note_beside_that_is_not_ours_says_nothing(tmp_path: Path, whose: str) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, other_home(tmp_path))
    beside = Path(beside_path(paths.root))
    if whose == "a link":
        beside.rename(tmp_path / "elsewhere")
        beside.symlink_to(tmp_path / "elsewhere")
    else:
        need_root()
        os.chown(beside, 54321, 54321)

    assert read_served(paths.root, {"HOME": str(tmp_path / "third")}, KERNEL) is None


def test_of_two_palaces_at_a_path_the_later_one_counts(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ, seq=70)
    forget_served(paths.root, other_home(tmp_path), KERNEL)  # what the first home has stays
    shutil.rmtree(paths.root)
    later = serve(make(tmp_path / "palace"), other_home(tmp_path), seq=9).served
    later.since = "9999-01-01T00:00:00Z"
    keep(later, other_home(tmp_path), KERNEL)

    found = read_served(paths.root, environ, KERNEL)
    assert found is not None
    assert found.palace_id == later.palace_id


@pytest.mark.parametrize("text", ["", "{", "[]", '{"path": 1}', "null", '{"v": 9}'])
def test_a_memory_that_cant_be_read_is_none(
    tmp_path: Path, environ: dict[str, str], text: str
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    for path in (entry_path(paths.root, environ), beside_path(paths.root)):
        Path(path).write_text(text)

    assert read_served(paths.root, environ, KERNEL) is None
    assert take(paths, environ).served.epoch == 2


def test_a_directory_without_its_identity_is_missed_unless_it_never_held_anything(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths, empty = make(tmp_path / "palace"), make(tmp_path / "empty")
    serve(paths, environ)
    take(empty, environ)
    assert find_missing(paths, environ, KERNEL) is None

    for one in (paths, empty):
        os.unlink(one.palace_id)
    assert find_missing(paths, environ, KERNEL) is not None
    assert find_missing(empty, environ, KERNEL) is None
    for one in (paths, empty):
        shutil.rmtree(one.root)
    check_there(empty, environ, KERNEL)
    with pytest.raises(PalaceReplaced, match="palace recover"):
        check_there(paths, environ, KERNEL)


def put_away(paths: Paths, environ: dict[str, str], ending: str) -> Path:
    """Do what stock's commands do to a palace, and forget it."""
    archive = Path(paths.root + ending)
    Path(paths.root).rename(archive)
    make(Path(paths.root))
    Path(paths.store).touch()
    forget_served(paths.root, environ, KERNEL)
    return archive


@pytest.mark.parametrize("ending", [".pre-rebuild-20260101", ".pre-migrate.20260101", ".old"])
def test_what_stock_put_away_is_missed_though_nothing_is_remembered(
    tmp_path: Path, environ: dict[str, str], ending: str
) -> None:
    paths = make(tmp_path / "palace")
    memory = serve(paths, environ)
    put_away(paths, environ, ending)

    missing = find_missing(paths, environ, KERNEL)
    assert missing is not None
    assert (missing.palace_id, missing.epoch) == (memory.served.palace_id, memory.served.epoch)
    assert missing.held is False


def test_of_archives_the_one_that_was_served_last_is_missed(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    first = put_away(paths, environ, ".pre-rebuild-2")
    (first / "epoch").write_text("7\n")
    (first / "broker.hold").touch()
    for number, ending in (("3", ".pre-rebuild-3"), ("x", ".old")):
        shutil.copytree(first, paths.root + ending)
        Path(paths.root + ending, "epoch").write_text(f"{number}\n")
        Path(paths.root + ending, "palace_id").write_text("b" * 32)
        Path(paths.root + ending, "broker.hold").unlink()

    missing = find_missing(paths, environ, KERNEL)
    assert missing is not None
    assert (missing.epoch, missing.held) == (7, True)


@pytest.mark.parametrize("what", ["store", "journal", "identity", "name", "link", "own", "note"])
def test_what_is_no_palace_that_stock_put_away_is_not_missed(
    tmp_path: Path, environ: dict[str, str], what: str
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    archive = put_away(paths, environ, ".pre-rebuild-1")
    assert find_missing(paths, environ, KERNEL) is not None
    if what == "store":
        Path(paths.store).unlink()  # nothing took its place
    elif what == "journal":
        shutil.rmtree(archive / "journal")  # nothing could be brought back
    elif what == "identity":
        (archive / "palace_id").unlink()
    elif what == "name":
        archive.rename(tmp_path / "palace-elsewhere")
    elif what == "own":
        need_root()
        os.chown(archive / "palace_id", 54321, 54321)
    elif what == "link":  # to a file of ours, which is no file of ours
        (archive / "palace_id").rename(tmp_path / "id")
        (archive / "palace_id").symlink_to(tmp_path / "id")
    else:
        keep(Served(paths.root, "a" * 32), environ, KERNEL)  # it was given up
    assert find_missing(paths, environ, KERNEL) is None


def test_a_missing_journal_is_missed_where_a_broker_has_saved_it(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    shutil.rmtree(paths.journal)
    assert find_missing(paths, environ, KERNEL) is None  # the stores hold it all: it is adopted

    for epoch in (12, 2):  # of no owner that is the last one known
        Path(saved_copy_path(paths.root, epoch, environ)).mkdir()
    Path(f"{saved_copy_path(paths.root, 3, environ)}.making").mkdir()
    assert find_missing(paths, environ, KERNEL) is not None
    assert [path.rpartition("-")[2] for path in saved_copies(paths.root, environ, KERNEL)] == [
        "2",
        "12",
    ]


def test_a_hold_outlives_the_directory(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    memory = serve(paths, environ)
    note_hold(paths, environ, KERNEL, held=True)
    memory.note_seq(9)  # an owner's later note keeps it
    assert check_remembered_hold(paths, environ, KERNEL) is None  # its own note is there for that

    os.unlink(paths.palace_id)
    with pytest.raises(OnHold, match="palace start"):
        check_remembered_hold(paths, environ, KERNEL)
    note_hold(paths, environ, KERNEL, held=False)
    found = check_remembered_hold(paths, environ, KERNEL)
    assert found is not None
    assert found.seq == 9


def test_the_epoch_rises_above_all_that_were_served(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    for _ in range(3):
        serve(paths, environ)
    Path(paths.epoch).write_text("1\n")  # an older copy was put back

    assert take(paths, environ).served.epoch == 4


def test_a_copy_becomes_a_palace_of_its_own_once_it_is_served(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    original = serve(paths, environ).served.palace_id
    copy = Paths(str(shutil.copytree(paths.root, tmp_path / "copy")))

    assert take(copy, environ, serves=False).served.palace_id == original
    assert read_served(copy.root, environ, KERNEL) is None
    made = take(copy, environ).served
    assert made.palace_id != original
    assert made.copied_from == f"{original} at {paths.root}"
    assert take(copy, environ).served.copied_from == made.copied_from
    assert take(paths, environ).served.palace_id == original


def test_a_moved_palace_and_one_with_two_names_are_no_copies(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    identity = serve(paths, environ).served.palace_id
    other = Paths(str(tmp_path / "other"))
    os.rename(paths.root, other.root)
    assert serve(other, environ).served.palace_id == identity

    third = Paths(str(tmp_path / "third"))
    os.rename(other.root, third.root)
    os.symlink(third.root, other.root)
    assert take(third, environ).served.palace_id == identity


def test_another_palace_at_the_same_path_is_noted(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    former = serve(paths, environ).served
    Path(paths.palace_id).write_text("ab" * 16 + "\n")

    found = take(paths, environ).served
    assert (found.former_id, found.seq) == (former.palace_id, 0)


def test_a_restored_backup_takes_the_place_on_purpose(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ, seq=9)
    Path(paths.palace_id).write_text("ab" * 16 + "\n")
    take(paths, environ, serves=False).note_lost(8, 9)
    note_restored(paths, environ, KERNEL, seq=5)

    found = take(paths, environ).served
    assert (found.former_id, found.seq, found.lost_to) == ("", 5, 0)


def test_the_refusal_says_where_a_palace_went(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    memory = serve(paths, environ)
    memory.note_moved(str(tmp_path / "elsewhere"))
    os.rename(paths.root, tmp_path / "elsewhere")
    assert f"moved to {tmp_path / 'elsewhere'}" in gone(memory.served, environ, KERNEL).message

    shutil.rmtree(tmp_path / "elsewhere")
    assert "not mounted" in gone(memory.served, environ, KERNEL).message
    Path(memory.save_path).mkdir()
    assert "saved what it held" in gone(memory.served, environ, KERNEL).message


def test_memories_without_a_journal_are_missed_like_those_with_one(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    take(paths, environ).note_unjournalled()
    take(paths, environ)  # the next owner, before it has looked

    shutil.move(paths.root, tmp_path / "elsewhere")
    with pytest.raises(PalaceReplaced, match="was served at"):
        check_there(paths, environ, KERNEL)
    make(tmp_path / "palace")
    missing = find_missing(paths, environ, KERNEL)
    assert missing is not None
    assert missing.unjournalled


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize("instead", ["", "f" * 32])
def test_a_directory_that_is_replaced_while_it_is_taken_stays_whose_it_was(
    tmp_path: Path, environ: dict[str, str], serves: bool, instead: str
) -> None:
    """Whichever call comes after a rename of it, as by stock, makes no palace of what is there."""
    for number in itertools.count():
        paths = make(tmp_path / f"palace{number}")
        identity = serve(paths, environ, seq=9).served.palace_id
        owner = lock.take_lock(paths, KERNEL)
        kernel = _Replacing(paths.root, instead, before=number)
        with contextlib.suppress(LockHeld, FileNotFoundError):
            take_place(owner, environ, kernel, serves=serves)
        KERNEL.close(owner.lock_fd)
        if not kernel.is_done:
            assert number > 20
            return
        assert number or os.listdir(paths.root) == (["palace_id"] if instead else [])
        assert served.holds(paths.root, instead, KERNEL)
        remembered = read_served(paths.root, environ, KERNEL)
        assert remembered is not None
        assert (remembered.palace_id, remembered.seq, remembered.former_id) == (identity, 9, "")
        assert instead or find_missing(paths, environ, KERNEL) is not None
        assert served.holds(f"{paths.root}.pre-rebuild-1", identity, KERNEL)


class _Replacing(Kernel):
    """A kernel under which a directory is renamed before one of its calls, and there is another."""

    def __init__(self, root: str, identity: str, *, before: int) -> None:
        self._root, self._identity, self._before = root, identity, before
        self._calls = 0
        self.is_done = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        if self._calls == self._before:
            self.is_done = True
            os.rename(self._root, f"{self._root}.pre-rebuild-1")
            os.mkdir(self._root, 0o700)
            if self._identity:
                Path(f"{self._root}/palace_id").write_text(f"{self._identity}\n")
        self._calls += 1
        return found


@pytest.mark.parametrize(("epoch", "is_missed"), [(1, False), (2, True), (3, False)])
def test_what_the_last_broker_saved_is_missed_though_an_older_copy_is_there(
    tmp_path: Path, environ: dict[str, str], epoch: int, is_missed: bool
) -> None:
    paths = make(tmp_path / "palace")
    serve(paths, environ)
    serve(paths, environ)
    Path(saved_copy_path(paths.root, epoch, environ)).mkdir()

    assert (find_missing(paths, environ, KERNEL) is not None) is is_missed
    Path(paths.palace_id).write_text("2" * 32)
    assert find_missing(paths, environ, KERNEL) is None  # another palace is


def test_another_disk_is_told_for_as_long_as_the_system_is_up(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    found = serve(paths, environ).served
    boot, device = found.disk.split()
    disks = {
        found.disk: False,
        f"{boot} {int(device) + 1}": True,
        f"another-boot {int(device) + 1}": False,
        "": False,  # as an older version notes it
    }
    told = {}
    for disk in disks:
        found.disk = disk
        told[disk] = is_on_another_disk(found, KERNEL)

    assert told == disks
    found.disk = f"{boot} {int(device) + 1}"
    Path(saved_copy_path(paths.root, 1, environ)).mkdir()
    assert "on another disk. Mount" in gone(found, environ, KERNEL).message
    shutil.rmtree(paths.root)
    assert not is_on_another_disk(found, KERNEL)
