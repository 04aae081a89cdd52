"""A palace's journal as its owner uses it: opened, written, rolled, repaired, opened again."""

import errno
import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.journal.journal import HEAD, Journal
from palace.journal.record import (
    ABORT,
    ATTEMPT,
    OUTCOME,
    PUT,
    SEGMENT,
    STATE,
    UNIT,
    Draft,
    Record,
    Stamp,
    fields_of,
    seal,
)
from palace.journal.replay import replay
from palace.journal.segment import ARCHIVE, list_segments, read_segment, segment_path
from palace.journal.tail import Adopting
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalBroken, JournalFailed
from tests.support.disks.memory import ROOT, Disk, all_kept, all_lost

JOURNAL = f"{ROOT}/journal"
WAIT_S = 30.0


def opened(disk: Disk, epoch: int = 1, **more: Any) -> Journal:
    return Journal.open(JOURNAL, disk, Stamp(epoch=epoch, writer=f"w{epoch}"), **more)


def put(key: str, text: str, before: Any = None) -> Draft:
    return Draft(action=PUT, key=key, kind="k", id=text[:1], payload=text, before=before)


def seqs(disk: Disk) -> list[int]:
    return [record.seq for record in records(disk)]


def records(disk: Disk) -> Iterator[Record]:
    for segment in list_segments(JOURNAL, disk, archived=True):
        for _, item in read_segment(segment, disk):
            if isinstance(item, Record) and item.action != SEGMENT:
                yield item


def head(disk: Disk) -> Any:
    return json.loads(disk.read(f"{JOURNAL}/{HEAD}"))


def segment_paths(disk: Disk) -> list[str]:
    return [segment.path for segment in list_segments(JOURNAL, disk)]


def spoil(disk: Disk, path: str, at: int = 30) -> None:
    data = disk.read(path)
    disk.put(path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


# Opening.


def test_a_new_journal_is_begun_durably_and_is_gone_on_with() -> None:
    disk = Disk()
    journal = opened(disk)
    assert (journal.is_new, journal.seq, journal.tail.baseline) == (True, 0, None)
    journal.sync(journal.append([put("s:1", "a"), put("s:1", "b")]))

    disk = disk.power_cut(all_lost)
    again = opened(disk, 2)

    assert (again.is_new, again.seq, again.synced) == (False, 2, 2)
    assert [change.payload for change in again.tail.open["s:1"]] == ["a", "b"]
    assert again.append([put("s:2", "c")]) == 3
    assert [record.epoch for record in records(disk)] == [1, 1, 2]
    assert [record.writer for record in records(disk)] == ["w1", "w1", "w2"]


def test_what_an_opening_reads_is_safe_before_anything_is_built_on_it() -> None:
    disk = Disk()
    opened(disk).append([put("s:1", "a")])
    disk = disk.power_cut(all_kept)
    path = segment_paths(disk)[0]
    file = disk.names[path]
    assert file is not None
    file.synced, file.low = b"", 0  # nobody has synced it yet

    assert opened(disk, 2).synced == 1
    assert seqs(disk.power_cut(all_lost)) == [1]


def test_an_epoch_that_goes_backwards_is_refused_and_nothing_is_written() -> None:
    disk = Disk()
    opened(disk, 7).close()
    before = {path: disk.names[path] and disk.read(path) for path in segment_paths(disk)}

    with pytest.raises(JournalBroken, match="last written in epoch 7") as caught:
        opened(disk, 6)

    assert "Put back all of them" in caught.value.message
    assert {path: disk.read(path) for path in segment_paths(disk)} == before
    assert opened(disk, 7).append([put("s:1", "a")]) == 1


def test_closing_makes_everything_durable() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("s:1", "a")])

    journal.close()

    cut = disk.power_cut(all_lost)
    assert seqs(cut) == [1]
    assert head(cut) == {"seq": 1, "epoch": 1, "segment": f"{1:020d}.jsonl"}
    assert not disk.open_files


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b"\xff", b'{"seq":"many"}'])
def test_a_lost_or_damaged_head_is_written_again(data: bytes | None) -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("s:1", "a")])
    journal.close()
    if data is None:
        del disk.names[f"{JOURNAL}/{HEAD}"]
    else:
        disk.put(f"{JOURNAL}/{HEAD}", data)

    assert opened(disk, 2).seq == 1
    assert head(disk) == {"seq": 1, "epoch": 2, "segment": f"{1:020d}.jsonl"}


def test_a_head_that_can_not_be_written_is_no_reason_to_stop() -> None:
    disk = Disk()
    disk.fail("rename", errno.EACCES, end=f"{HEAD}.1.tmp", times=9)
    journal = opened(disk)
    journal.append([put("s:1", "a")])
    journal.roll()
    journal.close()

    assert f"{JOURNAL}/{HEAD}" not in disk.names
    assert seqs(disk.power_cut(all_lost)) == [1]


# Rolling.


def _rolled(disk: Disk) -> Journal:
    """Return a journal of three segments, with a key that is open since the first."""
    journal = opened(disk, 3)
    journal.fingerprints = lambda: {"store": journal.seq}
    journal.append([put("s:0", "a")])
    journal.close_key("s:0", OUTCOME, reply="ra")
    journal.append([put("s:1", "b", "old")])
    journal.roll()
    journal.append([put("s:2", "c")])
    journal.close_key("s:2", OUTCOME, reply="rc")
    journal.append([Draft(action=ATTEMPT, key="s:1")])
    journal.roll()
    journal.append([put("s:1", "d")])
    journal.sync(journal.seq)
    return journal


def _is_all_there(journal: Journal) -> None:
    assert (journal.seq, journal.reply("s", 0), journal.reply("s", 2)) == (7, "ra", "rc")
    assert [change.payload for change in journal.tail.open["s:1"]] == ["b", "d"]
    assert list(journal.tail.open) == ["s:1"]
    assert (journal.tail.baseline, journal.crashes("s:1")) == ({"store": 1}, 1)
    assert journal.tail.gaps == 0


def test_the_newest_segment_alone_tells_what_its_reader_must_know() -> None:
    disk = Disk()
    _is_all_there(_rolled(disk))
    assert len(segment_paths(disk)) == 3
    for path in segment_paths(disk)[:-1]:
        del disk.names[path]

    _is_all_there(opened(disk, 4))


@pytest.mark.parametrize("lost", [[2], [1, 2], [0, 1, 2], [1]])
def test_a_damaged_header_makes_the_segment_before_count(lost: list[int]) -> None:
    disk = Disk()
    _rolled(disk)
    for number in lost:
        spoil(disk, segment_paths(disk)[number])

    _is_all_there(opened(disk, 4))


def test_a_segment_without_any_header_makes_the_one_before_count() -> None:
    disk = Disk()
    _rolled(disk)
    path = segment_paths(disk)[-1]
    disk.put(path, disk.read(path).split(b"\n\n", 1)[1])

    _is_all_there(opened(disk, 4))


def test_a_damaged_header_is_made_up_for_by_the_archive() -> None:
    disk = Disk()
    _rolled(disk)
    disk.make_directory(f"{JOURNAL}/{ARCHIVE}")
    *closed, newest = segment_paths(disk)
    for path in closed:
        disk.rename(path, path.replace(JOURNAL, f"{JOURNAL}/{ARCHIVE}"))
    spoil(disk, newest)

    _is_all_there(opened(disk, 4))


def test_records_that_are_missing_are_noticed() -> None:
    disk = Disk()
    _rolled(disk)
    path = segment_paths(disk)[-1]
    data = disk.read(path)
    disk.put(path, data + data.split(b"\n\n")[1].replace(b'"seq":7', b'"seq":9'))
    assert opened(disk, 4).tail.gaps == 0, "it is no record"

    journal = opened(disk, 4)
    journal.append([put("s:4", "x"), put("s:4", "y")])
    data = disk.read(path)
    at = data.index(b'"seq":8')
    disk.put(path, data[: at + 6] + b"0" + data[at + 7 :])

    again = opened(disk, 5)
    assert again.tail.gaps == 1
    assert again.reply("s", 0) is None
    assert again.is_forgotten("s", 0, 4)
    assert not again.is_forgotten("s", 9, 5)


def test_a_segment_that_has_its_size_is_ended_when_nothing_is_open() -> None:
    disk = Disk()
    journal = opened(disk, segment_bytes=500)
    for number in range(5):
        journal.append([put(f"s:{number}", "x" * 300)])
        journal.append([put("t:1", "y")])
        journal.close_key(f"s:{number}", OUTCOME, reply="r")
    assert journal.is_long()
    assert len(segment_paths(disk)) == 1, "t:1 is open"

    journal.close_key("t:1", ABORT)

    assert len(segment_paths(disk)) == 2
    assert not journal.is_long()
    assert head(disk)["segment"] == f"{journal.seq + 1:020d}.jsonl"
    assert head(disk)["seq"] == journal.synced == journal.seq


def test_a_large_header_is_no_reason_to_end_a_segment() -> None:
    disk = Disk()
    journal = opened(disk, segment_bytes=1000)
    for number in range(1, 30):
        journal.append([put(f"s:{number}", "x")])
        journal.close_key(f"s:{number}", OUTCOME, reply="y" * 200)
    journal.roll()
    assert len(disk.read(journal.segments()[-1].path)) > 1000
    count = len(journal.segments())

    journal.append([put("s:31", "x")])
    journal.close_key("s:31", OUTCOME, reply="")

    assert len(journal.segments()) == count


def test_without_space_for_a_new_segment_the_old_one_goes_on() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("s:1", "a")])
    disk.room = 0

    journal.roll()
    journal.sync(journal.close_key("s:1", OUTCOME, reply="r"))

    assert len(segment_paths(disk)) == 1
    assert opened(disk.power_cut(all_lost), 2).reply("s", 1) == "r"


def test_only_a_record_that_leaves_nothing_open_tells_what_the_stores_look_like() -> None:
    disk = Disk()
    journal = opened(disk)
    looks: list[int] = []
    journal.fingerprints = lambda: {"looks": len(looks.append(1) or looks)}  # type: ignore[func-returns-value]
    journal.append([put("s:1", "a"), put("s:2", "b")])

    journal.close_key("s:1", UNIT)
    assert (looks, journal.tail.baseline) == ([], None)
    journal.close_key("s:2", OUTCOME, reply="r")
    assert (looks, journal.tail.baseline) == ([1], {"looks": 1})
    journal.close_key("", STATE)

    payloads = [record.payload for record in records(disk)][2:]
    assert payloads == [{}, {"reply": "r", "at": {"looks": 1}}, {"at": {"looks": 2}}]


# Waiting for the disk.


def _told(journal: Journal, seq: int) -> JournalFailed | None:
    answers: queue.SimpleQueue[JournalFailed | None] = queue.SimpleQueue()
    journal.when_synced(seq, answers.put)
    return answers.get(timeout=WAIT_S)


def test_who_waits_is_told_once_it_is_safe() -> None:
    disk = Disk()
    journal = opened(disk)
    for text in "ab":
        seq = journal.append([put("s:1", text)])
        assert _told(journal, seq) is None
        assert seqs(disk.power_cut(all_lost))[-1] == seq
    journal.close()


def test_after_a_failed_fsync_it_is_written_again_before_anybody_is_told() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.sync(journal.append([put("s:1", "a")]))
    seq = journal.append([put("s:1", "b")])
    disk.fail("sync", errno.EIO)

    assert _told(journal, seq) is None

    assert seqs(disk.power_cut(all_lost)) == [1, 2]
    assert len(segment_paths(disk)) == 2
    journal.close()
    assert [change.payload for change in opened(disk, 2).tail.open["s:1"]] == ["a", "b"]


def test_who_waits_is_told_that_the_disk_is_lost() -> None:
    disk = Disk()
    journal = opened(disk)
    seq = journal.append([put("s:1", "a")])
    disk.fail("sync", errno.EIO, times=2)
    problem = _told(journal, seq)
    assert problem is not None
    assert "Input/output error" in problem.message

    assert _told(journal, seq) is None, "the disk works again"
    journal.close()
    assert seqs(disk.power_cut(all_lost)) == [1]


def test_an_attempt_that_is_repeated_after_a_failed_fsync_counts_once() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.sync(journal.append([put("s:1", "a")]))
    seq = journal.append([Draft(action=ATTEMPT, key="s:1"), put("s:1", "b")])
    disk.fail("sync", errno.EIO)
    with pytest.raises(JournalFailed):
        journal.sync(seq)

    journal.repair()

    again = opened(disk.power_cut(all_lost), 2)
    assert again.crashes("s:1") == journal.crashes("s:1") == 1
    assert [change.payload for change in again.tail.open["s:1"]] == ["a", "b"]


def test_who_can_not_be_told_keeps_nobody_else_waiting() -> None:
    disk = Disk()
    journal = opened(disk)
    told: list[int] = []

    def fail(_problem: JournalFailed | None) -> None:
        told.append(1)
        raise RuntimeError("its loop has ended")

    journal.when_synced(journal.append([put("s:1", "a")]), fail)

    assert _told(journal, journal.append([put("s:1", "b")])) is None
    assert told == [1]
    journal.close()


def test_many_who_wait_share_fsyncs_and_all_are_told() -> None:
    disk = Disk()
    journal = opened(disk)
    answers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(50):
        seq = journal.append([put("s:1", str(number))])
        journal.when_synced(seq, lambda problem, seq=seq: answers.put(seq if not problem else -1))
    assert [answers.get(timeout=WAIT_S) for _ in range(50)] == list(range(1, 51))

    journal.close()
    assert journal.synced == 50


# Replies.


def test_what_a_session_has_settled_is_forgotten_at_the_next_append() -> None:
    disk = Disk()
    journal = opened(disk)
    for ordinal in range(3):
        journal.close_key(f"s:{ordinal}", OUTCOME, reply=f"r{ordinal}")
    journal.close_key("t:0", OUTCOME, reply="t")
    journal.acknowledge("s", 2)
    journal.end_session("t")
    assert journal.reply("s", 0) == "r0"

    journal.append([put("u:0", "a")])
    journal.roll()
    journal.sync(journal.seq)

    for each in (journal, opened(disk.power_cut(all_lost), 2)):
        assert [each.reply("s", n) for n in range(3)] == [None, None, "r2"]
        assert each.reply("t", 0) is None
        assert each.is_forgotten("s", 1, 1)
        assert not each.is_forgotten("s", 2, 1)


def test_a_refused_append_leaves_nothing_behind() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("s:0", "a")])
    with pytest.raises(JournalFailed):
        journal.append([put("s:1", "b"), Draft(action=PUT, key="s:1", payload={1})])
    disk.fail("write", errno.EIO)
    with pytest.raises(JournalFailed):
        journal.close_key("s:0", OUTCOME, reply="r")

    assert (journal.seq, list(journal.tail.open), journal.reply("s", 0)) == (1, ["s:0"], None)
    assert journal.close_key("s:0", OUTCOME, reply="r") == 2
    assert seqs(disk) == [1, 2]


@pytest.mark.parametrize("had_one", [False, True])
def test_what_an_owner_without_the_journal_did_stays_unknown(had_one: bool) -> None:
    disk = Disk()
    if had_one:
        first = opened(disk, 1)
        first.append([put("own-1", "a")])
        first.close_key("own-1", UNIT)
        first.close()
    Journal.note_pause(JOURNAL, disk)

    opened(disk, 3)  # and killed

    again = opened(disk, 4)
    assert again.is_forgotten("s", 0, 2), "owner 2 may have carried it out"
    assert not again.is_forgotten("s", 0, 3)


def test_what_a_killed_owner_left_half_written_is_removed() -> None:
    disk = Disk()
    opened(disk).close()
    for name in ("HEAD.json.5.tmp", "00000000000000000009.jsonl.5.tmp", "checkpoint-1.jsonl.tmp"):
        disk.put(f"{JOURNAL}/{name}", b"half")

    opened(disk).close()

    assert not [path for path in disk.names if path.endswith(".tmp")]


# Names of files that are not ours, and what is written after them.


def _written_after(disk: Disk, epoch: int) -> None:
    """Write more than the names that are there, over two segments, and see that all is read."""
    journal = opened(disk, epoch)
    for number in range(12):
        name = f"n{number}"
        journal.append([Draft(action=PUT, key="s:9", kind="k", id=name, payload=name)])
        if number == 1:
            journal.roll()
    journal.close()
    known = replay(JOURNAL, disk)
    assert {f"n{number}" for number in range(12)} <= {ident for _, ident in known.live}


def test_damaged_newest_files_are_not_written_over() -> None:
    disk = Disk()
    _rolled(disk)
    path = segment_paths(disk)[-1]
    disk.put(path, b"\ngarbage\n")
    disk.put(segment_paths(disk)[-2], disk.read(segment_paths(disk)[-2])[:-200])
    journal = opened(disk, 4)
    assert journal.tail.gaps > 0
    journal.close()
    _written_after(disk, 5)


@pytest.mark.parametrize("where", [JOURNAL, f"{JOURNAL}/{ARCHIVE}"])
def test_an_empty_file_with_a_later_name_hides_nothing(where: str) -> None:
    disk = Disk()
    _rolled(disk)
    disk.make_directory(f"{JOURNAL}/{ARCHIVE}")
    disk.put(segment_path(where, 11), b"")

    _written_after(disk, 4)


@pytest.mark.parametrize("name", ["9" * 20, f"{10**20 - 2}"])
def test_a_name_that_no_journal_reaches_is_refused(name: str) -> None:
    disk = Disk()
    _rolled(disk)
    disk.put(f"{JOURNAL}/{name}.jsonl", b"")

    with pytest.raises(JournalBroken, match="which no palace reaches"):
        opened(disk, 4)


def test_a_header_of_another_place_is_no_header() -> None:
    disk = Disk()
    _rolled(disk)
    first, *_, newest = segment_paths(disk)
    old = disk.read(first).split(b"\n\n")[0].strip(b"\n")
    data = disk.read(newest)
    disk.put(newest, data + b"\n" + old + b"\n")
    _is_all_there(opened(disk, 4))
    rest = data.split(b"\n\n", 1)[1]
    disk.put(newest, b"\n" + old + b"\n\n" + rest)

    _is_all_there(opened(disk, 5))


def test_a_header_without_a_number_counts_from_its_own() -> None:
    disk = Disk()
    _rolled(disk)
    newest = segment_paths(disk)[-1]
    header, rest = disk.read(newest).split(b"\n\n", 1)
    fields = fields_of(header.strip(b"\n"))
    fields["payload"]["seq"] = None
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    disk.put(newest, seal(body.encode()) + b"\n" + rest)

    assert opened(disk, 4).seq == 7


def test_a_leave_and_the_two_ends_of_an_adoption_are_durable_when_they_return() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.fingerprints = dict
    journal.append([put("s:1", "a")])
    journal.leave()
    assert opened(disk.power_cut(all_lost), 2).tail.left == {1}

    journal.close_key("s:1", OUTCOME, reply="r")
    journal.begin_adoption(Adopting(since=2, total=7))
    assert opened(disk.power_cut(all_lost), 2).tail.adopting == Adopting(since=2, total=7)

    journal.end_adoption()
    assert opened(disk.power_cut(all_lost), 2).tail.adopting is None


def test_a_journal_whose_end_is_missing_vouches_for_no_line_that_comes_again() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("s:1", "a")])
    journal.close_key("s:1", OUTCOME, reply="r")
    journal.close()
    Journal.note_lost(JOURNAL, disk)

    disk = disk.power_cut(all_lost)
    again = opened(disk, 2)

    assert again.is_forgotten("s", 1, 1)
    assert not again.tail.paused, "an owner with a journal has worked on it"
    again.close()
    assert not opened(disk.power_cut(all_kept), 3).is_forgotten("s", 1, 2)


def test_nothing_is_written_into_what_took_the_directorys_place(tmp_path: Path) -> None:
    """There may be the next owner's journal, whose files have the same names."""
    directory = tmp_path / "journal"
    stamp = Stamp(epoch=1, writer="w1")
    journal = Journal.open(str(directory), Kernel(), stamp)
    journal.append([put("a", "one")])
    directory.rename(tmp_path / "away")
    next_one = Journal.open(str(directory), Kernel(), Stamp(epoch=2, writer="w2"))
    next_one.append([put("b", "two")])
    there = {path.name: path.read_bytes() for path in directory.iterdir()}

    journal.roll()
    with pytest.raises(JournalFailed, match="was replaced by another program"):
        journal.repair()
    assert journal.append([put("a", "three")]) == 2, "what is open goes on until it is saved"
    journal.close()

    assert {path.name: path.read_bytes() for path in directory.iterdir()} == there
    next_one.close()
