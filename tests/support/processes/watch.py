"""An outside watcher: which processes have a palace's store open, as /proc shows it.

One thread samples the descriptors of every process as fast as it can.  inotify wakes it at once
when a file of the palace is opened or closed, and counts the opens that fall between two samples.
"""

import ctypes
import os
import select
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

STORE = "chroma.sqlite3"
PAUSE_MS = 1  # lets the test's own threads run; an event ends it early
_IN_OPEN, _IN_CLOSE = 0x20, 0x08 | 0x10
_EVENT = struct.Struct("iIII")
_KTHREADD = "2"


@dataclass(frozen=True)
class Overlap:
    """Two processes that had the store open at one instant: pid -> command line."""

    at_s: float
    holders: dict[int, str]


class Watcher:
    """Watches the stores below some directories, from `__enter__` to `__exit__`."""

    def __init__(self, *roots: Path, rest_ms: float = 0) -> None:
        self._rest_s = rest_ms / 1000  # after each sample, whatever happens meanwhile
        self._roots = tuple(f"{os.path.realpath(root)}/" for root in roots)
        self._kernel_threads = _kernel_threads()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._notify = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._notify < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._unwatched = list(self._roots)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._began_s = self._ended_s = 0.0
        self._problem: BaseException | None = None
        self.samples = 0
        self.events = 0
        self.opens: Counter[str] = Counter()  # file name in a root -> times opened, by anybody
        self.pids: set[int] = set()
        self.writers: set[int] = set()  # of `pids`, those that had it open for writing
        self.overlaps: list[Overlap] = []

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._ended_s = time.monotonic()
        os.close(self._notify)
        if self._problem is not None:
            raise self._problem

    @property
    def samples_per_s(self) -> float:
        until_s = self._ended_s or time.monotonic()
        return self.samples / max(until_s - self._began_s, 1e-9)

    def report(self) -> str:
        return (
            f"watcher: {self.samples} samples, {self.samples_per_s:.0f} a second, "
            f"{self.events} inotify events, openers {sorted(self.pids)}, "
            f"{len(self.overlaps)} overlaps"
        )

    def assert_one_at_a_time(self) -> None:
        """Fail if two processes ever had the store open, or if nobody was seen at all."""
        print(self.report())
        assert self.samples > 0
        assert self.pids, "the watcher has seen nobody: it proves nothing"
        assert not self.overlaps, self.overlaps

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._watch_new_roots()
                self._sample()
                select.select([self._notify], [], [], PAUSE_MS / 1000)
                time.sleep(self._rest_s)
                self._read_events()
            self._sample()
        except BaseException as problem:  # told to the test when it leaves the block
            self._problem = problem

    def _sample(self) -> None:
        """Look at every process once; two holders count only if the first still holds after."""
        found: dict[str, bool] = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and name not in self._kernel_threads and self._holds(name):
                found[name] = True
        self.samples += 1
        self.pids.update(int(name) for name in found)
        if len(found) > 1 and self._holds(next(iter(found))):
            holders = {int(name): _title(name) for name in found}
            self.overlaps.append(Overlap(at_s=time.monotonic(), holders=holders))

    def _holds(self, name: str) -> bool:
        folder = f"/proc/{name}/fd/"
        try:
            descriptors = os.listdir(folder)
        except OSError:
            return False  # it has ended meanwhile
        found = False
        for descriptor in descriptors:
            try:
                path = os.readlink(folder + descriptor)
            except OSError:
                continue
            if path.startswith(self._roots) and _is_store(path):
                found = True
                if int(name) in self.writers or _writable(name, descriptor):
                    self.writers.add(int(name))
                    break
        return found

    def _watch_new_roots(self) -> None:
        for root in tuple(self._unwatched):
            if os.path.isdir(root):
                mask = ctypes.c_uint32(_IN_OPEN | _IN_CLOSE)
                if self._libc.inotify_add_watch(self._notify, os.fsencode(root), mask) < 0:
                    raise OSError(ctypes.get_errno(), f"inotify_add_watch {root}")
                self._unwatched.remove(root)

    def _read_events(self) -> None:
        try:
            data = os.read(self._notify, 65_536)
        except BlockingIOError:
            return
        while data:
            _, mask, _, size = _EVENT.unpack_from(data)
            name = data[_EVENT.size : _EVENT.size + size].rstrip(b"\0").decode()
            data = data[_EVENT.size + size :]
            self.events += 1
            if mask & _IN_OPEN:
                self.opens[name] += 1


def _writable(name: str, descriptor: str) -> bool:
    """Tell whether a descriptor may write, as the kernel shows its flags, in octal."""
    try:
        text = Path(f"/proc/{name}/fdinfo/{descriptor}").read_text()
    except OSError:
        return False
    flags = text.partition("flags:")[2].split()
    return bool(flags) and int(flags[0], 8) & os.O_ACCMODE != os.O_RDONLY


def _is_store(path: str) -> bool:
    path = path.removesuffix(" (deleted)")
    return path.endswith(".bin") or STORE in path.rpartition("/")[2]


def _kernel_threads() -> frozenset[str]:
    """Return the pids of kthreadd and its children, which have no descriptors."""
    found = {_KTHREADD}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[1] == _KTHREADD and not _title(name):
                found.add(name)
    return frozenset(found)


def _title(name: str) -> str:
    try:
        words = Path(f"/proc/{name}/cmdline").read_bytes()
    except OSError:
        return ""
    return words.replace(b"\0", b" ").decode(errors="replace").strip()
