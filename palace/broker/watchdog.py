"""Ending a process whose writer is stuck, even while native code holds the interpreter's lock.

Two clocks.  A Trio task ticks once a second and counts ticks without progress: ticks that the
whole process missed (SIGSTOP, a paused machine) are not counted.  Each tick also re-arms
`faulthandler`, whose own thread needs no interpreter lock: it fires when not even a tick came
through for as long.  It is armed only while something is being written, since its clock can't tell
a stopped process from a stuck interpreter.  Either way the process dies at once, the kernel frees
the lock, and the next client elects a new owner.

The first clock runs while the engine is loaded, too, but never with less than `LOADING_S`: a
limit for writes says nothing about how long imports take on a busy machine.
"""

import faulthandler
import logging
import os
from collections.abc import Callable

import attrs
import trio

from palace.protocol.deaths import WATCHDOG

logger = logging.getLogger("palace.broker")

STDERR = 2  # sys.stderr may stand for something else (palace/broker/telemetry/logs.py)
TICK_S = 1.0
EXIT_CODE = 70
LOADING_S = 300.0  # imports say nothing on their way, and wait for a busy machine's disk and cores


@attrs.define(eq=False)
class Watchdog:
    """Watches one owner; `limit_s` is how long a running write may make no progress.

    Loading may take as long, and `LOADING_S` at least.  `claim` is told of what ends the process.
    """

    limit_s: float
    progress: Callable[[], object]
    writing: Callable[[], bool]
    loading: Callable[[], bool]
    claim: Callable[[str], None] = lambda _: None
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
        writing = self.writing()
        if writing:
            faulthandler.dump_traceback_later(self.limit_s + 2 * TICK_S, exit=True, file=STDERR)
        else:
            faulthandler.cancel_dump_traceback_later()
        if not (writing or self.loading()):
            self._seen = None
            return
        seen = (writing, self.progress())  # a write doesn't inherit the ticks of the loading
        if seen != self._seen:
            self._seen = seen
            self._stuck_ticks = 0
            return
        self._stuck_ticks += 1
        limit_s = self.limit_s if writing else max(self.limit_s, LOADING_S)
        if self._stuck_ticks * TICK_S >= limit_s:
            self._abort("a write" if writing else "loading the engine", limit_s)

    def _abort(self, what: str, limit_s: float) -> None:
        logger.critical(
            "%s made no progress for %.0f s; ending the process, so that the lock is free "
            "(watchdog_s in palace.toml sets the limit)",
            what,
            limit_s,
        )
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        self.claim(WATCHDOG)
        os._exit(EXIT_CODE)
