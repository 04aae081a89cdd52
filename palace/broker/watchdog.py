"""Ending a process whose writer is stuck, even while native code holds the interpreter's lock.

Two clocks.  A Trio task ticks once a second and counts ticks without progress: ticks that the
whole process missed (SIGSTOP, a paused machine) are not counted.  Each tick also re-arms
`faulthandler`, whose own thread needs no interpreter lock: it fires when not even a tick came
through for as long.  It is armed only while something is being written, since its clock can't tell
a stopped process from a stuck interpreter.  Either way the process dies at once, the kernel frees
the lock, and the next client elects a new owner.
"""

import faulthandler
import os
import sys
from collections.abc import Callable

import attrs
import trio

TICK_S = 1.0
EXIT_CODE = 70


@attrs.define(eq=False)
class Watchdog:
    """Watches one owner; `limit_s` is how long a running write may make no progress."""

    limit_s: float
    progress: Callable[[], object]
    writing: Callable[[], bool]
    loading: Callable[[], bool]
    _seen: object = None
    _stuck_ticks: int = 0

    async def serve(self) -> None:
        """Tick until cancelled; ends the process where the writer is stuck."""
        try:
            while True:
                self._tick()
                await trio.sleep(TICK_S)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _tick(self) -> None:
        progress = self.progress()
        if self.writing():
            faulthandler.dump_traceback_later(self.limit_s + 2 * TICK_S, exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()
        if not (self.writing() or self.loading()):
            self._seen = None
            return
        if progress != self._seen:
            self._seen = progress
            self._stuck_ticks = 0
            return
        self._stuck_ticks += 1
        if self._stuck_ticks * TICK_S >= self.limit_s:
            self._abort()

    def _abort(self) -> None:
        print(
            f"palace: a write made no progress for {self.limit_s:.0f} s; ending the process, so "
            "that the lock is free (watchdog_s in palace.toml sets the limit)",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_CODE)
