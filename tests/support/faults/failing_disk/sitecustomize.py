"""Python imports this at its start where PYTHONPATH names this directory: a broker's disk fails.

The directory that PALACEFAULTS names is asked at each fsync of a journal's file and at each record:
`sync`: so many fsyncs fail with EIO, one byte each (the file is emptied byte by byte).
`poison`: a broker that applies a change whose records hold this text ends itself with SIGKILL.
"""

import errno
import os
import runpy
import signal
import sys

runpy.run_path(f"{os.path.dirname(os.path.abspath(__file__))}/../prepared.py")


class Faults:
    """Stands in the place of three methods of `Kernel`."""

    def __init__(self, directory: str) -> None:
        self._sync = f"{directory}/sync"
        self._poison = f"{directory}/poison"
        self._is_poisoned = False

    def sync(self, fd: int) -> None:
        if "/journal/" not in os.readlink(f"/proc/self/fd/{fd}"):
            return
        try:
            left = os.path.getsize(self._sync)
        except FileNotFoundError:
            return
        if left:
            os.truncate(self._sync, left - 1)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write(self, data: bytes) -> None:
        try:
            with open(self._poison, "rb") as file:
                self._is_poisoned = file.read() in data and b'"action":"put"' in data
        except FileNotFoundError:
            return

    def failpoint(self, name: str) -> None:
        if name == "apply" and self._is_poisoned:
            os.kill(os.getpid(), signal.SIGKILL)


if "serve" in sys.orig_argv and "PALACEFAULTS" in os.environ:
    from palace.kernel.kernel import Kernel

    faults = Faults(os.environ["PALACEFAULTS"])
    sync, write = Kernel.sync, Kernel.write

    def failing_sync(kernel: Kernel, fd: int) -> None:
        faults.sync(fd)
        sync(kernel, fd)

    def watched_write(kernel: Kernel, fd: int, data: bytes) -> int:
        faults.write(data)
        return write(kernel, fd, data)

    Kernel.sync = failing_sync  # type: ignore[method-assign, assignment]
    Kernel.write = watched_write  # type: ignore[method-assign, assignment]
    Kernel.failpoint = lambda _kernel, name: faults.failpoint(name)  # type: ignore[method-assign, assignment]
