"""A copy of a palace's stores as they were at one moment, while another program may be writing.

Theory of operation.  Nothing in the palace is opened but to be read, and SQLite isn't asked where
plain files will do: a read-only connection makes files beside a database in WAL mode.  The files'
sizes and times are noted, they are copied, and the copy counts if nothing of what was noted has
changed meanwhile and no rollback journal was there.  Rows and index then belong together.

A program that writes all the time leaves no such moment.  Then Chroma's database is copied under
the lock of a reader, which keeps a writer from committing.  Chroma waits for five seconds before it
gives up, so the lock is held for one at the most; what can't be copied within it is not copied.

Rule for this file: it runs in a process of its own.  Closing any descriptor of a database drops the
locks that this process holds on it.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from urllib.parse import quote

import attrs

from palace.engine.stores.drawers import is_drawer_file
from palace.engine.stores.files import NAMES
from palace.engine.stores.health import SUSPECT
from palace.kernel.kernel import Kernel
from palace.kernel.odd_files import is_odd, open_regular
from palace.ownership.directory import place_of_lists
from palace.ownership.holders import BESIDE, LATER_HALLWAYS
from palace.protocol.errors import StoreUnavailable
from palace.settings.config import Config
from palace.settings.paths import Paths

GIVE_UP_S = 20.0
LOCK_S = 1.0  # for which Chroma's writer may be kept waiting
PAUSE_S = 0.05
QUIET_TRIES = 4  # without a lock, before one is taken
SETTLED_NS = 30_000_000  # a clock of the kernel's that stamps files may stand still for 10 ms
ROOM_BYTES = 64 << 20  # that the copy must leave free
PART_BYTES = 8 << 20
GRAPH = "knowledge_graph.sqlite3"

Stamp = Mapping[str, tuple[int, int, int] | None]


class _Changed(Exception):
    """Something was written while it was copied."""


@attrs.frozen
class Originals:
    """The files of one palace that its readers need, wherever they lie."""

    paths: Paths
    config: Config
    kernel: Kernel

    def targets(self) -> dict[str, str]:
        """Return each file that is there, with its path in a copy (relative)."""
        root = self.paths.root
        lists = place_of_lists(root)
        places = {f"{root}/{name}": f"palace/{name}" for name in self._in_root()}
        for suffix in ("", "-wal"):
            places[self.config.graph + suffix] = GRAPH + suffix
            places[f"{root}/logstream.sqlite3{suffix}"] = f"palace/logstream.sqlite3{suffix}"
        beside = (*BESIDE, LATER_HALLWAYS, f"{LATER_HALLWAYS}-wal")
        places |= {f"{lists}/{name}": name for name in beside}
        return {path: place for path, place in places.items() if os.path.isfile(path)}

    def _in_root(self) -> Iterator[str]:
        root = self.paths.root
        yield from (*NAMES, SUSPECT, os.path.basename(self.paths.differing_texts))
        for name in self.kernel.list_directory(root):
            if not is_drawer_file(root, name) or "drift" in name or "corrupt" in name:
                continue
            if os.path.isdir(f"{root}/{name}"):
                yield from (f"{name}/{inner}" for inner in os.listdir(f"{root}/{name}"))
            elif not name.endswith(("-journal", "-shm")):
                yield name

    def stamp(self) -> Stamp:
        """Return what changes with every write; any thread may ask."""
        return {path: self.kernel.signature(path) for path in self.targets()}

    def begun_transaction(self) -> bool:
        """Tell whether a database is being written, or was when its writer died."""
        databases = (self.paths.store, self.config.graph, f"{self.paths.root}/logstream.sqlite3")
        return any(os.path.exists(f"{path}-journal") for path in databases)


def copy_stores(originals: Originals, into: str) -> Stamp:
    """Copy all stores into an empty directory: `palace/`, the graph and the lists beside it.

    Returns the stamp of what was copied.  Raises StoreUnavailable where there is no room for a
    copy, or no moment at which the files stay as they are for long enough; and OSError.
    """
    _check_room(originals, into)
    deadline_s, tries = time.monotonic() + GIVE_UP_S, 0
    while True:
        try:
            return _copy_once(originals, into, locked=tries >= QUIET_TRIES)
        except (_Changed, FileNotFoundError, sqlite3.OperationalError) as error:
            if time.monotonic() > deadline_s:
                why = "" if isinstance(error, _Changed) else f" ({error})"
                raise StoreUnavailable(
                    "the palace is written so often that it can't be copied between two "
                    f"changes{why}"
                ) from None
        tries += 1
        time.sleep(PAUSE_S)


def _check_room(originals: Originals, into: str) -> None:
    sizes = [found[1] for found in originals.stamp().values() if found is not None]
    needed, free = sum(sizes) + ROOM_BYTES, originals.kernel.free_bytes(into)
    if needed > free:
        raise StoreUnavailable(
            f"a copy needs {needed >> 20} MiB in {into}, where {free >> 20} MiB are free"
        )


def _copy_once(originals: Originals, into: str, *, locked: bool) -> Stamp:
    store = originals.paths.store
    with ExitStack() as open_to_the_end:  # see the rule for this file
        held = locked and not os.path.exists(f"{store}-wal")
        if held:
            open_to_the_end.enter_context(_reading(store))
        before = _settled(originals)
        if originals.begun_transaction() and not held:
            raise _Changed
        within_s = time.monotonic() + LOCK_S if held else float("inf")
        targets = originals.targets()
        for path in sorted(targets, key=lambda path: path != store):  # the database first
            target = f"{into}/{targets[path]}"
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
            source = open_to_the_end.enter_context(open_regular(path))
            _copy(source.fileno(), target, within_s)
        if targets.keys() != before.keys() or originals.stamp() != before:
            raise _Changed
        if originals.begun_transaction() and not held:
            raise _Changed
    _remove_others(into, set(targets.values()))
    return before


def _settled(originals: Originals) -> Stamp:
    """Return a stamp that the next write is sure to change."""
    for _ in range(2):
        stamp = originals.stamp()
        now_ns = time.time_ns()
        if not any(found and abs(now_ns - found[2]) < SETTLED_NS for found in stamp.values()):
            return stamp
        time.sleep(SETTLED_NS / 1e9)
    raise _Changed


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Hold the lock of a reader of a database, which can't be committed to meanwhile."""
    if is_odd(path):  # SQLite would wait for a FIFO's other end
        raise _Changed
    uri = f"file:{quote(path)}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_S, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield


def _copy(source: int, target: str, within_s: float) -> None:
    """Copy a file's bytes; shares them with the original where the file system can."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(target, flags, stat.S_IRUSR | stat.S_IWUSR)
    try:
        while True:
            if time.monotonic() > within_s:
                raise _Changed  # no, but no query may be kept waiting any longer
            if not _copy_part(source, fd):
                return
    finally:
        os.close(fd)


def _copy_part(source: int, target: int) -> int:
    try:
        return os.copy_file_range(source, target, PART_BYTES)
    except (OSError, AttributeError):  # not between these file systems, or not on this platform
        data = os.read(source, PART_BYTES)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        return len(data)


def _remove_others(into: str, places: set[str]) -> None:
    """Remove what an earlier try has copied, and is not there any more."""
    for directory, _, names in os.walk(into):
        for name in names:
            path = f"{directory}/{name}"
            if path.removeprefix(f"{into}/") not in places:
                os.unlink(path)
