"""The promise: whenever the process or the power ends, whole calls remain, and all that was told.

A broker lives over two stores on a disk that loses what was not synced, from any point.  It dies at
any call of the kernel, in its recovery, too, and is born again.
"""

from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from palace.doctor.journal import inspect_journal
from palace.engine.durability.groups import Group
from palace.journal.checkpoint import make_checkpoint
from palace.protocol.errors import JournalFailed
from tests.support.disks.memory import Disk, Stopped, all_kept
from tests.support.stores.memory import JOURNAL, Entity, Life, Platter, awake, records

SEGMENT_BYTES = 3000
SOUND = {("note", "torn_line"), ("note", "torn_tail"), ("warning", "quarantine")}

Step = tuple[str, str, Any]


@attrs.frozen
class State:
    """What a palace holds between two calls; `seq` is the record that ended the last of them."""

    contents: dict[Entity, Any]
    replies: dict[tuple[str, int], str]
    seq: float = float("inf")

    def after(self, steps: list[Step]) -> "State":
        contents = dict(self.contents)
        for kind, ident, payload in steps:
            contents.pop((kind, ident), None)
            if payload is not None:
                contents[kind, ident] = payload
        return State(contents, self.replies)

    def replied(self, session: str, ordinal: int, reply: str) -> "State":
        return State(self.contents, self.replies | {(session, ordinal): reply})


def steps_of(idents: str, size: int = 4) -> st.SearchStrategy[list[Step]]:
    payload = st.none() | st.integers(0, 3) | st.just("long" * 40)
    return st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(idents), payload), max_size=size
    )


deaths = st.none() | st.integers(0, 45)


class Palace(RuleBasedStateMachine):
    """`states` are those that a death may lead back to, the newest last."""

    def __init__(self) -> None:
        super().__init__()
        self.life: Life = awake(Disk(), segment_bytes=SEGMENT_BYTES)
        self.states = [State({}, {}, 0)]
        self.pending: list[State] = []
        self.ordinal = 0
        self.refuse: Entity | None = None

    # A life.

    def _watch(self, life: Life) -> None:
        def on_write(entity: Entity) -> None:
            if entity == self.refuse:
                self.refuse = None
                raise LookupError("the store refuses it")

        life.one.on_write = life.two.on_write = on_write
        self.life = life

    def _do(self, work: Callable[[], None], death: int | None, data: st.DataObject) -> None:
        """Carry something out, or die after so many calls of the kernel."""
        self.life.disk.stop_after(death)
        try:
            work()
        except Stopped:
            self._be_born(data)
            return
        finally:
            self.refuse = None
        self.life.disk.stop_after(None)
        self.pending.clear()
        if not self.life.journal.tail.open:
            known = [
                State(s.contents, s.replies, min(s.seq, self.life.journal.seq)) for s in self.states
            ]
            self.states = known

    def _be_born(self, data: st.DataObject) -> None:
        self.states.extend(self.pending)
        self.pending.clear()
        synced = self.life.journal.synced
        firm = max(n for n, state in enumerate(self.states) if state.seq <= synced)
        disk, platters = self._cut(data), self._platters()
        if data.draw(st.booleans(), "dies in its recovery, too"):
            disk.stop_after(data.draw(st.integers(0, 60), "calls"))
            try:
                awake(disk, platters, disk.life, SEGMENT_BYTES)
            except Stopped:
                disk = self._cut(data, disk)
            disk.stop_after(None)
        life = awake(disk, platters, disk.life, SEGMENT_BYTES)
        found = [state for state in self.states[firm:] if self._is(state, life)]
        assert found, (life.contents, self.states[firm:])
        self.states = [State(found[-1].contents, found[-1].replies, 0)]
        assert not life.journal.tail.open
        assert {(f.level, f.code) for f in inspect_journal(JOURNAL, disk)} <= SOUND
        assert [r.seq for r in records(life)] == list(range(1, life.journal.seq + 1))
        life.check()
        self._watch(life)

    def _is(self, state: State, life: Life) -> bool:
        known = {
            (session, ordinal): reply
            for session, replies in life.journal.tail.replies.items()
            for ordinal, reply in replies.texts.items()
        }
        return state.contents == life.contents and state.replies == known

    def _cut(self, data: st.DataObject, disk: Disk | None = None) -> Disk:
        disk = disk or self.life.disk
        if data.draw(st.booleans(), "only the process dies"):
            return disk.power_cut(all_kept)
        return disk.power_cut(lambda low, high: data.draw(st.integers(low, high), "survives"))

    def _platters(self) -> tuple[Platter, Platter]:
        return self.life.platters

    # What it does.

    @initialize()
    def begin(self) -> None:
        self._watch(self.life)

    def _steps(self, steps: list[Step]) -> list[Step]:
        """Carry steps out; return those that their store took."""
        taken = []
        for kind, ident, payload in steps:
            try:
                self.life.set(kind, **{ident: payload})
            except LookupError:
                continue
            except JournalFailed:
                break
            taken.append((kind, ident, payload))
        return taken

    def _end(self, group: Group, taken: list[Step], *, wait: bool) -> None:
        session, ordinal = "s", int(group.key.partition(":")[2])
        state = self.states[-1].after(taken)
        if group.changed:
            state = state.replied(session, ordinal, "done")
        self.pending = [state]
        try:
            seq = self.life.durable.commit(group, "done")
        except JournalFailed:
            return
        self.states.append(state)
        if wait:
            self.life.journal._sync_or_repair(seq)

    def _key(self) -> str:
        self.ordinal += 1
        return f"s:{self.ordinal}"

    @rule(
        steps=steps_of("xyz"),
        refuse=st.none() | st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")),
        wait=st.booleans(),
        death=deaths,
        data=st.data(),
    )
    def call(
        self,
        steps: list[Step],
        refuse: Entity | None,
        wait: bool,
        death: int | None,
        data: st.DataObject,
    ) -> None:
        def work() -> None:
            self.refuse = refuse
            with self.life.durable.group(self._key(), non_atomic=False) as group:
                taken = self._steps(steps)
            self.refuse = None
            self._end(group, taken, wait=wait)

        self._do(work, death, data)

    @rule(batches=st.lists(steps_of("xyz", 2), max_size=3), death=deaths, data=st.data())
    def call_of_units(
        self, batches: list[list[Step]], death: int | None, data: st.DataObject
    ) -> None:
        def work() -> None:
            state = self.states[-1]
            with self.life.durable.group(self._key(), non_atomic=True) as group:
                for batch in batches:
                    taken = self._steps(batch)
                    state = state.after(taken)
                    self.pending.append(state)
                    self.life.durable.at_boundary()
            kept = list(self.pending)
            if group.changed:
                self.pending.append(state.replied("s", self.ordinal, "done"))
            try:
                self.life.durable.commit(group, "done")
            except JournalFailed:
                self.pending = kept
            self.states += self.pending

        self._do(work, death, data)

    @rule(steps=steps_of("xyz", 1), death=deaths, data=st.data())
    def lonely_change(self, steps: list[Step], death: int | None, data: st.DataObject) -> None:
        def work() -> None:
            self.pending = [self.states[-1].after(steps)]
            if self._steps(steps) == steps:
                self.states += self.pending

        self._do(work, death, data)

    @rule(
        first=steps_of("xy", 3),
        second=steps_of("zw", 3),
        wait=st.booleans(),
        death=deaths,
        data=st.data(),
    )
    def two_calls_at_once(
        self,
        first: list[Step],
        second: list[Step],
        wait: bool,
        death: int | None,
        data: st.DataObject,
    ) -> None:
        def work() -> None:
            here = self.life.durable.context
            with self.life.durable.group(self._key(), non_atomic=False) as one:
                taken = self._steps(first[:1])
                with self.life.durable.group(self._key(), non_atomic=False) as two:
                    taken_too = self._steps(second)
                here.group = one
                if one.failure is None:
                    taken += self._steps(first[1:])
            self._end(one, taken, wait=wait)
            self._end(two, taken_too, wait=wait)

        self._do(work, death, data)

    @rule(
        numbers=st.dictionaries(st.sampled_from("xyzw"), st.integers(0, 3), min_size=2),
        refuse=st.none() | st.sampled_from("xyzw"),
        wait=st.booleans(),
        death=deaths,
        data=st.data(),
    )
    def batch(
        self,
        numbers: dict[str, int],
        refuse: str | None,
        wait: bool,
        death: int | None,
        data: st.DataObject,
    ) -> None:
        """Several calls store one entity each, at once; where that fails, one by one."""

        def store(entities: dict[str, int]) -> bool:
            with self.life.durable.on_behalf(groups):
                try:
                    self.life.set("a", **entities)
                except (LookupError, JournalFailed):
                    return False
            return True

        groups: dict[str, Group] = {}

        def work() -> None:
            groups.update((ident, Group(self._key())) for ident in numbers)
            self.refuse = ("a", refuse) if refuse else None
            at_once = store(numbers)
            taken = [at_once or store({ident: number}) for ident, number in numbers.items()]
            self.refuse = None
            for (ident, number), done in zip(numbers.items(), taken, strict=True):
                self._end(groups[ident], [("a", ident, number)] if done else [], wait=wait)

        self._do(work, death, data)

    @rule(death=deaths, data=st.data())
    def roll(self, death: int | None, data: st.DataObject) -> None:
        self._do(self.life.journal.roll, death, data)

    @rule(death=deaths, data=st.data())
    def checkpoint(self, death: int | None, data: st.DataObject) -> None:
        def work() -> None:
            try:
                make_checkpoint(JOURNAL, self.life.disk, self.life.journal.stamp)
            except OSError:
                return

        self._do(work, death, data)

    @rule(
        call=st.sampled_from(["sync", "sync", "write", "truncate", "rename", "open_append"]),
        skip=st.integers(0, 3),
    )
    def let_the_disk_fail(self, call: str, skip: int) -> None:
        self.life.disk.fail(call, 5, skip=skip)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.life.disk.stop_after(0)
        self._be_born(data)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.life.disk.faults.clear()
        try:
            self.life.journal.close()
        except JournalFailed:
            self._be_born(data)
            return
        if not self.life.journal.tail.open:
            self.states = [State(s.contents, s.replies, 0) for s in self.states[-1:]]
        self._be_born(data)

    @invariant()
    def the_stores_hold_what_was_done(self) -> None:
        assert self.life.contents == self.states[-1].contents


Palace.TestCase.settings = settings(max_examples=80, stateful_step_count=20, deadline=None)
TestPalace = Palace.TestCase
