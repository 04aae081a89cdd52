"""The locks of data files that lie outside of a palace, and that several palaces may use.

The knowledge graph of a home, and the lists beside palaces that have one parent, belong to each of
these palaces.  Their brokers write them in turns: SQLite's own lock, or mempalace's for a list, is
held for one transaction, from its first read to its end.  What is here only tells who uses a file:

| who | holds `FILE.owner.lock` | so that |
|---|---|---|
| a broker | shared, for life | nobody replaces a file that it has open |
| a maintenance command | alone, until it is done | it may replace the file |
| a broker that has to mend or replace it | alone, for that moment | no other one has it open |
| a broker of an earlier version | alone, for life | none other starts beside it |

Standard library only: every owner runs through here.
"""

import os
from contextlib import contextmanager

from palace.kernel.kernel import Kernel
from palace.ownership.claim import check_again
from palace.ownership.directory import place_of_lists
from palace.ownership.holders import BESIDE, LATER_HALLWAYS, how_to_part
from palace.ownership.lock import NOTE_BYTES_MAX, HeldLock, Ownership, open_lock, take_fence
from palace.protocol.errors import ForeignWriter, StoreUnavailable
from palace.settings.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from palace.settings.config import Config

ENDING = ".owner.lock"


class SharedLock(HeldLock):
    """The lock of a data file that other palaces' brokers may hold as well."""

    __slots__ = ("_data_id", "data_file")

    def __init__(self, data_file: str, fd: int, *, note: bytes, kernel: Kernel) -> None:
        super().__init__(f"lock of {data_file}", f"{data_file}{ENDING}", fd, note=note)
        self.data_file = data_file
        # A list is replaced at each change.
        is_kept = os.path.basename(data_file) not in BESIDE
        self._data_id = kernel.file_id(data_file) if is_kept else None

    def take_again(self, kernel: Kernel) -> None:
        """Share a new file in the place of one that was removed.

        Raises ForeignWriter where another process has it alone, or has replaced the data file.
        """
        fd = open_lock(self.path, kernel)
        if not kernel.try_lock(fd, shared=True) or not kernel.same_file(fd, self.path):
            kernel.close(fd)
            raise ForeignWriter(
                f"{self.path} was removed, and another process has locked it since. Don't remove "
                "lock files while a broker runs: palace stop"
            )
        if self._data_id is not None and kernel.file_id(self.data_file) != self._data_id:
            kernel.close(fd)
            raise ForeignWriter(f"{self.data_file} was replaced after its lock had been removed.")
        # One is enough: whoever waits for the removed file would get it beside all others.
        kernel.close(self.fd)
        self.fd = fd
        self.leave_note(kernel)


def take_other_locks(
    ownership: Ownership, config: "Config", environ: "Mapping[str, str]", kernel: Kernel
) -> None:
    """B4 for maintenance: mempalace's own lock, waited for a while, then the data files', alone."""
    take_fence(ownership, config, environ, kernel)
    take_data_locks(ownership, config, environ, kernel, alone=True)


def take_data_locks(
    ownership: Ownership,
    config: "Config",
    environ: "Mapping[str, str]",
    kernel: Kernel,
    *,
    alone: bool = False,
) -> None:
    """B4: the locks of the data files outside the palace, which aren't waited for."""
    if place_of_lists(ownership.paths.root) == ownership.paths.root:
        _bring_lists(ownership.paths, kernel)
    for data_file in outside_files(ownership.paths, config):
        _take_data_lock(ownership, data_file, kernel, alone=alone)
    check_again(ownership.paths, kernel, environ)  # as late as can be before anything is written
    kernel.trace("B4.data")


def _bring_lists(paths: Paths, kernel: Kernel) -> None:
    """Copy the lists that this user keeps beside the palace, where others may put theirs."""
    from palace.kernel.whose import read_own

    has_later = kernel.file_id(f"{paths.root}/{LATER_HALLWAYS}") is not None
    for name in BESIDE:
        if has_later and name == "hallways.json":
            continue  # it was imported: once more, and what was deleted since would come back
        here = f"{paths.root}/{name}"
        data = read_own(f"{os.path.dirname(paths.root)}/{name}")
        if data is not None and kernel.file_id(here) is None:
            kernel.write_durable(here, data)


def outside_files(paths: Paths, config: "Config") -> "list[str]":
    """Return the palace's data files that lie outside of its directory."""
    lists = place_of_lists(paths.root)
    candidates = [config.graph, *(f"{lists}/{name}" for name in BESIDE)]
    inside = paths.root + "/"
    resolved = [os.path.realpath(path) for path in candidates]
    return [path for path in resolved if not path.startswith(inside)]


def _take_data_lock(ownership: Ownership, data_file: str, kernel: Kernel, *, alone: bool) -> None:
    directory = os.path.dirname(data_file)
    if kernel.file_id(directory) is None:
        os.makedirs(directory, 0o700, exist_ok=True)
    if not kernel.writable(directory):
        # Without a writable directory no process of this user can replace the file.
        if kernel.file_id(data_file) is None or not kernel.writable(data_file):
            return
        raise ForeignWriter(
            f"{data_file} belongs to this palace, but {directory} is not writable, so it can't be "
            f"locked against other palaces. Make the directory writable or the file read-only."
        )
    path = f"{data_file}{ENDING}"
    fd = open_lock(path, kernel)
    if not kernel.try_lock(fd, shared=not alone):
        note = kernel.read_at(fd, 0, NOTE_BYTES_MAX).decode(errors="replace").strip()
        kernel.close(fd)
        raise ForeignWriter(
            f"{_used_by_another(data_file, note)} {how_to_part(data_file, note, alone=alone)}.",
            file=data_file,
            holder=note,
        )
    ours = f"pid {os.getpid()} serves {ownership.paths.root}".encode()
    held: HeldLock = SharedLock(data_file, fd, note=ours, kernel=kernel)
    if alone:  # and stays so, should its file be removed
        held = HeldLock(held.name, path, fd, note=ours)
    ownership.add(held, kernel)


def _used_by_another(data_file: str, note: str) -> str:
    return f"{data_file} is shared with another palace whose broker runs: {note or 'unknown'}."


@contextmanager
def alone_with(
    ownership: Ownership, data_files: "Collection[str]", kernel: Kernel
) -> "Iterator[None]":
    """Keep other palaces' brokers from having these files open until the block ends.

    For whoever replaces one of them.  Files without a lock are the palace's own.  Raises
    StoreUnavailable where another broker uses one, and ForeignWriter where it is lost.
    """
    resolved = {os.path.realpath(path) for path in data_files}
    shared = [one for one in ownership.others if isinstance(one, SharedLock)]
    taken: list[SharedLock] = []
    try:
        for held in shared:
            if held.data_file not in resolved:
                continue
            # Linux lets go of the shared lock before it tries for the other one.
            taken.append(held)
            if not kernel.try_lock(held.fd):
                note = kernel.read_at(held.fd, 0, NOTE_BYTES_MAX).decode(errors="replace").strip()
                raise StoreUnavailable(
                    f"{_used_by_another(held.data_file, note)} Nobody may replace it meanwhile. "
                    f"{how_to_part(held.data_file, note, alone=True)}."
                )
        yield
    finally:
        for held in taken:
            if not kernel.try_lock(held.fd, shared=True):
                raise ForeignWriter(f"Another process has taken {held.path} meanwhile.")
