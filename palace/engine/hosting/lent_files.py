"""Holding a call to the directory that was lent: stock opens files beneath it, or none of others'.

A guest can write in what `path_map` lends, so it can put a link there at any time: between a check
of ours, or of stock's, and the use.  While a thread runs a call that is held, stock's names beneath
the lent directory are therefore opened, listed and looked at by palace/kernel/beneath.py, which
follows no link, and they are never resolved.  Other names are opened only in the engine's own
places: nothing that a file says leads anywhere else.

The functions are replaced for the whole process, and only where something is lent.  In every other
thread they cost a look at a variable.
"""

import builtins
import errno
import io
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from palace.engine.patches import Patch
from palace.engine.stock import Method
from palace.kernel.beneath import OutsideError, open_beneath, parent_beneath
from palace.settings.config import Config
from palace.settings.paths import Paths, cache_dir, home_dir

NAME = "lent_files"
DEPTH_MAX = 128
_LOOK = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK)
_LIST = os.O_RDONLY | os.O_DIRECTORY
_MAKES = os.O_EXCL | getattr(os, "O_TMPFILE", 0)  # a file that was not there
_SYSTEM = ("/usr/share", "/usr/lib", "/dev/null")


class _Thread(threading.local):
    root: str = ""  # what its call is held to, "" for nothing


class Entry:
    """What os.scandir yields, looked at by its name: no link is followed."""

    def __init__(self, directory: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(directory, name)

    def __fspath__(self) -> str:
        return self.path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return os.stat(self.path, follow_symlinks=follow_symlinks)

    def inode(self) -> int:
        return os.lstat(self.path).st_ino

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self._mode())

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        return stat.S_ISDIR(self._mode())

    def is_file(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        return stat.S_ISREG(self._mode())

    def _mode(self) -> int:
        try:
            return os.lstat(self.path).st_mode
        except FileNotFoundError:
            return 0


class Entries:
    """What os.scandir returns."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        return

    def close(self) -> None:
        return


class LentFiles:
    """Holds calls to directories; `own` are the places where the engine keeps and finds its own."""

    def __init__(self, own: tuple[str, ...]) -> None:
        self._own = own
        self._thread = _Thread()

    @classmethod
    def of(cls, paths: Paths, config: Config, environ: Any) -> "LentFiles":
        home = home_dir(environ)
        ours = (paths.root, os.path.dirname(config.graph), config.config_dir, f"{home}/.mempalace")
        python = (sys.prefix, sys.base_prefix, *(path for path in sys.path if path))
        return cls((*ours, cache_dir(environ), *python, *_SYSTEM))

    @contextmanager
    def held_to(self, directory: str) -> Iterator[None]:
        """Hold this thread to a directory, whose own path is trusted; "" holds it to nothing."""
        if directory:
            # It is found by trying to write, under a lock: `_check_elsewhere`, which asks for it,
            # would be called then, and wait for ever.
            tempfile.gettempdir()
        self._thread.root = os.path.normpath(directory) if directory else ""
        try:
            yield
        finally:
            self._thread.root = ""

    def patches(self) -> Iterator[Patch]:
        targets: tuple[tuple[object, str, Callable[[Method], Method]], ...] = (
            (builtins, "open", self._opening),
            (io, "open", self._opening),
            (os, "open", self._opening_descriptors),
            (os, "scandir", self._scanning),
            (os, "listdir", self._listing),
            (os, "stat", self._looking),
            (os, "lstat", self._looking_at_links),
            (os.path, "realpath", self._resolving),
        )
        for owner, attribute, replace in targets:
            yield Patch(
                name=NAME,
                why="between a check and its use, a guest may put a link into what it was lent",
                owner=owner,
                attribute=attribute,
                replace=replace,
            )

    def _name(self, path: object) -> str | None:
        """Return a path's name beneath what this thread is held to, "" for that itself.

        None: it is not held, or this is a path elsewhere, or a descriptor.
        """
        root = self._thread.root
        if not root or isinstance(path, int):
            return None
        found = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
        if found == root:
            return ""
        return found[len(root) + 1 :] if found.startswith(root.rstrip("/") + "/") else None

    @contextmanager
    def _freely(self) -> Iterator[str]:
        """Let this thread, which is in our own code now, open what it needs; yield the root."""
        root, self._thread.root = self._thread.root, ""
        try:
            yield root
        finally:
            self._thread.root = root

    def _open(self, name: str, flags: int, mode: int = 0o600) -> int:
        with self._freely() as root:
            if not name:
                return os.open(root, flags | os.O_CLOEXEC, mode)
            return open_beneath(root, name, flags, mode, parts_max=DEPTH_MAX)

    def _check_elsewhere(self, path: object, flags: int = 0) -> None:
        """Refuse a path that is neither lent nor the engine's own."""
        if not self._thread.root or isinstance(path, int):
            return
        found = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
        places = (*self._own, tempfile.gettempdir()) if flags & _MAKES else self._own
        if not any(found == own or found.startswith(own.rstrip("/") + "/") for own in places):
            raise PermissionError(errno.EACCES, "it is not beneath what was lent", found)

    def _opening(self, stock: Method) -> Method:
        def opener(path: object, flags: int) -> int:
            name = self._name(path)
            assert name is not None
            return self._open(name, flags)

        def guarded(file: Any, *given: Any, **named: Any) -> Any:
            if not self._thread.root:
                return stock(file, *given, **named)
            if self._name(file) is not None:
                named["opener"] = opener
            elif named.get("opener") is None:  # else that one opens it, by os.open
                self._check_elsewhere(file)
            return stock(file, *given, **named)

        return guarded

    def _opening_descriptors(self, stock: Method) -> Method:
        def guarded(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
            if not self._thread.root:
                return stock(path, flags, mode, dir_fd=dir_fd)
            name = self._name(path)
            if name is not None:
                return self._open(name, flags, mode)
            self._check_elsewhere(path, flags)
            return stock(path, flags, mode, dir_fd=dir_fd)

        return guarded

    def _names(self, name: str) -> list[str]:
        fd = self._open(name, _LIST)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _listing(self, stock: Method) -> Method:
        def guarded(path: Any = ".") -> Any:
            name = self._name(path) if self._thread.root else None
            if name is not None:
                return self._names(name)
            self._check_elsewhere(path)
            return stock(path)

        return guarded

    def _scanning(self, stock: Method) -> Method:
        def guarded(path: Any = ".") -> Any:
            name = self._name(path) if self._thread.root else None
            if name is not None:
                return Entries(Entry(os.fspath(path), found) for found in self._names(name))
            self._check_elsewhere(path)
            return stock(path)

        return guarded

    def _look(self, name: str, *, follow: bool) -> os.stat_result:
        """Return what stat(2) says of a name beneath the root; one that is a link can't be asked.

        Where a link itself is meant (not `follow`), it is looked at like any other name.
        """
        if name and not follow:
            with self._freely() as root, parent_beneath(root, name, DEPTH_MAX) as (fd, last):
                return os.stat(last, dir_fd=fd, follow_symlinks=False)
        fd = self._open(name, _LOOK)
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if stat.S_ISLNK(found.st_mode):  # which O_PATH opens, rather than follow it
            raise OutsideError(self._thread.root, name)
        return found

    def _looking(self, stock: Method) -> Method:
        def guarded(
            path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True
        ) -> os.stat_result:
            name = self._name(path) if self._thread.root else None
            if name is not None:
                return self._look(name, follow=follow_symlinks)
            found: os.stat_result = stock(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
            return found

        return guarded

    def _looking_at_links(self, stock: Method) -> Method:
        def guarded(path: Any, *, dir_fd: int | None = None) -> os.stat_result:
            name = self._name(path) if self._thread.root else None
            if name is not None:
                return self._look(name, follow=False)
            found: os.stat_result = stock(path, dir_fd=dir_fd)
            return found

        return guarded

    def _resolving(self, stock: Method) -> Method:
        def guarded(filename: Any, **named: Any) -> Any:
            if self._name(filename) is None:
                return stock(filename, **named)
            found = os.path.abspath(os.fspath(filename))
            if named.get("strict"):
                os.lstat(found)
            return found

        return guarded
