"""What is told of a machine: by the kernel's files, bounded, and nothing of others' arguments."""

import os
from pathlib import Path

import pytest

from palace.canary.forensics import Evidence, MemoryGroup, stalled, timed_out
from palace.kernel.kernel import Kernel


def write(top: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(top)


V2 = "sys/fs/cgroup/a/b/memory.events"
V1 = "sys/fs/cgroup/memory/a/memory.oom_control"


@pytest.mark.parametrize(
    ("groups", "path"),
    [
        ("0::/a/b\n", V2),
        ("0::/seen/from/outside\n", "sys/fs/cgroup/memory.events"),
        ("4:memory:/a\n3:cpu:/\n0::/\n", V1),
        ("4:memory:/seen/from/outside\n0::/\n", "sys/fs/cgroup/memory/memory.oom_control"),
        ("0::/a/b\n", "sys/fs/cgroup/unified/a/b/memory.events"),
    ],
)
def test_the_count_is_that_of_the_group_which_bounds_the_process(
    tmp_path: Path, groups: str, path: str
) -> None:
    files = {
        "proc/self/cgroup": groups,
        "proc/vmstat": "oom_kill 99\n",
        path: "oom 5\noom_kill 2\n",
    }
    group = MemoryGroup(write(tmp_path, files))

    assert group.oom_kills() == 2
    write(tmp_path, {path: "oom 5\noom_kill 3\n"})
    assert group.oom_kills() == 3


@pytest.mark.parametrize("groups", ["", "0::/\n", "nonsense", "4:memory\n"])
def test_without_a_group_it_is_that_of_the_machine(tmp_path: Path, groups: str) -> None:
    files = {"proc/self/cgroup": groups, "proc/vmstat": "nr_free 1\noom_kill 99\n"}

    assert MemoryGroup(write(tmp_path, files)).oom_kills() == 99


@pytest.mark.parametrize("text", ["", "oom_kill x\n", "oom_kill " + "9" * 30, "oom_killed 4\n"])
def test_a_count_that_is_none_is_nothing(tmp_path: Path, text: str) -> None:
    assert MemoryGroup(write(tmp_path, {"proc/vmstat": text})).oom_kills() == 0


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("some avg10=90.00 avg60=0\nfull avg10=61.25 avg60=0.00 total=1\n", 61.25),
        ("", 0.0),
        ("full avg10=x\n", 0.0),
        ("full avg10=\n", 0.0),
    ],
)
def test_how_long_all_waited_for_memory(tmp_path: Path, text: str, percent: float) -> None:
    assert stalled(write(tmp_path, {"proc/pressure/memory": text})) == percent


def test_of_other_processes_only_their_names_are_told(tmp_path: Path) -> None:
    stat = "77 (a (b) c) S 1 77 77 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 100 10000 5000 0"
    files = {"proc/uptime": "100.00 1\n", "proc/77/stat": stat, "proc/77/cmdline": "x\0--secret=y"}
    files |= {
        f"proc/{100 + n}/stat": stat.replace("77 (a", f"{100 + n} (\x1b[2Ja") for n in range(60)
    }
    evidence = Evidence(str(tmp_path), MemoryGroup(""), top=write(tmp_path, files))
    lines = evidence.lines(Kernel())

    begin = lines.index("== largest processes: pid ppid seconds kB name")
    largest = lines[begin + 1 : lines.index("== the palace's disk")]
    assert len(largest) == 25
    assert all(row.isprintable() for row in largest)
    assert "77 1 99 20000 a (b) c" in [row.replace("\\x1b[2J", "") for row in lines] or largest
    assert not [row for row in lines if "secret" in row]


def test_parts_that_cannot_be_had_are_said_to_be_missing(tmp_path: Path) -> None:
    evidence = Evidence(str(tmp_path / "gone"), MemoryGroup(str(tmp_path)), top=str(tmp_path))
    lines = evidence.lines(Kernel())

    assert "(it can't be had: No such file or directory)" in lines
    assert lines[lines.index("== the end of its log") :] == ["== the end of its log"]


def test_once_the_time_is_up_the_rest_is_left_out(tmp_path: Path) -> None:
    class Hurried(Kernel):
        __slots__ = ("now_s",)

        def monotonic(self) -> float:
            self.now_s = getattr(self, "now_s", 0.0) + 1.0
            return self.now_s

    lines = Evidence(str(tmp_path), MemoryGroup()).lines(Hurried())
    assert "(left out: there was no time)" in lines
    assert lines[0] == "== memory"
    assert lines[1] != "(left out: there was no time)"


def test_fresh_core_files_and_crash_reports_are_named_and_nothing_else(tmp_path: Path) -> None:
    fresh = ("core.77", "var/crash/report", "Library/Logs/DiagnosticReports/palace.ips")
    for name in (*fresh, "vmlinuz", "core.7", "var/lib/systemd/coredump/core.old"):
        write(tmp_path, {name: "its memory"})
    (tmp_path / "core").mkdir()
    (tmp_path / "cores").mkdir()
    (tmp_path / "cores" / "core.link").symlink_to(tmp_path / "core.77")
    for name in ("core.7", "var/lib/systemd/coredump/core.old"):
        os.utime(tmp_path / name, (1000, 1000))
    evidence = Evidence(str(tmp_path), MemoryGroup(""), top=str(tmp_path))
    evidence.armed_s = 2000.0

    lines = evidence.lines(Kernel())
    begin = lines.index("== core files since it was armed")
    named = lines[begin + 1 : lines.index("== the end of its log")]
    assert {Path(one).relative_to(tmp_path).as_posix() for one in named} == set(fresh)
    assert "its memory" not in "".join(lines)


STACKS = (
    "time=t level=info pid=7 text=x\nTimeout (0:10:02)!\nThread 0x1 (most recent call first):\n"
)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (STACKS, True),
        (STACKS + "time=t level=info logger=palace.serve pid=8 text=y\n", True),
        (STACKS + "time=t level=info logger=palace.serve pid=7 text=y\n", False),
        ("time=t level=info pid=7 text=x\n", False),
        ("", False),
    ],
)
def test_the_stacks_of_the_second_clock_are_known_by_what_follows(
    tail: str, expected: bool
) -> None:
    assert timed_out(tail, "7") is expected
