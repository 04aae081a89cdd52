"""Python imports this at its start where PYTHONPATH names this directory: it ends brokers.

The product knows no environment variable for that, and its brokers are started by its own shims
with its own command line.  So the interpreter puts a killer in the place of `Kernel.failpoint`
before `palace serve` begins; all else runs as it is installed.

The directory that PALACEKILLS names holds two files.  `armed`: lines of `TOKEN POINT N`, of which
the first one counts; at the N-th pass of its point the process takes the line away and ends itself
with SIGKILL; where TOKEN is `held`, the thread stays there instead.  `trace`: where it is there,
the name of each pass is appended to it.
"""

import os
import runpy
import signal
import sys
import threading
import time

runpy.run_path(f"{os.path.dirname(os.path.abspath(__file__))}/../prepared.py")


class Killer:
    """Counts the passes of the point that is armed, in all threads."""

    def __init__(self, directory: str) -> None:
        self._armed = f"{directory}/armed"
        self._trace = f"{directory}/trace"
        self._line = ""
        self._passes = 0
        self._lock = threading.Lock()

    def failpoint(self, name: str) -> None:
        with self._lock:
            self._note(name)
            try:
                with open(self._armed) as file:
                    line, *later = file.read().splitlines()
            except FileNotFoundError:
                return
            token, point, number = line.split()
            if point != name:
                return
            self._passes = self._passes + 1 if line == self._line else 1
            self._line = line
            if self._passes != int(number):
                return
            self._disarm(later)
            if token != "held":
                os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(9)

    def _note(self, name: str) -> None:
        try:
            fd = os.open(self._trace, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return
        os.write(fd, f"{name}\n".encode())
        os.close(fd)

    def _disarm(self, later: list[str]) -> None:
        if later:
            with open(f"{self._armed}.new", "w") as file:
                file.write("\n".join(later))
            os.rename(f"{self._armed}.new", self._armed)
        else:
            os.unlink(self._armed)


if "serve" in sys.orig_argv and "PALACEKILLS" in os.environ:
    from palace.kernel.kernel import Kernel

    killer = Killer(os.environ["PALACEKILLS"])
    Kernel.failpoint = lambda _kernel, name: killer.failpoint(name)  # type: ignore[method-assign, assignment]
