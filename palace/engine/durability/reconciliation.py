"""One store against the journal, entity by entity: what differs is adopted, what is lost written.

Used when a palace is opened (recovery.py), and beside a running owner (outsiders.py).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from palace.engine.stores.projection import Change, Projection, in_batches, same
from palace.engine.stores.undone import state_of
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, Draft, Entity, Json, Payload
from palace.journal.replay import Replay, digest_of, replay
from palace.protocol.errors import StoreCorrupt


@attrs.define(eq=False, kw_only=True)
class Reconciliation:
    """One store against the journal, entity by entity.

    `lost` says that what the store lacks was not deleted; `older`, that what differs in it was not
    changed either.  For the `believed` entities the store counts all the same: whether their
    changes were finished can't be known.  `past` holds the marks (`marks_of`) of states that were
    ours once: in a store that isn't the one that we wrote, they are no change.  Nor is what it
    holds of an entity under another kind (`by_id`): stock's `migrate` files the records of all
    collections among the drawers.  What a palace that shares the store has taken back
    (`taken_back`) is neither lost nor former.  With `held` the store is not written: where it would
    have to be, its name is put there.  An own store (`is_own`) is written by no other program, so
    that it is made what the journal says.  What an owner has `missed` in a store that it had to
    itself was lost, too, whatever was done with the store since; what had `changed` there by itself
    is left alone.  Of a store that was just made and verified nothing can be missing
    (`is_complete`): StoreCorrupt.
    """

    journal: Journal
    projection: Projection
    known: Replay
    pending: dict[Entity, list[Payload]]
    lost: bool
    older: bool
    believed: frozenset[Entity]
    past: dict[Entity, set[int]]
    by_id: dict[str, set[int]]
    held: set[str] | None = None
    is_own: bool = False
    is_complete: bool = False
    missed: frozenset[Entity] = frozenset()
    changed: frozenset[Entity] = frozenset()
    _taken_back: Collection[int] = attrs.field(init=False)

    @_taken_back.default
    def _read_taken_back(self) -> Collection[int]:
        return self.projection.taken_back()

    def run(self, kind: str) -> None:
        if self.is_own:
            self._enforce(kind)
        else:
            self._compare(kind)

    def _enforce(self, kind: str) -> None:
        """Make a store hold what the journal says; what open groups did is left to them."""
        foreign: list[str] = []
        wrong: list[str] = []
        there: set[str] = set()
        for ident, payload in self.projection.scan(kind):
            there.add(ident)
            if not self._is_ours(kind, (ident, payload)):
                is_known = (kind, ident) in self.known.live
                (wrong if is_known else foreign).append(ident)
        missing = (ident for ident in self.known.ids(kind) if ident not in there)
        wrong += [i for i in missing if None not in self.pending.get((kind, i), ())]
        self._remove(kind, foreign)
        self._restore(kind, wrong)

    def _compare(self, kind: str) -> None:
        there: set[str] = set()
        old: list[str] = []
        for batch in in_batches(self.projection.scan(kind)):
            there.update(ident for ident, _ in batch)
            changed = [
                entry
                for entry in batch
                if (kind, entry[0]) not in self.changed and not self._is_ours(kind, entry)
            ]
            former = [ident for ident, payload in changed if self._is_former(kind, ident, payload)]
            if former:
                old += [ident for ident in former if (kind, ident) in self.known.live]
                self._remove(kind, [i for i in former if (kind, i) not in self.known.live])
                changed = [entry for entry in changed if entry[0] not in former]
            if self.older:
                stale = {ident for ident, _ in changed if self._is_known_better(kind, ident)}
                old += stale
                changed = [entry for entry in changed if entry[0] not in stale]
            append_adopted(self.journal, kind, changed)
        # An open group may have deleted it: then its rollback decides, not this comparison.
        missing = [
            ident
            for ident in self.known.ids(kind)
            if ident not in there and None not in self.pending.get((kind, ident), ())
        ]
        if missing and self.is_complete:
            raise StoreCorrupt(
                f"The new store lacks {kind} {missing[0]}, which it had when it was made: somebody "
                "else has changed it. The journal holds all of it: palace start; palace doctor"
            )
        gone = {ident for ident in missing if not self._was_lost((kind, ident))}
        append_adopted(self.journal, kind, [(ident, None) for ident in gone])
        if self.lost or self.missed:
            self._restore(kind, [*old, *(ident for ident in missing if ident not in gone)])

    def _was_lost(self, entity: Entity) -> bool:
        """Tell whether what the store lacks is to be written again, rather than deleted by now."""
        is_known = self.journal.tail.is_settled(self.known.live[entity].seq)
        is_lost = self.lost or entity in self.missed
        return is_lost and is_known and entity not in self.believed and not self._is_undone(entity)

    def _is_undone(self, entity: Entity) -> bool:
        """Tell whether the palace that made an entity what the journal knows has taken it back."""
        live = self.known.live.get(entity)
        return live is not None and state_of(*entity, live.digest) in self._taken_back

    def _is_known_better(self, kind: str, ident: str) -> bool:
        return (kind, ident) in self.known.live and (kind, ident) not in self.believed

    def _is_ours(self, kind: str, entry: tuple[str, Payload]) -> bool:
        pending = self.pending.get((kind, entry[0]), ())
        return is_known(self.known, kind, entry) or among(pending, entry[1])

    def _is_former(self, kind: str, ident: str, payload: Payload) -> bool:
        """Tell whether a store holds what an entity was before the journal's last word on it."""
        if (kind, ident) in self.believed or self._is_undone((kind, ident)):
            return False
        live, digest = self.known.live.get((kind, ident)), digest_of(payload)
        if live is None and self.projection.is_used(kind, ident):
            return False  # another palace made it once more, just as it was, for what names it
        if live is None and _was_ours(payload, self.by_id.get(ident, set())):
            return True
        is_newest = live is not None and live.digest == digest  # but for its vector
        return not is_newest and _was_ours(payload, self.past.get((kind, ident), set()))

    def _is_held(self, ids: list[str]) -> bool:
        if self.held is not None and ids:
            self.held.add(self.projection.name)
        return self.held is not None

    def _remove(self, kind: str, ids: list[str]) -> None:
        """Delete again what was deleted after the store's copy was made."""
        if self._is_held(ids):
            return
        for batch in in_batches(ids):
            before = self.projection.read(kind, batch)
            self.projection.write(kind, dict.fromkeys(batch))
            self.projection.applied(Change(kind, i, was, None) for i, was in before.items())

    def _restore(self, kind: str, ids: list[str]) -> None:
        if self._is_held(ids):
            return
        for batch in in_batches(ids):
            payloads = {ident: self.known.payload((kind, ident)) for ident in batch}
            with self.projection.lock, self.projection.exclusively():
                before = self.projection.read(kind, payloads)
                for ident, now in before.items():
                    if not self._is_wrong(kind, ident, now):
                        del payloads[ident]  # another palace has written it meanwhile
                self.projection.write(kind, payloads)
                self.projection.applied(
                    Change(kind, ident, before.get(ident), now) for ident, now in payloads.items()
                )

    def _is_wrong(self, kind: str, ident: str, now: Payload) -> bool:
        return self.is_own or self.older or self._is_former(kind, ident, now)


def take_over(journal: Journal, projection: Projection, known: Replay) -> Reconciliation:
    """Return the work of adopting all that an open store holds otherwise; nothing is written."""
    return Reconciliation(
        journal=journal,
        projection=projection,
        known=known,
        pending={},
        lost=False,
        older=False,
        believed=frozenset(),
        past={},
        by_id={},
        is_complete=True,
    )


def by_id_of(known: Replay, past: Mapping[Entity, set[int]]) -> dict[str, set[int]]:
    """Return the marks of what the journal knows, or knew, under each id, whatever its kind."""
    found: dict[str, set[int]] = {}
    for (_, ident), live in known.live.items():
        found.setdefault(ident, set()).add(live.digest)
    for (_, ident), marks in past.items():
        found.setdefault(ident, set()).update(marks)
    return found


def marks_of(payload: Payload) -> set[int]:
    """Return the digests of a state, and of its parts."""
    return {digest_of(payload)} | _parts_of(payload)


def _parts_of(payload: Payload) -> set[int]:
    """Return the digests of a record's text and of its metadata; none for what has no text.

    Stock's `migrate` reads the texts of all records, and then the metadata of each, beside whoever
    writes: what it files may be a text with the metadata of a later state.
    """
    if not isinstance(payload, dict) or "document" not in payload:
        return set()
    parts = (["text", payload["document"]], ["metadata", payload.get("metadata")])
    return set(map(digest_of, parts))


def _was_ours(payload: Payload, ours: set[int]) -> bool:
    """Tell whether a state is one of ours, or made of their parts."""
    parts = _parts_of(payload)
    return digest_of(payload) in ours or bool(parts and parts <= ours)


def states_of(open_keys: Iterable[Sequence[Draft]]) -> dict[Entity, list[Payload]]:
    """Return the states that unfinished keys gave to entities, the ones before included."""
    states: dict[Entity, list[Payload]] = {}
    for changes in open_keys:
        for change in changes:
            states.setdefault(change.entity, [change.before]).append(change.payload)
    return states


def append_adopted(journal: Journal, kind: str, found: Iterable[tuple[str, Payload]]) -> None:
    drafts = [_adopted(kind, ident, payload) for ident, payload in found]
    if drafts:
        journal.append(drafts)
        if journal.is_long():
            journal.roll()


def is_known(known: Replay, kind: str, entry: tuple[str, Payload]) -> bool:
    """Tell whether a store's entry is in the journal as it is."""
    ident, payload = entry
    live = known.live.get((kind, ident))
    if live is None or live.digest != digest_of(payload):
        return False
    return same(payload, known.payload((kind, ident)))


def among(states: Iterable[Payload], payload: Payload) -> bool:
    return any(same(payload, state) for state in states)


def _adopted(kind: str, ident: str, payload: Payload) -> Draft:
    return Draft(action=ADOPT, kind=kind, id=ident, payload=payload, deleted=payload is None)


def adopt_beside(
    journal: Journal, projection: Projection, was: Json, held: set[str] | None = None
) -> int:
    """Compare an open store with the journal and adopt what differs; return how many records.

    `was` is its fingerprint by our own changes alone.  The caller holds the store's lock, so that
    no change of ours is half done.  With `held` the store is not written (`Reconciliation`).
    """
    before = journal.seq
    work = Reconciliation(
        journal=journal,
        projection=projection,
        known=replay(journal.directory, journal.kernel, keys=journal.keys),
        pending=states_of(list(journal.tail.open.values())),
        lost=projection.was_replaced(was),
        older=False,
        believed=frozenset(),
        past={},
        by_id={},
        held=held,
    )
    for kind in projection.kinds():
        work.run(kind)
    return journal.seq - before
