"""The journal's files: what a torn, a superseded or a padded end costs, and what it doesn't."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.journal import segment as segments
from palace.journal.record import (
    OUTCOME,
    OVERLONG,
    PUT,
    SEGMENT,
    BrokenRecord,
    Draft,
    Record,
    Stamp,
    decode,
    encode,
)
from palace.journal.segment import (
    ARCHIVE,
    Broken,
    Segment,
    list_segments,
    read_at,
    read_lines,
    read_segment,
    segment_path,
)
from tests.support.disks.memory import NOW, ROOT, Disk

STAMP = Stamp(epoch=1, writer="w")


def put(seq: int, text: str = "", action: str = PUT) -> bytes:
    draft = Draft(action=action, key="s:1", kind="k", id=f"i{seq}", payload=f"{text}{seq}")
    return encode(draft, seq, STAMP, NOW)


def header(first: int) -> bytes:
    return encode(Draft(action=SEGMENT, payload={}), first - 1, STAMP, NOW)


def whole(path: str, disk: Disk, end: int | None = None) -> tuple[list[int], int]:
    """Return the seqs that a file holds, and how many broken lines."""
    found = [item for _, item in read_segment(Segment(path=path, first=1, end=end), disk)]
    seqs = [item.seq for item in found if isinstance(item, Record)]
    return seqs, sum(isinstance(item, Broken) for item in found)


def test_a_torn_last_record_costs_itself_alone_wherever_it_tears() -> None:
    path = segment_path(ROOT, 1)
    kept, last, after = put(1) + put(2, "\u2028é\ud800"), put(3), put(4)
    for cut in range(len(last) + 1):
        disk = Disk()
        disk.put(path, kept + last[:cut])

        # The newline before it, and all but the newline behind it.
        assert whole(path, disk) == (
            [1, 2, 3] if cut >= len(last) - 1 else [1, 2],
            int(1 < cut < len(last) - 1),
        )
        disk.put(path, kept + last[:cut] + after)
        assert whole(path, disk)[0] == ([1, 2, 3, 4] if cut >= len(last) - 1 else [1, 2, 4])


def test_zeros_at_the_end_cost_nothing() -> None:
    path = segment_path(ROOT, 1)
    for zeros in (1, 2, 4096):
        for torn in (b"", put(3)[:20]):
            disk = Disk()
            disk.put(path, put(1) + put(2) + torn + bytes(zeros))
            assert whole(path, disk) == ([1, 2], 1)
            disk.put(path, put(1) + put(2) + torn + bytes(zeros) + put(3))
            assert whole(path, disk) == ([1, 2, 3], 1)


def test_any_damaged_byte_costs_one_record_at_most() -> None:
    path = segment_path(ROOT, 1)
    good = put(1) + put(2) + put(3)
    for at in range(len(good)):
        for byte in (0, 10, 34, good[at] ^ 1):
            disk = Disk()
            disk.put(path, good[:at] + bytes([byte]) + good[at + 1 :])
            seqs, _ = whole(path, disk)
            assert [seq for seq in (1, 2, 3) if seq in seqs] == seqs
            assert len(seqs) >= 2


def test_what_the_next_segment_repeats_does_not_count() -> None:
    disk = Disk()
    disk.put(segment_path(ROOT, 1), header(1) + put(1) + put(2) + put(3, "old") + put(4, "old"))
    disk.put(segment_path(ROOT, 3), header(3) + put(3, "new") + put(4, "new") + put(5))
    disk.put(segment_path(ROOT, 6), header(6))

    found = [
        (item.seq, item.payload)
        for segment in list_segments(ROOT, disk)
        for _, item in read_segment(segment, disk)
        if isinstance(item, Record) and item.action != SEGMENT
    ]

    assert [(s.first, s.end) for s in list_segments(ROOT, disk)] == [(1, 3), (3, 6), (6, None)]
    assert found == [(1, "1"), (2, "2"), (3, "new3"), (4, "new4"), (5, "5")]


def test_an_archived_segment_counts_where_it_is_asked_for_and_yields_to_its_copy() -> None:
    disk = Disk()
    archive = f"{ROOT}/{segments.ARCHIVE}"
    disk.make_directory(archive)
    for first in (1, 4):
        disk.put(segment_path(archive, first), header(first))
    for first in (4, 9):
        disk.put(segment_path(ROOT, first), header(first))
    for name in ("HEAD.json", "checkpoint-00000000000000000003.jsonl", f"{9:020d}.jsonl.7.tmp"):
        disk.put(f"{ROOT}/{name}", b"")

    assert [(s.path, s.first, s.end) for s in list_segments(ROOT, disk)] == [
        (segment_path(ROOT, 4), 4, 9),
        (segment_path(ROOT, 9), 9, None),
    ]
    assert [(s.path, s.first, s.end) for s in list_segments(ROOT, disk, archived=True)] == [
        (segment_path(archive, 1), 1, 4),
        (segment_path(ROOT, 4), 4, 9),
        (segment_path(ROOT, 9), 9, None),
    ]
    assert list_segments(f"{ROOT}/none", disk) == []


def test_a_segment_that_moves_to_the_archive_is_read_there() -> None:
    disk = Disk()
    path = segment_path(ROOT, 1)
    disk.put(path, header(1) + put(1) + put(2))
    segment = list_segments(ROOT, disk)[0]
    disk.make_directory(f"{ROOT}/{ARCHIVE}")
    disk.rename(path, f"{ROOT}/{ARCHIVE}/{path.rpartition('/')[2]}")

    found = [(place, item) for place, item in read_segment(segment, disk)]

    assert [item.seq for _, item in found if isinstance(item, Record)] == [0, 1, 2]
    assert read_at(found[1][0], disk) == found[1][1]


def test_a_record_is_read_again_where_it_stood() -> None:
    disk = Disk()
    path = segment_path(ROOT, 1)
    disk.put(path, header(1) + put(1) + b"torn" + put(2) + put(3, action=OUTCOME))

    for place, item in read_segment(Segment(path=path, first=1, end=None), disk):
        if isinstance(item, Record):
            assert read_at(place, disk) == item
        else:
            assert disk.read(path)[place.offset :].startswith(b"torn\n")
            with pytest.raises(BrokenRecord):
                read_at(place, disk)
    assert not disk.open_files


@settings(deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=8),
    ended=st.booleans(),
    chunk=st.integers(1, 30),
)
def test_lines_are_found_whatever_the_chunks(lines: list[bytes], ended: bool, chunk: int) -> None:
    disk = Disk()
    data = b"\n".join(lines) + b"\n" * ended
    disk.put(f"{ROOT}/f", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "CHUNK", chunk)
        found = list(read_lines(f"{ROOT}/f", disk))

    assert [line for _, line in found] == [line for line in lines if line]
    for place, line in found:
        assert data[place.offset : place.offset + place.length] == line


def test_a_line_as_long_as_the_file_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # In time that grows with its square this would take minutes: 65,536 pieces of 2 MiB on average.
    monkeypatch.setattr(segments, "CHUNK", 64)
    disk = Disk()
    disk.put(f"{ROOT}/long", b"x" * (4 << 20) + b"\n" + b"y" * 200)
    found = [(place.offset, len(line)) for place, line in read_lines(f"{ROOT}/long", disk)]
    assert found == [(0, 4 << 20), ((4 << 20) + 1, 200)]


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_a_line_that_is_too_long_is_told_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(segments, "CHUNK", chunk)
    disk = Disk()
    disk.put(f"{ROOT}/f", b"a" * 20 + b"\n" + b"b" * 21 + b"\n\nc\n" + b"d" * 30)
    found = [
        (place.offset, place.length, line) for place, line in read_lines(f"{ROOT}/f", disk, most=20)
    ]
    assert found == [
        (0, 20, b"a" * 20),
        (21, 21, OVERLONG),
        (44, 1, b"c"),
        (46, 30, OVERLONG),
    ]
    with pytest.raises(BrokenRecord, match="longer than any line"):
        decode(OVERLONG)
