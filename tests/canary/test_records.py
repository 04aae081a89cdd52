"""The records of deaths: one each, bounded, in a directory that is this user's alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palace.canary.lifecycle_log import NAME as LOG
from palace.canary.recording import PATIENCE_S, Former, record_death
from palace.canary.records import KEPT_MAX, Directory, Owner, deaths_of, open_directory
from palace.kernel.kernel import Kernel
from palace.protocol import deaths
from tests.support.brokers.loglines import fields_of

KERNEL = Kernel()
PIPE = subprocess.PIPE
OWN = Owner(1000, "f" * 32)
RACER = """
import sys
from palace.canary.recording import record_death
from palace.canary.records import Owner, open_directory
from palace.kernel.kernel import Kernel
kernel = Kernel()
directory = open_directory(sys.argv[1], kernel)
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    record_death(directory, Owner(number, f"{number:032x}"), {"cause": "oom"}, kernel)
"""


class LaterKernel(Kernel):
    """The real kernel, some seconds on."""

    __slots__ = ("later_s",)

    def __init__(self) -> None:
        self.later_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later_s


def owner(epoch: int) -> Owner:
    return Owner(epoch, f"{epoch:032x}")


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return open_directory(str(tmp_path), KERNEL, make=True)


def mark_of(place: Directory, **fields: str) -> dict[str, str]:
    """Return the mark of an owner of this machine that is gone, and so is its canary."""
    known = {
        "server_pid": "7",
        "boot_id": KERNEL.boot_id(),
        "pid_namespace": KERNEL.pid_namespace(),
        "canary_pid": str(1 << 22),
        "canary_start": "1",
        "directory": str(place.inode),
    }
    return known | fields


def exits_in(root: Path) -> list[dict[str, str]]:
    path = root / LOG
    lines = path.read_text().splitlines() if path.exists() else []
    found = [fields_of(line) for line in lines]
    return [line for line in found if line["ev"] == "server-exit"]


def causes_in(root: Path) -> list[str]:
    return [death.cause for death in deaths_of(str(root), KERNEL)]


def test_of_all_that_notice_a_death_one_records_it(tmp_path: Path, directory: Directory) -> None:
    argv = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [subprocess.Popen(argv, text=True, stdin=PIPE, stdout=PIPE) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.communicate("\n")

    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert len(causes_in(tmp_path)) == 50
    assert sorted(int(line["epoch"]) for line in exits_in(tmp_path)) == list(range(50))


def test_the_earliest_records_are_forgotten_and_still_counted(
    tmp_path: Path, directory: Directory
) -> None:
    for epoch in range(KEPT_MAX + 7):
        assert record_death(directory, owner(epoch), {"cause": "oom"}, KERNEL)

    kept = [death.owner.epoch for death in deaths_of(str(tmp_path), KERNEL)]
    assert kept == list(range(7, KEPT_MAX + 7))
    assert directory.count() == KEPT_MAX + 7
    assert len(exits_in(tmp_path)) == KEPT_MAX + 7


def test_of_a_flood_only_the_first_death_is_looked_into(
    tmp_path: Path, directory: Directory
) -> None:
    def look() -> list[str]:
        looked.append(1)
        return ["== memory", "much"]

    looked: list[int] = []
    for epoch in range(3):
        record_death(directory, owner(epoch), {"cause": "oom"}, KERNEL, look=look)
    long_ago = os.stat(directory.path).st_mtime - 60
    os.utime(tmp_path / "deaths" / owner(2).named(".txt"), (long_ago, long_ago))
    record_death(directory, owner(3), {"cause": "oom"}, KERNEL, look=look)

    texts = [Path(death.file).read_text() for death in deaths_of(str(tmp_path), KERNEL)]
    assert ["much" in text for text in texts] == [True, False, False, True]
    assert len(looked) == 2


def test_what_is_known_is_on_the_disk_before_anything_is_looked_into(
    tmp_path: Path, directory: Directory
) -> None:
    class Killed(Exception):
        pass

    def look() -> list[str]:
        raise Killed

    directory.mark(owner(3), mark_of(directory))
    with pytest.raises(Killed):
        record_death(directory, owner(3), {"cause": "swept"}, KERNEL, look=look)

    assert causes_in(tmp_path) == ["swept"]
    assert [line["cause"] for line in exits_in(tmp_path)] == ["swept"]
    assert directory.names() == [owner(3).named(".txt")]


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "deaths").mkdir()
    (tmp_path / "deaths").chmod(mode)

    with pytest.raises(OSError, match="others may write"):
        open_directory(str(tmp_path), KERNEL, make=True)
    with pytest.raises(OSError, match="others may write"):
        list(deaths_of(str(tmp_path), KERNEL))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user: root")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deaths").mkdir(0o700)
    os.chown(tmp_path / "deaths", 12345, 12345)

    with pytest.raises(OSError, match="belongs to uid 12345"):
        open_directory(str(tmp_path), KERNEL, make=True)


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "deaths").symlink_to("elsewhere")

    with pytest.raises(OSError, match="directory"):
        open_directory(str(tmp_path), KERNEL, make=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_names_that_are_squatted_lead_nowhere(tmp_path: Path, directory: Directory) -> None:
    target = tmp_path / "target"
    (tmp_path / "deaths" / owner(1).named(".txt")).symlink_to(target)
    os.mkfifo(tmp_path / "deaths" / owner(2).named(".txt"))
    (tmp_path / "deaths" / owner(3).named(".armed")).symlink_to(target)
    os.mkfifo(tmp_path / "deaths" / owner(4).named(".armed"))
    for name in ("1-x.txt", "-1.txt", f"{'9' * 30}-{'a' * 32}.txt", "notes", ".armed"):
        (tmp_path / "deaths" / name).write_text("time=x cause=oom\n")

    assert not record_death(directory, owner(1), {"cause": "oom"}, KERNEL)
    assert not record_death(directory, owner(2), {"cause": "oom"}, KERNEL)
    with pytest.raises(OSError, match=r"symbolic|regular|No such device"):
        directory.mark(owner(3), {})
    with pytest.raises(OSError, match=r"symbolic|regular|No such device"):
        directory.mark(owner(4), {})
    assert causes_in(tmp_path) == ["unknown", "unknown"]
    assert not target.exists()


# What an owner finds of those before it.


@pytest.mark.parametrize(("boot", "cause"), [("", "unwitnessed"), ("another", "reboot")])
def test_a_death_without_a_witness_is_told_by_the_next_owner_once(
    tmp_path: Path, directory: Directory, boot: str, cause: str
) -> None:
    fields = mark_of(directory, boot_id=boot or KERNEL.boot_id())
    directory.mark(owner(3), fields)
    directory.mark(OWN, mark_of(directory))

    assert not Former(directory, OWN, KERNEL).look()
    assert not Former(directory, OWN, KERNEL).look()
    assert causes_in(tmp_path) == [cause]
    (line,) = exits_in(tmp_path)
    assert (line["cause"], line["epoch"], line["noticed_by"]) == (cause, "3", "epoch 1000")
    assert directory.has(OWN.named(".armed")), "its own mark stays"


def test_an_owner_of_the_same_number_is_another_one(tmp_path: Path, directory: Directory) -> None:
    """As of a palace that was put back from a copy, which counts on from there."""
    directory.mark(Owner(OWN.epoch, "e" * 32), mark_of(directory))
    directory.mark(OWN, mark_of(directory))

    assert not Former(directory, OWN, KERNEL).look()
    assert causes_in(tmp_path) == ["unwitnessed"]
    assert directory.has(OWN.named(".armed"))


def test_a_canary_at_work_is_given_time_and_not_for_ever(
    tmp_path: Path, directory: Directory
) -> None:
    me = str(os.getpid())
    running = {"canary_pid": me, "canary_start": KERNEL.start_time(os.getpid())}
    directory.mark(owner(3), mark_of(directory, **running))
    directory.mark(owner(4), mark_of(directory, canary_pid=me, canary_start="1"))
    kernel = LaterKernel()
    former = Former(directory, OWN, kernel)

    assert former.look()
    assert [death.owner.epoch for death in deaths_of(str(tmp_path), KERNEL)] == [4]
    kernel.later_s = PATIENCE_S - 1
    assert former.look()
    kernel.later_s = PATIENCE_S + 1
    assert not former.look()
    assert causes_in(tmp_path) == ["unwitnessed", "unwitnessed"]
    # That canary goes on, and finds that it was told.
    assert not record_death(directory, owner(3), {"cause": "oom"}, KERNEL)
    assert len(exits_in(tmp_path)) == 2


def test_a_canary_of_another_pid_namespace_is_waited_for(directory: Directory) -> None:
    directory.mark(owner(3), mark_of(directory, pid_namespace="pid:[1]"))
    kernel = LaterKernel()
    former = Former(directory, OWN, kernel)

    assert former.look()
    kernel.later_s = PATIENCE_S + 1
    assert not former.look()


def test_the_mark_of_a_living_owner_that_came_with_a_copy_is_no_death(
    tmp_path: Path, directory: Directory
) -> None:
    directory.mark(owner(3), mark_of(directory, directory=str(directory.inode + 1)))

    assert not Former(directory, OWN, KERNEL).look()
    assert directory.names() == []
    assert not exits_in(tmp_path)


@pytest.mark.parametrize(
    "torn", [b"", b"time=2026-01-31T12:00:00Z ev=server-exit cause=oom number=1\n"]
)
def test_what_a_killed_recorder_had_left_to_do_is_done(
    tmp_path: Path, directory: Directory, torn: bytes
) -> None:
    directory.mark(owner(3), mark_of(directory))
    (tmp_path / "deaths" / owner(3).named(".txt")).write_bytes(torn)

    assert not Former(directory, OWN, KERNEL).look()
    cause = "oom" if torn else deaths.UNWITNESSED
    assert causes_in(tmp_path) == [cause]
    assert [line["cause"] for line in exits_in(tmp_path)] == [cause]
    assert directory.names() == [owner(3).named(".txt")]


def test_marks_by_the_thousand_are_somebody_elses_and_cost_a_start_no_minutes(
    tmp_path: Path, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 3 * KEPT_MAX):
        (tmp_path / "deaths" / owner(number).named(".armed")).touch()
    directory.mark(OWN, mark_of(directory))
    recorded = []

    def record(*given: Any, **named: Any) -> bool:
        recorded.append(given[1].epoch)
        return record_death(*given, **named)

    monkeypatch.setattr("palace.canary.recording.record_death", record)

    assert not Former(directory, OWN, KERNEL).look()
    assert recorded == [*range(2 * KEPT_MAX, 3 * KEPT_MAX)], "the latest"
    assert [one.epoch for one in directory.owners(".armed")] == [OWN.epoch]


def test_a_mark_that_a_power_cut_emptied_is_a_death_all_the_same(
    tmp_path: Path, directory: Directory
) -> None:
    (tmp_path / "deaths" / owner(3).named(".armed")).touch()

    assert not Former(directory, OWN, KERNEL).look()
    assert causes_in(tmp_path) == ["unwitnessed"]


def test_a_mark_is_on_the_disk_whole_before_anybody_relies_on_it(
    tmp_path: Path, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(fd: int) -> None:
        synced.append((os.fstat(fd).st_ino, os.fstat(fd).st_size))

    monkeypatch.setattr(os, "fsync", sync)
    directory.mark(owner(3), {"pid": "7", "boot_id": "b"})

    mark = (tmp_path / "deaths" / owner(3).named(".armed")).stat()
    assert synced == [(mark.st_ino, mark.st_size)]
