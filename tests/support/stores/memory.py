"""A store in memory that keeps the rules of engine/stores/projection.py, and a palace of two.

Like Chroma it numbers what it is told, and like the lists it counts what it holds.  What it was
told is durable at once; a process may die between any two entities (`Kernel.failpoint`).
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import attrs

from palace.engine.durability.adoption import Adoption
from palace.engine.durability.groups import CallGroups
from palace.engine.durability.recovery import Recovery
from palace.engine.stores.projection import Change, Unshared
from palace.journal.inspect import Gap, read_from
from palace.journal.journal import SEGMENT_BYTES, Journal
from palace.journal.record import Record, Stamp
from palace.journal.replay import digest_of, no_progress, replay
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalFailed
from palace.protocol.keyring import Key, Keyring
from tests.support.disks.memory import ROOT, Disk

Entity = tuple[str, str]
Fingerprint = dict[str, int]

JOURNAL = f"{ROOT}/journal"
KEYS = Keyring([Key(b"k" * 32)])  # every owner of these palaces has them
_64_BITS = (1 << 64) - 1


@attrs.define(eq=False)
class Platter:
    """What of a store outlives its process: payloads with the number of their last change."""

    rows: dict[Entity, tuple[int, Any]] = attrs.field(factory=dict)
    number: int = 0
    birth: int = 0

    def set(self, entity: Entity, payload: Any) -> None:
        self.number += 1
        self.rows.pop(entity, None)
        if payload is not None:
            self.rows[entity] = self.number, payload

    def copy(self) -> "Platter":
        return Platter(dict(self.rows), self.number, self.birth)

    @property
    def contents(self) -> dict[Entity, Any]:
        return {entity: payload for entity, (_, payload) in self.rows.items()}


@attrs.define(eq=False, kw_only=True)
class MemoryStore(Unshared):
    """One store of some kinds.  `on_write` is called before each entity is written."""

    name: str
    kinds_: tuple[str, ...]
    kernel: Kernel
    platter: Platter = attrs.field(factory=Platter)
    on_write: Callable[[Entity], None] = lambda _entity: None
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    scanned: list[str] = attrs.field(factory=list)
    read_ids: list[str] = attrs.field(factory=list)
    _count: int = 0
    _sum: int = 0

    # As its callers use it.

    def set(self, durable: CallGroups, kind: str, changes: Mapping[str, Any]) -> None:
        """Make these the payloads (None: delete), journalled."""
        with self.lock:
            before = self.read(kind, changes)
            listed = [Change(kind, i, before.get(i), after) for i, after in changes.items()]
            durable.change(self, listed, lambda: self.write(kind, changes))

    # As the journal uses it.

    def kinds(self) -> tuple[str, ...]:
        return self.kinds_

    def owns(self, kind: str) -> bool:
        return kind in self.kinds_

    def read(self, kind: str, ids: Iterable[str]) -> dict[str, Any]:
        rows = self.platter.rows
        wanted = list(ids)
        self.read_ids += wanted
        return {ident: rows[kind, ident][1] for ident in wanted if (kind, ident) in rows}

    def scan(self, kind: str) -> Iterator[tuple[str, Any]]:
        self.scanned.append(kind)
        for (known, ident), (_, payload) in list(self.platter.rows.items()):
            if known == kind:
                yield ident, payload

    def ids(self, kind: str) -> list[str]:
        return [ident for known, ident in self.platter.rows if known == kind]

    def count(self, kind: str) -> int:
        return sum(known == kind for known, _ in self.platter.rows)

    def write(self, kind: str, changes: Mapping[str, Any]) -> None:
        for ident, payload in changes.items():
            self.kernel.failpoint(f"store {self.name}")
            self.on_write((kind, ident))
            self.platter.set((kind, ident), payload)

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            for payload, sign in ((change.before, -1), (change.after, 1)):
                if payload is not None:
                    self._count += sign
                    self._sum = (self._sum + sign * digest_of(payload)) & _64_BITS

    def fingerprint(self) -> Fingerprint:
        return self._fingerprint_of(self._count, self._sum)

    def _fingerprint_of(self, count: int, total: int) -> Fingerprint:
        platter = self.platter
        return {"number": platter.number, "birth": platter.birth, "count": count, "sum": total}

    def read_fingerprint(self) -> Fingerprint:
        self._count = len(self.platter.rows)
        self._sum = sum(digest_of(payload) for _, payload in self.platter.rows.values()) & _64_BITS
        return self.fingerprint()

    def recount(self) -> None:
        return

    def was_replaced(self, baseline: Fingerprint) -> bool:
        return self.is_older(baseline) or self.platter.birth != baseline["birth"]

    def is_older(self, baseline: Fingerprint) -> bool:
        return self.platter.number < baseline["number"]

    def suspects(self, baseline: Fingerprint, touched: Mapping[Entity, Any]) -> bool:
        if self.was_replaced(baseline):
            return True
        rows = self.platter.rows
        changed = {entity for entity, (number, _) in rows.items() if number > baseline["number"]}
        if changed - set(touched):
            return True
        ours = {entity: was for entity, was in touched.items() if self.owns(entity[0])}
        then = sum(was.baseline is not None for was in ours.values())
        now = sum(entity in rows for entity in ours)
        return baseline["count"] - then != len(rows) - now


@attrs.define(eq=False, kw_only=True)
class Life:
    """One owner's life: a journal over two stores, with kinds "a" and "b"."""

    disk: Disk
    journal: Journal
    durable: CallGroups
    recovery: Recovery
    one: MemoryStore
    two: MemoryStore

    @property
    def platters(self) -> tuple[Platter, Platter]:
        return self.one.platter, self.two.platter

    def adoption(self) -> Adoption:
        """Return what adopts the rest; one portion is one entity until it grows."""
        return Adoption(
            journal=self.journal,
            projections=(self.one, self.two),
            listed=self.recovery.listed,
            size=1,
        )

    @property
    def contents(self) -> dict[Entity, Any]:
        """Return what the stores hold."""
        return {**self.one.platter.contents, **self.two.platter.contents}

    def set(self, kind: str, **changes: Any) -> None:
        store = self.one if self.one.owns(kind) else self.two
        store.set(self.durable, kind, changes)

    def call(self, key: str, *steps: tuple[str, str, Any], reply: str = "done") -> int:
        """Carry a call out; return the seq that its reply waits for."""
        with self.durable.group(key, non_atomic=False) as group, suppress(JournalFailed):
            for kind, ident, payload in steps:
                self.set(kind, **{ident: payload})
        return self.durable.commit(group, reply)

    def known(self) -> dict[Entity, Any]:
        """Return what the journal says that the stores hold."""
        known = replay(JOURNAL, self.disk)
        return {entity: known.payload(entity) for entity in known.live}

    def check(self) -> None:
        """Assert that stores, journal, and what is told of the stores agree."""
        assert self.known() == self.contents
        for store in (self.one, self.two):
            fingerprint = store.fingerprint()
            assert fingerprint == store.read_fingerprint(), store.name


def born(
    disk: Disk,
    platters: tuple[Platter, Platter] | None = None,
    epoch: int = 1,
    segment_bytes: int = SEGMENT_BYTES,
    *,
    dual: bool = False,
) -> Life:
    """Open a palace; `awake` recovers it."""
    stamp = Stamp(epoch=epoch, writer=f"w{epoch}", keys=KEYS)
    journal = Journal.open(JOURNAL, disk, stamp, segment_bytes=segment_bytes)
    stores = [
        MemoryStore(name=name, kinds_=(kind,), kernel=disk, platter=platter)
        for name, kind, platter in zip(
            ("one", "two"), "ab", platters or (Platter(), Platter()), strict=True
        )
    ]
    recovery = Recovery(journal=journal, projections=stores, progress=no_progress, dual=dual)
    recovery.scan()
    return Life(
        disk=disk,
        journal=journal,
        durable=CallGroups(journal),
        recovery=recovery,
        one=stores[0],
        two=stores[1],
    )


def awake(
    disk: Disk,
    platters: tuple[Platter, Platter] | None = None,
    epoch: int = 1,
    segment_bytes: int = SEGMENT_BYTES,
    *,
    whole: bool = True,
    dual: bool = False,
) -> Life:
    """Open a palace as a broker does; `whole`: wait until all is adopted."""
    life = born(disk, platters, epoch, segment_bytes, dual=dual)
    life.journal.fingerprints = life.recovery.fingerprints
    life.recovery.run()
    if whole:
        for _ in life.adoption().portions():
            pass
    return life


def after(life: Life, disk: Disk | None = None, *, whole: bool = True) -> Life:
    """Return the next owner's life after a death: by default nothing but memory is lost."""
    if disk is None:
        disk = life.disk.power_cut(lambda _low, high: high)
    one, two = life.platters
    return awake(disk, (one.copy(), two.copy()), life.journal.stamp.epoch + 1, whole=whole)


# What tests ask of a life.


def records(life: Life, since: int = 1) -> list[Record]:
    """Return a journal's records, of which none is missing; torn lines may be between them."""
    found = list(read_from(JOURNAL, life.disk, since))
    assert not [item for item in found if isinstance(item, Gap)]
    return [item for item in found if isinstance(item, Record)]


def entities(**ids: Any) -> dict[Entity, Any]:
    """Return payloads of kind a by id, with an underscore of kind b."""
    return {("b" if i.endswith("_") else "a", i.rstrip("_")): p for i, p in ids.items()}


def dying_at(
    life: Life, point: str, skip: int = 0, before_that: Callable[[], None] = lambda: None
) -> None:
    """Let the process die at a named place between two steps."""
    stock, left = life.disk.failpoint, [skip]

    def failpoint(name: str) -> None:
        if name == point:
            if not left[0]:
                before_that()
                life.disk.stop_after(0)
            left[0] -= 1
        stock(name)

    life.disk.failpoint = failpoint  # type: ignore[method-assign]
