"""Tunnels and hallways: lists of records in one JSON file each, replaced whole at every change."""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from palace.engine.stores.projection import Change
from palace.journal.replay import digest_of
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreCorrupt

_64_BITS = (1 << 64) - 1


@attrs.define(eq=False, kw_only=True)
class JsonList:
    """One file.  `wrapper` is the object around the list, whose list stands under `member`."""

    name: str
    kind: str
    path: str
    kernel: Kernel
    member: str = ""
    wrapper: Mapping[str, Any] = attrs.field(factory=dict)
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    _count: int = 0
    _sum: int = 0

    def kinds(self) -> tuple[str, ...]:
        return (self.kind,)

    def owns(self, kind: str) -> bool:
        return kind == self.kind

    def load(self) -> list[Any]:
        """Return the file's list; a missing file is empty, an unreadable one raises."""
        try:
            with open(self.path, encoding="utf-8") as file:
                data = json.load(file)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise StoreCorrupt(
                f"{self.path} can't be read: {error}. Bring it back from the journal: "
                "palace rebuild; or move it away to begin with an empty one."
            ) from None
        if isinstance(data, dict):
            data = data.get(self.member) or []
        return data if isinstance(data, list) else []

    def store(self, records: list[Any]) -> None:
        data: Any = {**self.wrapper, self.member: records} if self.member else records
        text = json.dumps(data, indent=2, ensure_ascii=not self.member)
        self.kernel.write_durable(self.path, text.encode("utf-8", "surrogatepass"))

    def read(self, _kind: str, ids: Iterable[str]) -> dict[str, Any]:
        records = keyed(self.load())
        return {ident: records[ident] for ident in ids if ident in records}

    def scan(self, _kind: str) -> Iterator[tuple[str, Any]]:
        yield from keyed(self.load()).items()

    def count(self, _kind: str) -> int:
        return len(self.load())

    def write(self, _kind: str, changes: Mapping[str, Any]) -> None:
        records = keyed(self.load())
        for ident, payload in changes.items():
            if payload is None:
                records.pop(ident, None)
            else:
                records[ident] = payload
        if records or os.path.exists(self.path):
            self.store(list(records.values()))

    def changes_to(self, records: list[Any]) -> list[Change]:
        """Return how a new list differs from the file."""
        old, new = keyed(self.load()), keyed(records)
        return [
            Change(self.kind, ident, old.get(ident), new.get(ident))
            for ident in {**old, **new}
            if old.get(ident) != new.get(ident)
        ]

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            for payload, sign in ((change.before, -1), (change.after, 1)):
                if payload is not None:
                    self._count += sign
                    self._sum = (self._sum + sign * digest_of(payload)) & _64_BITS

    def look(self) -> list[int]:
        return [self._count, self._sum]

    def measure(self) -> list[int]:
        self._count, self._sum = _sums(keyed(self.load()).values())
        return self.look()

    def recount(self) -> None:
        return  # what was measured is so

    def was_replaced(self, base: Any) -> bool:
        return base[0] > 0 and not os.path.exists(self.path)

    def is_older(self, _base: Any) -> bool:
        return False  # it can't be told

    def suspects(self, base: Any, touched: Mapping[tuple[str, str], Any]) -> bool:
        ours = {ident: was for (kind, ident), was in touched.items() if kind == self.kind}
        then = _sums(was.base for was in ours.values() if was.base is not None)
        now = _sums(self.read(self.kind, ours).values())
        before = [base[0] - then[0], (base[1] - then[1]) & _64_BITS]
        after = [self._count - now[0], (self._sum - now[1]) & _64_BITS]
        return before != after


def _sums(payloads: Iterable[Any]) -> tuple[int, int]:
    digests = [digest_of(payload) for payload in payloads]
    return len(digests), sum(digests) & _64_BITS


def keyed(records: list[Any]) -> dict[str, Any]:
    """Return records by their `id`; one without, or with another's, is known by its content."""
    found: dict[str, Any] = {}
    for record in records:
        ident = record.get("id") if isinstance(record, dict) else None
        if not isinstance(ident, str) or ident in found:
            ident = f"content-{digest_of(record):016x}"
            while ident in found:
                ident += "+"
        found[ident] = record
    return found
