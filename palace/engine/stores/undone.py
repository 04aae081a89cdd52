"""What palaces have taken back in a file that they share, for the others to know.

Each palace journals what it sees in a shared file, whoever wrote it.  What another one wrote in a
call that it never finished, and takes back after a death, would look lost to it: it would write it
again.  So whoever takes something back there says so beside the file, before it does.
"""

import os
from collections.abc import Iterator

import attrs

from palace.journal.record import Payload
from palace.journal.replay import digest_of
from palace.kernel.kernel import Kernel
from palace.protocol.wire import whole_number

ENDING = ".undone"
ENTRIES_MAX = 8192  # of more, the older half is dropped
BYTES_MAX = 1 << 18
STATE_MAX = (1 << 63) - 1


@attrs.frozen
class Undone:
    """The note beside one file; whoever writes it keeps other palaces from the file meanwhile."""

    path: str
    kernel: Kernel

    def note(self, kind: str, ident: str, taken_back: Payload) -> None:
        """Say durably that this state of an entity is about to be taken back."""
        kept = [*self._entries(), state_of(kind, ident, digest_of(taken_back))]
        if len(kept) > ENTRIES_MAX:
            kept = kept[len(kept) // 2 :]
        self.kernel.write_durable(self.path, "".join(f"{one}\n" for one in kept).encode())

    def states(self) -> set[int]:
        """Return what was taken back (`state_of`)."""
        return set(self._entries())

    def _entries(self) -> Iterator[int]:
        data = self.kernel.read_hint(self.path, BYTES_MAX) or b""
        for line in data.splitlines():
            try:
                yield whole_number(line, most=STATE_MAX)
            except ValueError:
                continue  # torn, or another program's


def state_of(kind: str, ident: str, digest: int) -> int:
    """Return the number that stands for a state; an id would say what a purge has to take out."""
    return digest_of([kind, ident, digest]) & STATE_MAX


def undone_of(path: str, root: str, kernel: Kernel) -> Undone | None:
    """Return the note beside a store's file, None for one in the palace, which nobody shares."""
    if os.path.realpath(path).startswith(f"{root}/"):
        return None
    return Undone(f"{path}{ENDING}", kernel)
