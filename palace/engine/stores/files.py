"""Small files that a palace can't do without, which stock writes once and hardly ever again."""

import base64
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from palace.engine.stores.projection import Change
from palace.journal.replay import digest_of
from palace.kernel.kernel import Kernel

KIND = "file"
NAMES = ("mempalace_embedder.json", "replica.json")


@attrs.define(eq=False)
class Files:
    """Files in the palace, whole; they are looked at when a palace is opened and closed."""

    root: str
    kernel: Kernel
    name: str = "files"
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    _seen: dict[str, int] = attrs.field(factory=dict)

    def kinds(self) -> tuple[str, ...]:
        return (KIND,)

    def owns(self, kind: str) -> bool:
        return kind == KIND

    def read(self, _kind: str, ids: Iterable[str]) -> dict[str, Any]:
        found = {ident: self.kernel.read_hint(f"{self.root}/{ident}") for ident in ids}
        return {
            ident: {"base64": base64.b64encode(data).decode()}
            for ident, data in found.items()
            if data is not None
        }

    def scan(self, kind: str) -> Iterator[tuple[str, Any]]:
        yield from self.read(kind, NAMES).items()

    def count(self, kind: str) -> int:
        return len(self.read(kind, NAMES))

    def write(self, _kind: str, changes: Mapping[str, Any]) -> None:
        for ident, payload in changes.items():
            if payload is None:
                self.kernel.unlink(f"{self.root}/{ident}")
            else:
                data = base64.b64decode(payload["base64"])
                self.kernel.write_durable(f"{self.root}/{ident}", data)

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._seen.pop(change.id, None)
            if change.after is not None:
                self._seen[change.id] = digest_of(change.after)

    def look(self) -> dict[str, int]:
        return dict(self._seen)

    def measure(self) -> dict[str, int]:
        self._seen = {ident: digest_of(payload) for ident, payload in self.scan(KIND)}
        return self.look()

    def changes(self) -> list[Change]:
        """Return what is there now and was not so when it was measured."""
        now = dict(self.scan(KIND))
        return [
            Change(KIND, ident, None, payload)
            for ident, payload in now.items()
            if self._seen.get(ident) != digest_of(payload)
        ]

    def recount(self) -> None:
        return  # what was measured is so

    def was_replaced(self, _base: Any) -> bool:
        return True  # stock removes none of them

    def is_older(self, _base: Any) -> bool:
        return False  # it can't be told

    def suspects(self, base: Any, _touched: Mapping[tuple[str, str], Any]) -> bool:
        return bool(base != self._seen)
