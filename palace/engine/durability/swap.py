"""Putting new stores in the place of old ones, all or none.

Theory of operation.  No system call renames several files at once.  So the renames are written
down first: until that plan is durable nothing has happened, and from then on it is carried through,
by the next holder of the lock if need be, however often it is interrupted.  Each rename is made
durable before the next, in order, so that old files are away before new ones take their names; a
rename is recognized as done by its source being gone.

The plan lies in the palace, which may be lent to a container: a rename that no rebuild and no
restoration of this palace makes is refused, and with it the whole plan.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence

import attrs

from palace.engine.stores.drawers import TABLES_MARK
from palace.engine.stores.files import NAMES as FILES
from palace.engine.stores.rows import FILE_ENDS
from palace.kernel.kernel import Kernel
from palace.ownership.directory import place_of_lists
from palace.ownership.holders import BESIDE, LATER_HALLWAYS
from palace.protocol.decoding import decode_json, is_text
from palace.protocol.errors import StoreCorrupt
from palace.settings.paths import EXACT_STORE, MILVUS_MARK, MILVUS_STORE, Paths

PLAN = "swap.json"
PLAN_BYTES_MAX = 1 << 22
MOVES_MAX = 10_000
_NUMBER = r"\d{1,20}"
# What Chroma makes: its database, a segment's directory, one that stock has put aside.
_CHROMA = re.compile(r"chroma\.sqlite3[\w.:-]{0,80}|[0-9A-Za-z-]{36}(?:\.[\w.:-]{1,80})?")
_RECOVERED = ("journal", "palace.toml", "protocol", "epoch", "palace_id")


@attrs.frozen
class Move:
    """One rename; it is done when its source is gone.

    Where another move puts something in its source's place, it is done when its target is there.
    """

    old: str
    new: str


@attrs.frozen
class Exchange:
    """The renames that this palace's maintenance may make.

    `graph` is where the settings have the knowledge graph, "" while they are not known.
    """

    paths: Paths
    graph: str
    kernel: Kernel

    def swap(self, moves: Sequence[Move]) -> None:
        """Carry out renames within one file system each; a crash leaves them to `finish`."""
        plan = json.dumps([[move.old, move.new] for move in moves]).encode()
        self.kernel.write_durable(self._plan, plan)
        self.finish()

    @property
    def is_begun(self) -> bool:
        """Tell whether an interrupted swap has left something to finish."""
        return self.kernel.file_id(self._plan) is not None

    def finish(self) -> bool:
        """Carry through what an interrupted swap has left; False where there was none.

        Raises StoreCorrupt for a plan of somebody else's, before anything is renamed.
        """
        plan = self.kernel.read_beneath(self.paths.root, PLAN, PLAN_BYTES_MAX)
        if plan is None:
            return False
        moves = list(self._read(plan))
        targets = {move.new for move in moves}
        for move in moves:
            # Where `old` is also a target, a file of that name may be the new one, which a later
            # rename of this plan has put there already: then it is the presence of `new` that
            # tells.
            done = self._is_there(move.new) if move.old in targets else False
            if self._is_there(move.old) and not done:
                self._rename(move)
        # Only now: until the last rename is durable it must be found.
        self.kernel.unlink(self._plan)
        self.kernel.sync_directory(self.paths.root)
        return True

    @property
    def _plan(self) -> str:
        return f"{self.paths.root}/{PLAN}"

    # What may be renamed.

    def _read(self, plan: bytes) -> Iterator[Move]:
        try:
            entries = decode_json(plan)
        except ValueError as error:
            raise self._refused(f"it can't be read ({error})") from None
        if not isinstance(entries, list) or len(entries) > MOVES_MAX:
            raise self._refused("it is no list of renames")
        for entry in entries:
            if not isinstance(entry, list) or len(entry) != 2 or not all(map(is_text, entry)):
                raise self._refused("it is no list of renames")
            move = Move(*entry)
            if not self._is_ours(move):
                raise self._refused(f"no rebuild renames {move.old!r} to {move.new!r}")
            yield move

    def _refused(self, why: str) -> StoreCorrupt:
        return StoreCorrupt(
            f"{self._plan} is no plan of this palace's own: {why}. Nothing was renamed. Find out "
            "who wrote it, remove it, and see what the palace lacks: palace doctor --drift"
        )

    def _is_ours(self, move: Move) -> bool:
        old, new = self._inside(move.old), self._inside(move.new)
        name = os.path.basename(move.old)
        if move.old in self._files_anywhere() or (old is not None and self._is_store(old)):
            kept = rf"replaced-{_NUMBER}/{re.escape(name)}"
            aside = rf"{re.escape(move.old)}\.replaced-{_NUMBER}"
            if old is None:
                return re.fullmatch(aside, move.new) is not None
            return new is not None and re.fullmatch(kept, new) is not None
        if move.new in self._files_anywhere() and move.old == f"{move.new}.rebuilt":
            return True
        if old is None or new is None:
            return False
        built = re.fullmatch(rf"rebuild-{_NUMBER}/palace/([^/]+)", old)
        if built is not None:
            return built[1] == new and self._is_store(new)
        recovered = re.fullmatch(rf"recover-{_NUMBER}/([^/]+)", old)
        if recovered is not None:
            return recovered[1] == new and new in _RECOVERED
        return new == "journal" and re.fullmatch(rf"restore-{_NUMBER}", old) is not None

    def _inside(self, path: str) -> str | None:
        """Return a path's name in the palace, None where it lies elsewhere."""
        start = f"{self.paths.root}/"
        return path[len(start) :] if path.startswith(start) else None

    def _is_store(self, name: str) -> bool:
        own = (os.path.basename(self.paths.register), os.path.basename(self.paths.candidates))
        tables = (EXACT_STORE, "logstream.sqlite3", *own)
        known = {
            "journal",
            TABLES_MARK,
            MILVUS_MARK,
            MILVUS_STORE,
            *FILES,
            *(f"{name}{end}" for name in tables for end in FILE_ENDS),
        }
        return name in known or _CHROMA.fullmatch(name) is not None

    def _files_anywhere(self) -> tuple[str, ...]:
        """Return the files whose place the palace's directory doesn't tell."""
        place = place_of_lists(self.paths.root)
        lists = [f"{place}/{name}" for name in BESIDE]
        lists += [f"{place}/{LATER_HALLWAYS}{end}" for end in FILE_ENDS]
        return (*(f"{self.graph}{end}" for end in FILE_ENDS if self.graph), *lists)

    # How.

    def _is_there(self, path: str) -> bool:
        name = self._inside(path)
        if name is None:
            return self.kernel.file_id(path) is not None
        return self.kernel.id_beneath(self.paths.root, name) is not None

    def _rename(self, move: Move) -> None:
        old, new = self._inside(move.old), self._inside(move.new)
        if old is not None and new is not None:
            self.kernel.rename_beneath(self.paths.root, old, new)
            return
        self.kernel.rename(move.old, move.new)
        self.kernel.sync_directory(os.path.dirname(move.new))
