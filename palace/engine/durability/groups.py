"""Journal first: each change is on the disk before it is made, each reply after it.

Theory of operation.  A call's changes form a *group* under its key:

    append the changes, fsync -> make them -> ... -> append the outcome, fsync -> reply

A group without an outcome is rolled back, whole: by this owner, where the journal fails before the
outcome is written; by the next one (recovery.py), where this one died.  Two kinds of change are
kept instead: those made outside of any call, at once, and those of a non-atomic call.  At a death
that keeps what it did up to its last boundary (between two files of mine, or two items of a long
checkpoint), and where its outcome can't be written, all that it did.

Where even the rollback fails, the group stays open in the journal for the next owner.  This one is
*stuck* then: it makes no further change, which the rollback could undo, and leaves.  So it does
where a store that it could write to refuses change after change, as a damaged one does: another
owner finds out what is wrong, and mends it, before it opens anything.  A record that a full disk
keeps out of the journal is deferred, and written before any other.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import attrs

from palace.engine.stores.projection import Change, Projection, same, tells_of_damage
from palace.journal.author import NOBODY, Author
from palace.journal.journal import Journal
from palace.journal.record import ABORT, DELETE, OUTCOME, PUT, UNIT, Draft, Entity, Payload
from palace.journal.undo import undo
from palace.protocol.errors import Forbidden, JournalFailed

T = TypeVar("T")
# Chroma 1.5 leaks what it held at a write that found the disk full, and soon hangs for ever: such a
# write must not begin.  One change takes far less; an index grows by some MiB at a time.
ROOM_BYTES = 16 << 20
REFUSED_MAX = 3  # changes in a row by one store, before another owner looks what is wrong with it

OPEN = (
    "A change could neither be finished nor taken back, so this broker leaves, and the next one "
    "takes it back at its start. Ask again. The broker's log says what went wrong."
)
REFUSES = (
    "This change was not made: {store} refuses every one, so this broker leaves, and the next one "
    "looks what is wrong with it at its start. Ask again. The broker's log says what was refused."
)

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False)
class Group:
    """The changes of one call: each entity's first one, in order of touching, and last state."""

    key: str
    non_atomic: bool = False
    author: Author = NOBODY
    for_memories: bool = False
    step: int = 0
    first: dict[Entity, tuple[Projection, Change]] = attrs.field(factory=dict)
    last: dict[Entity, Payload] = attrs.field(factory=dict)
    failure: JournalFailed | None = None

    @property
    def changed(self) -> bool:
        return self.step > 0


class AttributedChange(NamedTuple):
    """A change, and the group of the call that makes it."""

    group: Group
    change: Change


class CallContext(threading.local):
    """What the call that this thread runs is to the journal.

    An engine extends it by what else it must know of the current call, so that there is one.
    """

    group: Group | None = None  # None: outside of any call
    for_memories: bool = False  # it may change those of namespaces: it has passed the gate
    groups: Mapping[str, Group] | None = None  # of other calls, by the changed entity's id


# Says why a change is only for calls that have passed the gate, "" where it isn't.
Guard = Callable[[Change], str]


def _no_guard(_change: Change) -> str:
    return ""


def _tell_nobody(_store: str) -> None:
    pass


@attrs.define(eq=False)
class CallGroups:
    """Journals the changes of each call as a group, and makes them.  Threads share one."""

    journal: Journal
    stuck: bool = False
    context: CallContext = attrs.field(factory=CallContext)
    guard: Guard = _no_guard
    suspect: Callable[[str], None] = _tell_nobody  # of which store the next owner is to doubt
    _deferred: list[Draft] = attrs.field(factory=list)  # what a full disk kept out of the journal
    _count: int = 0
    _stuck_text: str = ""
    _refused: dict[str, int] = attrs.field(factory=dict)  # by a store's name, since it last wrote
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    @contextmanager
    def group(self, key: str, *, non_atomic: bool, author: Author = NOBODY) -> Iterator[Group]:
        """Collect what this thread changes under a call's key; the caller says how it ended."""
        group = Group(key, non_atomic, author)
        self.context.group = group
        try:
            yield group
        finally:
            self.context.group = None

    def current(self) -> Group | None:
        """Return the group under which this thread changes things, None outside of any call."""
        return self.context.group

    @contextmanager
    def for_memories(self) -> Iterator[None]:
        """Let this thread's call change memories of namespaces: it has passed the gate."""
        group = self.current()
        self.context.for_memories = True
        if group is not None:
            group.for_memories = True  # another thread may store for it
        try:
            yield
        finally:
            self.context.for_memories = False
            if group is not None:
                group.for_memories = False

    @contextmanager
    def on_behalf(self, groups: Mapping[str, Group]) -> Iterator[None]:
        """Attribute this thread's changes to the groups of other calls, by the changed entity's id.

        One call's thread stores for a whole batch.  A failure then fails none of the calls: each is
        tried again alone.
        """
        self.context.groups = groups
        try:
            yield
        finally:
            self.context.groups = None

    def change(self, projection: Projection, changes: Sequence[Change], make: Callable[[], T]) -> T:
        """Journal changes, then make them; raises JournalFailed, and then they weren't made.

        Raises Forbidden for a memory of a namespace, but from a call that has passed the gate.
        The caller holds the projection's lock since it read the `before`s.
        """
        changes = [change for change in changes if _is_change(change)]
        if not changes:
            return make()
        groups = self.context.groups
        if groups is not None:
            return self._change_for(groups, projection, changes, make)
        group = self.current()
        alone = group is None
        if group is None:
            group = Group(self._own_key(), for_memories=self.context.for_memories)
        try:
            attributed = [AttributedChange(group, change) for change in changes]
            result = self._change(projection, attributed, make, alone=alone)
        except JournalFailed as error:
            group.failure = error
            raise
        if alone:
            self.keep_so_far(group)
        return result

    def _change_for(
        self,
        groups: Mapping[str, Group],
        projection: Projection,
        changes: Sequence[Change],
        make: Callable[[], T],
    ) -> T:
        attributed = [AttributedChange(groups[change.id], change) for change in changes]
        try:
            return self._change(projection, attributed, make)
        except JournalFailed as error:
            owners = _groups(attributed)
            if len(owners) == 1:  # several are tried again, one by one
                owners[0].failure = error
            raise

    def change_for_good(
        self, projection: Projection, changes: Sequence[Change], make: Callable[[], T]
    ) -> T:
        """Do what `change` does, as a unit of its own: it stays, whatever becomes of the call."""
        group, groups = self.current(), self.context.groups
        self.context.group = self.context.groups = None
        try:
            return self.change(projection, changes, make)
        finally:
            self.context.group, self.context.groups = group, groups

    def _change(
        self,
        projection: Projection,
        attributed: Sequence[AttributedChange],
        make: Callable[[], T],
        *,
        alone: bool = False,
    ) -> T:
        journal = self.journal
        if self.stuck:
            raise JournalFailed(self._stuck_text)
        self._check_gate(attributed)
        # In the order in which things happened: a deferred undo that came after a new change of the
        # same entity would be replayed as the newer state.
        self._append_deferred()
        for group in _groups(attributed):
            group.step += 1
        self._check_room(attributed)
        seq = journal.append([_draft(group, change) for group, change in attributed])
        try:
            journal.sync(seq)
            journal.kernel.failpoint("apply")
            result = make()
        except BaseException as error:
            # The records are in the file, though perhaps not on the disk, and the store may hold a
            # part of the change.
            self._roll_back_operation(projection, attributed, alone=alone)
            if tells_of_damage(error):
                self._note_refusal(projection.name)
            raise
        journal.kernel.failpoint("applied")
        self._refused[projection.name] = 0
        projection.applied([change for _, change in attributed])
        for group, change in attributed:
            # The first `before` is what a rollback restores; the last `after` tells whether the
            # entity is still as this group left it.
            group.first.setdefault((change.kind, change.id), (projection, change))
            group.last[change.kind, change.id] = change.after
        return result

    def _check_gate(self, attributed: Sequence[AttributedChange]) -> None:
        for group, change in attributed:
            why = "" if group.for_memories else self.guard(change)
            if why:
                raise Forbidden(why)

    def _check_room(self, attributed: Sequence[AttributedChange]) -> None:
        # A long call keeps what it did, and may not hear that it did nothing.
        keeps = any(group.non_atomic and group.step > 1 for group, _ in attributed)
        done = "What this call did before stays" if keeps else "Nothing was changed"
        directory = self.journal.directory
        try:
            free = self.journal.kernel.free_bytes(directory)
        except OSError as error:  # it was moved or removed
            raise JournalFailed(
                f"The journal {directory} can't be written: {error.strerror}. {done}."
            ) from None
        if free < ROOM_BYTES:
            raise JournalFailed(
                f"The disk of {directory} is nearly full: less than {ROOM_BYTES >> 20} MiB are "
                f"left. {done}. Free some space and ask again; the broker goes on by itself."
            )

    def _roll_back_operation(
        self, projection: Projection, attributed: Sequence[AttributedChange], *, alone: bool
    ) -> None:
        """Restore the entities of an operation that failed, and say so in the journal."""
        groups = _groups(attributed)
        logger.warning("a change of %s failed and is taken back", [group.key for group in groups])
        try:
            for _, change in attributed:
                actual = projection.read(change.kind, [change.id]).get(change.id)
                if not same(actual, change.before):
                    projection.write(change.kind, {change.id: change.before})
        except Exception:
            logger.exception("a failed change could not be taken back: the next owner does it")
            failure = self._leave_to_next_owner()
            for group in groups:
                group.failure = failure
            return
        drafts = [undo(group.key, change) for group, change in attributed]
        if alone:
            drafts += [
                Draft(action=ABORT, key=group.key, payload={"why": "it failed"}) for group in groups
            ]
        self._append_or_defer(drafts)

    def _note_refusal(self, store: str) -> None:
        """Leave where a store refuses all changes that it took before.

        One that has never written here would refuse the next owner's changes just the same.
        """
        if store not in self._refused:
            return
        self._refused[store] += 1
        if self._refused[store] >= REFUSED_MAX and not self.stuck:
            logger.error("%s refuses every change: this broker leaves, the next looks why", store)
            self.stuck, self._stuck_text = True, REFUSES.format(store=store)
            try:
                self.suspect(store)
            except OSError as error:  # the next owner looks less closely
                logger.warning("that it is to look could not be noted: %s", error)

    # The end of a group.

    def keep_so_far(self, group: Group | None = None) -> None:
        """Commit what the group did so far, whatever becomes of the rest."""
        group = group or self.current()
        if group is None or not group.first:
            return
        group.first.clear()
        try:
            self.journal.close_key(group.key, UNIT, group.author)
        except JournalFailed:
            # The changes stand in the stores; a death before this is written rolls them back.
            # The lock: another thread may be about to forget what it has just written of these.
            with self._lock:
                self._deferred.append(Draft(action=UNIT, key=group.key, payload={}))

    def fail(self, why: str) -> None:
        """Let this thread's call be taken back, whole, where it would otherwise be committed."""
        group = self.current()
        if group is not None and group.failure is None:
            group.failure = JournalFailed(why)

    def at_boundary(self) -> None:
        """Note that this thread's call, if it is non-atomic, has finished a part that may stay."""
        group = self.current()
        if group is not None and group.non_atomic:
            self.keep_so_far(group)

    def commit(self, group: Group, reply: str) -> int:
        """Record a call's outcome; return the seq whose durability it waits for, 0 for none.

        Raises JournalFailed where that is impossible: then the call was taken back.
        """
        if not group.changed and group.failure is None:
            return 0
        if group.failure is None:
            try:
                self._append_deferred()
                self.journal.kernel.failpoint("outcome")
                return self.journal.close_key(group.key, OUTCOME, group.author, reply=reply)
            except JournalFailed as error:
                group.failure = error
        if not self.stuck:
            self._roll_back(group)
        raise group.failure

    def _roll_back(self, group: Group) -> None:
        if group.non_atomic:
            self.keep_so_far(group)
            return
        undone = []
        try:
            for entity, (projection, change) in reversed(group.first.items()):
                with projection.lock, projection.exclusively():
                    now = projection.read(change.kind, [change.id]).get(change.id)
                    if not same(now, group.last[entity]):
                        continue  # another call has changed it since, and may be acknowledged
                    if change.before is None and projection.is_used(change.kind, change.id):
                        continue  # another palace's facts are about it by now
                    projection.note_undone(change.kind, change.id, now)
                    projection.write(change.kind, {change.id: change.before})
                    projection.applied([Change(change.kind, change.id, now, change.before)])
                undone.append(undo(group.key, change))
        except Exception:
            logger.exception("a call could not be taken back: the next owner does it")
            group.failure = self._leave_to_next_owner()
            return
        self._append_or_defer(
            [*undone, Draft(action=ABORT, key=group.key, payload={"why": "the journal failed"})]
        )

    def _leave_to_next_owner(self) -> JournalFailed:
        """Leave a group open in the journal: the next owner takes it back from there."""
        self.stuck, self._stuck_text = True, OPEN
        return JournalFailed(OPEN)

    # Records that must not be lost, now or as soon as there is room.

    def _append_or_defer(self, drafts: list[Draft]) -> None:
        with self._lock:
            self._deferred += drafts
        try:
            self._append_deferred()
        except JournalFailed:
            logger.warning("the journal can't be written: %d records wait", len(self._deferred))

    def _append_deferred(self) -> None:
        if not self._deferred:
            return
        with self._lock:
            deferred = list(self._deferred)
            if deferred:
                self.journal.append(deferred)
                self._deferred.clear()

    def _own_key(self) -> str:
        with self._lock:
            self._count += 1
            return f"own-{self.journal.stamp.epoch}-{self._count}"


def _groups(attributed: Sequence[AttributedChange]) -> list[Group]:
    """Return the groups, each once; they are few."""
    return list({id(group): group for group, _ in attributed}.values())


def _is_change(change: Change) -> bool:
    """Tell whether a change changes anything; to Python, 1 is True and 1.0 as well."""
    return change.before != change.after or not same(change.before, change.after)


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
