"""A disk in memory, behind the port to the kernel: it fills up, fails, and loses its power.

What a file holds beyond its last fsync, and what became of a directory's names since its own, may
be lost from any point at a power cut; nothing else may.  After a failed fsync the file's pages are
dropped: further fsyncs succeed and make nothing durable, as on Linux.
"""

import errno
import os
import threading
from collections.abc import Callable
from typing import NoReturn

import attrs

from palace.kernel.kernel import Kernel
from palace.kernel.mounts import Mount

NOW = "2026-01-01T00:00:00Z"
ROOT = "/palace"

Choose = Callable[[int, int], int]  # one of the integers from low to high, both included


def all_kept(_low: int, high: int) -> int:
    """Lose nothing: a process was killed, the kernel lives on."""
    return high


def all_lost(low: int, _high: int) -> int:
    """Lose all that was not synced."""
    return low


class Stopped(BaseException):
    """The process died at this call; the kernel answers none of its calls any more."""


@attrs.define(eq=False)
class File:
    """A file's bytes, those that are safe, and how far they were cut off since then."""

    data: bytearray = attrs.field(factory=bytearray)
    synced: bytes = b""
    low: int = 0
    allocated: int = 0
    dropped: bool = False  # an fsync has failed: what came since the last one is gone

    def after_power_cut(self, choose: Choose) -> bytes:
        if self.low < len(self.synced) and choose(0, 1):
            return self.synced  # the cut was not durable
        kept = _pick(choose, self.low, len(self.data))
        zeros = _pick(choose, 0, len(self.data) - kept) if kept < len(self.data) else 0
        return bytes(self.data[:kept]) + bytes(zeros)


def _pick(choose: Choose, low: int, high: int) -> int:
    return choose(low, high) if low < high else low


@attrs.define
class Fault:
    call: str
    end: str  # of the path
    skip: int
    times: int
    number: int


@attrs.define(eq=False)
class Renaming:
    """A change of names; None in `new` removes, None in `old` makes `file` (None: a directory)."""

    old: str | None
    new: str | None
    file: File | None = None
    durable: bool = False

    def directories(self) -> set[str]:
        return {os.path.dirname(path) for path in (self.old, self.new) if path is not None}

    def apply(self, names: dict[str, File | None]) -> None:
        if self.old is None:
            assert self.new is not None
            names[self.new] = self.file
        elif self.old in names:
            file = names.pop(self.old)
            if self.new is not None:
                names[self.new] = file


class Disk(Kernel):
    """A kernel whose only disk it is.  `calls` holds what was asked, as (call, path)."""

    def __init__(self, names: dict[str, File | None] | None = None, life: int = 1) -> None:
        self.names: dict[str, File | None] = names or {"/": None, ROOT: None}
        self.safe_names = dict(self.names)
        self.renamings: list[Renaming] = []
        self.open_files: dict[int, tuple[str, File]] = {}
        self.life = life
        self.calls: list[tuple[str, str]] = []
        self.stop_at: int | None = None
        self.dead = False
        self.room: int | None = None  # free bytes; None: as many as you like
        self.reserves = True
        self.faults: list[Fault] = []
        self.fs_type = "ext4"
        self.before_sync: Callable[[], None] = lambda: None
        self._next_fd = 100
        self._lock = threading.RLock()

    # What a test does to it.

    def fail(self, call: str, number: int, *, end: str = "", skip: int = 0, times: int = 1) -> None:
        """Let calls fail, those first left out, whose path ends so."""
        self.faults.append(Fault(call, end, skip, times, number))

    def stop_after(self, calls: int | None) -> None:
        """Let the process die at the call that follows so many."""
        self.stop_at = None if calls is None else len(self.calls) + calls

    def power_cut(self, choose: Choose = all_lost) -> "Disk":
        """Return the disk as the next life finds it; this one stays as it is."""
        names = dict(self.safe_names)
        kept = _pick(choose, 0, len(self.renamings))
        for number, renaming in enumerate(self.renamings):
            if renaming.durable or number < kept:
                renaming.apply(names)
        here = {path for path in names if _is_reachable(path, names)}
        files: dict[str, File | None] = {}
        for path in sorted(here):
            file = names[path]
            data = b"" if file is None else file.after_power_cut(choose)
            files[path] = None if file is None else File(bytearray(data), data, len(data))
        again = Disk(files, self.life + 1)
        again.fs_type, again.reserves = self.fs_type, self.reserves
        return again

    def read(self, path: str) -> bytes:
        file = self.names[path]
        assert file is not None
        return bytes(file.data)

    def put(self, path: str, data: bytes) -> None:
        """Let a file be there, durably, with these bytes."""
        self.names[path] = self.safe_names[path] = File(bytearray(data), data, len(data))

    def count(self, call: str) -> int:
        return sum(name == call for name, _ in self.calls)

    # What the kernel does.

    def _ends(self) -> bool:
        return self.dead or (self.stop_at is not None and len(self.calls) >= self.stop_at)

    def _enter(self, call: str, path: str) -> None:
        if self._ends():
            self.dead = True
            raise Stopped
        self.calls.append((call, path))
        for fault in self.faults:
            if fault.call == call and path.endswith(fault.end) and fault.times:
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                _refuse(fault.number, path)

    def _rename(self, old: str | None, new: str | None, file: File | None = None) -> None:
        renaming = Renaming(old, new, file)
        renaming.apply(self.names)
        self.renamings.append(renaming)

    def _allocate(self, file: File, upto: int, *, partly: bool) -> int:
        """Take blocks up to an offset; return up to which there are some."""
        need = max(0, upto - file.allocated)
        if self.room is not None:
            if need > self.room and not partly:
                _refuse(errno.ENOSPC, "")
            need = min(need, self.room)
            self.room -= need
        file.allocated += need
        return file.allocated

    def utc_text(self) -> str:
        return NOW

    def open_append(self, path: str) -> int:
        with self._lock:
            self._enter("open_append", path)
            if self.names.get(os.path.dirname(path), self) is not None:
                _refuse(errno.ENOENT, path)
            if path not in self.names:
                self._rename(None, path, File())
            return self._descriptor(path)

    def open_read(self, path: str) -> int:
        with self._lock:
            self._enter("open_read", path)
            return self._descriptor(path)

    def _descriptor(self, path: str) -> int:
        file = self.names.get(path)
        if file is None:
            _refuse(errno.ENOENT, path)
        self._next_fd += 1
        self.open_files[self._next_fd] = path, file
        return self._next_fd

    def _file(self, call: str, fd: int) -> File:
        path, file = self.open_files.get(fd, ("", None))
        if file is None:
            self._enter(call, "")
            _refuse(errno.EBADF, "")
        self._enter(call, path)
        return file

    def write(self, fd: int, data: bytes | memoryview) -> int:
        with self._lock:
            file = self._file("write", fd)
            start = len(file.data)
            taken = min(len(data), self._allocate(file, start + len(data), partly=True) - start)
            if data and not taken:
                _refuse(errno.ENOSPC, "")
            file.data += data[:taken]
            return taken

    def truncate(self, fd: int, size: int) -> None:
        with self._lock:
            file = self._file("truncate", fd)
            if self.room is not None:
                self.room += max(0, file.allocated - size)
            file.data[:] = file.data[:size].ljust(size, b"\0")
            file.allocated = size
            file.low = min(file.low, size)

    def size(self, fd: int) -> int:
        return len(self._file("size", fd).data)

    def reserve(self, fd: int, offset: int, size: int) -> bool:
        with self._lock:
            file = self._file("reserve", fd)
            if self.reserves:
                self._allocate(file, offset + size, partly=False)
            return self.reserves

    def sync(self, fd: int) -> None:
        self.before_sync()
        with self._lock:
            path, file = self.open_files.get(fd, ("", None))
            assert file is not None, "this file was closed before"
            try:
                self._enter("sync", path)
            except OSError:
                file.dropped = True
                raise
            if not file.dropped:
                file.synced, file.low = bytes(file.data), len(file.data)

    def sync_directory(self, path: str) -> None:
        with self._lock:
            self._enter("sync_directory", path)
            for renaming in self.renamings:
                renaming.durable |= path in renaming.directories()
            if all(renaming.durable for renaming in self.renamings):
                self.renamings.clear()
                self.safe_names = dict(self.names)

    def read_at(self, fd: int, offset: int, size: int) -> bytes:
        return bytes(self._file("read_at", fd).data[offset : offset + size])

    def close(self, fd: int) -> None:
        with self._lock:
            # Generators that are collected close their files, also after the end.  It doesn't come
            # here: a process that dies unseen would be taken for one that lives.
            if self._ends():
                return
            self._file("close", fd)
            del self.open_files[fd]

    def list_directory(self, path: str) -> list[str]:
        with self._lock:
            self._enter("list_directory", path)
            return [os.path.basename(p) for p in reversed(self.names) if os.path.dirname(p) == path]

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            self._enter("rename", old)
            if old not in self.names:
                _refuse(errno.ENOENT, old)
            self._rename(old, new)

    def unlink(self, path: str) -> bool:
        with self._lock:
            self._enter("unlink", path)
            if path not in self.names:
                return False
            self._rename(path, None)
            return True

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        with self._lock:
            self._enter("make_directory", path)
            if path not in self.names:
                self._rename(None, path)

    def signature(self, path: str) -> tuple[int, int, int] | None:
        self._enter("signature", path)
        file = self.names.get(path)
        return None if file is None else (id(file), len(file.data), 0)

    def file_id(self, path: str) -> tuple[int, int] | None:
        self._enter("file_id", path)
        return (1, id(self.names[path])) if path in self.names else None

    def same_file(self, fd: int, path: str) -> bool:
        return self._file("same_file", fd) is self.names.get(path)

    def read_file(self, path: str, size_max: int = 1 << 20) -> bytes | None:
        self._enter("read_file", path)
        file = self.names.get(path)
        return None if file is None else bytes(file.data[: size_max + 1])

    def read_beneath(self, directory: str, name: str, size_max: int = 1 << 20) -> bytes | None:
        return self.read_file(f"{directory}/{name}", size_max)

    def id_beneath(self, directory: str, name: str) -> tuple[int, int] | None:
        return self.file_id(f"{directory}/{name}")

    def rename_beneath(self, directory: str, old: str, new: str) -> None:
        target = f"{directory}/{new}"
        if "/" in new:
            self.make_directory(os.path.dirname(target))
            self.sync_directory(os.path.dirname(os.path.dirname(target)))
        self.rename(f"{directory}/{old}", target)
        self.sync_directory(os.path.dirname(target))
        self.sync_directory(os.path.dirname(f"{directory}/{old}"))

    def replace_file(self, path: str, data: bytes, mode: int = 0o600) -> None:
        temporary = f"{path}.{self.life}.tmp"
        fd = self.open_append(temporary)
        self.truncate(fd, 0)
        self.write_all(fd, data)
        self.close(fd)
        self.rename(temporary, path)

    def write_durable(self, path: str, data: bytes, mode: int = 0o600) -> None:
        temporary = f"{path}.{self.life}.tmp"
        try:
            fd = self.open_append(temporary)
            try:
                self.truncate(fd, 0)
                self.write_all(fd, data)
                self.sync(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except OSError:
            self.unlink(temporary)
            raise
        self.sync_directory(os.path.dirname(path))

    def free_bytes(self, path: str) -> int:
        return 1 << 40 if self.room is None else self.room

    def failpoint(self, name: str) -> None:
        self._enter("failpoint", name)

    def mount_of(self, path: str) -> Mount:
        return Mount(point="/", fs_type=self.fs_type, source="disk")


def _is_reachable(path: str, names: dict[str, File | None]) -> bool:
    parent = os.path.dirname(path)
    return path == "/" or (parent in names and _is_reachable(parent, names))


def _refuse(number: int, path: str) -> NoReturn:
    raise OSError(number, os.strerror(number), path)
