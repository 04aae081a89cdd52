"""Looking after the locks of an owner that has no loop: a maintenance command.

Locks are found by name, and names can be removed under their holder (palace/broker/watch.py tells
more).  A thread compares them while the command works.  What is gone is taken again where nobody
can have had it meanwhile.  Otherwise the command ends at once, in the middle of whatever it does:
another process may be changing the palace, and everything that maintenance does can be interrupted.
"""

import os
import threading

from palace.kernel.kernel import Kernel
from palace.kernel.output import complain
from palace.ownership.lock import Ownership
from palace.protocol.errors import LockFailed, PalaceError

LOOK_S = 0.25
PATIENCE_S = 10.0  # a full disk may have room again


class Lookout:
    """Looks from `start` to `end`; the locks are to be closed after that."""

    def __init__(self, ownership: Ownership, kernel: Kernel) -> None:
        self._ownership = ownership
        self._kernel = kernel
        self._trouble_s = 0.0  # since when a lock can't be taken again, 0.0: all are held
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="palace-lookout", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self.look()
            except PalaceError as lost:
                complain(
                    f"palace: {lost.message} Another process may be changing the palace, so this "
                    "command has ended; what it did so far is taken up or taken back by the next "
                    "one. Run it again."
                )
                os._exit(lost.exit_code)

    def look(self) -> None:
        """Take again what is gone; raises LockFailed and ForeignWriter where that is not safe."""
        kernel, paths = self._kernel, self._ownership.paths
        try:
            if not kernel.same_file(self._ownership.lock_fd, paths.lock):
                raise LockFailed(f"{paths.lock} was removed or replaced. Never remove it.")
            for held in self._ownership.others:
                if not kernel.same_file(held.fd, held.path):
                    held.take_again(kernel)
                    complain(f"palace: {held.path} was removed, and locked again.")
        except OSError as error:
            now_s = kernel.monotonic()
            self._trouble_s = self._trouble_s or now_s
            if now_s - self._trouble_s >= PATIENCE_S:
                raise LockFailed(f"A lock is gone and can't be taken again: {error}.") from None
            return
        self._trouble_s = 0.0
