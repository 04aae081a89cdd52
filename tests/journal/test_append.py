"""The writer: who is told that a record is safe can rely on it, whatever the disk does."""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.journal import append
from palace.journal.append import RESERVE_LEFT, Appender
from palace.journal.record import OUTCOME, PUT, SEGMENT, Draft, Record, Stamp
from palace.journal.segment import list_segments, read_segment, segment_path
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalFailed
from tests.support.disks.memory import ROOT, Disk, all_kept, all_lost

WAIT_S = 30.0


def appender(disk: Disk) -> Appender:
    writer = Appender(
        directory=ROOT, kernel=disk, stamp=Stamp(epoch=1, writer="w"), header=lambda: {"h": 1}
    )
    writer.open_new()
    return writer


def put(text: object, size: int = 0) -> Draft:
    payload = [text, "x" * size] if size else text
    return Draft(action=PUT, key="s:1", kind="k", id="i", payload=payload)


def end(text: object) -> Draft:
    return Draft(action=OUTCOME, key="s:1", payload=text)


def standing(disk: Disk) -> list[tuple[int, object]]:
    """Return (seq, payload) of all that a reader sees."""
    return [
        (item.seq, item.payload)
        for segment in list_segments(ROOT, disk)
        for _, item in read_segment(segment, disk)
        if isinstance(item, Record) and item.action != SEGMENT
    ]


def numbered(*payloads: object) -> list[tuple[int, object]]:
    return list(enumerate(payloads, 1))


def test_records_are_numbered_without_gaps_and_one_call_is_one_piece() -> None:
    disk = Disk()
    writer = appender(disk)

    assert [writer.append([put("a"), put("b")]), writer.append([end("c")])] == [2, 3]
    assert writer.append([]) == 3
    assert standing(disk) == numbered("a", "b", "c")
    assert [call for call in disk.calls if call[0] == "write"][-3:] == [
        ("write", writer.path) for _ in range(3)
    ]
    assert writer.grown == sum(len(line) + 2 for line in disk.read(writer.path).split()[1:])


def test_what_is_no_json_is_refused_and_takes_no_number() -> None:
    disk = Disk()
    writer = appender(disk)

    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for payload in ({1, 2}, 10**5000, deep):
        with pytest.raises(JournalFailed, match="could not be written down"):
            writer.append([put("a"), put(payload)])

    assert writer.append([put("b")]) == 1
    assert standing(disk) == numbered("b")


def test_nothing_is_safe_before_its_fsync_and_all_is_afterwards() -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])
    seq = writer.append([put("b")])
    writer.append([put("c")])
    assert (standing(disk.power_cut()), writer.synced) == ([], 0)

    writer.sync(seq)

    assert (standing(disk.power_cut()), writer.synced) == (numbered("a", "b", "c"), 3)
    writer.sync(2)
    assert disk.count("sync") == 2, "the header's and this"


def _in_threads(count: int, work: object) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    return threads


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_who_comes_while_an_fsync_runs_shares_the_next_one() -> None:
    disk = Disk()
    writer = appender(disk)
    all_appended, in_sync = threading.Event(), threading.Event()

    def wait() -> None:
        in_sync.set()
        assert all_appended.wait(WAIT_S)

    disk.before_sync = wait
    seqs: list[int] = []

    def work(number: int) -> None:
        seqs.append(writer.append([put(number)]))
        if len(seqs) == 20:
            all_appended.set()
        writer.sync(seqs[-1] if number == 19 else number + 1)

    first = threading.Thread(target=work, args=(0,))
    first.start()
    assert in_sync.wait(WAIT_S)
    before = disk.count("sync")
    rest = [threading.Thread(target=work, args=(n,)) for n in range(1, 20)]
    for thread in rest:
        thread.start()
    _join([first, *rest])

    assert sorted(seqs) == list(range(1, 21))
    assert disk.count("sync") - before == 2
    assert len(standing(disk.power_cut())) == 20


def test_threads_append_and_sync_at_once_and_an_fsync_fails_now_and_then() -> None:
    disk = Disk()
    writer = appender(disk)
    disk.fail("sync", errno.EIO, skip=2, times=1)
    disk.fail("sync", errno.EIO, skip=5, times=2)
    confirmed: dict[int, str] = {}
    refused: list[int] = []

    def work(number: int) -> None:
        for turn in range(20):
            text = f"{number}-{turn}"
            try:
                seq = writer.append([put(text)])
                writer.sync(seq)
            except JournalFailed:
                refused.append(number)
            else:
                confirmed[seq] = text

    _join(_in_threads(4, work))

    found = standing(disk.power_cut())
    assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
    assert confirmed.items() <= dict(found).items()
    assert refused
    assert len(confirmed) + len(refused) == 80


# A full disk.


def _appended_until_refused(writer: Appender) -> Iterator[int]:
    for number in range(10_000):
        try:
            writer.append([put(number)])
        except JournalFailed:
            return
        yield number


def test_a_full_disk_refuses_changes_and_takes_what_ends_them() -> None:
    disk = Disk()
    writer = appender(disk)
    disk.room = RESERVE_LEFT + 2000
    texts = list(_appended_until_refused(writer))

    seq = writer.append([end("z" * 100_000)])
    writer.sync(seq)
    with pytest.raises(JournalFailed, match=r"No space left.*Free some space"):
        writer.append([put("no")])
    assert texts
    assert standing(disk.power_cut()) == numbered(*texts, "z" * 100_000)
    disk.room = 1 << 24
    assert writer.append([put("yes")]) == seq + 1


def test_on_a_full_disk_an_ended_segment_goes_on_with_its_reserve() -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])
    disk.room = 10

    with pytest.raises(JournalFailed):
        writer.open_new()
    disk.room = 0

    writer.sync(writer.append([end("b" * 1000)]))
    assert standing(disk.power_cut()) == numbered("a", "b" * 1000)


def test_where_nothing_can_be_reserved_the_journal_is_written_all_the_same() -> None:
    disk = Disk()
    disk.reserves = False
    writer = appender(disk)
    for number in range(3):
        writer.append([put(number)])

    assert disk.count("reserve") == 1
    assert standing(disk) == numbered(0, 1, 2)


def test_a_reservation_is_made_smaller_before_a_change_is_refused() -> None:
    disk = Disk()
    writer = appender(disk)
    disk.room = RESERVE_LEFT + 5000

    assert writer.append([put("a")]) == 1
    assert disk.count("reserve") == 2


def test_unused_space_is_given_back() -> None:
    disk = Disk()
    writer = appender(disk)
    disk.room = 1 << 22
    writer.append([put("a")])
    assert disk.room < (1 << 22) - append.RESERVE_STEP
    writer.sync(1)
    writer.open_new()
    writer.append([put("b")])
    writer.close()
    writer.close()

    used = sum(len(disk.read(segment.path)) for segment in list_segments(ROOT, disk))
    assert (1 << 22) - used <= disk.room <= 1 << 22
    assert not disk.open_files


# Writes that fail.


class Stingy(Disk):
    """A disk that takes only so many bytes of the next write."""

    takes: int | None = None

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.takes is None:
            return super().write(fd, data)
        taken, self.takes = self.takes, None
        return super().write(fd, data[:taken])


def test_a_write_that_was_taken_in_part_is_cut_off_again() -> None:
    disk = Stingy()
    writer = appender(disk)
    writer.append([put("a")])
    before = disk.read(writer.path)
    for taken in (0, 1, 30, 200):
        disk.takes = taken
        with pytest.raises(JournalFailed, match="took a part"):
            writer.append([put("b"), put("c" * 50)])
        assert disk.read(writer.path) == before

    assert writer.append([put("d")]) == 2
    assert standing(disk) == numbered("a", "d")


def test_a_piece_that_can_not_be_cut_off_is_left_behind_in_an_old_segment() -> None:
    for taken in (1, 30, 220):  # the last takes a whole record of two
        disk = Stingy()
        writer = appender(disk)
        writer.append([put("a")])
        writer.sync(1)
        old = writer.path
        disk.takes = taken
        disk.fail("truncate", errno.EIO)
        with pytest.raises(JournalFailed):
            writer.append([put("b"), put("c" * 50)])
        with pytest.raises(JournalFailed):
            writer.sync(2)

        assert writer.append([put("d")]) == 2
        writer.sync(2)
        assert writer.path == segment_path(ROOT, 2)
        assert [segment.path for segment in list_segments(ROOT, disk)] == [old, writer.path]
        assert standing(disk) == standing(disk.power_cut()) == numbered("a", "d")


# An fsync that fails.


def test_after_a_failed_fsync_unconfirmed_records_stand_in_a_new_segment() -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])
    writer.sync(1)
    writer.append([put("b"), put("c")])
    disk.fail("sync", errno.EIO)

    with pytest.raises(JournalFailed, match="Input/output error"):
        writer.sync(2)
    with pytest.raises(JournalFailed):
        writer.sync(3)
    writer.sync(1)
    assert disk.count("sync") == 3, "a failed fsync is not tried again"

    assert writer.append([put("d")]) == 4
    writer.sync(4)
    assert writer.path == segment_path(ROOT, 2)
    assert standing(disk) == standing(disk.power_cut()) == numbered("a", "b", "c", "d")
    assert writer.synced == 4


def test_a_failed_fsync_of_the_first_records_replaces_their_segment() -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])
    disk.fail("sync", errno.EIO)
    with pytest.raises(JournalFailed):
        writer.sync(1)

    writer.open_new()
    writer.sync(writer.append([put("b")]))

    assert [s.first for s in list_segments(ROOT, disk)] == [1]
    assert standing(disk.power_cut()) == numbered("a", "b")
    assert len(disk.open_files) == 1


@pytest.mark.parametrize("call", ["sync", "open_new"])
def test_the_next_owner_trusts_no_file_whose_fsync_has_failed(call: str) -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])
    writer.sync(1)
    writer.append([put("b")])
    disk.fail("sync", errno.EIO, times=1)
    disk.fail("open_append", errno.EIO, end=".tmp", times=1)
    with pytest.raises(JournalFailed):
        writer.sync(2) if call == "sync" else writer.open_new()

    # It is killed here; the kernel, which believes that all is written, lives on.
    disk.faults.clear()
    heir = Appender(
        directory=ROOT,
        kernel=disk,
        stamp=Stamp(epoch=2, writer="heir"),
        header=lambda: {"h": 2},
        next_seq=3,
    )
    heir.open_last(writer.path, 1)

    assert standing(disk.power_cut()) == numbered("a", "b")
    heir.sync(heir.append([put("c")]))
    assert standing(disk.power_cut()) == numbered("a", "b", "c")
    assert disk.file_id(f"{ROOT}/{append.UNSYNCED_MARKER}") is None


def test_unsynced_marker_goes_with_the_new_segment() -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])
    disk.fail("sync", errno.EIO)
    with pytest.raises(JournalFailed):
        writer.sync(1)
    assert disk.file_id(f"{ROOT}/{append.UNSYNCED_MARKER}") is not None

    writer.open_new()

    assert disk.file_id(f"{ROOT}/{append.UNSYNCED_MARKER}") is None


def test_all_who_wait_for_a_failed_fsync_are_told() -> None:
    disk = Disk()
    writer = appender(disk)
    gate = threading.Event()

    def wait() -> None:
        assert gate.wait(WAIT_S)

    disk.before_sync = wait
    disk.fail("sync", errno.EIO, times=1)
    told: list[int] = []

    def work(number: int) -> None:
        seq = writer.append([put(number)])
        if seq == 5:
            gate.set()
        with pytest.raises(JournalFailed):
            writer.sync(seq)
        told.append(seq)

    _join(_in_threads(5, work))

    assert sorted(told) == [1, 2, 3, 4, 5]
    writer.open_new()
    assert sorted(seq for seq, _ in standing(disk.power_cut())) == [1, 2, 3, 4, 5]


def test_a_segment_whose_end_can_not_be_made_safe_is_not_trusted_afterwards() -> None:
    disk = Disk()
    writer = appender(disk)
    seq = writer.append([put("a")])
    disk.fail("sync", errno.EIO)

    writer.open_new()
    writer.sync(seq)

    assert [s.first for s in list_segments(ROOT, disk)] == [1]
    assert standing(disk.power_cut()) == numbered("a")


def test_where_no_new_segment_can_be_begun_either_nothing_is_confirmed() -> None:
    disk = Disk()
    writer = appender(disk)
    seq = writer.append([put("a")])
    disk.fail("sync", errno.EIO)
    disk.fail("rename", errno.EIO)
    with pytest.raises(JournalFailed):
        writer.open_new()

    with pytest.raises(JournalFailed):
        writer.sync(seq)

    assert standing(disk.power_cut()) == []
    writer.sync(writer.append([put("b")]))
    assert standing(disk.power_cut()) == numbered("a", "b")


def test_a_segment_that_is_safe_is_not_repeated_in_the_next_one() -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])

    writer.open_new()

    assert (writer.synced, writer.path) == (1, segment_path(ROOT, 2))
    assert b'"put"' not in disk.read(writer.path)
    assert standing(disk.power_cut()) == numbered("a")


@pytest.mark.parametrize("call", ["open_append", "sync_directory", "rename", "sync", "write"])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_segment_that_could_not_be_begun_hides_nothing(call: str, skip: int) -> None:
    disk = Disk()
    writer = appender(disk)
    writer.sync(writer.append([put("a")]))
    number = errno.EMFILE if call == "open_append" else errno.EIO
    disk.fail(call, number, skip=skip)
    try:
        writer.open_new()
    except JournalFailed:
        pass
    disk.faults.clear()
    writer.sync(writer.append([put("b")]))
    writer.append([put("c")])
    writer.open_new()

    assert standing(disk) == standing(disk.power_cut()) == numbered("a", "b", "c")


# All of it.

FAULTS = ("sync", "sync", "write", "truncate", "reserve", "open_append", "rename", "sync_directory")
steps = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("end"), st.just(1)),
    st.tuples(st.just("confirm"), st.just(0)),
    st.tuples(st.just("roll"), st.just(0)),
    st.tuples(st.just("confirm"), st.just(0)),
    st.tuples(st.sampled_from(FAULTS), st.integers(0, 1)),
    st.tuples(st.sampled_from(FAULTS), st.integers(0, 1)),
    st.tuples(st.just("room"), st.sampled_from([0, 100, 3000, 1 << 22])),
    st.tuples(st.just("takes"), st.integers(0, 400)),
)


def _run(disk: Stingy, writer: Appender, script: list[tuple[str, int]]) -> dict[int, str]:
    """Do as the script says; return what was appended without an error."""
    taken: dict[int, str] = {}
    for number, (step, count) in enumerate(script):
        try:
            if step in ("append", "end"):
                texts = [f"{number}.{n}" for n in range(count)]
                drafts = [put(text) if step == "append" else end(text) for text in texts]
                last = writer.append(drafts)
                assert last == len(taken) + count
                taken |= dict(enumerate(texts, last - count + 1))
            elif step == "confirm":
                writer.sync(len(taken))
            elif step == "roll":
                writer.open_new()
            elif step == "room":
                disk.room = count
            elif step == "takes":
                disk.takes = count
            else:
                disk.fail(step, errno.EIO, skip=count)
        except JournalFailed:
            continue
        if step == "confirm":
            assert writer.synced >= len(taken)
    return taken


@settings(max_examples=400, deadline=None)
@given(script=st.lists(steps, max_size=25), data=st.data())
def test_whatever_fails_what_was_confirmed_stays(
    script: list[tuple[str, int]], data: st.DataObject
) -> None:
    disk = Stingy()
    writer = appender(disk)
    taken = _run(disk, writer, script)

    cut = disk.power_cut(lambda low, high: data.draw(st.integers(low, high)))
    for found in (standing(disk.power_cut(all_lost)), standing(cut)):
        assert found[: writer.synced] == list(taken.items())[: writer.synced]
        assert [seq for seq, _ in found] == list(range(1, len(found) + 1))

    disk.faults.clear()
    disk.room = disk.takes = None
    writer.open_new()
    writer.append([put("last")])
    kept = disk.power_cut(all_kept)
    assert dict(standing(kept)) == {**taken, len(taken) + 1: "last"}


# Without fsyncs.


def careless(disk: Disk) -> Appender:
    writer = Appender(
        directory=ROOT,
        kernel=disk,
        stamp=Stamp(epoch=1, writer="w"),
        header=lambda: {"h": 1},
        fsyncs=False,
    )
    writer.open_new()
    return writer


def test_without_fsyncs_nobody_waits_and_a_killed_process_loses_nothing() -> None:
    disk = Disk()
    writer = careless(disk)
    synced = disk.count("sync")
    writer.sync(writer.append([put("a"), end("b")]))

    assert disk.count("sync") == synced
    assert (writer.synced, writer.durable) == (2, 0)
    assert standing(disk.power_cut(all_kept)) == numbered("a", "b")
    assert standing(disk.power_cut(all_lost)) == []


def test_without_fsyncs_a_segment_is_whole_before_the_next_one_has_a_name() -> None:
    disk = Disk()
    writer = careless(disk)
    writer.sync(writer.append([put("a"), end("b")]))
    writer.open_new()
    writer.sync(writer.append([put("c")]))

    assert writer.durable == 2
    assert standing(disk.power_cut(all_lost)) == numbered("a", "b")


def test_without_fsyncs_a_disk_that_fails_at_a_new_segment_gets_it_all_again() -> None:
    disk = Disk()
    writer = careless(disk)
    writer.sync(writer.append([put("a"), end("b")]))
    disk.fail("sync", errno.EIO)
    writer.open_new()

    assert standing(disk.power_cut(all_lost)) == numbered("a", "b")


@pytest.mark.parametrize("rewritten", ["gone", "another", "shorter", "not at all", "the next one"])
def test_a_newest_file_that_is_not_ours_any_more_is_seen(rewritten: str, tmp_path: Path) -> None:
    kernel = Kernel()
    writer = Appender(
        directory=str(tmp_path),
        kernel=kernel,
        stamp=Stamp(epoch=1, writer="w"),
        header=lambda: {"h": 1},
    )
    assert writer.is_in_place()  # nothing is open
    writer.open_new()
    older = Path(writer.path).read_bytes()
    writer.append([put("a")])
    assert writer.is_in_place()
    if rewritten == "gone":
        os.unlink(writer.path)
    elif rewritten == "another":
        kernel.replace_file(writer.path, Path(writer.path).read_bytes())
    elif rewritten == "shorter":  # as `cp` writes an older copy into it
        Path(writer.path).write_bytes(older)
    elif rewritten == "the next one":
        old = writer.path
        writer.open_new()
        os.rename(old, f"{old}.archived")

    assert writer.is_in_place() is (rewritten in ("not at all", "the next one"))
    writer.close()


def test_our_own_trouble_with_the_disk_is_nobody_elses_doing() -> None:
    disk = Disk()
    writer = appender(disk)
    writer.append([put("a")])
    disk.fail("sync", errno.EIO)
    with pytest.raises(JournalFailed):
        writer.sync(1)
    disk.unlink(writer.path)

    assert writer.is_in_place()
