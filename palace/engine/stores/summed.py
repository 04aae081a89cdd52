"""Collections whose states are told apart by when each was made, and by sums of digests.

What sqlite_exact's store and milvus-lite's have in common.
"""

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from palace.engine.stores.digest_sum import DigestSum
from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.projection import Change, Unshared
from palace.journal.record import Entity, JsonObject, Payload
from palace.journal.replay import digest_of
from palace.journal.tail import Touched


class Summed(Unshared):
    """A store; what is known of a collection has `made`, and the sum of its `records`."""

    __slots__ = ()
    _known: dict[str, Any]  # by name
    drops: int

    @property
    @abstractmethod
    def path(self) -> str: ...

    @abstractmethod
    def read(self, kind: str, ids: Iterable[str]) -> Mapping[str, Payload]: ...

    @abstractmethod
    def _note_collection(self, name: str) -> None: ...

    def exists(self) -> bool:
        return os.path.exists(self.path)

    def kinds(self) -> tuple[str, ...]:
        return (COLLECTION, *(PREFIX + name for name in self._known))

    def owns(self, kind: str) -> bool:
        return kind == COLLECTION or kind.startswith(PREFIX)

    def knows(self, name: str) -> bool:
        """Tell whether there is a collection of this name, as far as this process has seen."""
        return name in self._known

    def count(self, kind: str) -> int:
        if kind == COLLECTION:
            return len(self._known)
        known = self._known.get(kind.removeprefix(PREFIX))
        return 0 if known is None else known.records.count

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.kind == COLLECTION:
                self._note_collection(change.id)
                continue
            records = self._known[change.kind.removeprefix(PREFIX)].records
            if change.before is not None:
                records.remove(digest_of(change.before))
            if change.after is not None:
                records.add(digest_of(change.after))

    def recount(self) -> None:
        return  # the files say the same whether they are open or not

    def _made(self, name: str) -> str:
        return self._known[name].made if name in self._known else ""

    def _others_made(self, then: JsonObject, touched: Mapping[Entity, Touched]) -> bool:
        """Tell whether collections came or went, or were made anew, and not by us."""
        ours = {ident for kind, ident in touched if kind == COLLECTION}
        return any(
            self._made(name) != then.get(name, [""])[0]
            for name in {*self._known, *then}
            if name not in ours
        )

    def _differs(self, name: str, then: JsonObject, touched: Mapping[Entity, Touched]) -> bool:
        """Compare sums, with what we touched taken out."""
        kind = PREFIX + name
        ours = {ident: was for (of, ident), was in touched.items() if of == kind}
        before = [digest_of(was.baseline) for was in ours.values() if was.baseline is not None]
        after = [digest_of(record) for record in self.read(kind, ours).values()]
        was = DigestSum(*then.get(name, ["", 0, 0])[1:3])
        now: DigestSum = self._known[name].records
        return was.without(before) != now.without(after)
