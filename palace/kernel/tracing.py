"""The port to the kernel of a process that writes down the protocol's steps (PALACE_TRACE).

Rule for this file: imported only where a trace is asked for; the shim's start doesn't pay.
"""

import json
import os

from palace.kernel.kernel import Kernel


class TracingKernel(Kernel):
    """The real kernel, and a file that many processes append their steps to."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def trace(self, act: str, **seen: "str | int") -> None:
        """Append one line by one write, so that the file's order is that of the writes.

        The file is opened again for each line: a descriptor kept open would be one more that a
        detached broker closes and that tests of inherited ones find.
        """
        event = {"act": act, "pid": os.getpid(), "t": round(self.monotonic(), 6), **seen}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError:  # what can't be traced must not fail for it
            return
        try:
            os.write(fd, json.dumps(event).encode() + b"\n")
        except OSError:
            return
        finally:
            os.close(fd)
