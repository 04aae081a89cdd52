"""Journal first: what is changed, rolled back, deferred, recovered, over two stores in memory."""

import errno
import sqlite3
from typing import Any

import pytest

from palace.engine.durability.groups import REFUSED_MAX, ROOM_BYTES, Group
from palace.engine.stores.projection import Change, same
from palace.journal.record import ABORT, OUTCOME, PUT, UNDO, UNIT
from palace.protocol.errors import JournalFailed
from tests.support.disks.memory import Disk, all_lost
from tests.support.stores.memory import Entity, Life, after, awake, entities, records


def actions(life: Life, since: int = 1) -> list[str]:
    return [record.action for record in records(life, since)]


# The order of things.


def test_a_change_is_on_the_disk_before_it_is_made_and_the_reply_after_it() -> None:
    life = awake(Disk())
    start = len(life.disk.calls)

    life.journal.sync(life.call("s:1", ("a", "x", 1), ("b", "y", 2)))

    names = [path if call == "failpoint" else call for call, path in life.disk.calls[start:]]
    told = [name for name in names if name in ("write", "sync", "apply") or "store" in name]
    once = ["write", "sync", "apply"]
    assert told == [*once, "store one", *once, "store two", "write", "sync"]
    assert actions(life)[1:] == [PUT, PUT, OUTCOME]
    assert [record.step for record in records(life)][1:] == [1, 2, 0]
    assert records(life)[-1].payload["reply"] == "done"
    life.check()


def test_what_changes_nothing_is_made_without_the_journal() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", {"n": 1}))
    seq = life.journal.seq

    assert life.call("s:2", ("a", "x", {"n": 1}), ("b", "none", None)) == 0
    assert life.journal.seq == seq
    life.check()


def test_a_change_that_belongs_to_no_call_stands_for_itself() -> None:
    life = awake(Disk())
    life.set("a", x=1, y=2)
    life.set("b", z=3)

    assert actions(life)[1:] == [PUT, PUT, UNIT, PUT, UNIT]
    assert len({record.key for record in records(life)[1:]}) == 2
    assert not life.journal.tail.open
    life.check()
    after(life).check()


def test_a_call_of_units_keeps_what_it_has_ended() -> None:
    life = awake(Disk())

    def work() -> None:
        with life.durable.group("s:1", non_atomic=True):
            life.set("a", x=1)
            life.durable.at_boundary()
            life.durable.at_boundary()
            life.set("a", y=2)

    work()
    life.durable.at_boundary()
    assert actions(life)[1:] == [PUT, UNIT, PUT]

    again = after(life)

    assert again.contents == entities(x=1)
    again.check()


def test_a_call_without_units_ignores_their_boundaries() -> None:
    life = awake(Disk())
    with life.durable.group("s:1", non_atomic=False):
        life.set("a", x=1)
        life.durable.at_boundary()

    assert actions(life)[1:] == [PUT]
    assert after(life).contents == {}


# Changes of several calls at once.


def groups_of(*names: str) -> dict[str, Group]:
    return {name: Group(f"{name}:1") for name in names}


def test_what_is_stored_at_once_is_each_calls_own() -> None:
    life = awake(Disk())
    groups = groups_of("x", "y")
    start = len(life.disk.calls)

    with life.durable.on_behalf(groups):
        life.set("a", x=1, y=2)
    life.journal.sync(life.durable.commit(groups["x"], "first"))

    assert [call for call, _ in life.disk.calls[start:]].count("sync") == 2  # one for both changes
    assert [(r.action, r.key, r.id) for r in records(life)[1:]] == [
        (PUT, "x:1", "x"),
        (PUT, "y:1", "y"),
        (OUTCOME, "x:1", ""),
    ]
    again = after(life)  # it died before the second one's outcome
    assert again.contents == entities(x=1)
    assert again.journal.reply("x", 1) == "first"
    again.check()


def test_what_is_made_for_good_amid_them_is_no_calls() -> None:
    """As a collection is, which a backend makes with the first of its records."""
    life = awake(Disk())
    groups = groups_of("x")
    made = [Change("a", "made", None, 0)]

    with life.durable.on_behalf(groups):
        life.durable.change_for_good(life.one, made, lambda: life.one.write("a", {"made": 0}))
        life.set("a", x=1)

    assert [(r.action, r.id) for r in records(life)[1:]] == [(PUT, "made"), (UNIT, ""), (PUT, "x")]
    assert records(life)[-1].key == "x:1"
    assert after(life).contents == entities(made=0)  # it died before the call's outcome


@pytest.mark.parametrize("half", [False, True])
def test_what_could_not_be_stored_at_once_has_failed_for_nobody(half: bool) -> None:
    life = awake(Disk())
    groups = groups_of("x", "y")
    failing(life, half=half)

    with life.durable.on_behalf(groups):
        with pytest.raises(LookupError):
            life.set("a", x=1, y=2)
        assert life.contents == {}
        life.set("a", y=2)
    for group in groups.values():
        assert group.failure is None
        life.durable.commit(group, "done")

    assert life.contents == entities(y=2)
    life.check()
    after(life).check()


def test_one_calls_change_that_the_journal_refuses_fails_that_call() -> None:
    life = awake(Disk())
    groups = groups_of("x", "y")
    life.disk.fail("write", errno.ENOSPC)

    with life.durable.on_behalf(groups), pytest.raises(JournalFailed):
        life.set("a", x=1)
    with life.durable.on_behalf(groups):
        life.set("a", y=2)

    assert groups["y"].failure is None
    with pytest.raises(JournalFailed):
        life.durable.commit(groups["x"], "it failed, says the tool")
    life.journal.sync(life.durable.commit(groups["y"], "done"))
    again = after(life)
    assert again.contents == entities(y=2)
    assert again.journal.reply("x", 1) is None
    again.check()


# Changes that fail.


def failing(life: Life, *, half: bool) -> None:
    """Let the store refuse what it is told next, the second entity of it if half."""
    left = [int(half)]

    def on_write(_entity: Entity) -> None:
        if not left[0]:
            life.one.on_write = lambda _entity: None
            raise LookupError("the store refuses it")
        left[0] -= 1

    life.one.on_write = on_write


@pytest.mark.parametrize("half", [False, True])
def test_a_change_that_its_store_refuses_is_taken_back(half: bool) -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1))
    failing(life, half=half)

    with life.durable.group("s:2", non_atomic=False) as group:
        life.set("b", z=3)
        with pytest.raises(LookupError):
            life.set("a", x=2, y=2)
        life.set("a", w=4)
    seq = life.durable.commit(group, "done")

    assert life.contents == entities(x=1, w=4, z_=3)
    assert actions(life)[3:] == [PUT, PUT, PUT, UNDO, UNDO, PUT, OUTCOME]
    life.check()
    life.journal.sync(seq)
    after(life, life.disk.power_cut(all_lost)).check()


@pytest.mark.parametrize("half", [False, True])
def test_a_lonely_change_that_fails_is_taken_back_and_ended(half: bool) -> None:
    life = awake(Disk())
    failing(life, half=half)

    with pytest.raises(LookupError):
        life.set("a", x=2, y=2)

    assert actions(life)[1:] == [PUT, PUT, UNDO, UNDO, ABORT]
    assert not life.journal.tail.open
    assert life.contents == {}
    life.check()


def broken_for_good(life: Life) -> None:
    """Let the store take the new x, refuse y, and then refuse to have the old x again."""

    def on_write(entity: Entity) -> None:
        if entity == ("a", "x") and ("a", "x", 2) in [(*e, p) for e, p in life.contents.items()]:
            raise LookupError("broken for good")
        if entity == ("a", "y"):
            raise LookupError("the store refuses it")

    life.one.on_write = on_write


def test_what_can_not_be_taken_back_is_left_to_the_next_owner() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1))

    broken_for_good(life)
    with pytest.raises(LookupError, match="refuses"):
        life.set("a", x=2, y=2)
    assert life.contents == entities(x=2)

    again = after(life)

    assert again.contents == entities(x=1)
    again.check()


def test_a_call_that_can_not_be_taken_back_is_no_success_and_the_last_of_its_owner() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1))
    broken_for_good(life)

    with life.durable.group("s:2", non_atomic=False) as group:
        life.set("b", z=2)
        with pytest.raises(LookupError, match="refuses"):
            life.set("a", x=2, y=2)
    with pytest.raises(JournalFailed, match="neither be finished nor taken back"):
        life.durable.commit(group, "done")

    assert life.durable.stuck
    assert list(life.journal.tail.open) == ["s:2"]
    with pytest.raises(JournalFailed, match="this broker leaves"):
        life.set("b", z=3)
    again = after(life)
    assert again.contents == entities(x=1)
    again.check()


class InternalError(Exception):
    """Chroma's, for all that happens within it."""


def refused_by(life: Life, error: Exception, times: int) -> None:
    """Have the first store refuse changes; what was taken back is written."""

    def on_write(entity: Entity) -> None:
        if entity == ("a", "new"):
            raise error

    life.one.on_write = on_write
    for _ in range(times):
        with pytest.raises(type(error)):
            life.set("a", new=1)


def test_a_store_that_refuses_change_after_change_is_left_to_another_owner() -> None:
    life = awake(Disk())
    told: list[str] = []
    life.durable.suspect = told.append
    life.set("a", x=1)
    broken = sqlite3.DatabaseError("database disk image is malformed")
    refused_by(life, broken, REFUSED_MAX - 1)
    life.set("a", y=1)
    refused_by(life, broken, REFUSED_MAX - 1)
    assert not life.durable.stuck, "it has written in between"

    refused_by(life, broken, 1)

    assert life.durable.stuck
    assert told == [life.one.name]
    with pytest.raises(JournalFailed, match="refuses every one, so this broker leaves"):
        life.set("b", z=1)
    assert not life.journal.tail.open
    assert after(life).contents == entities(x=1, y=1)


def test_a_store_that_has_taken_nothing_is_not_left_for_it() -> None:
    """The next owner could not do better."""
    life = awake(Disk())
    life.set("b", z=1)
    refused_by(life, sqlite3.DatabaseError("database disk image is malformed"), 2 * REFUSED_MAX)
    assert not life.durable.stuck


@pytest.mark.parametrize(
    "error",
    [
        LookupError("no"),
        sqlite3.OperationalError("locked"),
        sqlite3.IntegrityError("no"),
        InternalError("Failed to apply logs: database or disk is full"),
        InternalError("attempt to write a readonly database"),
    ],
)
def test_what_is_refused_for_what_it_is_does_not_end_an_owner(error: Exception) -> None:
    life = awake(Disk())
    life.set("a", x=1)
    refused_by(life, error, 2 * REFUSED_MAX)
    assert not life.durable.stuck


def test_a_failed_call_does_not_take_back_what_somebody_else_made_of_it() -> None:
    life = awake(Disk())
    with life.durable.group("s:1", non_atomic=False) as group:
        life.set("a", x=1, y=1)
        other = life.durable.group("s:2", non_atomic=False)
        with other as theirs:
            life.set("a", x=2)
        life.durable.commit(theirs, "done")
    group.failure = JournalFailed("a later change of it")

    with pytest.raises(JournalFailed, match="a later change"):
        life.durable.commit(group, "done")

    assert life.contents == entities(x=2)
    life.check()
    after(life).check()


def test_without_the_journal_nothing_is_made() -> None:
    life = awake(Disk())
    life.disk.fail("write", errno.EIO)
    before = life.journal.seq
    with life.durable.group("s:1", non_atomic=False) as group:
        with pytest.raises(JournalFailed):
            life.set("a", x=1)
    with pytest.raises(JournalFailed):
        life.durable.commit(group, "done")

    assert life.contents == {}
    assert life.journal.reply("s", 1) is None
    assert [action for action in actions(life, before + 1) if action != ABORT] == []
    life.check()


def test_on_a_nearly_full_disk_a_change_is_refused_before_it_is_journalled() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1))
    life.disk.room = ROOM_BYTES - 1
    for work in (lambda: life.call("s:2", ("a", "x", 2)), lambda: life.set("a", x=2)):
        with pytest.raises(JournalFailed, match="nearly full"):
            work()
    life.disk.room = None

    assert PUT not in actions(life, 4)
    assert not life.journal.tail.open
    life.check()


def test_a_long_call_that_finds_a_full_disk_is_told_that_what_it_did_stays() -> None:
    life = awake(Disk())
    with life.durable.group("s:1", non_atomic=True):
        life.set("a", x=1)
        life.durable.at_boundary()
        life.disk.room = ROOM_BYTES - 1
        with pytest.raises(JournalFailed, match="What this call did before stays"):
            life.set("a", y=2)
    with (
        life.durable.group("s:2", non_atomic=True),
        pytest.raises(JournalFailed, match="Nothing was changed"),
    ):
        life.set("a", y=2)

    assert life.contents == entities(x=1)


def test_where_the_journal_is_not_a_change_fails_as_the_journals_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_gone(path: str) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    life = awake(Disk())
    monkeypatch.setattr(life.disk, "free_bytes", is_gone)
    with life.durable.group("s:1", non_atomic=False) as group:
        with pytest.raises(JournalFailed, match="can't be written: No such file"):
            life.set("a", x=1)
        assert group.failure is not None, "what a tool makes of it counts for nothing"

    assert life.contents == {}


def test_a_change_that_may_not_be_durable_is_not_made() -> None:
    life = awake(Disk())
    life.disk.fail("sync", errno.EIO)
    with pytest.raises(JournalFailed):
        life.call("s:1", ("a", "x", 1))
    life.disk.fail("sync", errno.EIO)
    with pytest.raises(JournalFailed):
        life.set("a", y=1)

    assert life.contents == {}
    life.check()
    life.journal.sync(life.journal.seq)
    assert not life.journal.tail.open
    after(life, life.disk.power_cut(all_lost)).check()


def test_a_call_whose_outcome_can_not_be_written_is_taken_back() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("b", "z", 1))
    life.disk.fail("write", errno.EIO, skip=4)

    with pytest.raises(JournalFailed):
        life.call("s:2", ("a", "x", 2), ("b", "z", None), ("a", "x", 3), ("a", "y", 3))

    assert life.contents == entities(x=1, z_=1)
    assert actions(life)[8:] == [UNDO, UNDO, UNDO, ABORT]
    assert life.journal.reply("s", 2) is None
    life.check()
    after(life).check()


def test_a_call_that_went_on_after_a_failure_is_taken_back_as_a_whole() -> None:
    life = awake(Disk())
    with life.durable.group("s:1", non_atomic=False) as group:
        life.set("a", x=1)
        life.disk.fail("write", errno.EIO)
        with pytest.raises(JournalFailed):
            life.set("a", y=1)
        life.set("a", z=1)
    with pytest.raises(JournalFailed):
        life.durable.commit(group, "done")

    assert life.contents == {}
    life.check()


def test_a_call_of_units_that_fails_keeps_what_it_did() -> None:
    life = awake(Disk())
    with life.durable.group("s:1", non_atomic=True) as group:
        life.set("a", x=1)
        life.disk.fail("write", errno.EIO)
        with pytest.raises(JournalFailed):
            life.set("a", y=1)
    with pytest.raises(JournalFailed):
        life.durable.commit(group, "done")

    assert life.contents == entities(x=1)
    assert actions(life)[1:] == [PUT, UNIT]
    life.check()
    assert after(life).contents == entities(x=1)


# Deferred records.


def test_what_could_not_be_said_is_said_before_anything_else() -> None:
    life = awake(Disk())
    life.disk.fail("write", errno.EIO, skip=1, times=2)
    with pytest.raises(JournalFailed):
        life.call("s:1", ("a", "x", 1))
    assert life.contents == {}
    assert actions(life)[1:] == [PUT]
    assert list(life.journal.tail.open) == ["s:1"]

    life.call("s:2", ("a", "y", 1))

    assert actions(life)[1:] == [PUT, UNDO, ABORT, PUT, OUTCOME]
    life.check()


def test_nothing_is_changed_before_deferred_records_are_written() -> None:
    life = awake(Disk())
    life.disk.fail("write", errno.EIO, skip=1, times=3)
    with pytest.raises(JournalFailed):
        life.call("s:1", ("a", "x", 1))

    with pytest.raises(JournalFailed):
        life.call("s:2", ("a", "x", 2))

    assert life.contents == {}
    assert life.call("s:3", ("a", "x", 3)) == life.journal.seq
    life.check()


def test_end_that_was_deferred_is_not_lost() -> None:
    life = awake(Disk())
    life.disk.fail("write", errno.EIO, skip=1)
    life.set("a", x=1)
    assert actions(life)[1:] == [PUT]

    life.set("a", y=1)

    assert actions(life)[1:] == [PUT, UNIT, PUT, UNIT]
    assert after(life).contents == entities(x=1, y=1)


def test_an_owner_that_dies_in_debt_leaves_a_group_that_is_taken_back() -> None:
    life = awake(Disk())
    life.disk.fail("write", errno.EIO, skip=2, times=9)
    with pytest.raises(JournalFailed):
        life.call("s:1", ("a", "x", 1), ("b", "y", 1))

    again = after(life)

    assert again.contents == {}
    assert not again.journal.tail.open
    again.check()


# Payloads.


def test_payloads_are_the_same_up_to_the_last_bits_of_a_vector() -> None:
    import base64

    import numpy as np

    def vector(*numbers: float) -> dict[str, Any]:
        raw = np.asarray(numbers, dtype="<f4").tobytes()
        return {"document": "d", "vector": base64.b64encode(raw).decode()}

    assert same(vector(1, 2), vector(1, 2 + 1e-6))
    assert not same(vector(1, 2), vector(1, 2.1))
    assert not same(vector(1, 2), vector(1, 2, 3))
    assert not same(vector(1, 2), {"document": "d", "vector": None})
    assert not same(vector(1, 2), vector(1, 2) | {"document": "e"})
    assert same({"n": 1, "schema": 1}, {"n": 1, "schema": 2})
    assert same(None, None)
    assert not same(None, {})
    assert Change("k", "i", None, 1) == Change("k", "i", None, 1)
