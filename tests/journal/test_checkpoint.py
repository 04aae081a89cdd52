"""Replay, and checkpoints, which change nothing that it says, wherever they are broken off."""

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.journal.checkpoint import BYTES_MIN, is_due, make_checkpoint
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, DELETE, OUTCOME, PUT, STATE, UNDO, Draft, Stamp
from palace.journal.replay import digest_of, newest_checkpoint, replay
from palace.journal.segment import ARCHIVE, list_segments
from tests.support.disks.busy import Busy
from tests.support.disks.memory import ROOT, Disk, Stopped, all_kept, all_lost

JOURNAL = f"{ROOT}/journal"
STAMP = Stamp(epoch=1, writer="w")


def opened(disk: Disk) -> Journal:
    return Journal.open(JOURNAL, disk, STAMP)


def entity(action: str, ident: str, payload: Any, kind: str = "k") -> Draft:
    deleted = payload is None
    return Draft(
        action=action, key="s:1", kind=kind, id=ident, payload=payload, deleted=deleted, before=0
    )


def put(ident: str, payload: Any, kind: str = "k") -> Draft:
    return entity(PUT, ident, payload, kind)


def contents(disk: Disk) -> dict[tuple[str, str], Any]:
    """Return all entities in the order of a replay, which is sound."""
    known = replay(JOURNAL, disk)
    assert (known.broken, known.gaps) == ([], [])
    found = {entity: known.payload(entity) for entity in known.live}
    for each, payload in found.items():
        assert known.live[each].digest == digest_of(payload)
    assert {
        (kind, ident): payload for kind in known.kinds() for ident, payload in known.payloads(kind)
    } == found
    return found


def names(disk: Disk, directory: str = JOURNAL) -> list[str]:
    return sorted(name for name in disk.list_directory(directory) if name.endswith(".jsonl"))


# Replay.


def test_the_last_word_on_an_entity_counts() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1), put("b", 2), put("a", 3, "other"), put("a", 4)])
    journal.append([entity(DELETE, "b", None), put("c", {"x": 5}), put("b", 6)])
    journal.roll()
    journal.append([entity(UNDO, "c", None), entity(ADOPT, "d", 7), entity(ADOPT, "a", 8)])
    journal.append([Draft(action=OUTCOME, key="s:1", payload={"reply": "x"})])

    assert contents(disk) == {("k", "a"): 8, ("k", "b"): 6, ("other", "a"): 3, ("k", "d"): 7}
    known = replay(JOURNAL, disk)
    assert known.kinds() == {"k", "other"}
    assert known.ids("k") == ["a", "b", "d"]
    assert known.seq == journal.seq == 11
    assert replay(JOURNAL, disk, upto=3).ids("k") == ["a", "b"]


def test_a_digest_leaves_out_what_stores_change_by_themselves() -> None:
    assert digest_of({"a": 1, "b": "\ud800"}) == digest_of({"b": "\ud800", "a": 1, "vector": "x"})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of([1]) != digest_of({"schema": 1}) == digest_of({})


def _without(seq: int) -> Disk:
    """Return a disk with a journal of three segments that lacks one record."""
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1), put("b", 2)])
    journal.roll()
    journal.append([put("c", 3), put("d", 4)])
    journal.roll()
    journal.append([put("e", 5)])
    path = f"{JOURNAL}/{1 if seq < 3 else 3:020d}.jsonl"
    mine = b'"seq":%d,' % seq
    lines = disk.read(path).split(b"\n")
    disk.put(path, b"\n".join(x for x in lines if mine not in x or b'"put"' not in x))
    return disk


@pytest.mark.parametrize("seq", [1, 2, 3, 4])
def test_every_missing_record_is_named_and_no_checkpoint_hides_it(seq: int) -> None:
    disk = _without(seq)

    assert make_checkpoint(JOURNAL, disk, STAMP) is None

    known = replay(JOURNAL, disk)
    assert known.gaps == [(seq, seq)]
    assert len(known.live) == 4


def test_a_gap_ends_where_the_stores_were_taken_over() -> None:
    disk = _without(2)
    journal = opened(disk)
    journal.append([Draft(action=STATE, payload={"whole": True})])

    assert replay(JOURNAL, disk).gaps == []


# Checkpoints.

ids = st.sampled_from("abcd")
changes = st.one_of(
    st.builds(put, ids, st.integers()),
    st.builds(put, ids, st.text(max_size=3), st.just("other")),
    st.builds(entity, st.just(DELETE), ids, st.none()),
    st.builds(entity, st.sampled_from([UNDO, ADOPT]), ids, st.none() | st.integers()),
)


@settings(max_examples=150, deadline=None)
@given(script=st.lists(changes | st.sampled_from(["roll", "checkpoint"]), max_size=30))
def test_a_checkpoint_changes_nothing_that_a_replay_says(script: list[Draft | str]) -> None:
    disk, plain = Disk(), Disk()
    journal, other = opened(disk), opened(plain)
    for step in script:
        if isinstance(step, Draft):
            journal.append([step])
            other.append([step])
        elif step == "roll":
            journal.roll()
        else:
            before = contents(disk)
            made = make_checkpoint(JOURNAL, disk, STAMP)
            assert list(contents(disk).items()) == list(before.items())
            assert made is None or (len(names(disk)), newest_checkpoint(JOURNAL, disk)) == (
                2,
                (made.path, made.seq),
            )
    assert list(contents(disk).items()) == list(contents(plain).items())
    archived = list_segments(JOURNAL, disk, archived=True)
    assert archived[0].first == 1
    journal.sync(journal.seq)
    assert list(contents(disk.power_cut(all_lost)).items()) == list(contents(plain).items())


def _grown() -> Disk:
    """Return a disk with a checkpoint, two closed segments after it, and an open one."""
    disk = Disk()
    journal = opened(disk)
    for number in range(4):
        journal.append([put("a", number), put(f"b{number}", number)])
        if number == 2:
            journal.append([entity(DELETE, "b1", None), put("c", "x" * 50)])
        journal.roll()
        if number == 1:
            assert make_checkpoint(JOURNAL, disk, STAMP) is not None
    journal.append([put("a", "last")])
    journal.close()
    return disk.power_cut(all_kept)


def test_a_checkpoint_moves_what_it_covers_away_and_deletes_nothing() -> None:
    disk = _grown()
    before = contents(disk)
    old = newest_checkpoint(JOURNAL, disk)
    assert old is not None
    pauses: list[int] = []

    made = make_checkpoint(JOURNAL, disk, STAMP, lambda: pauses.append(1))

    assert made is not None
    assert (made.seq, made.entities) == (10, 5)
    assert pauses
    assert contents(disk) == before
    assert names(disk) == [f"{11:020d}.jsonl", f"checkpoint-{10:020d}.jsonl"]
    assert old[0].rpartition("/")[2] in names(disk, f"{JOURNAL}/{ARCHIVE}")
    assert [s.first for s in list_segments(JOURNAL, disk, archived=True)] == [1, 3, 5, 9, 11]
    assert make_checkpoint(JOURNAL, disk, STAMP) is None


class Ended(Exception):
    pass


def _broken_off(disk: Disk, number: int) -> bool:
    """Begin a checkpoint that ends at its n-th call; tell whether there were fewer."""
    disk.stop_after(number)
    try:
        make_checkpoint(JOURNAL, disk, STAMP)
    except Stopped:
        return False
    return True


@pytest.mark.parametrize("choose", [all_kept, all_lost])
def test_a_checkpoint_that_dies_at_any_call_leaves_the_same_journal(choose: Any) -> None:
    before = contents(_grown())
    number = 0
    while not _broken_off(disk := _grown(), number):
        disk = disk.power_cut(choose)
        assert list(contents(disk).items()) == list(before.items()), number
        journal = opened(disk)
        assert (journal.seq, journal.tail.gaps) == (11, 0)
        made = make_checkpoint(JOURNAL, disk, STAMP)
        assert made is None or made.seq == 10
        assert list(contents(disk).items()) == list(before.items()), number
        assert newest_checkpoint(JOURNAL, disk) == (f"{JOURNAL}/checkpoint-{10:020d}.jsonl", 10)
        assert not [name for name in disk.list_directory(JOURNAL) if name.endswith(".tmp")]
        number += 1
    assert number > 40


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_checkpoint_may_lose_any_part_of_what_was_not_synced(data: st.DataObject) -> None:
    disk = _grown()
    before = contents(disk)
    _broken_off(disk, data.draw(st.integers(0, 60)))

    disk = disk.power_cut(lambda low, high: data.draw(st.integers(low, high)))

    assert list(contents(disk).items()) == list(before.items())


def test_a_checkpoint_that_fails_at_any_call_leaves_the_same_journal() -> None:
    calls = (
        "open_append",
        "write",
        "sync",
        "rename",
        "sync_directory",
        "make_directory",
        "read_at",
    )
    for call in calls:
        failed = 0
        for skip in range(60):
            disk = _grown()
            before = contents(disk)
            disk.fail(call, errno.EIO, skip=skip)
            try:
                make_checkpoint(JOURNAL, disk, STAMP)
            except OSError:
                failed += 1
            if disk.faults.pop().times:
                break
            assert contents(disk) == before
            make_checkpoint(JOURNAL, disk, STAMP)
            assert contents(disk) == before
        assert failed, call


def test_a_pause_may_break_it_off() -> None:
    disk = _grown()
    before = contents(disk)

    def pause() -> None:
        raise Ended

    with pytest.raises(Ended):
        make_checkpoint(JOURNAL, disk, STAMP, pause)

    assert contents(disk) == before
    assert not [path for path, _ in disk.open_files.values() if "checkpoint" in path]


def test_the_journal_goes_on_while_a_checkpoint_is_made() -> None:
    disk = _grown()
    journal = opened(disk)
    written: list[int] = []

    def pause() -> None:
        journal.append([put("during", len(written))])
        journal.roll()
        written.append(journal.seq)

    made = make_checkpoint(JOURNAL, disk, STAMP, pause)

    assert made is not None
    assert (made.seq, len(written) > 2) == (10, True)
    assert contents(disk)["k", "during"] == len(written) - 1
    assert [s.first for s in list_segments(JOURNAL, disk)] == [11, *(seq + 1 for seq in written)]


def test_a_replay_misses_nothing_at_whichever_of_its_calls_a_checkpoint_is_made() -> None:
    number = 0
    while True:
        disk = Busy()
        journal = opened(disk)
        for ident in "abcdef":
            journal.append([put(ident, 1), put("last", ident)])
            journal.roll()
            if ident == "b":
                assert make_checkpoint(JOURNAL, disk, STAMP) is not None
        journal.append([entity(DELETE, "a", None)])
        journal.roll()

        def checkpoint(disk: Busy = disk, number: int = number) -> None:
            if disk.turns == number + 1:
                assert make_checkpoint(JOURNAL, disk, STAMP) is not None

        disk.turn = checkpoint
        known = replay(JOURNAL, disk)
        disk.turn = None
        found = (known.broken, known.gaps, known.seq, set(known.ids("k")))
        assert found == ([], [], 13, {*"bcdef", "last"}), number
        if disk.turns <= number:
            break
        number += 1
    assert number > 20


def test_a_full_disk_leaves_the_journal_as_it_is() -> None:
    disk = _grown()
    before = contents(disk)
    disk.room = 100
    with pytest.raises(OSError, match="No space"):
        make_checkpoint(JOURNAL, disk, STAMP)

    disk.room = None
    assert contents(disk) == before
    assert make_checkpoint(JOURNAL, disk, STAMP) is not None


def test_a_checkpoint_is_due_when_closed_segments_outweigh_the_last_one() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([entity(ADOPT, "a", "x" * 1000)])
    assert not is_due(JOURNAL, disk)
    assert not is_due(JOURNAL, disk, bytes_min=1), "nothing is closed"
    journal.roll()
    size = len(disk.read(f"{JOURNAL}/{1:020d}.jsonl"))

    assert is_due(JOURNAL, disk, bytes_min=size)
    assert not is_due(JOURNAL, disk, bytes_min=size + 1)
    assert not is_due(JOURNAL, disk)
    make_checkpoint(JOURNAL, disk, STAMP)
    assert not is_due(JOURNAL, disk, bytes_min=1)
    journal.append([entity(ADOPT, "b", "y" * 100)])
    journal.roll()
    assert not is_due(JOURNAL, disk, bytes_min=1), "the checkpoint is larger"
    journal.append([entity(ADOPT, "b", "y" * 1000)])
    journal.roll()
    assert is_due(JOURNAL, disk, bytes_min=1)
    assert BYTES_MIN > 1 << 20
