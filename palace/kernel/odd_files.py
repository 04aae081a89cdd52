"""What may stand where a file is expected, and is waited for when it is opened: FIFOs, devices."""

import errno
import os
import stat


def regular(fd: int, path: str) -> int:
    """Return a descriptor of a regular file; close any other, and raise OSError."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return fd


def is_odd(path: str) -> bool:
    """Tell whether a name stands for a FIFO or a device."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
