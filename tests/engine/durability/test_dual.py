"""`journal = "dual"`: the journal is written, no opening writes a store, and the way back is open.

Owners follow one another with any of the three settings, die at any call of the kernel or in a
power cut, and other programs write in between.
"""

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from palace.doctor.journal import inspect_journal
from palace.engine.durability.healing import FROM_DUAL, Health, heal_stores
from palace.engine.durability.owned import OwnedPalace
from palace.engine.stores.palace_stores import unopened_stores
from palace.journal.journal import Journal
from palace.journal.purge import PURGED_REPLY
from palace.journal.record import OUTCOME, Stamp
from palace.journal.replay import no_progress
from palace.kernel.kernel import Kernel
from palace.settings.config import Config
from palace.settings.paths import Paths
from tests.support.disks.memory import Disk, Stopped, all_kept
from tests.support.stores.memory import (
    JOURNAL,
    Entity,
    Life,
    Platter,
    awake,
    born,
    dying_at,
    records,
)

ON, DUAL, OFF = "on", "dual", "off"
NAMES = {"a": 0, "b": 1}

Contents = dict[Entity, Any]
Step = tuple[str, str, Any]


def succeeded(life: Life, mode: str, disk: Disk | None = None) -> Life:
    """Return the next owner's life; one that is dual has written no store until then."""
    disk = disk or life.disk.power_cut(all_kept)
    platters = life.one.platter.copy(), life.two.platter.copy()
    before = [(dict(platter.rows), platter.number) for platter in platters]
    again = awake(disk, platters, life.journal.stamp.epoch + 1, dual=mode == DUAL)
    if mode == DUAL:
        assert [(platter.rows, platter.number) for platter in platters] == before
    return again


def set_in(contents: Contents, *steps: Step) -> Contents:
    found = dict(contents)
    for kind, ident, payload in steps:
        found.pop((kind, ident), None)
        if payload is not None:
            found[kind, ident] = payload
    return found


# By example.


def died_in(life: Life, point: str, *steps: Step, skip: int = 0) -> None:
    dying_at(life, point, skip=skip)
    with pytest.raises(Stopped):
        life.call("s:2", *steps)


@pytest.mark.parametrize(("point", "kept"), [("synced", 0), ("store one", 0), ("applied", 1)])
def test_what_a_killed_call_did_stays_and_its_outcome_is_unknown(point: str, kept: int) -> None:
    life = awake(Disk(), dual=True)
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    died_in(life, point, ("a", "x", 2), ("a", "y", None))

    again = succeeded(life, DUAL)

    assert again.contents == {("a", "x"): 2 if kept else 1, ("a", "y"): 1}
    assert (again.journal.reply("s", 1), again.journal.reply("s", 2)) == ("done", PURGED_REPLY)
    assert not again.recovery.held
    again.check()
    seq = again.journal.seq
    assert succeeded(again, DUAL).journal.seq == seq, "there was nothing left to do"


def test_on_takes_back_what_a_killed_dual_owner_left() -> None:
    life = awake(Disk(), dual=True)
    life.call("s:1", ("a", "x", 1))
    died_in(life, "applied", ("a", "x", 2), ("a", "y", 2))

    again = succeeded(life, ON)

    assert again.contents == {("a", "x"): 1}
    assert again.journal.reply("s", 2) is None, "it may run again"
    again.check()


def test_a_change_that_a_store_has_lost_is_held_back_until_on_writes_it_again() -> None:
    life = awake(Disk(), dual=True)
    life.call("s:1", ("a", "x", 1))
    dying_at(life, "outcome")
    with pytest.raises(Stopped):  # another call is open, so that nothing tells the stores' state
        life.call("s:2", ("b", "z", 1))
    open_one = succeeded(life, DUAL)
    with open_one.durable.group("s:3", non_atomic=False):
        open_one.set("b", z=2)
        open_one.call("s:4", ("a", "x", 2))
    open_one.one.platter.rows["a", "x"] = (open_one.one.platter.number, 1)  # the disk lost it

    dual = succeeded(open_one, DUAL)
    assert dual.recovery.held == {"one"}
    assert dual.contents["a", "x"] == 1
    assert dual.known()["a", "x"] == 2
    again = succeeded(dual, DUAL)
    assert again.recovery.held == {"one"}, "no opening forgets it"
    assert {f.code for f in inspect_journal(JOURNAL, again.disk)} == {"held_back"}

    on = succeeded(again, ON)
    assert on.contents["a", "x"] == 2
    on.check()
    assert not on.recovery.held
    assert not on.journal.tail.held_back
    assert not inspect_journal(JOURNAL, on.disk)


def test_a_store_that_is_gone_is_not_taken_for_one_whose_entities_were_deleted() -> None:
    life = awake(Disk(), dual=True)
    life.call("s:1", ("a", "x", 1), ("b", "z", 1))
    life.one.platter = Platter(birth=7)

    dual = succeeded(life, DUAL)
    assert dual.contents == {("b", "z"): 1}
    dual.call("s:2", ("a", "y", 2))
    assert dual.known() == {("a", "x"): 1, ("a", "y"): 2, ("b", "z"): 1}

    on = succeeded(succeeded(dual, DUAL), ON)
    assert on.contents == {("a", "x"): 1, ("a", "y"): 2, ("b", "z"): 1}
    on.check()


def test_an_older_store_is_left_as_it_is_and_on_brings_it_up_to_date() -> None:
    life = awake(Disk(), dual=True)
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    older = life.one.platter.copy()
    life.call("s:2", ("a", "x", None), ("a", "y", 2))
    life.one.platter = older

    dual = succeeded(life, DUAL)
    assert dual.contents == {("a", "x"): 1, ("a", "y"): 1}
    assert (dual.known(), dual.recovery.held) == ({("a", "y"): 2}, {"one"})

    on = succeeded(dual, ON)
    assert on.contents == {("a", "y"): 2}
    on.check()


def test_what_another_program_did_and_not_taken_back() -> None:
    life = awake(Disk(), dual=True)
    life.call("s:1", ("a", "x", 1), ("a", "y", 1), ("b", "z", 1))
    platter = life.one.platter.copy()
    life.journal.close()
    platter.set(("a", "x"), 9)
    platter.set(("a", "y"), None)
    life.one.platter = platter

    again = succeeded(life, DUAL)
    assert again.contents == {("a", "x"): 9, ("b", "z"): 1}
    again.check()


def test_an_unfinished_unit_of_our_own_is_no_call() -> None:
    life = awake(Disk(), dual=True)
    dying_at(life, "applied")
    with pytest.raises(Stopped):
        life.set("a", x=1)
    again = succeeded(life, DUAL)
    assert again.contents == {("a", "x"): 1}
    assert not [r for r in records(again) if r.action == OUTCOME]
    again.check()


@pytest.mark.parametrize("mode", [ON, DUAL])
@pytest.mark.parametrize("dies", [False, True])
def test_what_an_owner_without_the_journal_served_is_taken_back_by_nobody(
    mode: str, dies: bool
) -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", z=1)
        life.call("s:3", ("a", "x", 2))
    Journal.note_pause(JOURNAL, life.disk)
    life.one.platter.set(("a", "x"), 1)  # as it was before, and acknowledged again
    served = life.contents
    if dies:  # before it has brought both together
        life.journal = born(life.disk, life.platters, epoch=2).journal

    again = succeeded(life, mode)

    assert again.contents == served == {("a", "x"): 1, ("a", "y"): 1, ("a", "z"): 1}
    again.check()
    with again.durable.group("s:4", non_atomic=False):
        again.set("a", x=3)
    assert succeeded(again, ON).contents == served, "what comes after it is taken back as ever"


def test_an_owner_without_the_journal_that_changed_nothing_is_soon_forgotten() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1))
    Journal.note_pause(JOURNAL, life.disk)
    again = succeeded(life, ON)
    died_in(again, "applied", ("a", "x", 2))
    assert succeeded(again, ON).contents == {("a", "x"): 1}


def test_a_damaged_store_is_left_and_its_remedy_is_to_let_the_journal_decide(
    tmp_path: Path,
) -> None:
    paths = Paths(str(tmp_path / "palace"))
    config = Config(graph=f"{paths.root}/graph", config_dir=str(tmp_path), journal=DUAL)
    kernel, stamp = Kernel(), Stamp(epoch=1, writer="w")
    kernel.make_directory(paths.root)
    stores = unopened_stores(paths, config, kernel)
    damaged = Path(stores.tunnels.path)
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text("[{")
    journal = Journal.open(paths.journal, kernel, stamp)

    def health(mode: str) -> Health:
        owned = attrs.evolve(config, journal=mode)
        palace = OwnedPalace(paths=paths, config=owned, kernel=kernel, stamp=stamp)
        return heal_stores(palace, journal, stores, no_progress)

    (left,) = health(DUAL).left
    assert (left.damage.store, left.remedy) == ("tunnels", FROM_DUAL)
    assert damaged.read_text() == "[{"
    assert health(ON).left_of("tunnels") != left
    journal.close()


# In any order.

steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.none() | st.integers(0, 3)),
    max_size=4,
)
# What no call writes: else it can't be told from a half of a call that was killed.
distinct = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(10, 13)), max_size=2
)
modes = st.sampled_from([ON, DUAL, DUAL, OFF])


class Modes(RuleBasedStateMachine):
    """`want` is what was acknowledged, by us or by another program.

    `off` has no life of ours: what is written then, is written into the stores alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode = DUAL
        self.life = awake(Disk(), dual=True)
        self.want: Contents = {}
        self.ordinal = 0

    def _next(self, mode: str, disk: Disk, possible: list[Contents]) -> None:
        """Go on with the next owner: what the stores hold is one of the possible contents."""
        if mode == OFF:
            platters = self.life.platters
            Journal.note_pause(JOURNAL, disk)
            self.life.disk = disk
            self.want = {**platters[0].contents, **platters[1].contents}
        else:
            self.life = succeeded(self.life, mode, disk)
            assert self.life.contents in possible, (mode, self.life.contents, possible)
            self.want = self.life.contents
            self.life.check()
            assert not self.life.recovery.held
        self.mode = mode

    def _write_beside(self, *beside: Step) -> None:
        for kind, ident, payload in beside:
            self.life.platters[NAMES[kind]].set((kind, ident), payload)
        self.want = set_in(self.want, *beside)

    @rule(
        steps=steps,
        death=st.none() | st.integers(0, 40),
        beside=distinct,
        mode=modes,
        data=st.data(),
    )
    def call(
        self,
        steps: list[Step],
        death: int | None,
        beside: list[Step],
        mode: str,
        data: st.DataObject,
    ) -> None:
        """Carry a call out, or die in it; then another program writes before the next owner."""
        if self.mode == OFF:
            self._write_beside(*steps)
            return
        self.ordinal += 1
        key, life = f"s:{self.ordinal}", self.life
        done = [set_in(self.want, *steps[:number]) for number in range(len(steps) + 1)]
        life.disk.stop_after(death)
        try:
            life.journal.sync(life.call(key, *steps))
        except Stopped:
            on_disk = life.disk.power_cut(
                all_kept
                if data.draw(st.booleans(), "only the process dies")
                else lambda low, high: data.draw(st.integers(low, high), "survives")
            )
            self._write_beside(*beside)
            then = [set_in(contents, *beside) for contents in done]
            self._next(mode, on_disk, then if mode == DUAL else [then[0], then[-1]])
            if mode == DUAL and self.life.contents not in (then[0], then[-1]):
                assert self.life.journal.reply("s", self.ordinal) == PURGED_REPLY
            return
        life.disk.stop_after(None)
        self.want = done[-1]

    @rule(beside=steps, mode=modes, leaves=st.booleans())
    def another_owner(self, beside: list[Step], mode: str, leaves: bool) -> None:
        if self.mode != OFF and leaves:
            self.life.journal.close()
        self._write_beside(*beside)
        self._next(mode, self.life.disk.power_cut(all_kept), [self.want])

    @invariant()
    def the_stores_hold_what_was_acknowledged(self) -> None:
        assert self.life.contents == self.want


Modes.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestModes = Modes.TestCase
