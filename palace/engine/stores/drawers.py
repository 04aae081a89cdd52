"""The store of drawers: what it is to the journal, whichever of mempalace's backends keeps it.

A backend keeps collections of records: a document, its metadata, and the vector that was made of
the document.  The journal knows records and collections by kinds that don't depend on the backend,
so that a palace can be carried from one to another.

| backend | module | where a change is caught |
|---|---|---|
| chroma | chroma.py | under chromadb's lowest Python class (chroma_seam.py) |
| sqlite_exact, rust_exact (one format) | exact.py | at mempalace's own collection (exact_seam.py) |
| pgvector | pgvector.py | at what reaches its server (pgvector_seam.py) |
| milvus, as milvus-lite | milvus.py | at mempalace's own collection (milvus_seam.py) |
"""

import base64
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict, cast

from palace.engine.stores.projection import Projection
from palace.journal.record import Json, JsonObject
from palace.settings.paths import EXACT_STORE, MILVUS_MARK, MILVUS_STORE

if TYPE_CHECKING:
    from palace.engine.stores.chroma_api import Vector

# Named for the backend that was the only one when journals began.
PREFIX = "chroma:"  # of a record's kind, before its collection's name
COLLECTION = "chroma-collection"
CHROMA = "chroma"
EXACT = "sqlite_exact"
PGVECTOR = "pgvector"
MILVUS = "milvus"
NAMES = (CHROMA, EXACT, PGVECTOR, MILVUS)  # of these stores, in fingerprints
TABLES_MARK = "pgvector_backend.json"  # by which stock knows that a palace is in tables


class RecordPayload(TypedDict):
    """A record as the journal keeps it; the vector is base64 of little-endian float32."""

    document: str | None
    metadata: JsonObject | None
    vector: str
    uri: NotRequired[str]


class DrawerStore(Projection, Protocol):
    """A backend's store in one palace, as far as maintenance must know which files it has."""

    root: str
    drops: int  # how often this process has deleted a collection

    @property
    def path(self) -> str:
        """Return its database."""
        ...

    def scan_documents(self, kind: str) -> Iterator[tuple[str, RecordPayload]]:
        """Yield all records of a kind without their vectors."""
        ...

    def make(self) -> None:
        """Make the store where there is none yet."""
        ...


def backend_in(baseline: Mapping[str, object] | None) -> str:
    """Return by which name a journal knows its store of drawers, "" where it knows none yet."""
    return next((name for name in NAMES if name in (baseline or {})), "")


def is_drawer_file(root: str, name: str) -> bool:
    """Tell whether a name in the palace belongs to a store of drawers, of whichever backend."""
    named = (TABLES_MARK, MILVUS_MARK, MILVUS_STORE)
    return name in named or name.startswith(EXACT_STORE) or is_chroma_file(root, name)


def is_chroma_file(root: str, name: str) -> bool:
    """Tell whether a name is that of Chroma's database, or of a segment's directory.

    Stock renames segments that it distrusts to UUID.drift-TIME and UUID.corrupt-TIME.
    """
    if name.startswith("chroma.sqlite3"):
        return True
    head = name.partition(".")[0]
    is_uuid = len(head) == 36 and head.count("-") == 4
    return is_uuid and os.path.isdir(f"{root}/{name}")


def payload(
    document: str | None, metadata: Mapping[str, Json] | None, vector: "Vector", uri: str | None
) -> RecordPayload:
    """Return a record as the journal keeps it."""
    found: RecordPayload = {
        "document": document,
        "metadata": dict(metadata) if metadata else None,
        "vector": packed_vector(vector),
    }
    if uri is not None:
        found["uri"] = uri
    return found


def packed_vector(vector: "Vector") -> str:
    """Return a vector as base64 of little-endian float32."""
    import numpy as np

    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def vector_of(record: RecordPayload) -> "Vector":
    import numpy as np

    return cast("Vector", np.frombuffer(base64.b64decode(record["vector"]), dtype="<f4"))
