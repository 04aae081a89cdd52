"""Following a journal: what is new is read, and what was read is not, however long its files are.

Theory of operation.  A follower stands in a segment, behind the last line that it has read there,
and reads on from that byte.  A last line that is no record yet is left for the next time: its
writer may be in the middle of it.  Names tell which segments there are, so that it notices a new
one, and one that moved to the archive.  A file that was put in the place of another (after a
failed fsync, by a purge) is read from its beginning, without what is known already.

A *position* outlives the process.  It names the last record that was read by what no other record
has: its seq together with the incarnation that wrote it.  Where another record stands in its
place, or none, the journal is not the one that was read: an older state was put back.
"""

from collections.abc import Iterator

import attrs

from palace.journal.inspect import Gap, read_from
from palace.journal.origin import origin_in
from palace.journal.record import SEGMENT, BrokenRecord, Record, decode
from palace.journal.segment import (
    Broken,
    Order,
    Place,
    Segment,
    in_order,
    list_segments,
    read_lines,
    segment_path,
)
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import ANYBODYS, Keyring


@attrs.frozen(kw_only=True)
class Position:
    """The last record that somebody has read, and the palace that it is of.

    `first` and `offset` only save a search for it.
    """

    seq: int
    epoch: int
    writer: str
    origin: str = ""
    first: int = 0
    offset: int = 0

    def is_of(self, record: Record) -> bool:
        return (record.seq, record.epoch, record.writer) == (self.seq, self.epoch, self.writer)


@attrs.define(eq=False, kw_only=True)
class Follower:
    """Reads one journal in order, its archive included; `expected` is the next record's seq.

    `position` is behind the last record that was yielded, None before the first; `origin` is the
    palace that it is of, "" where its segment doesn't say.
    """

    directory: str
    kernel: Kernel
    keys: Keyring = ANYBODYS
    expected: int = 1
    position: Position | None = None
    origin: str = ""
    _order: Order = attrs.field(init=False)
    _first: int = 0  # the segment in which it stands, 0: none
    _file: tuple[int, int] | None = None
    _offset: int = 0
    _known: int = 0  # what it had read when it came into this segment: it is repeated there

    def __attrs_post_init__(self) -> None:
        self._order = Order(seq=self.expected - 1)

    def go_on_from(self, position: Position) -> bool:
        """Stand behind a record that was read before; False where it is not there any more."""
        found = self._at(position)
        if found is None:
            search = read_from(self.directory, self.kernel, position.seq, self.keys)
            found = next((one for one in search if isinstance(one, Record)), None)
        if found is None or not position.is_of(found):
            return False
        self.position, self.expected = position, position.seq + 1
        self.origin = position.origin
        self._order = Order(seq=found.seq, link=found.link)
        return True

    def _at(self, position: Position) -> Record | None:
        """Return the record where a position says that it stands, and stand behind it."""
        for segment in list_segments(self.directory, self.kernel, archived=True):
            if segment.first != position.first or not segment.first:
                continue
            file = self.kernel.file_id(segment.path)
            most = self.keys.line_bytes_max
            lines = read_lines(segment.path, self.kernel, position.offset, most)
            try:
                place, line = next(lines)
                record = decode(line, self.keys)
            except (StopIteration, BrokenRecord, OSError):
                return None
            finally:
                lines.close()
            if not position.is_of(record):
                return None
            self._first, self._file, self._known = segment.first, file, position.seq
            self._offset = place.offset + place.length
            return record
        return None

    def skip_to(self, seq: int) -> None:
        """Go on with another record than the next."""
        self.expected = seq
        self._first, self._order = 0, Order(seq=seq - 1)

    def read(self, *, ends: bool = False) -> Iterator[Record | Gap | Broken]:
        """Yield what is new; `ends`: it is the last look, so that half a line is broken."""
        for segment in list_segments(self.directory, self.kernel, archived=True):
            if segment.reaches(self.expected) or segment.first == self._first:
                yield from self._read(segment, ends=ends or segment.end is not None)

    def _read(self, segment: Segment, *, ends: bool) -> Iterator[Record | Gap | Broken]:
        self._enter(segment)
        unfinished: Broken | None = None
        most = self.keys.line_bytes_max
        for place, line in read_lines(segment.path, self.kernel, self._offset, most):
            if unfinished is not None:  # something follows it
                yield unfinished
                unfinished = None
            try:
                record = decode(line, self.keys)
            except BrokenRecord as error:
                unfinished = Broken(place=place, why=str(error))
                continue
            yield from self._take(segment, place, record)
            self._offset = place.offset + place.length
        if unfinished is not None and ends:
            self._offset = unfinished.place.offset + unfinished.place.length
            yield unfinished

    def _enter(self, segment: Segment) -> None:
        file = self.kernel.file_id(segment.path)
        if file is None:  # it moves to the archive at this moment
            name = segment_path("", segment.first)
            file = self.kernel.file_id(f"{self.directory}/archive{name}")
        if segment.first != self._first or file != self._file:
            self._first, self._file, self._offset = segment.first, file, 0
            self._known = self.expected - 1

    def _take(
        self, segment: Segment, place: Place, record: Record
    ) -> Iterator[Record | Gap | Broken]:
        if record.action == SEGMENT and self._offset == 0:
            self.origin = origin_in(record)
            self._order.begin(record, segment.first)
            return
        if record.seq <= self._known or (segment.end is not None and record.seq >= segment.end):
            return
        found = in_order(record, place, self._order, self.keys)
        if isinstance(found, Broken) or record.seq < self.expected:
            yield found
            return
        if record.seq > self.expected:
            yield Gap(first=self.expected, last=record.seq - 1)
        self.expected = record.seq + 1
        self.position = Position(
            seq=record.seq,
            epoch=record.epoch,
            writer=record.writer,
            origin=self.origin,
            first=segment.first,
            offset=place.offset,
        )
        yield record
