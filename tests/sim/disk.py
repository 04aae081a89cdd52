"""What a power cut leaves of files: what was synced, and by chance some of the rest.

Bytes that no fsync has confirmed may be lost or torn; names whose directory was not synced since
they changed may go back to what they were, the latest first.  After a failed fsync the kernel
forgets that there was something to write: those bytes never reach the disk, whatever that process
syncs later.  Processes that merely die lose nothing.
"""

import os
import random
from dataclasses import dataclass, field

Inode = tuple[int, int]


@dataclass
class _Name:
    """A change of a directory that is not on the disk yet, and how to undo it."""

    directory: str
    what: str  # made, renamed, removed
    path: str
    old: str = ""
    saved: str = ""  # a link to what stood at `path` before


@dataclass
class _Bytes:
    synced: int = 0
    lost: list[tuple[int, int, int]] = field(default_factory=list)  # from, to, whose fsync failed


class Disk:
    """The durable half of a directory tree; told of everything that changes it.

    `cruel`: not even another process's fsync brings to the disk what one has failed to.
    """

    def __init__(self, root: str, attic: str, rng: random.Random, *, cruel: bool = False) -> None:
        self._cruel = cruel
        self._root = root
        self._attic = attic
        self._rng = rng
        self._names: list[_Name] = []
        self._files: dict[Inode, _Bytes] = {}
        self._count = 0
        os.makedirs(attic, exist_ok=True)

    def _inode(self, fd: int) -> Inode:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino

    # What happens to files.

    def made(self, path: str) -> None:
        self._names.append(_Name(os.path.dirname(path), "made", path))

    def opened(self, fd: int) -> None:
        self._files.setdefault(self._inode(fd), _Bytes())

    def truncated(self, fd: int, size: int) -> None:
        file = self._files.get(self._inode(fd))
        if file is not None:
            file.synced = min(file.synced, size)

    def synced(self, fd: int, pid: int) -> None:
        file = self._files.setdefault(self._inode(fd), _Bytes())
        file.synced = os.fstat(fd).st_size
        file.lost = [entry for entry in file.lost if self._cruel or entry[2] == pid]

    def sync_failed(self, fd: int, pid: int) -> None:
        file = self._files.setdefault(self._inode(fd), _Bytes())
        file.lost.append((file.synced, os.fstat(fd).st_size, pid))

    def keep(self, path: str) -> str:
        """Link what stands at a path into the attic; return the link, "" where nothing does."""
        self._count += 1
        saved = f"{self._attic}/{self._count}"
        try:
            os.link(path, saved, follow_symlinks=False)
        except FileNotFoundError:
            return ""
        return saved

    def renamed(self, old: str, new: str, saved: str) -> None:
        self._names.append(_Name(os.path.dirname(new), "renamed", new, old, saved))

    def removed(self, path: str, saved: str) -> None:
        self._names.append(_Name(os.path.dirname(path), "removed", path, saved=saved))

    def directory_synced(self, path: str) -> None:
        self._names = [name for name in self._names if name.directory != path]

    # The cut.

    def cut(self) -> None:
        """Lose what is not on the disk."""
        kept = self._rng.randint(0, len(self._names))
        for name in reversed(self._names[kept:]):
            self._undo(name)
        self._names.clear()
        for directory, _, files in sorted(os.walk(self._root)):
            for file in sorted(files):
                self._lose_bytes(f"{directory}/{file}")

    def _undo(self, name: _Name) -> None:
        try:
            if name.what == "made":
                (os.rmdir if os.path.isdir(name.path) else os.unlink)(name.path)
            elif name.what == "renamed":
                os.rename(name.path, name.old)
        except OSError:
            pass  # it was moved on, or holds what was made durable
        if name.saved and not os.path.lexists(name.path):
            os.link(name.saved, name.path, follow_symlinks=False)

    def _lose_bytes(self, path: str) -> None:
        found = os.lstat(path)
        file = self._files.get((found.st_dev, found.st_ino))
        if file is None:
            return
        size = found.st_size
        keep = self._rng.randint(min(file.synced, size), size)
        with open(path, "r+b") as handle:
            for begin, end, _ in file.lost:
                handle.seek(begin)
                handle.write(b"\0" * max(0, min(end, keep) - begin))
            torn = min(self._rng.choice([0, 0, 1, 7]), keep - min(file.synced, size))
            if torn:
                handle.seek(keep - torn)
                handle.write(b"\0" * torn)
            handle.truncate(keep)
        file.synced = keep
        file.lost.clear()
