"""Whose directories are, of a path's parts and beside a palace; and who sees the same ones.

Each part is looked at through the descriptor of the one above it.
"""

import os
import stat
import sys

_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WHOLE = ["0", "0", "4294967295"]  # of /proc/self/uid_map, where every uid is mapped to itself


def above_problem(path: str) -> str:
    """Return why what lies above a directory can't be trusted, "" where it can.

    Whoever owns a directory there, or may write to it, can put another one in the place of the next
    part; with the sticky bit only that part's owner can.
    """
    parts = [part for part in os.path.realpath(os.path.dirname(path)).split("/") if part]
    trusted = (0, os.geteuid(), *_nobody())
    at = os.open("/", _FLAGS)
    try:
        for count in range(len(parts) + 1):
            problem = _problem(os.fstat(at), trusted)
            if problem:
                return f"/{'/'.join(parts[:count])}, in which it lies, {problem}"
            if count < len(parts):
                inner = os.open(parts[count], _FLAGS, dir_fd=at)
                os.close(at)
                at = inner
    except FileNotFoundError:
        return ""  # it is yet to be made
    finally:
        os.close(at)
    return ""


def _problem(found: os.stat_result, trusted: "tuple[int, ...]") -> str:
    if found.st_uid not in trusted:
        return f"belongs to uid {found.st_uid}"
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return f"may be written to by everybody (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _nobody() -> "tuple[int, ...]":
    """Return the uid that stands for those without one here, in a user namespace.

    The root of the machine has none in a container that isn't root's.
    """
    if sys.platform != "linux":
        return ()
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            mapped = file.read().split()
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return ()
    return () if mapped == _WHOLE or not text.isdigit() else (int(text),)


def is_shared(path: str) -> bool:
    """Tell whether others may put files of theirs into a directory; one that is missing isn't."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    group = found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid()
    others = found.st_uid not in (0, os.geteuid(), *_nobody())
    return bool(found.st_mode & stat.S_IWOTH or group or others)


def read_own(path: str) -> "bytes | None":
    """Return what a file of this user's holds, None for anybody else's, a link, or none."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError:
        return None
    found = os.fstat(fd)
    plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    if not plain or found.st_uid != os.geteuid():
        os.close(fd)
        return None
    with open(fd, "rb") as file:
        return file.read()


def shares_mounts(pid: int) -> bool:
    """Tell whether the kernel shows that a process sees the files that this one sees.

    It has the same mounts and root directory; one that we may not look at shows nothing.
    """
    if sys.platform != "linux":
        return True  # there is one namespace
    try:
        mounts = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        return mounts and os.path.samefile(f"/proc/{pid}/root", "/proc/self/root")
    except OSError:
        return False
