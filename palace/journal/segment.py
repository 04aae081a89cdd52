"""The journal's files: which there are, and what stands in them.

A segment is named by its first record's seq.  It is only ever appended to, and never again once the
next one exists.  After a failed fsync it can't be known which of the last records are on the disk,
so the writer goes on in a new segment that begins with the first of them: a reader ignores what a
segment holds from the next one's first seq on.
"""

from collections.abc import Iterator

import attrs

from palace.journal.record import FOREIGN, SEGMENT, BrokenRecord, Record, decode
from palace.journal.schema import SEQ_MAX
from palace.kernel.kernel import Kernel
from palace.protocol.wire import whole_number

SUFFIX = ".jsonl"
DIGITS = 20
ARCHIVE = "archive"
CHUNK = 1 << 20


@attrs.frozen(kw_only=True)
class Segment:
    """One file; `end` is the next one's first seq, None for the last."""

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
    def is_foreign(self) -> bool:
        """Tell whether it was written whole, by somebody who is no palace."""
        return self.why.startswith(FOREIGN)


def segment_path(directory: str, first: int) -> str:
    return f"{directory}/{first:0{DIGITS}d}{SUFFIX}"


def list_segments(directory: str, kernel: Kernel, *, archived: bool = False) -> list[Segment]:
    """Return a journal's segments, oldest first; with those in its archive, if asked."""
    found = dict.fromkeys(_firsts(f"{directory}/{ARCHIVE}", kernel), f"{directory}/{ARCHIVE}")
    if not archived:
        found.clear()
    found |= dict.fromkeys(_firsts(directory, kernel), directory)
    firsts = sorted(found)
    ends: list[int | None] = [*firsts[1:], None]
    return [
        Segment(path=segment_path(found[first], first), first=first, end=end)
        for first, end in zip(firsts, ends, strict=False)
    ]


def _firsts(directory: str, kernel: Kernel) -> list[int]:
    found = (number_of(name) for name in kernel.list_directory(directory))
    return [first for first in found if first is not None]


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


def read_lines(path: str, kernel: Kernel, offset: int = 0) -> Iterator[tuple[Place, bytes]]:
    """Yield a file's lines that aren't empty, the unfinished last one included."""
    fd = open_wherever(path, kernel)
    try:
        rest = b""
        while chunk := kernel.read_at(fd, offset + len(rest), CHUNK):
            data = rest + chunk
            *lines, rest = data.split(b"\n")
            for line in lines:
                if line:
                    yield Place(path=path, offset=offset, length=len(line)), line
                offset += len(line) + 1
        if rest:
            yield Place(path=path, offset=offset, length=len(rest)), rest
    finally:
        kernel.close(fd)


def read_segment(segment: Segment, kernel: Kernel) -> Iterator[tuple[Place, Record | Broken]]:
    """Yield what stands in a segment, in order, without what the next segment repeats."""
    for place, line in read_lines(segment.path, kernel):
        try:
            record = decode(line)
        except BrokenRecord as error:
            yield place, Broken(place=place, why=str(error))
            continue
        if segment.end is None or record.seq < segment.end:
            yield place, record


def read_since(
    segment: Segment, kernel: Kernel, seq: int
) -> Iterator[tuple[Place, Record | Broken]]:
    """Yield what a segment adds from a seq on, and its broken lines; its header adds nothing."""
    if not segment.reaches(seq):
        return
    for place, found in read_segment(segment, kernel):
        if isinstance(found, Broken) or (found.seq >= seq and found.action != SEGMENT):
            yield place, found


def read_at(place: Place, kernel: Kernel) -> Record:
    """Read the one record that stands at a place; raises BrokenRecord."""
    fd = open_wherever(place.path, kernel)
    try:
        return decode(kernel.read_at(fd, place.offset, place.length))
    finally:
        kernel.close(fd)
