"""Opening a palace: journal and stores say the same afterwards, whatever came in between."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from palace.journal.checkpoint import make_checkpoint
from palace.journal.record import ADOPT, ATTEMPT, OUTCOME, PUT, QUARANTINE, STATE, Draft
from palace.protocol.resend import CRASHES_MAX
from tests.support.disks.memory import Disk, Stopped, all_kept, all_lost
from tests.support.stores.memory import (
    JOURNAL,
    Life,
    Platter,
    after,
    awake,
    born,
    dying_at,
    entities,
    records,
)


def actions(life: Life, since: int = 1) -> list[str]:
    return [record.action for record in records(life, since)]


def died(work: Callable[[], object]) -> None:
    with pytest.raises(Stopped):
        work()


# Recovery: what a dead owner left unfinished.


@pytest.mark.parametrize("point", ["append", "appended", "synced", "apply", "store one", "applied"])
def test_an_unfinished_call_is_restored_to_what_was_before_it(point: str) -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "gone", 1), ("b", "z", 1))
    steps = [("a", "x", 2), ("b", "z", 2), ("a", "gone", None), ("a", "x", 3), ("a", "y", 3)]
    before = life.contents
    dying_at(life, point, skip=2 if point == "store one" else 3)
    died(lambda: life.call("s:2", *steps))

    again = after(life)

    assert again.contents == before
    assert not again.journal.tail.open
    assert again.journal.reply("s", 1) == "done"
    again.check()
    seq = again.journal.seq
    assert after(again).journal.seq == seq, "there was nothing left to do"


@pytest.mark.parametrize("choose", [all_kept, all_lost])
def test_a_call_is_whole_whatever_call_of_the_kernel_was_the_last(choose: Any) -> None:
    ends = set()
    for number in range(200):
        life = awake(Disk())
        life.journal.sync(life.call("s:1", ("a", "x", 1)))
        life.disk.stop_after(number)
        try:
            life.journal.sync(life.call("s:2", ("a", "x", 2), ("b", "y", 2)))
        except Stopped:
            pass
        again = after(life, life.disk.power_cut(choose))
        again.check()
        done = again.journal.reply("s", 2) == "done"
        assert again.contents == (entities(x=2, y_=2) if done else entities(x=1)), number
        ends.add(done)
        if not life.disk.dead:
            assert done
            break
    assert ends == {True, False}


def test_recovery_may_die_at_any_call_and_be_done_again() -> None:
    for number in range(300):
        life = awake(Disk())
        life.call("s:1", ("a", "x", 1), ("a", "y", 1))
        dying_at(life, "store two")
        died(lambda life=life: life.call("s:2", ("a", "x", 2), ("a", "y", None), ("b", "z", 2)))
        disk = life.disk.power_cut(all_kept)
        disk.stop_after(number)
        try:
            after(life, disk)
        except Stopped:
            pass
        again = after(life, disk.power_cut(all_lost))
        assert again.contents == entities(x=1, y=1), number
        again.check()
        if not disk.dead:
            return
    raise AssertionError("it never came to its end")


def test_two_unfinished_calls_that_changed_the_same_are_taken_back_in_turn() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("b", "z", 1))
    first = life.durable.group("s:2", non_atomic=False)
    with first:
        life.set("a", x=2)
    with life.durable.group("s:3", non_atomic=False):
        life.set("a", x=3)
        life.set("b", z=3)

    again = after(life)

    assert again.contents == entities(x=1, z_=1)
    again.check()


def test_a_finished_call_is_not_undone_by_an_unfinished_one_before_it() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", x=2, y=2)
    life.call("s:3", ("a", "x", 3))

    again = after(life)

    assert again.contents == entities(x=3, y=1)
    again.check()


def test_what_somebody_else_made_of_an_unfinished_change_stays() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", x=2, y=2)
    life.one.platter.set(("a", "x"), "theirs")

    again = after(life)

    assert again.contents == entities(x="theirs", y=1)
    again.check()


def test_what_somebody_else_made_of_a_finished_change_stays() -> None:
    life = awake(Disk())
    with life.durable.group("s:2", non_atomic=False):
        life.set("b", z=2)
    life.call("s:3", ("a", "x", 3))
    life.one.platter.set(("a", "x"), "theirs")

    again = after(life)

    assert again.contents == entities(x="theirs")
    again.check()


# Recovery: what somebody else changed.


def test_what_others_changed_is_taken_into_the_journal() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1), ("b", "z", 1))
    life.one.platter.set(("a", "x"), "theirs")
    life.one.platter.set(("a", "new"), "theirs, too")
    life.one.platter.set(("a", "y"), None)

    again = after(life)

    assert [p.name for p in again.recovery.suspects] == ["one"]
    assert again.contents == entities(x="theirs", new="theirs, too", z_=1)
    again.check()
    assert actions(again, life.journal.seq + 1) == [STATE, ADOPT, ADOPT, ADOPT, STATE]
    assert after(again).recovery.suspects == []


def test_an_unfinished_call_is_taken_back_beside_the_changes_of_others() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1), ("b", "z", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", x=2, y=None, w=2)
        life.set("b", z=2)
    life.one.platter.set(("a", "new"), "theirs")
    life.one.platter.set(("a", "x"), "theirs")

    again = after(life)

    assert again.contents == entities(x="theirs", y=1, new="theirs", z_=1)
    again.check()


def test_what_is_missing_from_the_same_store_was_deleted() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    life.one.platter.set(("a", "x"), None)

    again = after(life)

    assert again.contents == entities(y=1)
    again.check()


def test_what_is_missing_from_another_store_was_lost() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    fresh = Platter(birth=1, number=50)
    fresh.set(("a", "theirs"), 5)
    life.one.platter = fresh

    again = after(life)

    assert again.contents == entities(x=1, y=1, theirs=5)
    again.check()


def test_an_older_copy_of_a_store_is_brought_up_to_date() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    copy = life.one.platter.copy()
    life.call("s:2", ("a", "x", 2), ("a", "w", 2), ("b", "z", 2))
    with life.durable.group("s:3", non_atomic=False):
        life.set("a", y=3)
    life.one.platter = copy

    again = after(life)

    assert again.contents == entities(x=2, y=1, w=2, z_=2)
    again.check()


def test_what_another_store_holds_under_a_second_kind_is_not_taken_over() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("b", "z", 2), ("b", "y", 3))
    fresh = Platter(birth=1, number=50)
    for entity, payload in ((("a", "x"), 1), (("a", "z"), 2), (("a", "y"), 4)):
        fresh.set(entity, payload)
    life.one.platter = fresh

    again = after(life)

    assert again.contents == entities(x=1, z_=2, y=4, y_=3), "another text is somebody's own"
    again.check()


# Recovery: what a store has lost.


def test_a_finished_change_that_its_store_has_lost_is_made_again() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("b", z=2)
    life.call("s:3", ("a", "x", 3), ("a", "y", None), ("a", "w", 3))
    rows = life.one.platter.rows
    rows["a", "x"] = rows["a", "x"][0], 1
    rows["a", "y"] = 0, 1
    del rows["a", "w"]

    again = after(life)

    assert again.contents == entities(x=3, w=3)
    again.check()


def test_one_store_has_lost_a_change_while_somebody_changed_another() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("b", "z", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", y=2)
    life.call("s:3", ("a", "x", 3))
    life.one.platter.rows["a", "x"] = life.one.platter.number, 1
    life.two.platter.set(("b", "theirs"), 1)

    again = after(life)

    assert again.contents == entities(x=3, z_=1, theirs_=1)
    again.check()


def test_a_store_that_lost_more_than_the_unfinished_change_gets_what_was_before_it() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("b", z=2)
    life.call("s:3", ("a", "x", 3))
    with life.durable.group("s:4", non_atomic=False):
        life.set("a", x=4)
    life.one.platter.rows["a", "x"] = life.one.platter.number, 1

    again = after(life)

    assert again.contents == entities(x=3)
    again.check()


# Recovery: keys that end owners.


def _stuck(deaths: int) -> Life:
    """Return the life after so many owners died while they took one key back."""
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    dying_at(life, "applied")
    died(lambda: life.call("s:2", ("a", "x", 2), ("a", "y", 2)))
    for _ in range(deaths):
        one, two = life.platters
        epoch = life.journal.stamp.epoch + 1
        life = born(life.disk.power_cut(all_kept), (one.copy(), two.copy()), epoch)
        dying_at(life, "take_back")
        died(life.recovery.run)
    return life


def test_a_key_is_taken_back_as_often_as_its_owners_live_to_do_it() -> None:
    for deaths in range(CRASHES_MAX):
        again = after(_stuck(deaths))
        assert again.contents == entities(x=1, y=1)
        assert (QUARANTINE in actions(again)) == (deaths + 1 == CRASHES_MAX)
        assert again.journal.crashes("s:2") == deaths + 1
        again.check()


def test_a_key_that_ends_every_owner_is_left_alone_and_the_palace_opens() -> None:
    life = _stuck(CRASHES_MAX)
    touched = life.contents

    again = after(life)

    assert again.contents == touched == entities(x=2, y=1), "it may be damaged"
    assert again.known() == entities(x=1, y=1), "but the journal isn't"
    assert not again.journal.tail.open
    assert "s:2" in again.journal.tail.quarantined
    seq = again.journal.seq
    assert after(again).journal.seq == seq


def _cut_off(life: Life, *, leaving: bool) -> Life:
    """Return the life after an owner ended in the middle of s:2, which its client sends again."""
    if leaving:
        life.journal.leave()
    dying_at(life, "applied")
    died(lambda: life.call("s:2", ("a", "x", 2), ("a", "y", 2)))
    return after(life)


def test_owners_that_were_told_to_leave_did_not_die_of_what_they_had_to_cut_off() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    for _ in range(CRASHES_MAX + 1):
        life = _cut_off(life, leaving=True)
        assert life.contents == entities(x=1, y=1), "it is taken back all the same"
    assert life.journal.crashes("s:2") == 0
    assert QUARANTINE not in actions(life)

    life.journal.roll()  # the next owner reads it in the header of a segment
    for deaths in range(1, CRASHES_MAX + 1):
        life = _cut_off(life, leaving=False)
        assert life.journal.crashes("s:2") == deaths
    assert "s:2" in life.journal.tail.quarantined
    life.check()


def test_a_group_that_was_begun_before_its_owner_was_told_to_leave_is_no_death_either() -> None:
    life = awake(Disk())
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", x=2)
    life.journal.leave()
    life.journal.roll()

    again = after(life)

    assert again.contents == {}
    assert again.journal.crashes("s:2") == 0


def test_owners_that_were_told_to_leave_while_they_took_a_key_back_did_not_die_of_it() -> None:
    life = _stuck(0)
    for _ in range(CRASHES_MAX + 1):
        one, two = life.platters
        epoch = life.journal.stamp.epoch + 1
        life = born(life.disk.power_cut(all_kept), (one.copy(), two.copy()), epoch)
        dying_at(life, "take_back", before_that=life.journal.leave)
        died(life.recovery.run)

    again = after(life)

    assert again.contents == again.known() == entities(x=1, y=1), "it is not left half done"
    assert again.journal.crashes("s:2") == 1, "of the owner that had begun it"
    assert QUARANTINE not in actions(again)
    again.check()


def test_attempts_are_safe_before_the_store_is_touched() -> None:
    life = awake(Disk())
    with life.durable.group("s:1", non_atomic=False):
        life.set("a", x=1)
    disk = life.disk.power_cut(all_kept)
    one, two = life.platters
    second = born(disk, (one.copy(), two.copy()), 2)
    dying_at(second, "store one")
    died(second.recovery.run)

    again = after(second, disk.power_cut(all_lost))

    assert actions(again).count(ATTEMPT) == 2
    again.check()


# A palace without a journal: what is adopted later, test_adoption.py has.


def test_what_was_left_unfinished_before_the_first_adoption_is_taken_back() -> None:
    one, two = Platter(), Platter()
    one.set(("a", "x"), 1)
    life = born(Disk(), (one, two))
    with life.durable.group("s:1", non_atomic=False):
        life.set("a", x=2)

    again = after(life)

    assert again.contents == entities(x=1)
    assert again.journal.tail.baseline is not None
    again.check()


def test_what_was_finished_before_the_first_adoption_stays() -> None:
    one, two = Platter(), Platter()
    one.set(("a", "x"), 1)
    life = born(Disk(), (one, two))
    with life.durable.group("s:1", non_atomic=False):
        life.set("a", x=2, y=2)
    life.call("s:2", ("a", "x", 3))
    with life.durable.group("s:3", non_atomic=False):
        life.set("a", y=4)

    again = after(life)

    assert again.contents == entities(x=3)
    again.check()


def test_where_records_are_missing_the_stores_are_believed() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", x=2)
        life.set("b", z=2)
    path = life.journal.segments()[-1].path
    data = life.disk.read(path)
    at = data.index(b'"seq":4')
    life.disk.put(path, data[:at] + b"X" + data[at + 1 :])

    again = after(life)

    assert again.contents == entities(x=2, z_=2)
    again.check()
    assert not again.journal.tail.open
    assert after(again).journal.tail.gaps == 0


def test_where_records_are_missing_a_lost_store_is_no_witness() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1), ("b", "z", 1))
    life.call("s:2", ("b", "z", 2))
    with life.durable.group("s:3", non_atomic=False):
        life.set("a", w=3)
    path = life.journal.segments()[-1].path
    data = life.disk.read(path)
    at = data.index(b'"seq":6')
    life.disk.put(path, data[:at] + b"X" + data[at + 1 :])
    life.one.platter = Platter(birth=1)

    again = after(life)

    assert again.contents == entities(x=1, y=1, z_=2), "nobody knows whether w was ever made"
    again.check()
    assert after(again).journal.tail.gaps == 0


# Kinds of a newer palace, whose stores this one doesn't have.


@pytest.mark.parametrize("dual", [False, True])
def test_kinds_of_no_store_here_are_carried(dual: bool) -> None:
    life = awake(Disk())
    newer = Draft(action=PUT, key="s:1", step=1, kind="newer", id="x", payload=1)
    life.call("s:0", ("a", "x", 1))
    life.journal.append([newer])
    life.journal.close_key("s:1", OUTCOME, reply="done")
    life.journal.append([attrs.evolve(newer, key="s:2", payload=2, before=1)])
    life.journal.sync(life.journal.seq)
    life.journal.roll()
    assert make_checkpoint(JOURNAL, life.disk, life.journal.stamp) is not None

    for epoch in (2, 3):
        disk = life.disk.power_cut(all_kept)
        life = awake(disk, life.platters, epoch, dual=dual)
        assert life.contents == entities(x=1)
        assert not life.journal.tail.open
        # Taken back in the journal, or kept there as far as it came.
        assert life.known() == {("a", "x"): 1, ("newer", "x"): 2 if dual else 1}
        life.call(f"t:{epoch}", ("a", "y", epoch), ("a", "y", None))
