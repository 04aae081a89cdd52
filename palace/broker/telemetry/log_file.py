"""The file of a broker's log: its standard output and standard error, bounded.

Standard library only, and light: losers of an election load this.
"""

import os

LOG_BYTES_MAX = 5 << 20


def open_log(path: str, bytes_max: int = LOG_BYTES_MAX, *, rotate: bool = True) -> None:
    """Let standard output and standard error be a log's file, appended to.

    One that has grown too large becomes `.1` first, in the place of an older one, if `rotate`.
    """
    try:
        if rotate and os.stat(path).st_size > bytes_max:
            # Not truncated: a process that still logs to it, a leaving owner say, goes on in `.1`.
            os.rename(path, f"{path}.1")
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    # dup2 replaces a descriptor in one step: a thread that writes meanwhile, native code included,
    # meets the old file or the new one, and never a closed descriptor.
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
