"""Opening what a name in a file stands for, beneath one directory and nowhere else.

Names that come out of files (a journal's records, a plan of renames, a backup's manifest) may be
anybody's: the palace's directory may be lent to a container.  A name is resolved here alone, by the
kernel where it can (openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, Linux 5.6), and part by
part without following links elsewhere.  Links are refused even where they lead inside: between a
check and its use they may lead elsewhere.

The directory itself is trusted: it is the resolved path by which its user named it.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NAME_BYTES_MAX = 255  # of one part
PARTS_MAX = 8
_OPENAT2 = 437  # the same on every architecture
_RESOLVE = 0x08 | 0x04 | 0x02  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS (linux/openat2.h)
_UNSUPPORTED = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG)  # EPERM: a seccomp filter's
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class OutsideError(PermissionError):
    """A name leads out of the directory beneath which it was to be found, or over a link."""

    def __init__(self, directory: str, name: str) -> None:
        super().__init__(errno.EXDEV, f"{name[:80]!r} is no plain name in {directory}")


def parts_of(directory: str, name: str, parts_max: int = PARTS_MAX) -> "list[str]":
    """Return the parts of a relative name; raises OutsideError for any other."""
    parts = name.split("/")
    if len(parts) > parts_max or "\0" in name:
        raise OutsideError(directory, name)
    for part in parts:
        size = len(part.encode("utf-8", "surrogatepass"))
        if part in ("", ".", "..") or size > NAME_BYTES_MAX:
            raise OutsideError(directory, name)
    return parts


def open_beneath(
    directory: str, name: str, flags: int, mode: int = 0o600, *, parts_max: int = PARTS_MAX
) -> int:
    """Open what a name stands for beneath a directory; the caller closes the descriptor.

    Raises OutsideError, and OSError as open(2) does.
    """
    parts = parts_of(directory, name, parts_max)
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    top = os.open(directory, _DIRECTORY)
    try:
        found = _openat2(top, name, flags, mode if flags & os.O_CREAT else 0)
        return _open_parts(top, parts, flags, mode) if found is None else found
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
            raise OutsideError(directory, name) from None
        raise
    finally:
        os.close(top)


def _openat2(top: int, name: str, flags: int, mode: int) -> "int | None":
    """Return a descriptor, None where this kernel has no such call."""
    if sys.platform != "linux":
        return None
    import ctypes

    how = (ctypes.c_uint64 * 3)(flags, mode, _RESOLVE)
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(name)
    fd = int(libc.syscall(_OPENAT2, top, path, ctypes.byref(how), ctypes.sizeof(how)))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return None
    raise OSError(number, os.strerror(number), name)


def _open_parts(top: int, parts: "list[str]", flags: int, mode: int) -> int:
    at = os.dup(top)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(parts[-1], flags, mode, dir_fd=at)
    finally:
        os.close(at)


@contextmanager
def parent_beneath(
    directory: str, name: str, parts_max: int = PARTS_MAX
) -> "Iterator[tuple[int, str]]":
    """Yield a descriptor of the directory in which a name lies, and the name's last part."""
    parts = parts_of(directory, name, parts_max)
    inner = "/".join(parts[:-1])
    if inner:
        fd = open_beneath(directory, inner, _DIRECTORY, parts_max=parts_max)
    else:
        fd = os.open(directory, _DIRECTORY)
    try:
        yield fd, parts[-1]
    finally:
        os.close(fd)
