"""What a machine looked like when an owner died: bounded parts, each a few lines of text.

Nothing here may fail or take long: a part that can't be had says so in its line, and the parts stop
once their time is up.  Of other processes only the name that the kernel keeps is told: command
lines hold secrets.

Standard library only: the canary loads this.  `top` stands before the paths of the kernel's files.
"""

import os
import stat
import sys

from palace.kernel.output import one_line

ALL_S = 3.0
FILE_BYTES_MAX = 16_384
LINES_MAX = 60
LARGEST = 25
LOG_LINES = 40
CORES = (
    "//",
    "/var/crash",
    "/var/lib/systemd/coredump",
    "/cores",
    "/Library/Logs/DiagnosticReports",
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from palace.kernel.kernel import Kernel


def read_text(path: str, most: int = FILE_BYTES_MAX) -> str:
    """Return a file's beginning as text, "" where it can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(fd, most).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


class MemoryGroup:
    """The cgroup that bounds a process's memory, of either version; found once, by its files.

    In a container the path that the process is told may not exist: then it is the mount's top.
    """

    __slots__ = ("_counter", "files")

    def __init__(self, top: str = "", pid: str = "self") -> None:
        self.files: tuple[str, ...] = ()
        self._counter = f"{top}/proc/vmstat"  # of the whole machine, where there is no group
        for base, path in _groups(read_text(f"{top}/proc/{pid}/cgroup")):
            names = _V1 if base.endswith("/memory") else _V2
            for directory in (f"{top}{base}{path}".rstrip("/"), f"{top}{base}"):
                if read_text(f"{directory}/{names[0]}"):
                    self._counter = f"{directory}/{names[0]}"
                    self.files = tuple(f"{directory}/{name}" for name in names)
                    return

    def oom_kills(self) -> int:
        """Return how many processes of it the kernel has killed for want of memory."""
        for row in read_text(self._counter, 1 << 18).splitlines():
            name, _, count = row.partition(" ")
            if name == "oom_kill" and count.isdecimal() and len(count) < 20:
                return int(count)
        return 0


_V1 = (
    *("memory.oom_control", "memory.usage_in_bytes", "memory.max_usage_in_bytes"),
    *("memory.limit_in_bytes", "memory.failcnt"),
)
_V2 = (
    *("memory.events", "memory.current", "memory.peak", "memory.max", "memory.high"),
    *("memory.swap.current", "memory.swap.max"),
)


def _groups(text: str) -> "Iterator[tuple[str, str]]":
    """Yield (mount, path) of what /proc/PID/cgroup says about memory, the older version first."""
    rows = [row.split(":", 2) for row in text.splitlines() if row.count(":") >= 2]
    yield from (("/sys/fs/cgroup/memory", row[2]) for row in rows if row[1] == "memory")
    for row in rows:
        if row[:2] == ["0", ""]:
            yield from ((base, row[2]) for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))


def stalled(top: str = "") -> float:
    """Return in how much of the last 10 s everything waited for memory, in percent (PSI)."""
    for row in read_text(f"{top}/proc/pressure/memory").splitlines():
        if row.startswith("full avg10="):
            try:
                return float(row[len("full avg10=") :].split()[0])
            except (ValueError, IndexError):
                return 0.0
    return 0.0


class Evidence:
    """What is read of a death: the palace, its log, and what was known while its owner lived.

    `limits` is what the kernel said of its limits, `armed_s` when that was (seconds since 1970 by
    the disk's clock), `tail` the last lines of its log at the end.
    """

    __slots__ = ("armed_s", "group", "limits", "root", "tail", "top")

    def __init__(self, root: str, group: MemoryGroup, *, top: str = "") -> None:
        self.root = root
        self.group = group
        self.top = top
        self.limits = ""
        self.tail = ""
        self.armed_s = 0.0

    def lines(self, kernel: "Kernel") -> "list[str]":
        """Return all parts, those first that are gone first; takes ALL_S and one part at most."""
        until_s = kernel.monotonic() + ALL_S
        found: list[str] = []
        for title, part in self._parts():
            found.append(f"== {title}")
            if kernel.monotonic() >= until_s:
                found.append("(left out: there was no time)")
                continue
            try:
                rows = part()
            except OSError as error:
                rows = [f"(it can't be had: {error.strerror})"]
            found += [one_line(row, 300) for row in rows[:LINES_MAX]]
        return found

    def _parts(self) -> "Iterator[tuple[str, Callable[[], list[str]]]]":
        yield "memory", self._memory
        yield "memory's limits", lambda: [f"{_name(f)}: {_short(f)}" for f in self.group.files]
        for name in ("memory", "cpu", "io"):
            yield (
                f"pressure on {name}",
                lambda name=name: read_text(f"{self.top}/proc/pressure/{name}").splitlines(),  # type: ignore[misc]
            )
        yield "largest processes: pid ppid seconds kB name", self._largest
        yield "the palace's disk", self._disk
        yield "limits of the process", self.limits.splitlines
        yield "core files since it was armed", self._cores
        yield "the end of its log", lambda: self.tail.splitlines()[-LOG_LINES:]

    def _memory(self) -> "list[str]":
        if sys.platform == "darwin":
            from palace.kernel.darwin import memory_text

            return memory_text().splitlines()
        return read_text(f"{self.top}/proc/meminfo").splitlines()[:30]

    def _largest(self) -> "list[str]":
        page_kb = os.sysconf("SC_PAGE_SIZE") // 1024
        ticks = os.sysconf("SC_CLK_TCK")
        up_s = float((read_text(f"{self.top}/proc/uptime").split() or ["0"])[0])
        found = []
        for name in os.listdir(f"{self.top}/proc"):
            if not name.isdigit():
                continue
            begin, _, rest = read_text(f"{self.top}/proc/{name}/stat").rpartition(")")
            fields = rest.split()
            if len(fields) > 21:
                kb = int(fields[21]) * page_kb
                age_s = up_s - int(fields[19]) / ticks
                comm = begin.partition("(")[2]
                found.append((kb, f"{name} {fields[1]} {age_s:.0f} {kb} {comm}"))
        return [row for _, row in sorted(found, reverse=True)[:LARGEST]]

    def _disk(self) -> "list[str]":
        found = os.statvfs(self.root)
        free, total = found.f_bavail * found.f_frsize >> 20, found.f_blocks * found.f_frsize >> 20
        inodes = f"{found.f_favail} of {found.f_files} inodes free"
        return [f"{free} of {total} MiB free, {inodes}", f"inode {os.stat(self.root).st_ino}"]

    def _cores(self) -> "list[str]":
        names = []
        for directory in CORES:
            try:
                entries = list(os.scandir(f"{self.top}{directory}"))
            except OSError:
                continue
            names += [entry.path for entry in entries if self._is_newer_core(entry)]
        return sorted(names)

    def _is_newer_core(self, entry: "os.DirEntry[str]") -> bool:
        is_core = entry.name.startswith("core") or not entry.path.startswith(f"{self.top}//")
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return False
        return is_core and stat.S_ISREG(found.st_mode) and found.st_mtime >= self.armed_s


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _short(path: str) -> str:
    return " ".join(read_text(path).split()) or "-"


def tail_of(path: str, size: int = 65_536) -> str:
    """Return the end of a log, "" where it can't be read."""
    from palace.kernel.odd_files import open_regular

    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def timed_out(tail: str, pid: str) -> bool:
    """Tell whether a log's end is what the watchdog's second clock writes before it ends a process.

    It is no line of the log's form, and no line of that very process follows it.
    """
    begin = tail.rfind("\nTimeout (")
    return begin >= 0 and f" pid={pid} " not in tail[begin:]
