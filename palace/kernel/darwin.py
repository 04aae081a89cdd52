"""What only macOS can tell.  Written from the documentation; no figure here was measured.

Sources: unix(4) for LOCAL_PEERCRED and LOCAL_PEERPID, sysctl(3) for kern.boottime, getfsstat(2)
as mount(8) prints it, fcntl(2) for F_FULLFSYNC.
"""

import fcntl
import os
import struct
from _socket import socket  # the socket module costs the shim 7 ms, subprocess as much

from palace.kernel.mounts import Mount, covering

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.kernel.processes import Process

_SOL_LOCAL = 0
_LOCAL_PEERCRED = 0x001
_LOCAL_PEERPID = 0x002
_XUCRED = "IIh16I"  # version, uid, number of groups, groups
_F_FULLFSYNC = 51
_F_GETPATH = 50
_PATH_BYTES = 1024  # MAXPATHLEN


def _run(*argv: str) -> str:
    import subprocess

    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def parse_mount_output(text: str) -> list[Mount]:
    """Read what mount(8) prints: `SOURCE on POINT (TYPE, option, ...)`."""
    mounts = []
    for row in text.splitlines():
        source, on, rest = row.partition(" on ")
        point, bracket, options = rest.rpartition(" (")
        if on and bracket:
            fs_type = options.rstrip(")").split(",")[0].strip()
            mounts.append(Mount(point=point, fs_type=fs_type, source=source))
    return mounts


def mount_of(path: str) -> Mount:
    return covering(parse_mount_output(_run("/sbin/mount")), os.path.realpath(path))


def boot_id() -> str:
    """Return the boot session's uuid, which changes with every boot."""
    return _run("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").strip()


def pid_namespace() -> str:
    return ""  # macOS has one


def mount_namespace() -> str:
    return ""


def start_time(pid: int) -> str:
    state, _, began = _run("/bin/ps", "-o", "state=,lstart=", "-p", str(pid)).strip().partition(" ")
    return "" if state.startswith("Z") else began.strip()


def process_title(pid: int) -> str:
    from palace.kernel.output import one_line  # whoever runs a process names it

    return one_line(_run("/bin/ps", "-o", "command=", "-p", str(pid)).strip()[:200])


def memory_text() -> str:
    """Return what vm_stat(1) and sysctl(8) say of memory and swap, for people."""
    return _run("/usr/bin/vm_stat") + _run("/usr/sbin/sysctl", "vm.swapusage")


def in_container() -> bool:
    return False  # containers on macOS run Linux, and this file with it doesn't


def lock_holder(path: str, alone: bool) -> int | None:
    """Ask lsof who has the lock file open; what kind of a lock it has, if any, can't be told."""
    if alone:
        return None
    own = os.getpid()
    for row in _run("/usr/sbin/lsof", "-t", "--", path).split():
        if row.isdigit() and int(row) != own:
            return int(row)
    return None


def peer_of(sock: socket) -> tuple[int, int]:
    raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, struct.calcsize(_XUCRED))
    _version, uid, *_groups = struct.unpack(_XUCRED, raw)
    pid = struct.unpack("i", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))[0]
    return pid, uid


def path_of(fd: int) -> str:
    found = fcntl.fcntl(fd, _F_GETPATH, bytes(_PATH_BYTES))
    return os.fsdecode(found.split(b"\0", 1)[0])


def full_sync(fd: int) -> None:
    """Flush a file through the drive's cache, which fsync(2) doesn't do on macOS."""
    fcntl.fcntl(fd, _F_FULLFSYNC)


def reserve(_fd: int, _offset: int, _size: int) -> bool:
    """F_PREALLOCATE would do it; without a machine to try it on, nothing is kept."""
    return False


def process_of(pid: int) -> "Process | None":
    from palace.kernel.processes import Process

    row = _run("/bin/ps", "-o", "state=,rss=,user=,etime=", "-p", str(pid)).split()
    if len(row) < 4:
        return None
    found = Process(
        pid,
        title=process_title(pid),
        user=row[2],
        age_s=_seconds(row[3]),
        stopped=row[0].startswith("T"),
    )
    found.memory_bytes = int(row[1]) * 1024 if row[1].isdigit() else 0
    return found


def _seconds(elapsed: str) -> float:
    """Read what ps(1) calls etime: [[days-]hours:]minutes:seconds."""
    days, _, clock = elapsed.rpartition("-")
    total = float(days or 0)
    parts = clock.split(":")
    for part, size in zip(parts, (24, 60, 60)[-len(parts) :], strict=True):
        total = total * size + float(part)
    return total


def openers(path: str) -> "list[int]":
    return [int(row) for row in _run("/usr/sbin/lsof", "-t", "--", path).split() if row.isdigit()]
