"""The lifecycle log: whole lines of many processes, bounded, and no way out of the palace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palace.canary.lifecycle_log import LINE_BYTES_MAX, NAME, LifecycleLog
from palace.commands.logs import print_logs
from palace.kernel.kernel import Kernel
from palace.settings.paths import Paths
from tests.support.brokers.loglines import fields_of

WRITER = """
import sys
from palace.canary.lifecycle_log import LifecycleLog
from palace.kernel.kernel import Kernel
log = LifecycleLog(sys.argv[1], Kernel())
for number in range(200):
    assert log.note("sweep", {"number": str(number), "text": "x y " * 90})
"""


def lines_of(root: Path) -> list[dict[str, str]]:
    return [fields_of(line) for line in (root / NAME).read_text().splitlines()]


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(argv) for _ in range(3)]

    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = lines_of(tmp_path)
    assert len(lines) == 600
    for writer in writers:
        mine = [line["number"] for line in lines if line["pid"] == str(writer.pid)]
        assert mine == [str(number) for number in range(200)]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_value_of_somebody_elses_stays_one_bounded_value_of_one_line(tmp_path: Path) -> None:
    log = LifecycleLog(str(tmp_path), Kernel())

    assert log.note("memory-provision", {"tail": "one\ntime=x ev=forged \x1b[2J" + "\u20ac" * 9000})
    assert log.note("wide", {f"key{number}": "\u20ac" * 9000 for number in range(60)})
    assert log.note("owner", {"state": "served", "reason": ""})
    assert (tmp_path / NAME).read_bytes().count(b"\n") == 3
    assert all(len(line) <= LINE_BYTES_MAX for line in (tmp_path / NAME).read_bytes().split(b"\n"))
    first, wide, *_, last = log.latest()
    assert wide.keys() >= {f"key{number}" for number in range(60)}, "each has its share"
    assert first["ev"] == "memory-provision"
    assert first["tail"].startswith("one\\ntime=x ev=forged \\x1b[2J")
    assert (last["ev"], last["state"]) == ("owner", "served")
    assert "reason" not in last


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "no palace"])
def test_what_is_no_file_is_not_written_to_and_fails_nothing(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "palace"
    if kind != "no palace":
        root.mkdir()
    if kind == "link":
        (root / NAME).symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(root / NAME)
    elif kind == "directory":
        (root / NAME).mkdir()
    log = LifecycleLog(str(root), Kernel())

    assert not log.note("owner", {"state": "served"})
    log.put_aside(0)
    assert list(log.latest()) == []
    assert not (tmp_path / "elsewhere").exists()


def test_it_follows_its_palace(tmp_path: Path) -> None:
    root = tmp_path / "palace"
    (root / "deaths").mkdir(parents=True)
    directory = os.open(root / "deaths", os.O_RDONLY | os.O_DIRECTORY)
    try:
        log = LifecycleLog(str(root), Kernel(), directory=directory)
        root.rename(tmp_path / "moved")
        root.mkdir()
        assert log.note("server-exit", {"cause": "oom"})
    finally:
        os.close(directory)

    assert [line["cause"] for line in lines_of(tmp_path / "moved")] == ["oom"]
    assert not (root / NAME).exists()


def test_what_has_grown_too_large_is_put_aside(tmp_path: Path) -> None:
    log = LifecycleLog(str(tmp_path), Kernel())
    log.put_aside(0)
    log.note("owner", {"state": "served"})
    log.put_aside(1 << 20)
    log.note("owner", {"state": "left"})
    log.put_aside(10)
    log.note("owner", {"state": "served"})

    assert [line["state"] for line in lines_of(tmp_path)] == ["served"]
    older = (tmp_path / f"{NAME}.1").read_text().splitlines()
    assert [fields_of(line)["state"] for line in older] == ["served", "left"]


def test_it_is_shown_with_what_was_put_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(**more: bool) -> int:
        return print_logs(Paths(str(tmp_path)), since="", last=0, follow=False, **more)

    log = LifecycleLog(str(tmp_path), Kernel())
    assert shown(lifecycle=True) == 66
    assert f"{tmp_path}/lifecycle.log does not exist" in capsys.readouterr().err
    log.note("owner", {"state": "served"})
    log.put_aside(1)
    log.note("owner", {"state": "left"})

    assert shown(lifecycle=True) == 0
    lines = [fields_of(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["state"] for line in lines] == ["served", "left"]
    assert shown() == 66
