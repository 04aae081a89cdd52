"""Tunnels and hallways: lists of records in one JSON file each, replaced whole at every change."""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

import attrs

from palace.engine.stores.digest_sum import DigestSum
from palace.engine.stores.projection import Change, Unshared
from palace.journal.record import Entity, Json, JsonObject, Payload
from palace.journal.replay import digest_of
from palace.journal.tail import Touched
from palace.kernel.kernel import Kernel
from palace.kernel.odd_files import open_regular
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreCorrupt

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False, kw_only=True)
class JsonList(Unshared):
    """One file.  `wrapper` is the object around the list, whose list stands under `member`."""

    name: str
    kind: str
    path: str
    kernel: Kernel
    keep_out: Callable[[str], AbstractContextManager[None]]  # given the path
    member: str = ""
    wrapper: JsonObject = attrs.field(factory=dict)
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    mended: list[str] = attrs.field(factory=list)  # what was wrong, each time it was written back
    _sum: DigestSum = attrs.field(factory=DigestSum)
    _known: list[Json] = attrs.field(factory=list)  # the last list that the file held
    _stamp: tuple[int, ...] = ()  # of the file that held it

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths of all that the list is kept in, there or not."""
        return (self.path,)

    @property
    def place(self) -> str:
        """Return the path of the file that holds the list now, or would."""
        return self.path

    def exclusively(self) -> AbstractContextManager[None]:
        # Whoever changes the list holds this from reading it to replacing it: stock's own functions
        # do, in another palace's broker as well.
        return self.keep_out(self.path)

    def kinds(self) -> tuple[str, ...]:
        return (self.kind,)

    def owns(self, kind: str) -> bool:
        return kind == self.kind

    def load(self) -> list[Json]:
        """Return the file's list; a missing file is empty, one that holds no list raises.

        Stock takes whatever it can't read for an empty list, and would write that.
        """
        return self._listed_in(self.path)

    def _listed_in(self, path: str) -> list[Json]:
        try:
            with open_regular(path) as file:
                data = decode_json(file.read().decode())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise StoreCorrupt(f"{path} can't be read: {error}") from None
        if isinstance(data, dict) and self.member:
            data = data.get(self.member)
        if not isinstance(data, list):
            raise StoreCorrupt(f"{path} holds no list of {self.name} any more")
        return data

    def keep_whole(self) -> None:
        """Write the last list back where the file is gone or holds none.

        A whole list with other records in it is another program's change, and is left as it is.
        """
        with self.lock:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return
            try:
                records = self.load()
                problem = f"{self.path} is gone" if self._known and not stamp else ""
            except StoreCorrupt as error:
                records, problem = [], error.message
            if not problem:
                self._known, self._stamp = records, stamp
                return
            logger.warning("%s: it is written as it was", problem)
            for path in self.files if stamp else ():
                if self.kernel.file_id(path) is not None:
                    self.kernel.rename(path, f"{path}.damaged")
            self.store(self._known)
            self.mended.append(problem)

    def note(self, records: list[Json]) -> None:
        """Note what the file holds now, as this process wrote it."""
        self._known, self._stamp = list(records), self._stamp_now()

    def _stamp_now(self) -> tuple[int, ...]:
        """Return what changes when the list is written or replaced, () where there is none."""
        return stamp_of(self.path)

    def make_durable(self) -> None:
        """Sync what was written, and its name: stock renames a new file without an fsync."""
        for path in self.files:
            if self.kernel.file_id(path) is not None:
                fd = self.kernel.open_read(path)
                try:
                    self.kernel.sync(fd)
                finally:
                    self.kernel.close(fd)
        self.kernel.sync_directory(os.path.dirname(self.path))

    def store(self, records: list[Json]) -> None:
        data: Json = {**self.wrapper, self.member: records} if self.member else records
        text = json.dumps(data, indent=2, ensure_ascii=not self.member)
        self.kernel.write_durable(self.path, text.encode("utf-8", "surrogatepass"))
        self.note(records)

    def read(self, _kind: str, ids: Iterable[str]) -> JsonObject:
        records = keyed(self.load())
        return {ident: records[ident] for ident in ids if ident in records}

    def scan(self, _kind: str) -> Iterator[tuple[str, Payload]]:
        yield from keyed(self.load()).items()

    def ids(self, _kind: str) -> list[str]:
        return list(keyed(self.load()))

    def count(self, _kind: str) -> int:
        return len(self.load())

    def write(self, _kind: str, changes: Mapping[str, Payload]) -> None:
        records = keyed(self.load())
        for ident, payload in changes.items():
            if payload is None:
                records.pop(ident, None)
            else:
                records[ident] = payload
        if records or os.path.exists(self.place):
            self.store(list(records.values()))

    def changes_to(self, records: list[Json]) -> list[Change]:
        """Return how a new list differs from the file."""
        old, new = keyed(self.load()), keyed(records)
        return [
            Change(self.kind, ident, old.get(ident), new.get(ident))
            for ident in {**old, **new}
            if old.get(ident) != new.get(ident)
        ]

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.before is not None:
                self._sum.remove(digest_of(change.before))
            if change.after is not None:
                self._sum.add(digest_of(change.after))

    def fingerprint(self) -> list[int]:
        return self._sum.as_json()

    def read_fingerprint(self) -> list[int]:
        records = self.load()
        self.note(records)
        self._sum = DigestSum.of(digest_of(payload) for payload in keyed(records).values())
        return self.fingerprint()

    def recount(self) -> None:
        return  # the files say the same whether they are open or not

    def was_replaced(self, baseline: Json) -> bool:
        return bool(baseline[0] > 0) and not os.path.exists(self.place)

    def is_older(self, _baseline: Json) -> bool:
        return False  # it can't be told

    def suspects(self, baseline: Json, touched: Mapping[Entity, Touched]) -> bool:
        ours = {ident: was for (kind, ident), was in touched.items() if kind == self.kind}
        then = [digest_of(was.baseline) for was in ours.values() if was.baseline is not None]
        now = [digest_of(payload) for payload in self.read(self.kind, ours).values()]
        return DigestSum(*baseline).without(then) != self._sum.without(now)


def stamp_of(path: str) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced, () where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def keyed(records: list[Json]) -> JsonObject:
    """Return records by their `id`; one without, or with another's, is known by its content."""
    found: JsonObject = {}
    for record in records:
        ident = record.get("id") if isinstance(record, dict) else None
        if not isinstance(ident, str) or ident in found:
            ident = f"content-{digest_of(record):016x}"
            while ident in found:
                ident += "+"
        found[ident] = record
    return found
