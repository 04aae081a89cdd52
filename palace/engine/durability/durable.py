"""Journal first: each change is on the disk before it is made, each reply after it.

A call's changes form a *group* under its key.  Changes made outside of any call, and those of calls
that are made of units, stand for themselves.  What can't be finished is taken back at once where
that is possible, and otherwise by the next owner (recovery.py): this one is *stuck*
then, makes no further change, and leaves.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import attrs

from palace.engine.stores.projection import Change, Projection, same
from palace.journal.journal import Journal
from palace.journal.record import ABORT, DELETE, OUTCOME, PUT, UNIT, Draft
from palace.journal.undo import undo
from palace.protocol.errors import JournalFailed

T = TypeVar("T")
# Chroma 1.5 leaks what it held at a write that found the disk full, and soon hangs for ever: such a
# write must not begin.  One change takes far less; an index grows by some MiB at a time.
ROOM_BYTES = 16 << 20

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False)
class Group:
    """The changes of one call: each entity's first one, in order of touching, and last state."""

    key: str
    units: bool = False
    step: int = 0
    first: dict[tuple[str, str], tuple[Projection, Change]] = attrs.field(factory=dict)
    last: dict[tuple[str, str], Any] = attrs.field(factory=dict)
    failure: JournalFailed | None = None

    @property
    def changed(self) -> bool:
        return self.step > 0


class Booked(NamedTuple):
    """A change, and the group that it belongs to."""

    group: Group
    change: Change


@attrs.define(eq=False)
class Durable:
    """Binds the journal to the projections.  Threads share one."""

    journal: Journal
    stuck: bool = False
    _here: threading.local = attrs.field(factory=threading.local)
    _owed: list[Draft] = attrs.field(factory=list)  # what a full disk kept us from saying
    _count: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    @contextmanager
    def group(self, key: str, *, units: bool) -> Iterator[Group]:
        """Collect what this thread changes under a call's key; the caller says how it ended."""
        group = Group(key, units)
        self._here.group = group
        try:
            yield group
        finally:
            self._here.group = None

    def current(self) -> Group | None:
        """Return the group under which this thread changes things, None outside of any call."""
        group: Group | None = getattr(self._here, "group", None)
        return group

    @contextmanager
    def on_behalf(self, groups: Mapping[str, Group]) -> Iterator[None]:
        """Book this thread's changes under the groups of other calls, by the changed entity's id.

        One call's thread stores for a whole batch: what fails then fails for nobody yet.
        """
        self._here.groups = groups
        try:
            yield
        finally:
            self._here.groups = None

    def change(self, projection: Projection, changes: Sequence[Change], make: Callable[[], T]) -> T:
        """Journal changes, then make them; raises JournalFailed, and then they weren't made.

        The caller holds the projection's lock since it read the `before`s.
        """
        changes = [change for change in changes if _is_one(change)]
        if not changes:
            return make()
        groups = getattr(self._here, "groups", None)
        if groups is not None:
            return self._change_for(groups, projection, changes, make)
        group = self.current()
        alone = group is None
        if group is None:
            group = Group(self._own_key())
        try:
            booked = [Booked(group, change) for change in changes]
            result = self._change(projection, booked, make, alone=alone)
        except JournalFailed as error:
            group.failure = error
            raise
        if alone:
            self.end_unit(group)
        return result

    def _change_for(
        self,
        groups: Mapping[str, Group],
        projection: Projection,
        changes: Sequence[Change],
        make: Callable[[], T],
    ) -> T:
        booked = [Booked(groups[change.id], change) for change in changes]
        try:
            return self._change(projection, booked, make)
        except JournalFailed as error:
            owners = _groups(booked)
            if len(owners) == 1:  # what failed for several will be tried for each
                owners[0].failure = error
            raise

    def change_for_good(
        self, projection: Projection, changes: Sequence[Change], make: Callable[[], T]
    ) -> T:
        """Do what `change` does, as a unit of its own: it stays, whatever becomes of the call."""
        group = self.current()
        self._here.group = None
        try:
            return self.change(projection, changes, make)
        finally:
            self._here.group = group

    def _change(
        self,
        projection: Projection,
        booked: Sequence[Booked],
        make: Callable[[], T],
        *,
        alone: bool = False,
    ) -> T:
        journal = self.journal
        if self.stuck:
            raise _stuck()
        self._pay()
        for group in _groups(booked):
            group.step += 1
        self._check_room()
        seq = journal.append([_draft(group, change) for group, change in booked])
        try:
            journal.sync(seq)
            journal.kernel.pass_point("apply")
            result = make()
        except BaseException:
            self._take_back(projection, booked, alone=alone)
            raise
        journal.kernel.pass_point("applied")
        projection.applied([change for _, change in booked])
        for group, change in booked:
            group.first.setdefault((change.kind, change.id), (projection, change))
            group.last[change.kind, change.id] = change.after
        return result

    def _check_room(self) -> None:
        directory = self.journal.directory
        if self.journal.kernel.free_bytes(directory) < ROOM_BYTES:
            raise JournalFailed(
                f"The disk of {directory} is nearly full: less than {ROOM_BYTES >> 20} MiB are "
                "left. Nothing was changed. Free some space and ask again; the broker goes on by "
                "itself."
            )

    def _take_back(self, projection: Projection, booked: Sequence[Booked], *, alone: bool) -> None:
        """One operation failed: the journal, and if need be the store, say it wasn't made."""
        groups = _groups(booked)
        logger.warning("a change of %s failed and is taken back", [group.key for group in groups])
        try:
            for _, change in booked:
                actual = projection.read(change.kind, [change.id]).get(change.id)
                if not same(actual, change.before):
                    projection.write(change.kind, {change.id: change.before})
        except Exception:
            logger.exception("a failed change could not be taken back: the next owner does it")
            failure = self._leave_open()
            for group in groups:
                group.failure = failure
            return
        drafts = [undo(group.key, change) for group, change in booked]
        if alone:
            drafts += [
                Draft(action=ABORT, key=group.key, payload={"why": "it failed"}) for group in groups
            ]
        self._say(drafts)

    # The end of a group.

    def end_unit(self, group: Group | None = None) -> None:
        """What the group did so far stays, whatever becomes of the rest."""
        group = group or self.current()
        if group is None or not group.first:
            return
        group.first.clear()
        try:
            self.journal.close_key(group.key, UNIT)
        except JournalFailed:
            self._owed.append(Draft(action=UNIT, key=group.key, payload={}))

    def end_of_file(self) -> None:
        """A long call has come to a boundary where it may be interrupted for good."""
        group = self.current()
        if group is not None and group.units:
            self.end_unit(group)

    def commit(self, group: Group, reply: str) -> int:
        """Record a call's outcome; return the seq whose durability it waits for, 0 for none.

        Raises JournalFailed where that is impossible: then the call was taken back.
        """
        if not group.changed and group.failure is None:
            return 0
        if group.failure is None:
            try:
                self._pay()
                self.journal.kernel.pass_point("outcome")
                return self.journal.close_key(group.key, OUTCOME, reply=reply)
            except JournalFailed as error:
                group.failure = error
        if not self.stuck:
            self._take_all_back(group)
        raise group.failure

    def _take_all_back(self, group: Group) -> None:
        if group.units:
            self.end_unit(group)
            return
        undone = []
        try:
            for entity, (projection, change) in reversed(group.first.items()):
                with projection.lock:
                    now = projection.read(change.kind, [change.id]).get(change.id)
                    if not same(now, group.last[entity]):
                        continue  # somebody else has changed it since: theirs is the last word
                    projection.write(change.kind, {change.id: change.before})
                    projection.applied([Change(change.kind, change.id, now, change.before)])
                undone.append(undo(group.key, change))
        except Exception:
            logger.exception("a call could not be taken back: the next owner does it")
            group.failure = self._leave_open()
            return
        self._say(
            [*undone, Draft(action=ABORT, key=group.key, payload={"why": "the journal failed"})]
        )

    def _leave_open(self) -> JournalFailed:
        """Leave a group open in the journal: the next owner takes it back from there."""
        self.stuck = True
        return _stuck()

    # What must be said, now or as soon as there is room.

    def _say(self, drafts: list[Draft]) -> None:
        with self._lock:
            self._owed += drafts
        try:
            self._pay()
        except JournalFailed:
            logger.warning("the journal can't be written: %d records wait", len(self._owed))

    def _pay(self) -> None:
        if not self._owed:
            return
        with self._lock:
            owed = list(self._owed)
            if owed:
                self.journal.append(owed)
                self._owed.clear()

    def _own_key(self) -> str:
        with self._lock:
            self._count += 1
            return f"own-{self.journal.stamp.epoch}-{self._count}"


def _groups(booked: Sequence[Booked]) -> list[Group]:
    """Return the groups, each once; they are few."""
    return list({id(group): group for group, _ in booked}.values())


def _is_one(change: Change) -> bool:
    """Tell whether a change changes anything; to Python, 1 is True and 1.0 as well."""
    return change.before != change.after or not same(change.before, change.after)


def _stuck() -> JournalFailed:
    return JournalFailed(
        "A change could neither be finished nor taken back, so this broker leaves, and the next "
        "one takes it back at its start. Ask again. The broker's log says what went wrong."
    )


def _draft(group: Group, change: Change) -> Draft:
    return Draft(
        action=PUT if change.after is not None else DELETE,
        key=group.key,
        step=group.step,
        kind=change.kind,
        id=change.id,
        payload=change.after,
        deleted=change.after is None,
        before=change.before,
    )
