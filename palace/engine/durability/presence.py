"""Are the files that this owner has open still the ones that it opened?

A store that is removed or swapped under its owner goes on under no name, or is made again by stock,
empty.  Both would be answered from, and written to, as if nothing had happened.  So before each
call the names are looked at, a few microseconds' work, and where one doesn't lead to its file any
more the owner leaves: the next one compares the stores with the journal, with none of them open.

Lists and small files need no such thing: they are written back as they were (`keep_whole`).
"""

import os
import stat

import attrs

from palace.engine.stores.palace_stores import Stores
from palace.kernel.kernel import Kernel

DATA = "data_level0.bin"  # of an index


@attrs.define(eq=False)
class StoreFiles:
    """The names of open stores, and what they led to when they were first seen."""

    stores: Stores
    kernel: Kernel
    _known: dict[str, tuple[tuple[int, int], int]] = attrs.field(factory=dict)  # identity and size
    _indexes: frozenset[str] = frozenset()  # directories; replaced whole, since threads share one
    _drops: int = 0
    _root_mtime: int = -1

    def trouble(self) -> str:
        """Return what has become of a file, "" where all are what they were."""
        stores = self.stores
        for path in (*self._drawers(), stores.graph.path, stores.logstream.path):
            if problem := self._look(path):
                return problem
        return self._look_at_indexes()

    def _drawers(self) -> list[str]:
        milvus = self.stores.milvus
        if milvus is None:
            return [own.path for own in self.stores.drawer_files]
        if milvus.drops != self._drops:
            self._drops = milvus.drops
            inside = f"{milvus.path}/"
            self._known = {k: v for k, v in self._known.items() if not k.startswith(inside)}
        return milvus.watched()

    def _look(self, path: str) -> str:
        try:
            found = os.stat(path)
        except OSError:
            return f"{path} was removed while it was open" if path in self._known else ""
        identity, size = self._known.get(path, ((found.st_dev, found.st_ino), 0))
        if identity != (found.st_dev, found.st_ino):
            return f"{path} was replaced while it was open"
        if found.st_size < size and not stat.S_ISDIR(found.st_mode):
            return f"{path} was cut from {size} to {found.st_size} bytes while it was open"
        self._known[path] = identity, found.st_size
        return ""

    def _look_at_indexes(self) -> str:
        chroma = self.stores.chroma
        if chroma is None:
            return ""
        root = chroma.root
        if chroma.drops != self._drops:  # a collection was deleted, and its index with it
            self._drops = chroma.drops
            self._indexes = frozenset()
            self._root_mtime = -1
        for directory in self._indexes:
            if not os.path.exists(f"{directory}/{DATA}"):
                return f"the index in {directory} was removed while it was open"
        try:
            mtime = os.stat(root).st_mtime_ns
        except OSError:
            return f"{root} was removed while it was open"
        if mtime != self._root_mtime:
            self._root_mtime = mtime
            self._indexes |= {
                entry.path
                for entry in os.scandir(root)
                if "." not in entry.name and os.path.exists(f"{entry.path}/{DATA}")
            }
        return ""
