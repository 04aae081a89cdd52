"""Files that palace, or stock within it, has written, and in which a purged text could be left.

Beside the palace's own directory those are copies: of stores that a rebuild or a repair has put
aside, of a journal whose directory was taken away, of the stores while stock has its lock, stock's
own archives.  What belongs to this palace alone and nobody needs is cleaned in place; everything
else is looked through, byte for byte, and named.
"""

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress

import attrs

from palace.engine.durability.traces import Traces, files_below, is_held
from palace.engine.embedding.anew import forget_embedded
from palace.engine.stores.drawers import TABLES_MARK
from palace.journal.aside import ASIDE
from palace.journal.inspect import read_from
from palace.journal.purge import Going, purge_journal
from palace.journal.record import Record
from palace.journal.segment import read_lines
from palace.kernel.kernel import Kernel
from palace.ownership.directory import place_of_lists
from palace.ownership.holders import BESIDE, LATER_HALLWAYS
from palace.ownership.served import saved_copies
from palace.protocol.keyring import Keyring
from palace.settings.config import Config
from palace.settings.paths import (
    MILVUS_STORE,
    Paths,
    copies_for_readers,
    embedded_file,
    holds_store,
    home_dir,
    state_dir,
)

_PUT_ASIDE = ("replaced-", "rebuild-", "restore-", "recover-")
_SCRATCH = ("palace-verify-", "palace-try-")
WRITE_LOG = "wal/write_log.jsonl"
_SQLITE = ("-wal", "-shm", "-journal")
_PURGED_LINE = b'{"purged": true}'


@attrs.frozen
class Leftover:
    """A file or a directory that still holds a text: what it is, and what to do."""

    path: str
    what: str
    remedy: str


@attrs.frozen
class Surroundings:
    """All files around one palace; call its methods under the palace's lock."""

    paths: Paths
    config: Config
    environ: Mapping[str, str]
    kernel: Kernel
    keys: Keyring
    plan: str  # the path of the purge's own plan

    # Cleaning.

    def clean(self, going: Going, traces: Traces, palace_id: str) -> None:
        """Take what goes out of copies that are this palace's alone, as far as that is possible."""
        shutil.rmtree(copies_for_readers(palace_id, self.environ), ignore_errors=True)
        # Vectors of the texts that go, by their digests, where `palace set-embedder` was killed.
        forget_embedded(embedded_file(self.paths.root, self.environ), self.kernel)
        # What is the last word on another entity may differ from one journal to the next.
        entities = Going(entities=going.entities)
        for journal in self._journals_aside():
            with suppress(OSError):  # the search will name it
                if self._is_whole(journal):
                    purge_journal(journal, self.kernel, entities, self.keys)
        aside = f"{self.paths.journal}/{ASIDE}"
        for name in self.kernel.list_directory(aside):
            with suppress(OSError):
                self._drop_lines(f"{aside}/{name}", traces)
        for directory in self._stocks_directories():
            with suppress(OSError):
                self._blank_lines(f"{directory}/{WRITE_LOG}", traces)

    def _journals_aside(self) -> Iterator[str]:
        for saved in saved_copies(self.paths.root, self.environ, self.kernel):
            yield f"{saved}/journal"
        for name in self.kernel.list_directory(self.paths.root):
            if name.startswith(_PUT_ASIDE):
                yield f"{self.paths.root}/{name}/journal"

    def _is_whole(self, journal: str) -> bool:
        """Tell whether all of a journal can be read: else what can't would be lost with it."""
        found = list(self.kernel.list_directory(journal))
        records = read_from(journal, self.kernel, keys=self.keys)
        return bool(found) and all(isinstance(record, Record) for record in records)

    def _drop_lines(self, path: str, traces: Traces) -> None:
        lines = [line for _, line in read_lines(path, self.kernel)]
        kept = [line for line in lines if not traces.in_bytes(line)]
        if len(kept) < len(lines):
            self.kernel.write_durable(path, b"".join(b"\n%b\n" % line for line in kept))

    def _blank_lines(self, path: str, traces: Traces) -> None:
        """Write over lines where they stand: stock may be appending others just now."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "r+b") as log:
            at = 0
            for line in log.read().splitlines(keepends=True):
                size = len(line.rstrip(b"\n"))
                if traces.in_bytes(line) and size >= len(_PURGED_LINE):
                    os.pwrite(fd, _PURGED_LINE.ljust(size), at)
                at += len(line)
            os.fsync(fd)

    # Searching.

    def leftovers(self, traces: Traces) -> Iterator[Leftover]:
        """Yield what still holds any of the traces, and what can't be read."""
        seen: set[tuple[int, int] | None] = set()
        for unit in self._units():
            held = ""
            for path in files_below(unit.path, self.kernel):
                if (ident := self.kernel.file_id(path)) in seen:
                    continue
                seen.add(ident)
                held = held or self._problem(path, traces)
            if held:
                yield attrs.evolve(unit, what=f"{unit.what}{held}")
        yield from self._tables_aside()

    def _tables_aside(self) -> Iterator[Leftover]:
        """Yield the notes of tables that a server has kept since the drawers were moved to files.

        Those of a palace that is in tables now were dropped with the rebuild.
        """
        root = self.paths.root
        if self.kernel.file_id(f"{root}/{TABLES_MARK}") is not None:
            return
        for name in sorted(self.kernel.list_directory(root)):
            mark = f"{root}/{name}/{TABLES_MARK}"
            if name.startswith("replaced-") and self.kernel.file_id(mark) is not None:
                number = name.removeprefix("replaced-")
                yield Leftover(
                    mark,
                    f"it names a database whose tables palace_old_{number}_* may hold it, or those "
                    "with stock's names where the move has left them",
                    f"drop those, then: rm {shlex.quote(mark)}",
                )

    def _problem(self, path: str, traces: Traces) -> str:
        try:
            held = is_held(path, traces)
            if not held and path.endswith(".parquet") and f"/{MILVUS_STORE}/" in path:
                from palace.engine.stores.milvus_files import texts_in  # where there are such files

                held = any(map(traces.in_bytes, texts_in(path)))
            return " holds it" if held else ""
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f" can't be read ({error.strerror})"

    def _units(self) -> Iterator[Leftover]:
        """Yield all there is to look through, in parts that are dealt with alike."""
        yield from self._in_root()
        root = self.paths.root
        for path in self._named_like(root, "."):
            yield _removable(path, "a copy of the palace, stock mempalace's or your own,")
        lists = place_of_lists(root)
        beside = (f"{lists}/{name}" for name in (*BESIDE, LATER_HALLWAYS))
        for store in (self.config.graph, *beside):
            yield _broken(store, "a store")
            for path in self._named_like(store, *_SQLITE):
                yield _broken(path, "a part of a store")
            for path in self._named_like(store, ".", "-"):
                yield _removable(path, "an old store, or what an interrupted change has left,")
        yield from self._in_state()
        for directory in self._stocks_directories():
            for path in self._below(directory):
                yield _editable(path, "a file of stock mempalace's")
        for name in self.kernel.list_directory(tempfile.gettempdir()):
            if name.startswith(_SCRATCH):
                path = f"{tempfile.gettempdir()}/{name}"
                if self.kernel.file_owner(path) == os.geteuid():
                    yield _removable(path, "what a killed command has left")

    def _in_state(self) -> Iterator[Leftover]:
        for path in self._below(state_dir(self.environ), ("served", "purging")):
            if ".saved-" in path:
                yield _removable(path, "a journal that a broker has saved")
            elif path != self.plan:
                yield _editable(path, "a file of palace's own state")

    def _in_root(self) -> Iterator[Leftover]:
        for name in sorted(self.kernel.list_directory(self.paths.root)):
            path = f"{self.paths.root}/{name}"
            if name.startswith(_PUT_ASIDE):
                yield _removable(path, "what was put aside, with old stores or an old journal,")
            elif ".damaged" in name or ".replaced-" in name or ".log" in name:
                yield _removable(path, "an old file")
            else:
                yield _broken(path, "a file of the palace")

    def _named_like(self, path: str, *endings: str) -> Iterator[str]:
        """Yield what lies beside a file or directory under its name and one of the endings."""
        directory, name = os.path.split(path)
        for other in sorted(self.kernel.list_directory(directory)):
            if other.startswith(tuple(name + ending for ending in endings)):
                yield f"{directory}/{other}"

    def _below(self, directory: str, entered: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield what lies in a directory, other palaces left out, and in some directories there."""
        root = self.paths.root
        for name in sorted(self.kernel.list_directory(directory)):
            path = f"{directory}/{name}"
            if path == root or holds_store(path):
                continue
            if name in entered or root.startswith(f"{path}/"):
                yield from self._below(path)
            else:
                yield path

    def _stocks_directories(self) -> tuple[str, ...]:
        legacy = f"{home_dir(self.environ)}/.mempalace"
        return tuple(dict.fromkeys((self.config.config_dir, legacy)))


def _removable(path: str, what: str) -> Leftover:
    return Leftover(path, what, f"remove it once you miss nothing: rm -r {shlex.quote(path)}")


def _editable(path: str, what: str) -> Leftover:
    return Leftover(path, what, "look at it, and take out what must go")


def _broken(path: str, what: str) -> Leftover:
    return Leftover(path, what, "purge it again; if it is still there, please report this")
