"""The journal's files: which there are, and what stands in them.

A segment is named by its first record's seq.  It is only ever appended to, and never again once the
next one exists.  After a failed fsync it can't be known which of the last records are on the disk,
so the writer goes on in a new segment that begins with the first of them: a reader ignores what a
segment holds from the next one's first seq on.
"""

from collections.abc import Generator, Iterator, Sequence

import attrs

from palace.journal.record import (
    FOREIGN,
    NOT_OURS,
    OVERLONG,
    SEGMENT,
    TORN,
    BrokenRecord,
    Record,
    decode,
)
from palace.journal.schema import SEQ_MAX
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import ANYBODYS, Keyring
from palace.protocol.wire import whole_number

SUFFIX = ".jsonl"
DIGITS = 20
ARCHIVE = "archive"
CHUNK = 1 << 20


@attrs.frozen(kw_only=True)
class Segment:
    """One file; `end` is the next one's first seq, None for the last.

    `first` is 0 for a file that is no segment: lines of any kind may stand in it.
    """

    path: str
    first: int
    end: int | None

    def reaches(self, seq: int) -> bool:
        """Tell whether it may hold records from a seq on."""
        return self.end is None or self.end > seq


@attrs.frozen(kw_only=True)
class Place:
    """Where a line stands."""

    path: str
    offset: int
    length: int


@attrs.frozen(kw_only=True)
class Broken:
    """A line that is no record, and why."""

    place: Place
    why: str

    @property
    def is_torn(self) -> bool:
        """Tell whether it ends before its record does."""
        return self.why.startswith(TORN)

    @property
    def is_foreign(self) -> bool:
        """Tell whether it was written whole, by somebody who is not this palace's owner."""
        return self.why.startswith((FOREIGN, NOT_OURS))


@attrs.define
class Order:
    """The last record that was read, and whether another one may follow it.

    Codes alone prove who wrote a record.  That it stands where it was written, and only there, is
    seen by its seq and by what it says of the record before it.
    """

    seq: int = 0
    link: str = ""  # "" where nothing is known of that record

    def begin(self, header: Record, first: int) -> None:
        """Take what a segment's header says of the record before the segment's first."""
        if not self.link and first == self.seq + 1:
            self.link = header.after

    def problem(self, record: Record) -> str:
        """Return why a record can't stand here, "" where it can: it is the last one then."""
        if record.seq <= self.seq:
            return f"{NOT_OURS}record {record.seq} stands here again"
        is_next = record.seq == self.seq + 1
        if is_next and self.link and record.after and record.after != self.link:
            return f"{NOT_OURS}record {record.seq} was not written after the one before it"
        self.seq, self.link = record.seq, record.link
        return ""


def segment_path(directory: str, first: int) -> str:
    return f"{directory}/{first:0{DIGITS}d}{SUFFIX}"


def list_segments(directory: str, kernel: Kernel, *, archived: bool = False) -> list[Segment]:
    """Return a journal's segments, oldest first; with those in its archive, if asked."""
    here = _firsts(directory, kernel)
    found: dict[int, str] = {}
    if archived:
        old = set(_firsts(f"{directory}/{ARCHIVE}", kernel)) - set(
            _too_new(here, directory, kernel)
        )
        found = dict.fromkeys(old, f"{directory}/{ARCHIVE}")
    found |= dict.fromkeys(here, directory)
    firsts = sorted(found)
    ends: list[int | None] = [*firsts[1:], None]
    return [
        Segment(path=segment_path(found[first], first), first=first, end=end)
        for first, end in zip(firsts, ends, strict=False)
    ]


def too_new_in_archive(directory: str, kernel: Kernel) -> list[str]:
    """Return the files of the archive that no owner has moved there.

    The newest segment is never archived.  A file that is named as its successor would hide what is
    written to it next, so that such files count nowhere.
    """
    found = _too_new(_firsts(directory, kernel), directory, kernel)
    return [segment_path(f"{directory}/{ARCHIVE}", first) for first in found]


def _too_new(here: list[int], directory: str, kernel: Kernel) -> list[int]:
    newest = max(here, default=SEQ_MAX)
    return [first for first in _firsts(f"{directory}/{ARCHIVE}", kernel) if first > newest]


def _firsts(directory: str, kernel: Kernel) -> list[int]:
    found = (number_of(name) for name in kernel.list_directory(directory))
    return [first for first in found if first]  # records are counted from 1


def number_of(name: str, prefix: str = "") -> int | None:
    """Return the seq in a file's name, None for a name that no file of a journal has."""
    digits = name.removeprefix(prefix).removesuffix(SUFFIX)
    if len(digits) != DIGITS or name != f"{prefix}{digits}{SUFFIX}":
        return None
    try:
        return whole_number(digits.lstrip("0") or "0", most=SEQ_MAX)
    except ValueError:
        return None


def open_wherever(path: str, kernel: Kernel) -> int:
    """Open a file for reading that may move to the archive at any moment; return a descriptor."""
    try:
        return kernel.open_read(path)
    except FileNotFoundError:
        directory, _, name = path.rpartition("/")
        return kernel.open_read(f"{directory}/{ARCHIVE}/{name}")


def read_lines(
    path: str, kernel: Kernel, offset: int = 0, most: int = 0
) -> Generator[tuple[Place, bytes], None, None]:
    """Yield a file's lines that aren't empty, the unfinished last one included.

    OVERLONG stands for one of more than `most` bytes, and of at least CHUNK, which is not kept in
    memory; 0: all are.  The file is open until the end: close the generator where its user may fail
    before that.
    """
    fd = open_wherever(path, kernel)
    try:
        # Pieces of the line that goes on: put together once, since it may be as long as the file.
        pieces: list[bytes] = []
        held = 0
        while chunk := kernel.read_at(fd, offset + held, CHUNK):
            piece, *lines = chunk.split(b"\n")
            held += len(piece)
            pieces.append(piece)
            if most and held > most:
                pieces = [OVERLONG]
            if not lines:
                continue
            if held:
                yield Place(path=path, offset=offset, length=held), b"".join(pieces)
            offset += held + 1
            *lines, rest = lines
            for line in lines:
                if line:
                    yield Place(path=path, offset=offset, length=len(line)), line
                offset += len(line) + 1
            pieces, held = [rest], len(rest)
        if held:
            yield Place(path=path, offset=offset, length=held), b"".join(pieces)
    finally:
        kernel.close(fd)


Found = tuple[Place, Record | Broken]


def read_segment(segment: Segment, kernel: Kernel, keys: Keyring = ANYBODYS) -> Iterator[Found]:
    """Yield what stands in a segment, in order, without what the next segment repeats.

    A header counts where it begins the file.  Anywhere else it would have its reader forget what
    came since it was written, and write that many records again with the numbers of others.
    """
    begins = True
    for place, line in read_lines(segment.path, kernel, most=keys.line_bytes_max):
        is_first, begins = begins, False
        try:
            record = decode(line, keys)
        except BrokenRecord as error:
            yield place, Broken(place=place, why=str(error))
            continue
        if record.action == SEGMENT and segment.first and not is_first:
            yield place, Broken(place=place, why=f"{FOREIGN}a header that begins no segment")
            continue
        if segment.end is None or record.seq < segment.end:
            yield place, record


def read_since(
    segments: Sequence[Segment], kernel: Kernel, seq: int, keys: Keyring = ANYBODYS
) -> Iterator[Found]:
    """Yield what segments add from a seq on, and their broken lines; a header adds nothing."""
    order = Order(seq=seq - 1)
    for segment in segments:
        if segment.reaches(seq):
            yield from _read_on(segment, kernel, keys, order, seq)


def _read_on(
    segment: Segment, kernel: Kernel, keys: Keyring, order: Order, seq: int
) -> Iterator[Found]:
    for place, found in read_segment(segment, kernel, keys):
        if isinstance(found, Broken):
            yield place, found
        elif found.action == SEGMENT:
            order.begin(found, segment.first)
        elif found.seq >= seq:
            yield place, in_order(found, place, order, keys)


def in_order(record: Record, place: Place, order: Order, keys: Keyring) -> Record | Broken:
    """Return a record that stands where it was written, and what is wrong with any other one.

    Where nothing is authenticated, readers judge by the seq alone.
    """
    problem = order.problem(record) if keys.own is not None else ""
    return Broken(place=place, why=problem) if problem else record


def read_at(place: Place, kernel: Kernel, keys: Keyring = ANYBODYS) -> Record:
    """Read the one record that stands at a place; raises BrokenRecord."""
    fd = open_wherever(place.path, kernel)
    try:
        return decode(kernel.read_at(fd, place.offset, place.length), keys)
    finally:
        kernel.close(fd)
