"""An owner and its canary: armed before it serves, replaced when lost, told at the end."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.broker import canary as canaries
from palace.broker.life import Life
from palace.canary.lifecycle_log import LifecycleLog
from palace.canary.records import deaths_of
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.protocol.errors import LockFailed
from palace.settings.paths import Paths
from tests.support.brokers.loglines import fields_of
from tests.support.processes.brokers import state_of
from tests.support.processes.clients import wait_until

KERNEL = Kernel()


class Unable(Kernel):
    """A kernel that starts nothing, for as long as it is told."""

    __slots__ = ("refuses",)

    def __init__(self) -> None:
        self.refuses = True

    def spawn(self, *args: object, **options: object) -> int:
        if self.refuses:
            raise OSError(11, os.strerror(11))
        return super().spawn(*args, **options)  # type: ignore[arg-type]


@pytest.fixture
def lives() -> Iterator[list[Life]]:
    begun: list[Life] = []
    yield begun
    for life in begun:
        life.left("test")
        pid = life.canary.pid
        wait_until(lambda pid=pid: not pid or KERNEL.reap(pid) is not None, what="it has ended")


def begin(lives: list[Life], root: Path, epoch: int = 1, kernel: Kernel = KERNEL) -> Life:
    ownership = Ownership(Paths(str(root)), -1)
    ownership.epoch = epoch
    life = Life(kernel=kernel)
    life.begin(ownership, "0")
    life.arm("", log_path="")
    lives.append(life)
    return life


def states(root: Path, event: str) -> list[str]:
    return [
        line["state"] for line in LifecycleLog(str(root), KERNEL).latest() if line["ev"] == event
    ]


def marks(root: Path) -> list[str]:
    return [path.name for path in (root / "deaths").glob("*.armed")]


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: state_of(pid) == "Z", what="it is dead")


def test_one_that_leaves_takes_its_mark_along_and_is_no_death(
    tmp_path: Path, lives: list[Life]
) -> None:
    life = begin(lives, tmp_path)
    life.serving()
    life.served()
    assert len(marks(tmp_path)) == 1
    life.leaving("idle")
    life.left()
    wait_until(lambda: KERNEL.reap(life.canary.pid) is not None, what="the canary has ended")

    assert marks(tmp_path) == []
    assert states(tmp_path, "owner") == ["starting", "served", "left"]
    assert list(deaths_of(str(tmp_path), KERNEL)) == []
    life.canary.pid = 0


def test_a_memory_server_that_is_given_up_and_answers_again_is_logged_once_each(
    tmp_path: Path, lives: list[Life]
) -> None:
    life = begin(lives, tmp_path)
    told = {"problem": "", "address": "https://m.example", "open": False, "opened": 0}
    looks = (None, {"problem": "half of it"}, told, *[told | {"open": True, "opened": 1}] * 2)
    for seen in (*looks, told | {"open": True, "opened": 2}, *[told | {"opened": 2}] * 2):
        life.look_at_server(seen)

    lines = [one for one in LifecycleLog(str(tmp_path), KERNEL).latest() if "server" in one]
    assert [(one["ev"], one["state"], one["opened"]) for one in lines] == [
        ("memory-server", "open", "1"),
        ("memory-server", "closed", "2"),
    ]
    assert {one["server"] for one in lines} == {"https://m.example"}


def test_a_lost_canary_is_replaced_at_once_and_then_more_and_more_slowly(
    tmp_path: Path, lives: list[Life]
) -> None:
    life = begin(lives, tmp_path)
    first = life.canary.pid
    end(first)
    life.tick(100.0)
    assert life.canary.pid not in (0, first)
    assert life.report()["canary"] == {
        "state": "armed",
        "pid": life.canary.pid,
        "lost": 1,
        "problem": "",
    }
    end(life.canary.pid)
    life.tick(100.5)  # it looks once a second
    assert life.canary.lost == 1
    pauses = []
    now_s = 101.0
    for _ in range(len(canaries.AGAIN_S)):
        begun_s = now_s
        while not life.canary.pid or state_of(life.canary.pid) == "Z":
            life.tick(now_s)
            now_s += 1.0
        pauses.append(now_s - begun_s)
        end(life.canary.pid)
    assert pauses == sorted(pauses)
    assert pauses[-1] >= canaries.AGAIN_S[-2]
    assert states(tmp_path, "canary") == ["spawned"] * (2 + len(canaries.AGAIN_S))
    life.canary.pid = 0


def test_a_canary_that_cannot_be_started_fails_nothing_and_is_tried_again(
    tmp_path: Path, lives: list[Life]
) -> None:
    kernel = Unable()
    life = begin(lives, tmp_path, kernel=kernel)
    report = life.report()["canary"]
    assert report["state"] == "failed"
    assert "Resource temporarily unavailable" in report["problem"]
    assert len(marks(tmp_path)) == 1, "the next owner would tell of it"
    life.tick(100.0)
    life.tick(102.0)
    assert states(tmp_path, "canary") == ["failed"], "once"
    kernel.refuses = False
    life.tick(200.0)
    assert life.report()["canary"]["state"] == "armed"
    assert states(tmp_path, "canary") == ["failed", "spawned"]


def test_no_canary_is_told_of_an_owner_that_it_could_not_know_again(
    tmp_path: Path, lives: list[Life]
) -> None:
    """It would take it for dead as soon as its pipe was lost."""

    class Forgetful(Kernel):
        forgets = True

        def start_time(self, pid: int) -> str:
            return "" if self.forgets else super().start_time(pid)

    kernel = Forgetful()
    life = begin(lives, tmp_path, kernel=kernel)
    report = life.report()["canary"]
    assert (report["state"], report["pid"], marks(tmp_path)) == ("failed", 0, [])
    assert "when this process was started" in report["problem"]
    kernel.forgets = False
    life.tick(100.0)
    assert life.report()["canary"]["state"] == "armed"
    assert f"start_time={KERNEL.start_time(os.getpid())}".encode() in life.canary._armed


@pytest.mark.parametrize("scarce", ["descriptors", "disk"])
def test_scarcity_at_the_arming_fails_nothing_and_is_made_up_for(
    tmp_path: Path, lives: list[Life], scarce: str
) -> None:
    """What is scarce is so for this process, by its limits: the kernel itself refuses."""
    name = {"descriptors": resource.RLIMIT_NOFILE, "disk": resource.RLIMIT_FSIZE}[scarce]
    soft, hard = resource.getrlimit(name)
    ownership = Ownership(Paths(str(tmp_path)), -1)
    ownership.epoch = 1
    life = Life(kernel=KERNEL)
    life.begin(ownership, "0")
    lives.append(life)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(name, ({"descriptors": free, "disk": 0}[scarce], hard))
    try:
        life.arm("", log_path="")
        life.serving()
        report = life.report()
    finally:
        resource.setrlimit(name, (soft, hard))

    assert report["canary"]["problem"]
    assert report["canary"]["state"] == ("failed" if scarce == "descriptors" else "armed")
    life.tick(100.0)
    told = life.report()["canary"]
    assert (told["state"], told["problem"]) == ("armed", "")
    [mark] = (tmp_path / "deaths").glob("*.armed")
    known = fields_of(mark.read_text())
    assert known["start_time"] == KERNEL.start_time(os.getpid()), "else a living one seems dead"
    assert known["boot_id"] == KERNEL.boot_id()
    assert f"start_time={known['start_time']}".encode() in life.canary._armed


def test_what_calls_itself_a_canary_is_none(tmp_path: Path, lives: list[Life]) -> None:
    """Its title says all that the real one's says; nobody looks for titles."""
    life = begin(lives, tmp_path)
    title = Path(f"/proc/{life.canary.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    code = "import os, sys; os.write(1, b'.'); os.read(0, 1)"
    with subprocess.Popen(
        [*title[:1], "-c", code, *title[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        executable=sys.executable,
    ) as impostor:
        assert impostor.stdout is not None
        assert impostor.stdout.read(1) == b"."
        end(life.canary.pid)
        life.tick(100.0)
        assert life.canary.pid != impostor.pid
        assert life.report()["canary"]["lost"] == 1
        life.left("test")
        wait_until(lambda: KERNEL.reap(life.canary.pid) is not None, what="the real one has ended")
        assert impostor.poll() is None, "and nobody ends it"
        life.canary.pid = 0
        impostor.communicate(b".")


def test_without_a_place_for_records_there_is_no_canary_until_there_is_one(
    tmp_path: Path, lives: list[Life]
) -> None:
    (tmp_path / "deaths").touch()
    life = begin(lives, tmp_path)
    life.serving()
    for now_s in (100.0, 101.0, 200.0):
        life.tick(now_s)
    assert life.report()["canary"]["state"] == "failed"
    assert life.canary.pid == 0
    (tmp_path / "deaths").unlink()
    life.tick(300.0)

    assert life.report()["canary"]["state"] == "armed"
    assert len(marks(tmp_path)) == 1
    assert b" serving" in b"".join(life.canary._said), "it is told what was said before"


def test_a_mark_that_was_removed_is_made_again(tmp_path: Path, lives: list[Life]) -> None:
    life = begin(lives, tmp_path)
    (mark,) = (tmp_path / "deaths").glob("*.armed")
    mark.unlink()
    life.tick(100.0)
    assert mark.exists()
    mark.unlink()
    (tmp_path / "deaths").rmdir()
    life.tick(200.0)
    assert mark.exists()


def test_a_palace_that_was_moved_away_keeps_its_mark_and_nothing_is_made_in_its_place(
    tmp_path: Path, lives: list[Life]
) -> None:
    root = tmp_path / "palace"
    root.mkdir()
    life = begin(lives, root)
    root.rename(tmp_path / "moved")
    root.mkdir()
    life.tick(100.0)
    assert len(marks(tmp_path / "moved")) == 1
    assert list(root.iterdir()) == []
    life.left("moved")

    assert marks(tmp_path / "moved") == []
    assert list(root.iterdir()) == []
    assert states(tmp_path / "moved", "owner") == ["starting", "left"]


def test_one_that_ended_before_it_had_a_canary_is_logged_by_the_next(
    tmp_path: Path, lives: list[Life]
) -> None:
    ownership = Ownership(Paths(str(tmp_path)), -1)
    ownership.epoch = 4
    Life(kernel=KERNEL).begin(ownership, "0")
    life = begin(lives, tmp_path, epoch=5)
    life.refused(LockFailed("x"))
    begin(lives, tmp_path, epoch=6)

    lines = [line for line in LifecycleLog(str(tmp_path), KERNEL).latest() if line["ev"] == "owner"]
    assert [(line["epoch"], line["state"]) for line in lines] == [
        *(("4", "starting"), ("4", "vanished-starting"), ("5", "starting")),
        *(("5", "refused"), ("6", "starting")),
    ]
    assert lines[3]["reason"] == "lock_failed"


def test_what_breaks_it_is_told_by_its_kind_alone(tmp_path: Path, lives: list[Life]) -> None:
    life = begin(lives, tmp_path)
    life.broke(KeyboardInterrupt())
    said = b"".join(life.canary._said)
    assert b"claim" not in said
    life.broke(BaseExceptionGroup("of tasks", [ExceptionGroup("x", [ValueError("a memory")])]))
    said = b"".join(life.canary._said)

    assert b"cause=crashed%20ValueError" in said
    assert b"memory" not in said


def test_until_it_begins_nothing_is_made_or_said(tmp_path: Path) -> None:
    life = Life()
    life.serving()
    life.leaving("stop")
    life.tick(100.0)
    life.left()

    assert life.report()["canary"]["state"] == "skipped"
    assert life.canary.pid == 0
