"""Small files that a palace can't do without, which stock writes once and hardly ever again."""

import base64
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TypedDict, cast

import attrs

from palace.engine.stores.projection import Change, Unshared
from palace.journal.record import Entity, Json, Payload
from palace.journal.replay import digest_of
from palace.journal.schema import FILE_KIND, FILE_NAMES
from palace.journal.tail import Touched
from palace.kernel.kernel import Kernel

KIND = FILE_KIND
NAMES = FILE_NAMES
BYTES_MAX = 1 << 20  # stock writes some hundred

logger = logging.getLogger("palace.journal")


class FilePayload(TypedDict):
    """A file's bytes."""

    base64: str


@attrs.define(eq=False)
class Files(Unshared):
    """Files in the palace, whole; compared when a palace is opened and closed."""

    root: str
    kernel: Kernel
    name: str = "files"
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    mended: list[str] = attrs.field(factory=list)  # what was wrong, each time one was written back
    _seen: dict[str, int] = attrs.field(factory=dict)
    _kept: dict[str, FilePayload] = attrs.field(factory=dict)

    def kinds(self) -> tuple[str, ...]:
        return (KIND,)

    def owns(self, kind: str) -> bool:
        return kind == KIND

    def read(self, _kind: str, ids: Iterable[str]) -> dict[str, FilePayload]:
        found = {ident: self._read(ident) for ident in ids if ident in NAMES}
        return {
            ident: {"base64": base64.b64encode(data).decode()}
            for ident, data in found.items()
            if data is not None
        }

    def _read(self, name: str) -> bytes | None:
        try:
            data = self.kernel.read_beneath(self.root, name, BYTES_MAX)
        except OSError:
            return None
        return data if data is None or len(data) <= BYTES_MAX else None  # not a part of it

    def scan(self, kind: str) -> Iterator[tuple[str, FilePayload]]:
        yield from self.read(kind, NAMES).items()

    def ids(self, kind: str) -> list[str]:
        return list(self.read(kind, NAMES))

    def count(self, kind: str) -> int:
        return len(self.read(kind, NAMES))

    def write(self, _kind: str, changes: Mapping[str, Payload]) -> None:
        for name in NAMES:  # an id is never made into a path
            if name not in changes:
                continue
            payload = changes[name]
            if payload is None:
                self.kernel.unlink(f"{self.root}/{name}")
            else:
                data = base64.b64decode(cast("FilePayload", payload)["base64"])
                self.kernel.write_durable(f"{self.root}/{name}", data)

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._seen.pop(change.id, None)
            self._kept.pop(change.id, None)
            if change.after is not None:
                self._seen[change.id] = digest_of(change.after)
                self._kept[change.id] = cast("FilePayload", change.after)

    def fingerprint(self) -> dict[str, int]:
        return dict(self._seen)

    def read_fingerprint(self) -> dict[str, int]:
        self._kept = dict(self.scan(KIND))
        self._seen = {ident: digest_of(payload) for ident, payload in self._kept.items()}
        return self.fingerprint()

    def keep_whole(self) -> None:
        """Write back the files that are gone; stock makes one itself where there never was one."""
        for name, payload in self._kept.items():
            path = f"{self.root}/{name}"
            if self.kernel.file_id(path) is None:
                logger.warning("%s is gone: it is written as it was", path)
                self.write(KIND, {name: payload})
                self.mended.append(f"{path} is gone")

    def changes(self) -> list[Change]:
        """Return what is there now and was not so when it was measured."""
        now = dict(self.scan(KIND))
        return [
            Change(KIND, ident, None, payload)
            for ident, payload in now.items()
            if self._seen.get(ident) != digest_of(payload)
        ]

    def recount(self) -> None:
        return  # the files say the same whether they are open or not

    def was_replaced(self, _baseline: Json) -> bool:
        return True  # stock removes none of them

    def is_older(self, _baseline: Json) -> bool:
        return False  # it can't be told

    def suspects(self, baseline: Json, _touched: Mapping[Entity, Touched]) -> bool:
        return bool(baseline != self._seen)
