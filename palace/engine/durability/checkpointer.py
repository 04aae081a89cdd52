"""Keeping the journal short: checkpoints are made in the background, when enough was written."""

import logging
import threading
import time

import attrs

from palace.journal.checkpoint import BYTES_MIN, is_due, make_checkpoint
from palace.journal.journal import Journal

PAUSE_S = 0.002  # between portions, so that calls get the interpreter
# After an opening.  Whoever elected this owner waits for its first reply; what earlier owners left
# to be done, of hundreds of megabytes perhaps, can wait.
FIRST_S = 5.0

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False, kw_only=True)
class Checkpointer:
    """A thread that wakes up whenever a segment is full.  A daemon: it may die at any step.

    A checkpoint that is interrupted leaves a temporary file, which the next one removes.
    """

    journal: Journal
    bytes_min: int = BYTES_MIN
    first_s: float = FIRST_S
    _wake: threading.Event = attrs.field(factory=threading.Event)
    _ended: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self.journal.rolled = self._wake.set
        self._thread = threading.Thread(target=self._serve, name="palace-checkpointer", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Begin no further checkpoint, and break off one that is being made."""
        self._ended = True
        self._wake.set()

    def _serve(self) -> None:
        wait_s: float | None = self.first_s
        while True:
            self._wake.wait(wait_s)
            wait_s = None
            self._wake.clear()
            if self._ended:
                return
            try:
                self._make_if_due()
            except _EndedError:
                return
            except OSError as error:  # no space for it: the segments still hold everything
                logger.warning("no checkpoint was made: %s", error)

    def _make_if_due(self) -> None:
        journal = self.journal
        if is_due(journal.directory, journal.kernel, bytes_min=self.bytes_min):
            made = make_checkpoint(journal.directory, journal.kernel, journal.stamp, self._pause)
            if made is not None:
                journal.note_archived()
                logger.info("checkpoint up to %d: %d entities", made.seq, made.entities)

    def _pause(self) -> None:
        if self._ended:
            raise _EndedError
        time.sleep(PAUSE_S)


class _EndedError(Exception):
    """The owner is leaving."""
