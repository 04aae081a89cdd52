"""What only Linux can tell: /proc and SO_PEERCRED."""

import errno
import os
import sys
from _socket import SO_PEERCRED, SOL_SOCKET, socket  # the socket module costs the shim 7 ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.kernel.mounts import Mount
    from palace.kernel.processes import Process

_UCRED_BYTES = 12  # struct ucred, unix(7): pid, uid, gid, of 4 bytes each


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def mount_of(path: str) -> "Mount":
    from palace.kernel.mounts import covering, parse_mountinfo  # no shim asks while a broker runs

    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        text = file.read()  # what can't be read must not pass for a foreign mount
    return covering(parse_mountinfo(text), os.path.realpath(path))


def path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").strip()


def pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def mount_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/mnt")
    except OSError:
        return ""


def start_time(pid: int) -> str:
    # Field 22 of stat(5); the command in field 2 may hold blanks and brackets.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def process_title(pid: int) -> str:
    from palace.kernel.output import one_line  # whoever runs a process names it

    return one_line(_read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()[:200])


def in_container() -> bool:
    return os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")


def lock_holder(path: str, alone: bool) -> int | None:
    """Find the holder of a flock in /proc/locks (proc(5)); -1 and unseen pids count as none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for row in _read("/proc/locks").splitlines():
        fields = row.split()
        if "->" in fields or len(fields) < 6 or fields[1] != "FLOCK":
            continue
        if alone and fields[3] != "WRITE":
            continue
        if fields[5] == device and fields[4].isdigit() and fields[4] != "0":
            return int(fields[4])
    return None


def peer_of(sock: socket) -> tuple[int, int]:
    raw = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED_BYTES)
    # Without `struct`, which the shim would import for this alone.
    return int.from_bytes(raw[:4], sys.byteorder), int.from_bytes(raw[4:8], sys.byteorder)


def reserve(fd: int, offset: int, size: int) -> bool:
    """Allocate blocks beyond the end of a file, whose size stays (fallocate(2), KEEP_SIZE)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    keep_size = 1
    done = libc.fallocate(fd, keep_size, ctypes.c_long(offset), ctypes.c_long(size))
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINTR):
        return False
    raise OSError(number, os.strerror(number))


def process_of(pid: int) -> "Process | None":
    """Read stat (state, start time in ticks since boot), statm, and environ if it is ours."""
    import time

    from palace.kernel.processes import Process, user_name

    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    found = Process(
        pid,
        title=process_title(pid),
        user=user_name(uid),
        age_s=time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks,
        stopped=fields[0] in "Tt",
    )
    for entry in _read(f"/proc/{pid}/environ").split("\0"):
        if entry.startswith("HOME="):
            found.home = entry[5:]
    pages = _read(f"/proc/{pid}/statm").split()
    found.memory_bytes = int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0
    return found


def openers(path: str) -> "list[int]":
    """Look through the descriptors of all processes that we may look into."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptors = os.listdir(f"/proc/{name}/fd")
        except OSError:  # it is gone, or not ours
            continue
        if any(_leads_to(f"/proc/{name}/fd/{number}", path) for number in descriptors):
            found.append(int(name))
    return found


def _leads_to(link: str, path: str) -> bool:
    try:
        return os.readlink(link) == path
    except OSError:
        return False
