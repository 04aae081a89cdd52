"""Following a journal, and going on after a pause: whoever applies a feed has what it says.

Between two looks of the reader the journal is written, rolled, torn, checkpointed, loses its
archive, or is put back as it was before.
"""

from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from palace.journal.checkpoint import make_checkpoint
from palace.journal.feed import Fed, Snapshot, Summary, go_on, read_feed
from palace.journal.following import Follower, Position
from palace.journal.inspect import Gap
from palace.journal.journal import Journal
from palace.journal.purge import Going, purge_journal
from palace.journal.record import DELETE, ENTITIES, PUT, UNIT, Draft, Entity, Record, Stamp
from palace.journal.replay import replay
from palace.journal.segment import ARCHIVE, Broken, list_segments
from palace.protocol.keyring import Key, Keyring
from tests.support.disks.memory import ROOT, Disk, all_kept, all_lost

JOURNAL = f"{ROOT}/journal"
KEYS = Keyring([Key(b"k" * 32)])


def opened(disk: Disk, epoch: int = 1, origin: str = "first") -> Journal:
    stamp = Stamp(epoch=epoch, writer=f"w{epoch}", keys=KEYS, origin=origin)
    return Journal.open(JOURNAL, disk, stamp)


def put(ident: str, payload: Any) -> Draft:
    action = DELETE if payload is None else PUT
    return Draft(action=action, kind="k", id=ident, payload=payload, deleted=payload is None)


def follower(disk: Disk, **more: Any) -> Follower:
    return Follower(directory=JOURNAL, kernel=disk, keys=KEYS, **more)


def seqs(found: list[Any]) -> list[int]:
    assert not [one for one in found if isinstance(one, Gap | Broken)]
    return [one.seq for one in found]


def remove_archive(disk: Disk) -> None:
    for name in disk.list_directory(f"{JOURNAL}/{ARCHIVE}"):
        disk.unlink(f"{JOURNAL}/{ARCHIVE}/{name}")


@attrs.define
class Copy:
    """What a program keeps: it applies what it is fed."""

    contents: dict[Entity, Any] = attrs.field(factory=dict)
    position: Position | None = None
    summaries: int = 0

    def take(self, found: Fed) -> None:
        assert not isinstance(found, Gap)
        if isinstance(found, Summary):
            self.contents.clear()
            self.summaries += 1
        elif isinstance(found, Snapshot):
            self.contents[found.record.entity] = found.record.payload
        elif isinstance(found, Record) and found.action in ENTITIES:
            self.contents.pop(found.entity, None)
            if not found.deleted:
                self.contents[found.entity] = found.payload

    def look(self, disk: Disk) -> list[Fed]:
        """Go on as a new process does."""
        reader = follower(disk)
        found: list[Fed] = [*go_on(reader, self.position), *read_feed(reader)]
        for one in found:
            self.take(one)
        self.position = reader.position
        return found


# Following.


def test_only_what_is_new_is_read() -> None:
    disk = Disk()
    journal = opened(disk)
    reader = follower(disk)
    journal.append([put(f"{n}", "p" * 1000) for n in range(100)])
    assert seqs(list(reader.read())) == list(range(1, 101))
    asked: list[tuple[int, int]] = []
    read_at = disk.read_at

    def noting(fd: int, offset: int, size: int) -> bytes:
        data = read_at(fd, offset, size)
        asked.append((offset, len(data)))
        return data

    disk.read_at = noting  # type: ignore[method-assign]
    assert list(reader.read()) == []
    journal.append([put("new", 1)])
    assert seqs(list(reader.read())) == [101]
    assert sum(size for _, size in asked) < 1000, asked


def test_a_reader_goes_over_rolls_and_into_the_archive() -> None:
    disk = Disk()
    journal = opened(disk)
    reader = follower(disk)
    found: list[int] = []
    for number in range(4):
        journal.append([put(f"{number}", number)])
        if number == 2:
            found += seqs(list(reader.read()))
        journal.roll()
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    found += seqs(list(reader.read()))
    assert found == [1, 2, 3, 4]
    assert reader.origin == "first"


def test_a_line_that_is_being_written_is_read_once_it_is_whole() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1), put("b", 2)])
    path = list_segments(JOURNAL, disk)[-1].path
    whole = disk.read(path)
    for cut in range(len(whole) - 100, len(whole)):
        disk.put(path, whole[:cut])
        reader = follower(disk)
        before = seqs(list(reader.read()))
        file = disk.names[path]
        assert file is not None
        file.data += whole[cut:]
        assert before + seqs(list(reader.read())) == [1, 2], cut


def test_a_torn_end_is_told_to_who_does_not_come_back() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1)])
    path = list_segments(JOURNAL, disk)[-1].path
    disk.put(path, disk.read(path) + b'\n{"v":1,')
    reader = follower(disk)
    assert [isinstance(one, Broken) for one in reader.read()] == [False]
    assert [isinstance(one, Broken) for one in reader.read(ends=True)] == [True]
    assert list(reader.read(ends=True)) == []


def test_what_stands_behind_a_torn_line_is_read() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1), put("b", 2)])
    path = journal.segments()[-1].path
    with_torn = disk.read(path).replace(b'"id":"b"', b'"id":"x"')
    disk.put(path, with_torn)
    journal = opened(disk, 2)
    journal.append([put("c", 3)])

    found = list(follower(disk).read())

    told = [one.id for one in found if isinstance(one, Record)]
    assert (told[0], told[-1]) == ("a", "c")
    assert [one for one in found if isinstance(one, Broken)]


def test_a_torn_end_is_told_once_another_segment_follows_it() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1)])
    reader = follower(disk)
    assert seqs(list(reader.read())) == [1]
    file = disk.names[list_segments(JOURNAL, disk)[-1].path]
    assert file is not None
    file.data += b'\n{"v":1,'
    reader.kernel = disk = disk.power_cut(all_kept)
    opened(disk, 2, "second").append([put("b", 2)])
    assert [type(one) for one in reader.read()] == [Broken, Record]


def test_a_position_holds_over_a_purge_that_moves_all_lines() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("long", "p" * 500), put("b", 2)])
    copy = Copy()
    copy.look(disk)
    purge_journal(JOURNAL, disk, Going(entities=frozenset({("k", "long")})), KEYS)
    opened(disk, 2).append([put("c", 3)])
    assert [one.seq for one in copy.look(disk) if isinstance(one, Record)] == [3]
    assert not copy.summaries


def test_a_file_that_takes_anothers_place_is_read_without_what_is_known() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1), put("b", 2)])
    reader = follower(disk)
    assert seqs(list(reader.read())) == [1, 2]
    purge_journal(JOURNAL, disk, Going(entities=frozenset({("k", "a")})), KEYS)
    assert list(reader.read()) == []
    again = opened(disk, 2)
    again.append([put("c", 3)])
    assert seqs(list(reader.read())) == [3]


def test_what_a_failed_fsync_has_written_again_is_read_once() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1)])
    journal.sync(1)
    reader = follower(disk)
    journal.append([put("b", 2)])
    assert seqs(list(reader.read())) == [1, 2]
    disk.fail("sync", 5)
    journal.when_synced(2, lambda _problem: None)
    journal.append([put("c", 3)])
    journal._sync_or_repair(3)
    assert seqs(list(reader.read())) == [3]
    journal.close()


# Going on.


def test_a_position_is_found_without_reading_what_is_before_it() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put(f"{n}", "p" * 1000) for n in range(100)])
    copy = Copy()
    copy.look(disk)
    total = 0
    read_at = disk.read_at

    def noting(fd: int, offset: int, size: int) -> bytes:
        nonlocal total
        data = read_at(fd, offset, size)
        total += len(data)
        return data

    disk.read_at = noting  # type: ignore[method-assign]
    journal.append([put("new", 1)])
    assert [one.seq for one in copy.look(disk) if isinstance(one, Record)] == [101]
    assert total < 10_000


def test_what_is_gone_is_made_up_for_by_the_checkpoint() -> None:
    disk = Disk()
    journal = opened(disk)
    copy = Copy()
    journal.append([put("a", 1), put("gone", 1)])
    copy.look(disk)
    journal.append([put("gone", None), put("b", 2)])
    journal.roll()
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    remove_archive(disk)

    summary, *rest = copy.look(disk)
    # What was read before can't be found any more, so that nothing of it counts.
    assert summary == Summary(first=1, last=2, upto=0, entities=0)
    assert rest[0] == Summary(first=1, last=4, upto=4, entities=2)
    assert copy.contents == {("k", "a"): 1, ("k", "b"): 2}
    assert copy.look(disk) == [], "a summary is read once"
    journal.append([put("c", 3)])
    assert [type(one) for one in copy.look(disk)] == [Record]


def test_a_gap_that_no_checkpoint_covers_is_said() -> None:
    disk = Disk()
    journal = opened(disk)
    for number in range(3):
        journal.append([put(f"{number}", number)])
        journal.roll()
    disk.unlink(list_segments(JOURNAL, disk)[1].path)
    reader = follower(disk)
    found = list(read_feed(reader))
    assert [one for one in found if not isinstance(one, Record)] == [Gap(first=2, last=2)]


@pytest.mark.parametrize("further", [0, 5])
def test_a_journal_that_was_put_back_is_read_anew(further: int) -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("a", 1)])
    journal.sync(1)
    earlier = disk.power_cut(all_kept)
    journal.append([put("b", 2)])
    copy = Copy()
    copy.look(disk)

    other = opened(earlier, 1_000_002, "second")
    other.append([put("c", number) for number in range(further)])
    assert isinstance(copy.look(earlier)[0], Summary)
    assert copy.contents == {("k", "a"): 1, **({("k", "c"): 4} if further else {})}
    assert not [one for one in copy.look(earlier) if isinstance(one, Summary)]


# In any order.


class Reading(RuleBasedStateMachine):
    """Two readers: one process that follows, and one that goes on from a position."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.epoch = 1
        self.journal = opened(self.disk)
        self.earlier = self.disk.power_cut(all_kept)
        self.copy = Copy()
        self.is_new = True

    @rule(
        entities=st.lists(
            st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 9)), max_size=5
        )
    )
    def write(self, entities: list[tuple[str, Any]]) -> None:
        drafts = [put(ident, payload) for ident, payload in entities]
        self.journal.append([*drafts, Draft(action=UNIT)])

    @rule()
    def roll(self) -> None:
        self.journal.roll()

    @rule()
    def checkpoint(self) -> None:
        make_checkpoint(JOURNAL, self.disk, self.journal.stamp)

    @rule()
    def remove_archive(self) -> None:
        remove_archive(self.disk)

    @rule(moved=st.booleans())
    def next_owner(self, moved: bool) -> None:
        self.epoch += 1
        self.disk = self.disk.power_cut(all_kept)
        self.journal = opened(self.disk, self.epoch, "second" if moved else "first")

    @rule()
    def lose_what_was_not_synced(self) -> None:
        self.epoch += 1
        self.disk = self.disk.power_cut(all_lost)
        self.journal = opened(self.disk, self.epoch)

    @rule()
    def back_up(self) -> None:
        self.journal.sync(self.journal.seq)
        self.earlier = self.disk.power_cut(all_kept)

    @rule()
    def restore(self) -> None:
        self.epoch += 1_000_000
        self.disk = self.earlier.power_cut(all_kept)
        self.journal = opened(self.disk, self.epoch, f"restored {self.epoch}")

    @rule()
    def look(self) -> None:
        self.copy.look(self.disk)
        known = replay(JOURNAL, self.disk, keys=KEYS)
        assert not known.gaps
        live = {entity: known.payload(entity) for entity in known.live}
        assert self.copy.contents == live

    @rule()
    def look_twice(self) -> None:
        self.look()
        assert self.copy.look(self.disk) == []


Reading.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestReading = Reading.TestCase
