"""Descriptors of a journal's files, so that they can be read after their names are gone.

Another program may replace the palace's directory and remove the old one, as stock's `migrate`
does.  What is open stays readable, and nothing else does: the files that a journal is read from,
the newest checkpoint and the segments that are not archived yet, are therefore kept open by their
owner.  The archive is not: it repeats what the checkpoint says, but for history.
"""

import attrs

from palace.journal.segment import ARCHIVE, CHUNK, SUFFIX
from palace.kernel.kernel import Kernel

FILES_MAX = 32  # the newest; more are there only while a checkpoint as large is being outgrown


@attrs.define(eq=False, kw_only=True)
class KeptFiles:
    """The open files of one journal, by name; `close` ends it.  Not for threads at once."""

    directory: str
    kernel: Kernel
    _fds: dict[str, int] = attrs.field(factory=dict)
    _directory_id: tuple[int, int] | None = None

    def is_in_place(self) -> bool:
        """Tell whether the directory is the one whose files these are."""
        return self._directory_id in (None, self.kernel.file_id(self.directory))

    def refresh(self) -> None:
        """Open what is new, and close what was archived; nothing in a directory that was replaced.

        A file that is gone and not in the archive stays open: somebody has removed it.
        Trouble with the disk leaves out what could not be opened: appending tells of it.
        """
        try:
            self._refresh()
        except OSError:
            return

    def _refresh(self) -> None:
        found = self.kernel.file_id(self.directory)
        if self._directory_id is None:
            self._directory_id = found
        if found is None or found != self._directory_id:
            return
        names = [n for n in self.kernel.list_directory(self.directory) if n.endswith(SUFFIX)]
        archived = set(self.kernel.list_directory(f"{self.directory}/{ARCHIVE}"))
        for name in self._fds.keys() & (archived - set(names)):
            self.kernel.close(self._fds.pop(name))
        # By age: a checkpoint's name sorts after all segments, and it is needed most.
        for name in sorted(names)[-FILES_MAX:]:
            self._open(name)

    def _open(self, name: str) -> None:
        path = f"{self.directory}/{name}"
        old = self._fds.get(name)
        if old is not None and self.kernel.same_file(old, path):
            return
        self._fds[name] = self.kernel.open_read(path)
        if old is not None:  # a segment that is written again has the name of the old one
            self.kernel.close(old)

    def copy_to(self, target: str) -> int:
        """Copy all that is open into a new directory, durably; return how many files that were.

        Raises OSError; what was copied until then is the caller's to remove.
        """
        self.kernel.make_directory(target)
        for name, fd in self._fds.items():
            new = self.kernel.open_append(f"{target}/{name}")
            try:
                done = 0
                while data := self.kernel.read_at(fd, done, CHUNK):
                    done += len(data)
                    self.kernel.write_all(new, data)
                self.kernel.sync(new)
            finally:
                self.kernel.close(new)
        self.kernel.sync_directory(target)
        return len(self._fds)

    def close(self) -> None:
        while self._fds:
            self.kernel.close(self._fds.popitem()[1])
