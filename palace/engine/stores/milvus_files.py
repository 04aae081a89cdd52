"""What milvus-lite has of a palace's drawers, as its files say: read without opening the database.

Whoever opens it takes its lock, takes in its log and may put its segments together: a reader must
not.  So its files are read here as they are, beside the process that has them open, too: immutable
Parquet files that a manifest names, and a log of Arrow batches that is only appended to.  Of each
id the row with the highest number counts, unless it was deleted under a higher one (milvus-lite
3.2: engine/flush.py, storage/wal.py).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from palace.engine.stores.drawers import RecordPayload, payload
from palace.journal.record import JsonObject
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreCorrupt, StoreUnavailable
from palace.protocol.wire import whole_number

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
Row = dict[str, Any]
_MANIFEST, _SCHEMA = "manifest.json", "schema.json"
_WAL = "wal"
WORDS = ("id", "document", "metadata")
RECORD = (*WORDS, "vector")
_FORMAT = 2
_TEXT_BYTES_MAX = 1 << 24
_NAME = re.compile(r"[\w-]{1,80}")
_FILE = re.compile(r"(?:data|delta)/[\w-]{1,80}\.parquet")
_TRIES = 50  # a manifest that changes while it is read is read again


class _ChangedError(Exception):
    """The files were replaced by others while they were read."""


@attrs.frozen
class Manifest:
    """Which files are a collection: by one text, which is replaced at once."""

    text: bytes
    seq: int
    data: tuple[str, ...]
    deleted: tuple[str, ...]


@attrs.frozen
class CollectionFiles:
    """One collection's directory."""

    path: str

    @property
    def made(self) -> str:
        """Return what tells it from another collection of its name: when it was made."""
        try:
            return str(os.stat(self.schema).st_mtime_ns)
        except OSError:
            return ""

    @property
    def schema(self) -> str:
        return f"{self.path}/{_SCHEMA}"

    def dimension(self) -> int:
        schema = _read_json(self.schema)
        found: list[int] = [field["dim"] for field in schema.get("fields", ()) if field.get("dim")]
        return found[0] if found else 0

    def seq(self) -> int:
        """Return the highest number of a change that is there."""
        return _settled(lambda: max(self._seqs(self.manifest())))

    def _seqs(self, manifest: Manifest) -> Iterator[int]:
        yield manifest.seq
        for inserts in (True, False):
            for batch in self._logged(inserts=inserts):
                yield from batch.column("_seq").to_pylist()
        self._check_same(manifest)

    def ids(self) -> list[str]:
        return _settled(lambda: list(self._numbers(self.manifest())))

    def records(
        self, columns: Sequence[str], wanted: frozenset[str] | None = None
    ) -> Iterator[tuple[str, RecordPayload]]:
        """Yield all records, or those that are `wanted`; without a vector where none is asked."""
        done: set[str] = set()
        for _ in range(_TRIES):
            manifest, newest = _settled(self._kept)
            if wanted is not None:
                newest = {ident: newest[ident] for ident in wanted if ident in newest}
            try:
                for row in self._rows(manifest, columns, newest):
                    if row["id"] not in done:
                        done.add(row["id"])
                        yield row["id"], record_of(row)
            except (_ChangedError, FileNotFoundError):
                continue
            return
        raise _unsettled()

    def _kept(self) -> tuple[Manifest, dict[str, int]]:
        manifest = self.manifest()
        return manifest, self._numbers(manifest)

    # Files.

    def manifest(self) -> Manifest:
        """Return what the manifest says; raises StoreCorrupt."""
        text = Kernel().read_file(f"{self.path}/{_MANIFEST}", _TEXT_BYTES_MAX)
        if text is None:
            return Manifest(b"", 0, (), ())  # nothing was written to it yet
        try:
            found = decode_json(text)
            if found["manifest_format_version"] != _FORMAT:
                raise StoreUnavailable(
                    f"{self.path} is of another version of milvus-lite than palace knows, whose "
                    f"files are of format {_FORMAT} (milvus-lite 3.2). Nothing was changed."
                )
            parts = found["partitions"]
            return Manifest(
                text,
                whole_number(str(found["current_seq"])),
                tuple(self._paths(parts, "data_files")),
                tuple(self._paths(parts, "delta_files")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreCorrupt(f"{self.path}/{_MANIFEST} can't be read: {error!r}") from None

    def _paths(self, parts: Mapping[str, Any], which: str) -> Iterator[str]:
        for part, files in parts.items():
            for file in files[which]:
                if _NAME.fullmatch(part) is None or _FILE.fullmatch(file) is None:
                    raise ValueError(f"{part}/{file} is no file of milvus-lite's")
                yield f"{self.path}/partitions/{part}/{file}"

    def _check_same(self, manifest: Manifest) -> None:
        if self.manifest().text != manifest.text:
            raise _ChangedError

    def _numbers(self, manifest: Manifest) -> dict[str, int]:
        """Return the number of each id's row, of those that are not deleted."""
        newest: dict[str, int] = {}
        for row in self._rows(manifest, ("id",), None):
            newest[row["id"]] = max(row["_seq"], newest.get(row["id"], -1))
        for batch in self._deleted(manifest):
            for row in batch.select(["id", "_seq"]).to_pylist():
                if newest.get(row["id"], row["_seq"]) < row["_seq"]:
                    del newest[row["id"]]
        self._check_same(manifest)
        return newest

    def _rows(
        self, manifest: Manifest, columns: Sequence[str], newest: Mapping[str, int] | None
    ) -> Iterator[Row]:
        """Yield rows with these columns and their number, all or those that are the newest."""
        for path in manifest.data:
            for batch in self._stored(manifest, path, (*columns, "_seq")):
                yield from _rows_of(batch, columns, newest)
        for batch in self._logged(inserts=True):
            yield from _rows_of(batch, columns, newest)
        self._check_same(manifest)

    def _deleted(self, manifest: Manifest) -> "Iterator[pa.RecordBatch]":
        for path in manifest.deleted:
            yield from self._stored(manifest, path, ("id", "_seq"))
        yield from self._logged(inserts=False)

    def _stored(
        self, manifest: Manifest, path: str, columns: Sequence[str]
    ) -> "Iterator[pa.RecordBatch]":
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(path) as file:
                yield from file.iter_batches(columns=list(columns))
        except (ArrowException, OSError, UnicodeDecodeError) as error:
            self._check_same(manifest)
            raise StoreCorrupt(f"{path} can't be read: {_first_line(error)}") from None

    def _logged(self, *, inserts: bool) -> "Iterator[pa.RecordBatch]":
        """Yield what the log holds, as far as it is whole: the rest was never answered."""
        from pyarrow import ArrowException, OSFile
        from pyarrow.ipc import open_stream

        start = "wal_data_" if inserts else "wal_delta_"
        for name in sorted(_names(f"{self.path}/{_WAL}")):
            if not name.startswith(start):
                continue
            try:
                with OSFile(f"{self.path}/{_WAL}/{name}", "rb") as source:
                    for batch in open_stream(source):
                        batch.validate(full=True)
                        yield batch
            except (ArrowException, OSError):
                continue

    def damage(self, bytes_max: int) -> str:
        """Return what is wrong with these files, "" for nothing; larger ones are not read whole."""
        try:
            _read_json(self.schema)
            manifest = self.manifest()
            size = sum(os.path.getsize(path) for path in manifest.data if os.path.exists(path))
            if size <= bytes_max:
                return _settled(lambda: self._garbage(self.manifest()))
            _settled(self.ids)
        except StoreCorrupt as error:
            return error.message
        except (StoreUnavailable, OSError):
            return ""  # somebody writes all the time, and so reads it as well
        return ""

    def _garbage(self, manifest: Manifest) -> str:
        """Read all rows; return which the log has of a power cut, "" for none."""
        for row in self._rows(manifest, RECORD, None):
            if _is_garbage(row):
                return f"{self.path}/{_WAL} can't be read: a part of it was never written"
        return ""


def _is_garbage(row: Row) -> bool:
    """Tell whether a row is what no program has written: mempalace leaves out NULs."""
    return "\0" in row["document"] or not isinstance(_metadata_of(row), dict)


def _metadata_of(row: Mapping[str, Any]) -> object:
    metadata = row["metadata"]
    try:
        return decode_json(metadata) if isinstance(metadata, str | bytes) else metadata
    except ValueError:
        return None


def collection_at(database: str, name: str) -> CollectionFiles:
    """Return where a collection of this name is, or would be."""
    return CollectionFiles(f"{database}/collections/{name}")


def collections_in(database: str) -> dict[str, CollectionFiles]:
    """Return the collections of a database, by their names there."""
    found = {n: collection_at(database, n) for n in sorted(_names(f"{database}/collections"))}
    return {name: files for name, files in found.items() if os.path.exists(files.schema)}


def texts_in(path: str) -> Iterator[bytes]:
    """Yield what a Parquet file says, which is compressed there; raises OSError."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(RECORD)):
                for name in batch.schema.names:
                    if name == "vector":
                        yield batch.column(name).flatten().to_numpy(zero_copy_only=False).tobytes()
                    else:
                        yield "\n".join(filter(None, batch.column(name).to_pylist())).encode()
    except ArrowException as error:
        raise OSError(0, _first_line(error)) from None


def record_of(row: Mapping[str, Any]) -> RecordPayload:
    """Return the record of a row that the database holds."""
    metadata = _metadata_of(row)
    said: JsonObject | None = metadata if isinstance(metadata, dict) else None
    return payload(row["document"], said, row.get("vector", ()), None)


def _settled(read: Callable[[], T]) -> T:
    """Return what is read between two changes of the manifest."""
    for _ in range(_TRIES):
        try:
            return read()
        except (_ChangedError, FileNotFoundError):
            continue
    raise _unsettled()


def _unsettled() -> StoreUnavailable:
    return StoreUnavailable("milvus-lite's files are replaced so often that they can't be read")


def _rows_of(
    batch: "pa.RecordBatch", columns: Sequence[str], newest: Mapping[str, int] | None
) -> Iterator[Row]:
    ids, numbers = batch.column("id").to_pylist(), batch.column("_seq").to_pylist()
    kept = [
        place
        for place, (ident, number) in enumerate(zip(ids, numbers, strict=True))
        if newest is None or newest.get(ident) == number
    ]
    if not kept:
        return
    chosen = batch.take(kept)
    values: dict[str, Any] = {name: chosen.column(name) for name in columns if name != "vector"}
    values = {name: column.to_pylist() for name, column in values.items()}
    if "vector" in columns:
        flat = chosen.column("vector").flatten().to_numpy(zero_copy_only=False)
        values["vector"] = flat.reshape(len(kept), -1)
    values["_seq"] = [numbers[place] for place in kept]
    for place in range(len(kept)):
        yield {name: column[place] for name, column in values.items()}


def _read_json(path: str) -> JsonObject:
    try:
        found = decode_json(Kernel().read_file(path, _TEXT_BYTES_MAX) or b"")
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"{path} can't be read: {_first_line(error)}") from None
    if not isinstance(found, dict):
        raise StoreCorrupt(f"{path} holds no JSON object")
    return found


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
