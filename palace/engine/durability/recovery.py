"""Opening a palace with a journal: before anything is served, both must say the same.

In this order: what somebody else changed while no broker ran is taken into the journal; what a dead
owner left unfinished is taken back; what the journal knows and a store has lost is written again.
A palace without a journal is adopted whole.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from palace.engine.stores.projection import Change, Projection, in_batches, same
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.record import (
    ABORT,
    ADOPT,
    ATTEMPT,
    QUARANTINE,
    STATE,
    UNIT,
    Draft,
    Entity,
    Record,
)
from palace.journal.replay import Progress, Replay, digest_of, replay
from palace.journal.undo import first_changes, undo
from palace.protocol.resend import CRASHES_MAX

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False, kw_only=True)
class Recovery:
    """One opening.  Call `look` before any store is open, then `run`."""

    journal: Journal
    projections: Sequence[Projection]
    progress: Progress
    now: dict[str, Any] = attrs.field(factory=dict)
    suspects: list[Projection] = attrs.field(factory=list)
    _ours: dict[Entity, list[Any]] = attrs.field(factory=dict)  # states since the base, in order
    _left_alone: set[Entity] = attrs.field(factory=set)

    def look(self) -> None:
        """Measure the stores and compare them with what the journal says they looked like."""
        self.progress("looking at the palace", 0.0)
        self.now = {projection.name: projection.measure() for projection in self.projections}
        base = self.journal.tail.at
        if base is None:
            return
        for projection in self.projections:
            then = base.get(projection.name)
            if then is None or projection.suspects(then, self.journal.tail.touched):
                self.suspects.append(projection)

    def run(self) -> None:
        tail = self.journal.tail
        if tail.at is not None and tail.gaps:
            self._believe_the_stores()
            return
        if tail.open or tail.touched or self.suspects:
            for projection in self.projections:
                projection.recount()
        self._ours = self._states_since_base()
        open_keys = list(reversed(tail.open))  # the last first, should two have changed the same
        if tail.at is None:
            for key in open_keys:
                self._take_back(key)
            self._adopt_all()
            return
        for projection in self.suspects:
            level = logging.INFO if projection.name == "files" else logging.WARNING
            logger.log(level, "%s was changed by somebody else: taking it over", projection.name)
            self._reconcile(projection, base=tail.at.get(projection.name))
        for key in open_keys:
            self._take_back(key)
        self._write_lost()
        if self.suspects or open_keys:
            self.journal.sync(self.journal.close_key("", STATE))

    # A palace that has no journal yet.

    def _adopt_all(self) -> None:
        known = replay(self.journal.directory, self.journal.kernel, self.progress)
        total = sum(p.count(kind) for p in self.projections for kind in p.kinds()) or 1
        done = 0
        logger.info("taking %d entities into a new journal", total)
        gone = set(known.live)  # what a first half has taken, and was deleted before this one
        for projection in self.projections:
            for kind in projection.kinds():
                for batch in in_batches(projection.scan(kind)):
                    new = [entry for entry in batch if not _is_known(known, kind, entry)]
                    _append_adopted(self.journal, kind, new)
                    gone.difference_update((kind, ident) for ident, _ in batch)
                    done += len(batch)
                    self.progress("taking the palace into its journal", min(1.0, done / total))
        for kind, ident in gone:
            _append_adopted(self.journal, kind, [(ident, None)])
        self.journal.sync(self.journal.close_key("", STATE))

    # A journal that lacks records.

    def _believe_the_stores(self) -> None:
        """Nobody knows what was finished: what the stores hold counts, nothing is taken back."""
        journal = self.journal
        logger.error("the journal lacks records: see palace doctor; taking the stores as they are")
        unfinished = frozenset(_states(journal.tail.open.values()))
        for key in list(journal.tail.open):
            journal.append([Draft(action=UNIT, key=key, payload={"why": "records are missing"})])
        base = journal.tail.at or {}
        for projection in self.projections:  # but a store that was lost is no witness
            self._reconcile(projection, base.get(projection.name), unfinished)
        journal.sync(journal.close_key("", STATE, whole=True))
        journal.roll()  # what begins here is whole

    # A store that isn't what the journal left.

    def _reconcile(
        self, projection: Projection, base: Any, believed: frozenset[Entity] = frozenset()
    ) -> None:
        """Take over what differs; what is missing is either deleted, or the store is an old one."""
        known = replay(self.journal.directory, self.journal.kernel, self.progress)
        work = _Reconciling(
            journal=self.journal,
            projection=projection,
            known=known,
            pending=_states(self.journal.tail.open.values()),
            lost=base is not None and projection.was_replaced(base),
            older=base is not None and projection.is_older(base),
            believed=believed,
        )
        kinds = {*projection.kinds(), *(kind for kind in known.kinds() if projection.owns(kind))}
        for number, kind in enumerate(sorted(kinds)):  # a collection comes before its records
            self.progress(f"comparing {kind}", number / len(kinds))
            work.run(kind)

    # What a dead owner left unfinished.

    def _states_since_base(self) -> dict[Entity, list[Any]]:
        """Return the states that entities had at the base, and that our records gave them since."""
        journal, tail = self.journal, self.journal.tail
        states = _states(tail.open.values())
        for entity, was in tail.touched.items():
            states.setdefault(entity, []).append(was.base)
        if not states:
            return states
        for found in read_from(journal.directory, journal.kernel, tail.at_seq + 1):
            if isinstance(found, Record) and found.entity in states:
                states[found.entity].append(found.payload)
        return states

    def _take_back(self, key: str) -> None:
        journal = self.journal
        changes = list(journal.tail.open[key])
        crashes = journal.tail.attempts.get(key, 0) + 1
        tries = journal.tail.tries.get(key, 0)
        journal.sync(journal.append([Draft(action=ATTEMPT, key=key)]))
        journal.kernel.pass_point("take_back")
        first = first_changes(changes)
        if tries >= CRASHES_MAX:
            # Taking it back has ended owners, too: let the journal be right, and open without it.
            text = f"taking it back ended {tries} brokers; its entities may be damaged"
            drafts = [Draft(action=QUARANTINE, key=key, payload=text)]
            drafts += [undo(key, change) for change in first.values()]
            self._left_alone.update(first)
        else:
            drafts = [
                undo(key, change)
                for change in first.values()
                if self._write_back(
                    change, [c.payload for c in changes if c.entity == change.entity]
                )
            ]
            if crashes == CRASHES_MAX:
                text = f"it was under way at the death of {crashes} brokers"
                drafts.append(Draft(action=QUARANTINE, key=key, payload=text))
        logger.warning("%s was unfinished: %d changes are taken back", key, len(drafts))
        journal.append([*drafts, Draft(action=ABORT, key=key, payload={"why": "its owner died"})])

    def _write_back(self, change: Draft, mine: list[Any]) -> bool:
        """Restore an entity, unless its newest state is somebody else's."""
        kind, ident = entity = change.entity
        touched = self.journal.tail.touched.get(entity)
        newest = self._ours[entity][-1] if touched is None else touched.now
        if newest not in (*mine, change.before):
            return False
        projection = next(p for p in self.projections if p.owns(kind))
        actual = projection.read(kind, [ident]).get(ident)
        if not _among(self._ours[entity], actual):
            _append_adopted(self.journal, kind, [(ident, actual)])
            return False
        if not same(actual, change.before):
            projection.write(kind, {ident: change.before})
            projection.applied([Change(kind, ident, actual, change.before)])
        self._ours[entity].append(change.before)
        return True

    # What a store has lost, though its change was complete.

    def _write_lost(self) -> None:
        for (kind, ident), was in list(self.journal.tail.touched.items()):
            projection = next((p for p in self.projections if p.owns(kind)), None)
            if projection is None or projection in self.suspects:
                continue
            actual = projection.read(kind, [ident]).get(ident)
            if same(actual, was.now) or (kind, ident) in self._left_alone:
                continue
            if _among(self._ours[kind, ident], actual):
                logger.warning("%s %s was lost by its store: written again", kind, ident)
                projection.write(kind, {ident: was.now})
                projection.applied([Change(kind, ident, actual, was.now)])
            else:
                _append_adopted(self.journal, kind, [(ident, actual)])


@attrs.define(eq=False, kw_only=True)
class _Reconciling:
    """One store against the journal.

    `lost`: what it lacks was not deleted; `older`: nor was changed what differs.  Of the `believed`
    entities the store's word counts all the same: nobody knows whether their changes were made.
    """

    journal: Journal
    projection: Projection
    known: Replay
    pending: dict[Entity, list[Any]]
    lost: bool
    older: bool
    believed: frozenset[Entity]

    def run(self, kind: str) -> None:
        there: set[str] = set()
        old: list[str] = []
        for batch in in_batches(self.projection.scan(kind)):
            there.update(ident for ident, _ in batch)
            changed = [entry for entry in batch if not self._is_ours(kind, entry)]
            if self.older:
                stale = {ident for ident, _ in changed if self._is_known_better(kind, ident)}
                old += stale
                changed = [entry for entry in changed if entry[0] not in stale]
            _append_adopted(self.journal, kind, changed)
        missing = [
            ident
            for ident in self.known.ids(kind)
            if ident not in there and None not in self.pending.get((kind, ident), ())
        ]
        gone = {ident for ident in missing if not self.lost or (kind, ident) in self.believed}
        _append_adopted(self.journal, kind, [(ident, None) for ident in gone])
        if self.lost:
            self._write_again(kind, [*old, *(ident for ident in missing if ident not in gone)])

    def _is_known_better(self, kind: str, ident: str) -> bool:
        return (kind, ident) in self.known.live and (kind, ident) not in self.believed

    def _is_ours(self, kind: str, entry: tuple[str, Any]) -> bool:
        pending = self.pending.get((kind, entry[0]), ())
        return _is_known(self.known, kind, entry) or _among(pending, entry[1])

    def _write_again(self, kind: str, ids: list[str]) -> None:
        for batch in in_batches(ids):
            payloads = {ident: self.known.payload((kind, ident)) for ident in batch}
            before = self.projection.read(kind, payloads)
            self.projection.write(kind, payloads)
            self.projection.applied(
                Change(kind, ident, before.get(ident), now) for ident, now in payloads.items()
            )


def _states(open_keys: Iterable[Sequence[Draft]]) -> dict[Entity, list[Any]]:
    """Return the states that unfinished keys gave to entities, the ones before included."""
    states: dict[Entity, list[Any]] = {}
    for changes in open_keys:
        for change in changes:
            states.setdefault(change.entity, [change.before]).append(change.payload)
    return states


def _append_adopted(journal: Journal, kind: str, found: Iterable[tuple[str, Any]]) -> None:
    drafts = [_adopted(kind, ident, payload) for ident, payload in found]
    if drafts:
        journal.append(drafts)
        if journal.is_long():
            journal.roll()


def _is_known(known: Replay, kind: str, entry: tuple[str, Any]) -> bool:
    ident, payload = entry
    live = known.live.get((kind, ident))
    if live is None or live.digest != digest_of(payload):
        return False
    return same(payload, known.payload((kind, ident)))


def _among(states: Iterable[Any], payload: Any) -> bool:
    return any(same(payload, state) for state in states)


def _adopted(kind: str, ident: str, payload: Any) -> Draft:
    return Draft(action=ADOPT, kind=kind, id=ident, payload=payload, deleted=payload is None)
