"""Opening a palace with a journal: before anything is served, both must say the same.

Theory of operation.  The last closing record that left no group open holds every store's
fingerprint: the baseline.  `scan` reads the fingerprints again, before any store is open, and
takes out of both sides what records since then touched; a store that still differs is *suspect*:
another program changed it.  `run` then acts on what it finds, in this order:

| the journal says | the stores | what is done |
|---|---|---|
| no baseline | whatever they hold | open groups are rolled back, the stores adopted later |
| records are missing | whatever they hold | the stores are believed; nothing is rolled back |
| a store is suspect | differ from it | compared entity by entity, differences adopted |
| a store is another one | hold states of ours that were changed since | written again |
| a group has no outcome | hold any part of it | rolled back: each entity as it was before |
| a change is complete | hold an earlier state | written again: the store has lost it |

The order matters.  Foreign changes are adopted first, so that a rollback sees them as the newest
state of their entities and leaves them alone; what was lost is written last, when the journal's
last word on each entity is settled.  Every step may be interrupted and done again: each compares
before it writes, and its records come after what they report.

"Later" is while calls are served (adoption.py): `run` only says in the journal that it isn't whole.
A suspect store is left till then, too, if nothing of ours can be missing from it.

A palace with `journal = "dual"` is opened by the same steps, and no store is written.  Unfinished
groups stay as their stores hold them, and end as "outcome unknown"; so they do after an owner that
worked without the journal, since that has served what they left.  What would be written again is
*held back*: it stays in the journal, closing records name its store, and the next opening that may
write finds it lost, however many openings were between (docs/decisions/0041).
"""

import logging
from collections.abc import Sequence

import attrs

from palace.engine.durability.accounting import is_accounted_for
from palace.engine.durability.beside import Note
from palace.engine.durability.reconciliation import (
    Reconciliation,
    among,
    append_adopted,
    by_id_of,
    marks_of,
    states_of,
)
from palace.engine.stores.files import KIND as FILE
from palace.engine.stores.projection import Change, Projection, fingerprints_of, same
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.purge import PURGED_REPLY
from palace.journal.record import (
    ABORT,
    ATTEMPT,
    ENTITIES,
    OUTCOME,
    QUARANTINE,
    STATE,
    UNIT,
    Draft,
    Entity,
    Json,
    JsonObject,
    Payload,
    Record,
)
from palace.journal.replay import Progress, replay
from palace.journal.tail import HELD, Adopting, split_key
from palace.journal.undo import first_changes, newest_first, undo
from palace.protocol.resend import CRASHES_MAX

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False, kw_only=True)
class Recovery:
    """One opening.  Call `scan` before any store is open, then `run`.

    `dual`: it writes to the journal alone.  `held` are the stores that lack something then.  `own`
    names stores that no other program writes: what differs in one is not adopted.  `noted` is what
    an owner before this one missed in a store that it had to itself.
    """

    journal: Journal
    projections: Sequence[Projection]
    progress: Progress
    dual: bool = False
    own: frozenset[str] = frozenset()
    noted: Note = attrs.field(factory=Note)
    held: set[str] = attrs.field(factory=set)
    suspects: list[Projection] = attrs.field(factory=list)
    # The ids of all entities by store and kind, where there is anything to adopt.
    listed: dict[str, dict[str, list[str]]] = attrs.field(factory=dict)
    # The states that our own records gave to entities, from the baseline on, oldest first.
    _ours: dict[Entity, list[Payload]] = attrs.field(factory=dict)
    _left_alone: set[Entity] = attrs.field(factory=set)
    _held_before: frozenset[str] = frozenset()

    def scan(self) -> None:
        """Read the stores' fingerprints and compare them with the baseline; opens no store."""
        self.progress("looking at the palace", 0.0)
        for projection in self.projections:
            projection.read_fingerprint()
        tail = self.journal.tail
        if tail.baseline is not None:
            self._held_before = tail.held_back
            for projection in self.projections:
                then = self._then(projection)
                is_held = projection.name in self._held_before or self._is_noted(projection)
                if then is None or self._differs(projection, then) or is_held:
                    self.suspects.append(projection)
        if tail.baseline is None or tail.adopting is not None or self.suspects:
            self.listed = {
                projection.name: {kind: projection.ids(kind) for kind in projection.kinds()}
                for projection in self.projections
            }

    def _is_noted(self, projection: Projection) -> bool:
        return any(projection.owns(kind) for kind, _ in self.noted.entities())

    def _then(self, projection: Projection) -> Json:
        """Return a store's fingerprint in the baseline, None where it had none.

        An own store that is empty has none, so there it says that there was nothing.
        """
        baseline = self.journal.tail.baseline or {}
        return baseline.get(projection.name, {} if projection.name in self.own else None)

    @property
    def _keeps(self) -> bool:
        """Tell whether unfinished groups stay as they are."""
        return self.dual or self.journal.tail.paused

    def fingerprints(self) -> JsonObject:
        """Return what closing records say of the stores."""
        found = fingerprints_of(self.projections)
        return {**found, HELD: sorted(self.held)} if self.held else found

    def _differs(self, projection: Projection, then: Json) -> bool:
        """Tell whether a store is not as it was; one that can't be compared may not be."""
        try:
            projection.is_older(then)
            projection.was_replaced(then)
            return projection.suspects(then, self.journal.tail.touched)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            logger.error(  # noqa: TRY400 - what it says may be anybody's
                "the journal's fingerprint of %s has another shape: comparing all of it",
                projection.name,
            )
            assert self.journal.tail.baseline is not None
            self.journal.tail.baseline.pop(projection.name, None)
            return True

    def _owner_of(self, entity: Entity) -> Projection | None:
        """Return the store of an entity; None for a kind that no store here knows."""
        found = next((p for p in self.projections if p.owns(entity[0])), None)
        if found is None:
            logger.error("the journal names an entity of no store here: it is left alone")
        return found

    def run(self) -> None:
        tail = self.journal.tail
        if tail.baseline is not None and tail.gaps:
            # A missing record may be the outcome of what looks open: rolling it back could undo an
            # acknowledged change.
            self._believe_the_stores()
            return
        if tail.open or tail.touched or self.suspects:
            # The stores are open now, and have finished or rolled back what they were killed in.
            for projection in self.projections:
                projection.recount()
        self._ours = self._states_since_baseline()
        open_keys = [key for key, _ in newest_first(tail.open)]
        if tail.baseline is None:
            # Calls ran before the first adoption: their groups come first, so that no half of one
            # is adopted as if it were stock's.
            self._end_open(open_keys)
            self._adopt_later()
            return
        later = [projection for projection in self.suspects if self._may_wait(projection)]
        for projection in self.suspects:
            level = logging.INFO if projection.name == "files" else logging.WARNING
            become = "putting it back" if projection.name in self.own else "taking it over"
            logger.log(level, "%s was changed by another program: %s", projection.name, become)
            if projection in later:
                continue
            self._reconcile(projection, baseline=self._then(projection))
        if self._keeps:  # what unfinished groups did is compared with what they would have done
            self._write_lost(later)
            self._end_open(open_keys)
        else:
            self._end_open(open_keys)
            self._write_lost(later)
        if later:
            self._adopt_later()
        elif self.suspects or open_keys or tail.paused:
            self.journal.sync(self.journal.close_key("", STATE))

    # What is adopted while calls are served.

    def _may_wait(self, projection: Projection) -> bool:
        """Tell whether a suspect store may be compared later: nothing of ours is missing in it.

        What is gone from a store that went on was deleted, and what differs is newer: calls see
        and change what is there.
        """
        tail = self.journal.tail
        then = self._then(projection)
        if then is None or self._is_lost(projection, then) or projection.is_older(then):
            return False
        ours = {*tail.touched, *states_of(tail.open.values()), *self.noted.lost()}
        return not any(projection.owns(kind) for kind, _ in ours)

    @property
    def _is_partial(self) -> bool:
        tail = self.journal.tail
        return bool(tail.gaps) or tail.adopting is not None

    def _is_lost(self, projection: Projection, then: Json) -> bool:
        """Tell whether what a store lacks was not deleted."""
        return (
            projection.name in self._held_before
            or projection.was_replaced(then)
            or is_accounted_for(self.journal, projection, then)  # last: it reads the journal
        )

    def _adopt_later(self) -> None:
        """Say that the journal isn't whole: of anything that it says by now it may be out of date.

        An empty palace is whole at once.
        """
        total = sum(len(ids) for kinds in self.listed.values() for ids in kinds.values())
        adopting = Adopting(since=self.journal.seq, total=total)
        if total or self.journal.tail.baseline is not None or self.journal.seq:
            self.journal.begin_adoption(adopting)
        else:
            self.journal.sync(self.journal.close_key("", STATE))

    # A journal that lacks records.

    def _believe_the_stores(self) -> None:
        """Take the stores as they are: which of the open groups were finished can't be known."""
        journal = self.journal
        logger.error("the journal lacks records: see palace doctor; taking the stores as they are")
        unfinished = frozenset(states_of(journal.tail.open.values()))
        for key in list(journal.tail.open):
            journal.append([Draft(action=UNIT, key=key, payload={"why": "records are missing"})])
        baseline = journal.tail.baseline or {}
        # A store that was lost or is older is not believed: what it lacks is written again.
        for projection in self.projections:
            self._reconcile(projection, baseline.get(projection.name), unfinished)
        journal.sync(journal.close_key("", STATE, whole=True))
        journal.roll()  # a reader that begins with the new segment meets no gap

    # A store that isn't as the journal left it.

    def _reconcile(
        self, projection: Projection, baseline: Json, believed: frozenset[Entity] = frozenset()
    ) -> None:
        """Adopt what differs.  What is missing was deleted, unless the store lost it."""
        known = replay(
            self.journal.directory, self.journal.kernel, self.progress, keys=self.journal.keys
        )
        # Made anew for another backend: what it lacks was in it when it was verified.
        is_new = baseline is None and self.journal.tail.moving == projection.name
        lost = is_new or (baseline is not None and self._is_lost(projection, baseline))
        unfinished = states_of(self.journal.tail.open.values())
        past = self._past_of(projection) if lost and not is_new else {}
        work = Reconciliation(
            journal=self.journal,
            projection=projection,
            known=known,
            pending={} if self._keeps else unfinished,
            lost=lost,
            older=baseline is not None and projection.is_older(baseline),
            believed=believed | frozenset(unfinished) if self._keeps else believed,
            held=self.held if self.dual else None,
            # Of what the journal lacks, or has not come to yet, the store may know more.
            is_own=projection.name in self.own and not self._is_partial,
            missed=self.noted.lost(),
            changed=self.noted.left(),
            past=past,
            by_id=by_id_of(known, past) if lost and not is_new else {},
        )
        kinds = {*projection.kinds(), *(kind for kind in known.kinds() if projection.owns(kind))}
        for number, kind in enumerate(sorted(kinds)):  # a collection comes before its records
            self.progress(f"comparing {kind}", number / len(kinds))
            work.run(kind)

    def _past_of(self, projection: Projection) -> "dict[Entity, set[int]]":
        """Return the marks of all states that the journal ever gave to a store's entities.

        A store that another program has made from an older copy, as stock's `migrate` does, holds
        some of them: they are no change, and what came after them was acknowledged.
        Stock's small files are left out: their former contents come back for good reasons.
        """
        past: dict[Entity, set[int]] = {}
        for found in read_from(self.journal.directory, self.journal.kernel, keys=self.journal.keys):
            if (
                isinstance(found, Record)
                and found.payload is not None
                and found.action in ENTITIES
                and found.kind != FILE
                and projection.owns(found.kind)
            ):
                past.setdefault(found.entity, set()).update(marks_of(found.payload))
        return past

    # What a dead owner left unfinished.

    def _states_since_baseline(self) -> dict[Entity, list[Payload]]:
        """Return the states of touched entities at the baseline, and those since, oldest first.

        A store that holds one of them holds our own work, whole or half; any other state is not
        ours.
        """
        journal, tail = self.journal, self.journal.tail
        states = states_of(tail.open.values())
        for entity, was in tail.touched.items():
            states.setdefault(entity, []).append(was.baseline)
        if not states:
            return states
        for found in read_from(
            journal.directory, journal.kernel, tail.baseline_seq + 1, keys=journal.keys
        ):
            if isinstance(found, Record) and found.entity in states:
                states[found.entity].append(found.payload)
        return states

    def _end_open(self, keys: Sequence[str]) -> None:
        if not self._keeps:
            for key in keys:
                self._roll_back(key)
        elif keys:
            logger.warning("%d calls were unfinished, and their outcome is unknown", len(keys))
            self.journal.append([_unknown(key) for key in keys])

    def _roll_back(self, key: str) -> None:
        journal = self.journal
        changes = list(journal.tail.open[key])
        deaths = journal.tail.attempts.get(key, 0)
        # Durable before the store is touched: an entity that ends the process each time it is
        # written would otherwise end every owner, and none would know why.
        journal.sync(journal.append([Draft(action=ATTEMPT, key=key)]))
        journal.kernel.failpoint("take_back")
        crashes, tries = journal.tail.attempts.get(key, 0), journal.tail.tries[key] - 1
        first = first_changes(changes)
        if tries >= CRASHES_MAX:
            # Writing these entities has ended owners as well.  The journal says that they are as
            # before, the store is left alone, and the palace opens without them.
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
            if deaths < crashes == CRASHES_MAX:  # it is rolled back as any other, but not run again
                text = f"it was under way at the death of {crashes} brokers"
                drafts.append(Draft(action=QUARANTINE, key=key, payload=text))
        logger.warning("%s was unfinished: %d changes are taken back", key, len(drafts))
        # After the stores, and synced by `run` for all groups at once: until then the group is open
        # on the disk, and an owner that repeats this leaves alone what is restored already.
        journal.append([*drafts, Draft(action=ABORT, key=key, payload={"why": "its owner ended"})])

    def _write_back(self, change: Draft, mine: list[Payload]) -> bool:
        """Restore an entity; False where its newest state isn't this group's to take back."""
        kind, ident = entity = change.entity
        touched = self.journal.tail.touched.get(entity)
        newest = self._ours[entity][-1] if touched is None else touched.now
        if newest not in (*mine, change.before):
            return False  # a later, finished call changed it: that call was acknowledged
        projection = self._owner_of(entity)
        if projection is None:
            # The journal alone says that it is as before: the palace whose store it is in finds its
            # store ahead of that, and writes it.
            return True
        with projection.lock, projection.exclusively():
            actual = projection.read(kind, [ident]).get(ident)
            is_used = change.before is None and projection.is_used(kind, ident)
            is_ours = among(self._ours[entity], actual) and not is_used
            if projection.name not in self.own and not is_ours:
                # Another program changed it after us, in a store whose fingerprint didn't show it,
                # or another palace's facts are about it by now.
                append_adopted(self.journal, kind, [(ident, actual)])
                return False
            if not same(actual, change.before):
                projection.note_undone(kind, ident, actual)
                projection.write(kind, {ident: change.before})
                projection.applied([Change(kind, ident, actual, change.before)])
        self._ours[entity].append(change.before)
        return True

    # What a store has lost, though its change was complete.

    def _write_lost(self, later: Sequence[Projection]) -> None:
        tail = self.journal.tail
        unfinished = states_of(tail.open.values())  # none, unless they are kept
        for (kind, ident), was in list(tail.touched.items()):
            projection = self._owner_of((kind, ident))
            if projection is None or (projection in self.suspects and projection not in later):
                continue  # a suspect store was compared whole
            with projection.lock, projection.exclusively():
                actual = projection.read(kind, [ident]).get(ident)
                if same(actual, was.now) or (kind, ident) in self._left_alone:
                    continue
                # An older state of our own: the store acknowledged the change and lost it.  Any
                # other state was written by another program, or is what an unfinished call left.
                is_kept = among(unfinished.get((kind, ident), ()), actual)
                is_past = among(self._ours[kind, ident], actual) and not tail.paused
                is_ours = is_past or projection.name in self.own
                if is_ours and not is_kept and self.dual:
                    self.held.add(projection.name)
                elif is_ours and not is_kept:
                    logger.warning("%s %s was lost by its store: written again", kind, ident)
                    projection.write(kind, {ident: was.now})
                    projection.applied([Change(kind, ident, actual, was.now)])
                else:
                    append_adopted(self.journal, kind, [(ident, actual)])


def _unknown(key: str) -> Draft:
    """Return what ends an unfinished key whose changes are kept as far as they came.

    A call that is sent again is answered with "outcome unknown", as where a purge took its reply.
    """
    payload = {"why": "its owner ended; the stores are believed"}
    if split_key(key) is None:
        return Draft(action=UNIT, key=key, payload=payload)
    return Draft(action=OUTCOME, key=key, payload={**payload, "reply": PURGED_REPLY})
