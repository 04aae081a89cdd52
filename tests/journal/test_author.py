"""Whom a record is of: its author with a running number, and the palace of its segment."""

from hypothesis import given
from hypothesis import strategies as st

from palace.journal.author import AUTHORS_MAX, NOBODY, Author, Numbers, author_text, told_by
from palace.journal.checkpoint import make_checkpoint
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.origin import ORIGINS_MAX, origin_at, origins_of, origins_told
from palace.journal.record import CHECKPOINT, OUTCOME, UNIT, Draft, Record, Stamp
from palace.journal.replay import newest_checkpoint, replay
from palace.journal.schema import header_problem
from palace.journal.segment import Segment, list_segments, read_segment
from palace.protocol.keyring import ANYBODYS
from tests.support.disks.memory import ROOT, Disk, all_kept

JOURNAL = f"{ROOT}/journal"
ALICE, BOB = Author("alice 1"), Author("bob 2", workspace="reviewer")


def opened(disk: Disk, epoch: int = 1, origin: str = "") -> Journal:
    return Journal.open(JOURNAL, disk, Stamp(epoch=epoch, writer="w", origin=origin))


def told(disk: Disk) -> list[tuple[str, int]]:
    """Return the authors of all records that name one, with their numbers."""
    found = [told_by(one.payload) for one in read_from(JOURNAL, disk) if isinstance(one, Record)]
    return [(each[0].name, each[1]) for each in found if each is not None]


def test_each_author_counts_for_itself_over_rolls_deaths_and_checkpoints() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.close_key("s:1", OUTCOME, ALICE, reply="a")
    journal.close_key("s:2", UNIT, BOB)
    journal.close_key("own-1-1", UNIT)
    journal.roll()
    journal.close_key("s:3", OUTCOME, ALICE, reply="b")
    journal.roll()
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    journal.sync(journal.seq)

    disk = disk.power_cut(all_kept)
    again = opened(disk, epoch=2)
    again.close_key("t:1", OUTCOME, BOB, reply="c")
    again.close_key("t:2", OUTCOME, ALICE, reply="d")

    numbers = [("alice 1", 1), ("reviewer", 1), ("alice 1", 2), ("reviewer", 2), ("alice 1", 3)]
    assert told(disk) == numbers


def test_an_earlier_versions_header_knows_no_numbers() -> None:
    disk = Disk()
    payload = {**opened(disk).tail.header()}
    del payload["numbers"]
    assert not header_problem(payload)
    assert header_problem({**payload, "numbers": {"a": "b"}})
    assert header_problem({**payload, "origin": 1})


def test_as_many_authors_are_counted_as_fit_and_those_that_wrote_last() -> None:
    numbers = Numbers()
    for number in range(AUTHORS_MAX + 1):
        numbers.note(numbers.next(Author(f"c{number}")))
        numbers.note(numbers.next(Author("busy")))
    assert len(numbers.last) == AUTHORS_MAX
    assert numbers.last["busy"] == AUTHORS_MAX + 1
    assert numbers.next(Author("c0"))["by"]["n"] == 1


def test_nobody_is_not_counted() -> None:
    assert Numbers().next(NOBODY) == {}


def test_an_authors_name_has_a_limit() -> None:
    assert len(Author("c" * 1000).client) == 200


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
)


@given(json | st.fixed_dictionaries({"by": json}))
def test_whatever_stands_for_an_author_is_read_or_passed_over(payload: object) -> None:
    found = told_by(payload)
    assert found is None or found[0].name


def test_an_author_is_named_for_people() -> None:
    assert author_text(Numbers().next(ALICE)) == "by alice 1, its 1"
    assert author_text(Numbers().next(BOB)) == "by reviewer through bob 2, its 1"
    assert author_text({"why": "nobody asked"}) == ""


# Whence.


def test_a_segment_is_of_one_palace_also_where_that_changed_in_its_middle() -> None:
    disk = Disk()
    opened(disk, 1, "first").append([Draft(action=UNIT)])
    opened(disk, 2, "first").append([Draft(action=UNIT)])
    assert len(list_segments(JOURNAL, disk)) == 1
    opened(disk, 3, "second").append([Draft(action=UNIT)])
    opened(disk, 4, "second").append([Draft(action=UNIT)])

    origins = origins_of(list_segments(JOURNAL, disk), disk, ANYBODYS)
    assert [origin_at(origins, seq) for seq in (0, 1, 2, 3, 4)] == [
        *("", "first", "first", "second", "second")
    ]


def test_a_checkpoint_says_of_which_palaces_its_records_are() -> None:
    disk = Disk()
    for epoch, origin in enumerate(("", "first", "first", "second"), 1):
        journal = opened(disk, epoch, origin)
        journal.append([Draft(action=UNIT)])
        journal.roll()
        made = make_checkpoint(JOURNAL, disk, journal.stamp)
        assert made is not None
    newest = newest_checkpoint(JOURNAL, disk)
    assert newest is not None
    found = [
        one.payload
        for _, one in read_segment(Segment(path=newest[0], first=0, end=None), disk)
        if isinstance(one, Record) and one.action == CHECKPOINT
    ]
    assert [origins_told(payload) for payload in found] == [[(1, ""), (2, "first"), (4, "second")]]
    assert replay(JOURNAL, disk).origins == origins_told(found[0])


def test_a_checkpoints_last_line_stays_short_however_often_a_palace_was_restored() -> None:
    disk = Disk()
    for epoch in range(1, ORIGINS_MAX + 5):
        journal = opened(disk, epoch, f"{epoch:032x}")
        journal.append([Draft(action=UNIT)])
    journal.roll()
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    origins = replay(JOURNAL, disk).origins
    assert len(origins) == ORIGINS_MAX
    assert origin_at(origins, journal.seq) == f"{ORIGINS_MAX + 4:032x}"
    assert origin_at(origins, 1) == ""


@given(json)
def test_whatever_a_checkpoint_says_of_palaces_is_read_or_passed_over(value: object) -> None:
    for _, origin in origins_told({"origins": value}):
        assert isinstance(origin, str)
