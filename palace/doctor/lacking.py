"""What the stores lack of what the journal holds: ids against ids, beside whoever serves.

Contents are not compared: that needs the stores opened, and `--drift` does it.  An id is read in
microseconds, so that all of them are, in a time that people wait for.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, WARNING, Finding
from palace.journal.inspect import read_from
from palace.journal.record import ENTITIES, Entity, Record
from palace.journal.tail import Tail
from palace.protocol.errors import StoreCorrupt, StoreUnavailable
from palace.settings.config import DUAL

if TYPE_CHECKING:
    from palace.engine.stores.file_ids import FileIds
    from palace.engine.stores.projection import Projection

WITHIN_S = 10.0  # for all ids; a second is enough for about a million of them

AGAIN = "palace doctor"
EVERY_ENTRY = "Compare every entry, which takes as long as it takes: palace doctor --drift"
AT_START = "A broker writes it again from the journal at its start: palace start"
NEXT_START = "The next broker writes it again from the journal: palace stop; palace start"
DELETED = (
    "If another program was to delete it, the next broker takes that over: {start}. If not, make "
    "new stores from the journal before that; what other programs have written since is then only "
    "in the old ones, which are kept: {rebuild}"
)


def check_lacking(found: Diagnostics, tail: Tail, besides: Iterable[str]) -> Iterator[Finding]:
    """Yield which stores lack entries; those named in `besides` are known to be damaged.

    `found.words` must be filled: palace/doctor/journal.py does it as it reads the journal.
    """
    assert found.config is not None
    if found.config.journal == "off" or not found.words.seq:
        return
    refusal = _refusal(found)
    if refusal is not None:
        yield refusal
        return
    # Late, since they load the stores' modules.
    from palace.engine.stores.file_ids import FileIds
    from palace.engine.stores.health import Access
    from palace.engine.stores.palace_stores import unopened_stores

    until_s = time.monotonic() + WITHIN_S
    files = FileIds(
        stores=unopened_stores(found.paths, found.config, found.kernel),
        access=Access.IDLE if found.is_closed() else Access.SHARED,
        time_is_up=lambda: time.monotonic() > until_s,
    )
    yield from _Comparison(found, tail, files, frozenset(besides)).findings()


def _refusal(found: Diagnostics) -> Finding | None:
    if not found.words.are_known:
        return _not_compared("the journal itself is not whole", f"Put it right, then look: {AGAIN}")
    if found.status is None:
        if found.holder is None:
            return None
        return _not_compared(
            f"pid {found.holder.pid} has the palace's lock",
            f"Look again once it has ended: {AGAIN}",
        )
    state = found.status["engine"]["state"]
    if state == "ready":
        return None
    return _not_compared(f"the broker's engine is {state}", f"Look again once it is ready: {AGAIN}")


def _not_compared(why: str, remedy: str) -> Finding:
    """Return a warning: what was not compared may be lost, and nobody would know."""
    return Finding(
        level=WARNING,
        code="not_compared",
        text=f"The stores were not compared with all that the journal holds: {why}.",
        remedy=remedy,
    )


@attrs.frozen
class _Comparison:
    """One comparison of all stores but the damaged ones."""

    found: Diagnostics
    tail: Tail
    files: "FileIds"
    besides: frozenset[str]

    def findings(self) -> Iterator[Finding]:
        from palace.engine.stores.file_ids import TimeIsUpError

        adopting = self.tail.adopting
        # Of the rest the journal may be out of date until it is settled.
        live = self.found.words.live(0 if adopting is None else adopting.since)
        by_store: dict[str, tuple[Projection, dict[str, list[str]]]] = {}
        for kind, ids in sorted(live.items()):
            store = self.files.store_of(kind)
            if store is not None and store.name not in self.besides:
                by_store.setdefault(store.name, (store, {}))[1][kind] = ids
        for store, kinds in by_store.values():
            try:
                lacks = self._lacks(kinds)
                if lacks:
                    yield self._finding(store, lacks, sum(map(len, kinds.values())))
            except TimeIsUpError:
                yield _not_compared(f"{WITHIN_S:.0f} s were not enough", EVERY_ENTRY)
                return
            except (sqlite3.Error, StoreCorrupt, StoreUnavailable, OSError) as error:
                why = f"{store.name} can't be read now ({error})"
                yield _not_compared(why, EVERY_ENTRY)

    def _lacks(self, kinds: dict[str, list[str]]) -> list[Entity]:
        """Return what is missing, but for what was written while we looked."""
        lacks = self._missing(kinds)
        if not lacks or self.found.status is None:
            unfinished = {c.entity for changes in self.tail.open.values() for c in changes}
            return [entity for entity in lacks if entity not in unfinished]
        # A change is journalled first and made then.  What no open group has touched by now was
        # made: it is there, unless a later record says something of it.
        tail = self.found.tail()
        unfinished = {c.entity for changes in tail.open.values() for c in changes}
        again: dict[str, list[str]] = {}
        for kind, ident in lacks:
            again.setdefault(kind, []).append(ident)
        lacks = self._missing(again)
        later = self._said_since(self.found.words.seq)
        return [entity for entity in lacks if entity not in unfinished | later]

    def _missing(self, kinds: dict[str, list[str]]) -> list[Entity]:
        lacks: list[Entity] = []
        for kind, ids in kinds.items():
            there = self.files.of(kind)
            lacks += [(kind, ident) for ident in ids if ident not in there]
        return lacks

    def _said_since(self, seq: int) -> set[Entity]:
        records = read_from(
            self.found.paths.journal, self.found.kernel, seq + 1, keys=self.found.keys
        )
        return {
            record.entity
            for record in records
            if isinstance(record, Record) and record.action in ENTITIES
        }

    def _finding(self, store: "Projection", lacks: list[Entity], known: int) -> Finding:
        counts: dict[str, int] = {}
        for kind, _ in lacks:
            counts[kind] = counts.get(kind, 0) + 1
        parts = ", ".join(f"{count} of {kind}" for kind, count in counts.items())
        return Finding(
            level=ERROR,
            code="lacking",
            text=f"{_path_of(store)} lacks {len(lacks)} of the {known} entries that the journal "
            f"holds ({parts}), such as {lacks[0][1]}.",
            remedy=self._remedy(store),
        )

    def _remedy(self, store: "Projection") -> str:
        from palace.engine.durability.healing import FROM_DUAL

        assert self.found.config is not None
        if self.found.config.journal == DUAL:
            return FROM_DUAL
        # Beside a broker nobody else writes to Chroma.
        is_served, is_chroma = self.found.status is not None, store is self.files.stores.drawers
        if is_served and is_chroma:
            return NEXT_START
        if not self.files.may_have_deleted(store, self.tail.baseline or {}):
            return NEXT_START if is_served else AT_START
        if is_served:
            start, rebuild = "palace stop; palace start", "palace rebuild --stop --partial"
            return DELETED.format(start=start, rebuild=rebuild)
        return DELETED.format(start="palace start", rebuild="palace rebuild --partial")


def _path_of(store: "Projection") -> str:
    path = getattr(store, "path", "") or getattr(store, "root", "")
    return str(path)
