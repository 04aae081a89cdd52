"""What only Linux can tell: /proc and SO_PEERCRED."""

import errno
import os
import sys
from _socket import SO_PEERCRED, SOL_SOCKET, socket  # the socket module costs the shim 7 ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.host.mounts import Mount

_UCRED_BYTES = 12  # struct ucred, unix(7): pid, uid, gid, of 4 bytes each


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def mount_of(path: str) -> "Mount":
    from palace.host.mounts import covering, parse_mountinfo  # no shim asks while a broker runs

    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        text = file.read()  # what can't be read must not pass for a foreign mount
    return covering(parse_mountinfo(text), os.path.realpath(path))


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
    return fields[19] if len(fields) > 19 else ""


def process_title(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()[:200]


def in_container() -> bool:
    return os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")


def lock_holder(path: str) -> int | None:
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
