"""An owner's canary, as its owner sees it: started, told what is deliberate, started again.

Without one an owner serves all the same, and says that it is not watched.
"""

import os
import sys
from collections.abc import Callable

import attrs

import palace.canary
from palace.kernel.kernel import Kernel
from palace.protocol import wire

PIPE_FD = 3
LOOK_S = 1.0
AGAIN_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # between one that would not start, or stay, and the next
PROGRAM = f"{os.path.dirname(palace.canary.__file__)}/watch.py"

ARMED, FAILED, SKIPPED = "armed", "failed", "skipped"


@attrs.define(eq=False, kw_only=True)
class Canary:
    """One owner's; `state` is armed, failed or skipped (by the setting), `problem` says why.

    `started` is called with the origin of each new one ("launch" or "retrofit"), or with "" and the
    problem where it could not be started.
    """

    kernel: Kernel
    started: Callable[[str], None] = lambda _: None
    state: str = SKIPPED
    problem: str = ""
    pid: int = 0
    start_time: str = ""
    lost: int = 0
    _pipe: int = -1
    _armed: bytes = b""
    _said: list[bytes] = attrs.field(factory=list)
    _tries: int = 0
    _looked_s: float = 0.0
    _again_s: float = 0.0

    def arm(self, fields: dict[str, str]) -> None:
        """Start it, with what it has to know of its owner."""
        self._armed = wire.encode_header(ARMED, fields)
        self._start("launch")

    def fail(self, problem: str) -> None:
        """Note that there is none, and why; `arm` is to be tried again."""
        was, self.state, self.problem = self.state, FAILED, problem
        if was != FAILED:
            self.started("")

    def say(self, kind: str, **fields: str) -> None:
        """Tell it something; one that has ended will be told again when it is replaced."""
        line = wire.encode_header(kind, fields)
        self._said.append(line)
        self._write(line)

    def tick(self, now_s: float) -> None:
        """Start another one where it has ended; at most once a second."""
        if not self._armed or now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        if self.pid and self.kernel.reap(self.pid) is None:
            return
        self.lost += bool(self.pid)
        self.pid = 0
        if now_s < self._again_s:
            return
        if now_s - self._again_s >= AGAIN_S[-1]:
            self._tries = 0
        self._again_s = now_s + AGAIN_S[min(self._tries, len(AGAIN_S) - 1)]
        self._tries += 1
        self._start("retrofit")

    def _start(self, origin: str) -> None:
        try:
            self._spawn()
        except OSError as error:
            self.pid, self.start_time = 0, ""
            self.fail(f"it can't be started: {error.strerror or error}")
            return
        self.state, self.problem = ARMED, ""
        self.start_time = self.kernel.start_time(self.pid)
        self.started(origin)

    def _spawn(self) -> None:
        reading, writing = os.pipe()
        null = -1
        try:
            os.set_blocking(writing, False)  # a stopped canary must not hold up its owner
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            argv = [sys.executable, "-I", "-S", PROGRAM, f"--of={os.getpid()}"]
            os.write(writing, b"".join([self._armed, *self._said]))
            self.pid = self.kernel.spawn(
                argv, {}, log_fd=null, pass_fds={reading: PIPE_FD}, detached=True
            )
        except OSError:
            os.close(writing)
            raise
        finally:
            os.close(reading)
            if null >= 0:
                os.close(null)
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = writing

    def _write(self, data: bytes) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, data)
        except OSError:
            return  # it has ended, or is stopped: `tick` looks
