"""What may stand where a file is expected, and is waited for when it is opened: FIFOs, devices."""

import errno
import os
import stat
from io import BufferedReader


def regular(fd: int, path: str) -> int:
    """Return a descriptor of a regular file; close any other, and raise OSError."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return fd


def open_regular(path: str) -> BufferedReader:
    """Open a regular file to read; raises OSError for anything else, and waits for nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return os.fdopen(regular(fd, path), "rb")


def is_odd(path: str) -> bool:
    """Tell whether a name stands for a FIFO or a device."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
