"""Whether a store's files are whole, as far as they tell; read while no store is open here.

Nothing is opened but as files and with sqlite3, and nothing is changed.  A file that is missing is
whole by itself: `lost` says so, from what the journal knows was in it.
"""

import enum
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import attrs

from palace.engine.stores import exact_rows, hnsw_files
from palace.engine.stores.chroma import DELETE
from palace.engine.stores.files import NAMES
from palace.engine.stores.lists import JsonList
from palace.engine.stores.palace_stores import Stores
from palace.engine.stores.rows import FILE_ENDS, Rows, check_rows
from palace.engine.stores.words import Look, is_in_use, mend_words, without_words, words_damage
from palace.journal.record import Json, JsonObject
from palace.kernel.odd_files import is_odd
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreCorrupt

if TYPE_CHECKING:
    import numpy.typing as npt

    from palace.engine.stores.milvus import Milvus

SUSPECT = "index.suspect"  # in the palace: why an index is not trusted, though its files look whole
CHECK_BYTES = 512 << 20  # a larger database is checked whole only where no call waits
UNFINISHED = ("-wal", "-journal")
_CORRUPT, _NOT_A_DATABASE, _READ_ERROR = 11, 26, 10  # SQLite's codes
_COLLECTIONS = """
SELECT c.id, c.name, v.id, m.id FROM collections c
JOIN segments v ON v.collection = c.id AND v.scope = 'VECTOR'
JOIN segments m ON m.collection = c.id AND m.scope = 'METADATA'
WHERE v.type = 'urn:chroma:segment/vector/hnsw-local-persisted'
"""
_ROWS = """
SELECT id, embedding_id FROM embeddings WHERE segment_id = ? AND id > ? ORDER BY id LIMIT ?
"""
_SAID = """
SELECT id, key, string_value, int_value, float_value, bool_value FROM embedding_metadata
WHERE id IN
"""
_TEXT = "chroma:document"
_PAGE = 100  # rows: Chroma can't commit while they are read
_QUEUED = """
SELECT id, operation FROM embeddings_queue WHERE topic LIKE ? AND seq_id > ? ORDER BY seq_id
"""


@attrs.frozen(kw_only=True)
class Damage:
    """What is wrong with one store.

    `text` is a sentence's beginning that names the file.  `index` says that nothing but an index is
    damaged: all documents are there; `words` that it is that of words, which is made of them alone.
    `lost` says that what was there is gone.
    """

    store: str
    text: str
    index: bool = False
    words: bool = False
    lost: bool = False

    def speaks_of(self, path: str) -> bool:
        return self.text.startswith(f"{path} ")


class Access(enum.Enum):
    """Which other process may have the databases open, and so how they are opened for a look."""

    OWNED = "owned"  # none: we hold the lock.  SQLite may take back what a killed owner had begun.
    IDLE = "idle"  # none, as far as the lock tells: nothing may be left behind
    SHARED = "shared"  # the owner, while another process looks


@attrs.frozen(kw_only=True)
class Depth:
    """How databases are opened, and how much of the stores is read.

    Databases up to so many bytes, all `elements` of large indexes, and the index of `words`: a
    check that a caller waits for reads less than one that none waits for.
    """

    access: Access
    database_bytes: int = 1 << 62
    elements: bool = True
    words: bool = True

    def look(self, path: str) -> Look:
        """Return how much of a database's index of words is read."""
        if os.path.getsize(path) > self.database_bytes:
            return Look.PROBE
        return Look.WHOLE if self.elements else Look.COUNT


AT_OPENING = Depth(access=Access.OWNED, database_bytes=CHECK_BYTES, elements=False)
WHOLE_AT_OPENING = Depth(access=Access.OWNED)
WHOLE_BUT_WORDS = Depth(access=Access.OWNED, words=False)
WHOLE_IDLE = Depth(access=Access.IDLE)
# Chroma can't commit while another process reads a database whole, and waits for five seconds.
WHOLE_BESIDE_THE_OWNER = Depth(access=Access.SHARED, database_bytes=128 << 20)


def find_damage(stores: Stores, baseline: JsonObject | None, depth: Depth) -> list[Damage]:
    """Return what is wrong with each store; `baseline` is what the journal last knew of all."""
    found = [
        *(list(_drawers(stores, depth)) or _suspected(stores)),
        *(damage for rows in stores.tables for damage in _rows(rows, depth)),
        *(damage for own in (stores.tunnels, stores.hallways) for damage in _list(own)),
        *_files(stores),
    ]
    damaged = {damage.store for damage in found}
    return found + [one for one in _lost(stores, baseline or {}) if one.store not in damaged]


def database_damage(path: str, depth: Depth) -> str:
    """Return what SQLite finds wrong with a database, "" where it is whole or not there."""
    try:
        size = os.path.getsize(path)
    except OSError:
        return ""
    for end in FILE_ENDS:
        if is_odd(path + end):  # SQLite would wait for a FIFO's other end
            return f"{path}{end} is a FIFO or a device"
    if os.path.isdir(path):
        return f"{path} is a directory"
    if not size:
        return ""
    try:
        with closing(connect(path, depth.access)) as connection:
            if size > depth.database_bytes:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                return ""
            said = without_words(
                [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
            )
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (_CORRUPT, _NOT_A_DATABASE, _READ_ERROR):
            return f"{path} is damaged: {error}"
        return ""  # somebody has it open, or SQLite has to take a transaction back first
    return "" if said in ([], ["ok"]) else f"{path} is damaged: {'; '.join(said)}"


def connect(path: str, access: Access) -> sqlite3.Connection:
    """Open a database for a look; the caller closes it.  Raises sqlite3.Error."""
    return sqlite3.connect(_uri_of(path, access), uri=True, timeout=1.0)


def _uri_of(path: str, access: Access) -> str:
    mode = "mode=rw" if access is Access.OWNED else "mode=ro"
    if access is Access.IDLE and not any(os.path.exists(f"{path}{end}") for end in UNFINISHED):
        mode = "immutable=1"  # else SQLite makes files beside it, and leaves them there
    return f"file:{path}?{mode}"


def _drawers(stores: Stores, depth: Depth) -> Iterator[Damage]:
    if stores.pgvector is not None:
        return  # whether its files are whole is the server's to say
    if stores.milvus is not None:
        yield from _tables_of_files(stores.milvus, depth)
        return
    path, name = stores.drawers.path, stores.drawers.name
    if text := database_damage(path, depth):
        yield Damage(store=name, text=text)
        return
    if not os.path.exists(path) or not os.path.getsize(path):
        return
    try:
        if depth.words and (text := words_damage(_uri_of(path, depth.access), depth.look(path))):
            yield Damage(store=name, text=f"{path} is damaged: {text}", index=True, words=True)
        if stores.chroma is not None:
            yield from _indexes(stores.chroma.root, path, depth)
            return
        with closing(connect(path, depth.access)) as connection:
            if not exact_rows.has_tables(connection):
                yield Damage(store=name, text=f"{path} is damaged: its tables are not mempalace's")
    except sqlite3.Error:
        return  # tables of another version, or in use


def _tables_of_files(milvus: "Milvus", depth: Depth) -> Iterator[Damage]:
    for problem in milvus.damages(depth.database_bytes):
        yield Damage(store=milvus.name, text=problem)


def note_suspect(stores: Stores, text: str) -> None:
    """Note why the store of drawers isn't to be trusted: the next owner looks, and mends it."""
    path = f"{stores.drawers.root}/{SUSPECT}"
    stores.files.kernel.write_durable(path, text.encode())


def note_refusals(stores: Stores, store: str) -> None:
    """Note that a store has refused change after change."""
    if store == stores.drawers.name:
        note_suspect(stores, _refusals_of(stores))


def mend_words_of(stores: Stores, depth: Depth) -> Damage | None:
    """Make the index of words again where it is damaged and all else in its database is whole.

    Only while no process has it open.  Returns what was wrong, None where nothing was mended.
    """
    path, kernel = stores.drawers.path, stores.files.kernel
    if stores.pgvector or stores.milvus or not kernel.file_id(path):  # they make it themselves
        return None
    suspect = f"{stores.drawers.root}/{SUSPECT}"
    noted = kernel.read_hint(suspect)
    look = depth.look(path) if noted is None else Look.WHOLE
    problem = mend_words(path, look, lambda: not database_damage(path, WHOLE_AT_OPENING))
    if not problem:
        return None
    if noted == _refusals_of(stores).encode():
        kernel.unlink(suspect)  # that is why; else all of the store would be built again
    return Damage(
        store=stores.drawers.name, text=f"{path} was damaged: {problem}", index=True, words=True
    )


def _refusals_of(stores: Stores) -> str:
    return f"{stores.drawers.path} is damaged: it refused every change"


def _suspected(stores: Stores) -> Iterator[Damage]:
    """Yield what an owner noted of a store that it had open."""
    noted = stores.files.kernel.read_hint(f"{stores.drawers.root}/{SUSPECT}")
    if noted is not None:
        text = noted.decode("utf-8", "replace")
        yield Damage(store=stores.drawers.name, text=text, index=True)


def flushed_vectors(stores: Stores) -> "Iterator[tuple[str, str, npt.NDArray[Any]]]":
    """Yield (collection, record, vector) for what whole indexes hold on disk and nothing changes.

    Without an index there is nothing.  Raises IndexDamaged and sqlite3.Error.
    """
    if stores.chroma is None:
        return
    with closing(connect(stores.drawers.path, Access.SHARED)) as connection:
        for found in connection.execute(_COLLECTIONS).fetchall():
            index = _Index(stores.drawers.root, *found)
            queued = index.queued(connection, index.vectors)
            labels = hnsw_files.labels_of(index.directory) or {}
            for record, vector in hnsw_files.vectors_of(index.directory, labels):
                if record not in queued:
                    yield index.collection, record, vector


def flushed_rows(
    stores: Stores, access: Access = Access.SHARED
) -> Iterator[tuple[str, str, JsonObject]]:
    """Yield (collection, record, its text and metadata) for the rows that nothing waits to change.

    And its vector, where that is in the row.  Raises sqlite3.Error.
    """
    if stores.pgvector is not None:
        yield from stores.pgvector.rows()
        return
    if stores.milvus is not None:
        yield from stores.milvus.rows()
        return
    if stores.chroma is None:
        with closing(connect(stores.drawers.path, access)) as connection:
            yield from exact_rows.rows_in(connection)
        return
    with closing(connect(stores.drawers.path, access)) as connection:
        # What is no text any more differs, too, and must not end the reading.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        for found in connection.execute(_COLLECTIONS).fetchall():
            index = _Index(stores.drawers.root, *found)
            queued = index.queued(connection, index.rows)
            last = 0
            while rows := dict(connection.execute(_ROWS, [index.rows, last, _PAGE]).fetchall()):
                said = _said_by(connection, list(rows))
                last = max(rows)
                for number, record in rows.items():
                    if record not in queued:
                        yield index.collection, record, said[number]


def _said_by(connection: sqlite3.Connection, numbers: list[int]) -> dict[int, JsonObject]:
    """Return the texts and metadata of rows, by their numbers."""
    said: dict[int, JsonObject] = {n: {"document": None, "metadata": {}} for n in numbers}
    marks = ", ".join("?" for _ in numbers)
    for number, key, text, whole, real, truth in connection.execute(f"{_SAID} ({marks})", numbers):
        if key == _TEXT:
            said[number]["document"] = text
        elif not key.startswith("chroma:"):
            truths = None if truth is None else bool(truth)
            values = (value for value in (text, whole, real, truths) if value is not None)
            said[number]["metadata"][key] = next(values, None)
    return said


def _indexes(root: str, path: str, depth: Depth) -> Iterator[Damage]:
    with closing(connect(path, depth.access)) as connection:
        for found in connection.execute(_COLLECTIONS).fetchall():
            index = _Index(root, *found)
            try:
                index.check(connection, deep=depth.elements)
            except hnsw_files.IndexDamaged as error:
                text = f"the index of {index.collection} is damaged: {error}"
                yield Damage(store="chroma", text=text, index=True)


@attrs.frozen
class _Index:
    """One collection's index, and the rows that it is for."""

    root: str
    collection_id: str
    collection: str
    vectors: str  # the segments' ids
    rows: str

    @property
    def directory(self) -> str:
        return f"{self.root}/{self.vectors}"

    def check(self, connection: sqlite3.Connection, *, deep: bool) -> None:
        """Raise IndexDamaged where it isn't whole, or lacks a row."""
        query = "SELECT embedding_id FROM embeddings WHERE segment_id = ?"
        rows = {row[0] for row in connection.execute(query, [self.rows])}
        self._add_queued(connection, self.rows, rows)
        labels = hnsw_files.labels_of(self.directory)
        indexed = set(labels or ())
        self._add_queued(connection, self.vectors, indexed)
        if missing := len(rows - indexed):
            is_gone = labels is None and missing == len(rows)
            what = f"{self.directory} is gone or empty" if is_gone else self.directory
            raise hnsw_files.IndexDamaged(f"{what}; {missing} of {len(rows)} records are not in it")
        if labels:
            hnsw_files.check_files(self.directory, labels, deep=deep)

    def _add_queued(self, connection: sqlite3.Connection, segment: str, ids: set[str]) -> None:
        """Bring a segment's records up to date with what still waits for it in the queue."""
        for ident, operation in self.queued(connection, segment).items():
            if operation == DELETE:
                ids.discard(ident)
            else:
                ids.add(ident)

    def queued(self, connection: sqlite3.Connection, segment: str) -> dict[str, int]:
        return queued(connection, self.collection_id, segment)


def queued(connection: sqlite3.Connection, collection: str, segment: str) -> dict[str, int]:
    """Return the last operation that waits for a segment, for each record that has one."""
    found = connection.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", [segment])
    seq = (found.fetchone() or (0,))[0]
    if isinstance(seq, bytes):  # as old versions wrote it
        seq = int.from_bytes(seq, "big")
    return dict(connection.execute(_QUEUED, [f"%/{collection}", seq]))


def _rows(rows: Rows, depth: Depth) -> Iterator[Damage]:
    if text := database_damage(rows.path, depth) or _tables_damage(rows, depth):
        yield Damage(store=rows.name, text=text)


def _tables_damage(rows: Rows, depth: Depth) -> str:
    """Return what no program of ours or stock's has made of a file's tables, "" for nothing.

    SQLite itself finds it whole, and yet reading it, or writing to it, would fail.
    """
    if not os.path.exists(rows.path) or not (size := os.path.getsize(rows.path)):
        return ""
    try:
        with closing(connect(rows.path, depth.access)) as connection:
            if rows.schema and _schema_of(connection) != _schema_made_by(rows.schema):
                return f"{rows.path} is damaged: it has other tables than palace's"
            if depth.elements and size <= depth.database_bytes:
                check_rows(connection, rows.tables)
    except sqlite3.DatabaseError as error:
        return "" if is_in_use(error) else f"{rows.path} is damaged: {error}"
    return ""


def _schema_of(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    query = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name"
    return [(kind, name, " ".join(sql.split())) for kind, name, sql in connection.execute(query)]


def _schema_made_by(script: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(script)
        return _schema_of(made)


def _list(own: JsonList) -> Iterator[Damage]:
    try:
        own.load()
    except StoreCorrupt as error:
        yield Damage(store=own.name, text=error.message)


def _files(stores: Stores) -> Iterator[Damage]:
    for name in NAMES:
        path = f"{stores.files.root}/{name}"
        data = stores.files.kernel.read_hint(path)
        try:
            if data is not None:
                decode_json(data)
        except ValueError:
            yield Damage(store=stores.files.name, text=f"{path} is no JSON any more")


def _lost(stores: Stores, baseline: JsonObject) -> Iterator[Damage]:
    """Yield stores that are gone, or empty, though they held something."""
    # What a server has lost, recovery finds.
    paths = {own.name: own.path for own in (*stores.drawer_files, *stores.tables)}
    paths |= {own.name: own.place for own in (stores.tunnels, stores.hallways)}
    for name, path in paths.items():
        held = sum(counts_in(baseline.get(name)).values())
        size = os.path.getsize(path) if os.path.exists(path) else -1
        if held and size <= 0:
            how = "is gone" if size < 0 else "is empty"
            text = f"{path} {how}, and held {held} entities"
            yield Damage(store=name, text=text, lost=True)
    for name in baseline.get(stores.files.name) or ():
        path = f"{stores.files.root}/{name}"
        if not os.path.exists(path):
            yield Damage(store=stores.files.name, text=f"{path} is gone", lost=True)


def counts_in(fingerprint: Json) -> dict[str, int]:
    """Return how many entities of each of its parts a store held when it had a fingerprint.

    A part is a collection, a kind of row, or a list, which has no name.
    """
    if not fingerprint:
        return {}
    if isinstance(fingerprint, dict) and "collections" in fingerprint:
        return {name: records for name, (_, records, *_) in fingerprint["collections"].items()}
    if isinstance(fingerprint, dict):
        return {kind: count for kind, (count, _) in fingerprint.items()}
    return {"": int(fingerprint[0])}
