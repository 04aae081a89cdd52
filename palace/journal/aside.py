"""Setting aside what somebody else has written into a journal, before its owner goes on with it.

Readers pass over it anyway, since it has no code of a key that they know.  It is moved so that it
doesn't stand between the owner's own records, that older versions don't read it as theirs, and that
people can look at it:

    <palace>/journal/quarantine/EPOCH-NAME    lines out of the file NAME, or all of it

What is looked at: the segments from which an owner reads the present, the names of all others, and
the newest checkpoint's last line.  What stands in older files is named by the doctor.
"""

from collections.abc import Iterator

import attrs

from palace.journal.record import CHECKPOINT, NOT_OURS, SEGMENT, BrokenRecord, Record, decode
from palace.journal.replay import PREFIX, newest_checkpoint
from palace.journal.schema import header_problem, object_of
from palace.journal.segment import (
    ARCHIVE,
    Broken,
    Order,
    Segment,
    in_order,
    list_segments,
    number_of,
    open_wherever,
    read_lines,
    read_segment,
)
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import ANYBODYS, Keyring

ASIDE = "quarantine"
LAST_LINE_BYTES = 4096


@attrs.define
class Aside:
    """How many lines and whole files were set aside, and of what the first one was accused."""

    lines: int = 0
    files: int = 0
    why: str = ""

    def __bool__(self) -> bool:
        return bool(self.lines or self.files)


def set_aside(directory: str, kernel: Kernel, keys: Keyring, epoch: int, *, lines: bool) -> Aside:
    """Move what isn't the owner's out of a journal that is about to be opened.

    `lines` says that its reader has met foreign ones.  Without keys, nothing is foreign.
    """
    work = _SettingAside(directory, kernel, keys, epoch)
    if keys.own is not None:
        work.run(lines=lines)
    return work.done


def kept_aside(directory: str, kernel: Kernel) -> tuple[int, int, int]:
    """Return how many lines, files and bytes are set aside."""
    lines = size = 0
    names = kernel.list_directory(f"{directory}/{ASIDE}")
    for name in names:
        path = f"{directory}/{ASIDE}/{name}"
        lines += sum(1 for _ in read_lines(path, kernel))
        size += (kernel.signature(path) or (0, 0, 0))[1]
    return lines, len(names), size


def read_aside(directory: str, kernel: Kernel) -> Iterator[Record | Broken]:
    """Yield what was set aside, whoever wrote it."""
    for name in sorted(kernel.list_directory(f"{directory}/{ASIDE}")):
        path = f"{directory}/{ASIDE}/{name}"
        for _, found in read_segment(Segment(path=path, first=0, end=None), kernel, ANYBODYS):
            yield found


def take_out(directory: str, kernel: Kernel, keys: Keyring) -> None:
    """Take out of a journal's copy all that is not its owner's, in any of its segments."""
    if keys.own is None:
        return
    for segment in list_segments(directory, kernel):
        foreign, _ = foreign_lines(segment, kernel, keys)
        if foreign:
            _take_out(segment.path, foreign, kernel)


def foreign_lines(segment: Segment, kernel: Kernel, keys: Keyring) -> tuple[list[Broken], bool]:
    """Return what the owner didn't write there, and whether the segment begins with a header."""
    foreign: list[Broken] = []
    order, begins, is_first = Order(seq=segment.first - 1), False, True
    for place, found in read_segment(segment, kernel, keys):
        judged = found
        if isinstance(found, Record) and found.action == SEGMENT:
            order.begin(found, segment.first)
            begins |= is_first and not header_problem(found.payload)
        elif isinstance(found, Record):
            judged = in_order(found, place, order, keys)
        if isinstance(judged, Broken) and judged.is_foreign:
            foreign.append(judged)
        is_first = False
    return foreign, begins


def _split(path: str, foreign: list[Broken], kernel: Kernel) -> tuple[list[bytes], list[bytes]]:
    """Return a file's lines without the foreign ones, and those."""
    offsets = {line.place.offset for line in foreign}
    kept: list[bytes] = []
    taken: list[bytes] = []
    for place, line in read_lines(path, kernel):
        (taken if place.offset in offsets else kept).append(b"\n%b\n" % line)
    return kept, taken


def _take_out(path: str, foreign: list[Broken], kernel: Kernel) -> None:
    kernel.write_durable(path, b"".join(_split(path, foreign, kernel)[0]))


@attrs.define
class _SettingAside:
    directory: str
    kernel: Kernel
    keys: Keyring
    epoch: int
    done: Aside = attrs.field(factory=Aside)

    def run(self, *, lines: bool) -> None:
        for path, first in self._suspects():
            if why := self._problem_of_file(path, first):
                self._move(path, why)
        self._look_at_checkpoint()
        self._bring_back_segments()
        for segment in reversed(list_segments(self.directory, self.kernel)):
            if not (lines or self.done) or self._clean(segment):
                break  # its reader needs no older one

    # Whole files.

    def _suspects(self) -> Iterator[tuple[str, int]]:
        """Yield the segments that readers of the present come to, or that hide others from them."""
        here = {segment.first for segment in list_segments(self.directory, self.kernel)}
        oldest = min(here, default=0)
        for name in self.kernel.list_directory(self.directory):
            if (first := number_of(name)) is not None:
                yield f"{self.directory}/{name}", first
        archive = f"{self.directory}/{ARCHIVE}"
        for name in self.kernel.list_directory(archive):
            # In between two steps of a checkpoint a file may have both names.
            if (first := number_of(name)) is not None and first >= oldest and first not in here:
                yield f"{archive}/{name}", first

    def _problem_of_file(self, path: str, first: int) -> str:
        """Return why a file is no segment of this journal, "" if it begins as one.

        One that holds nothing of its own would hide all later records of the one before it.
        """
        segment = Segment(path=path, first=first, end=None)
        why = "it is empty"
        for _, found in read_segment(segment, self.kernel, self.keys):
            if isinstance(found, Broken):
                # A damaged header is made up for by what follows it.
                why = found.why
            elif found.action == SEGMENT:
                return "" if found.seq == first - 1 else f"its header is that of {found.seq + 1}"
            elif found.seq >= first:
                return ""
            else:
                why = f"{NOT_OURS}record {found.seq} stands in a file for records from {first} on"
        return why

    def _move(self, path: str, why: str) -> None:
        target = self._free_name(path.rpartition("/")[2])
        self.kernel.rename(path, target)
        self.kernel.sync_directory(f"{self.directory}/{ASIDE}")
        self.kernel.sync_directory(path.rpartition("/")[0])
        self.done.files += 1
        self.done.why = self.done.why or why

    def _free_name(self, name: str) -> str:
        quarantine = f"{self.directory}/{ASIDE}"
        self.kernel.make_directory(quarantine)
        there = set(self.kernel.list_directory(quarantine))
        wanted, number = f"{self.epoch}-{name}", 1
        while wanted in there:
            number += 1
            wanted = f"{self.epoch}-{number}-{name}"
        return f"{quarantine}/{wanted}"

    # Single lines.

    def _clean(self, segment: Segment) -> bool:
        """Take foreign lines out of a segment; tell whether it begins with the owner's header."""
        foreign, begins = foreign_lines(segment, self.kernel, self.keys)
        if foreign:
            self.done.lines += len(foreign)
            self.done.why = self.done.why or foreign[0].why
            taken = _split(segment.path, foreign, self.kernel)[1]
            # Durable before they are taken out.
            name = self._free_name(segment.path.rpartition("/")[2])
            self.kernel.write_durable(name, b"".join(taken))
            _take_out(segment.path, foreign, self.kernel)
        return begins

    # Checkpoints.

    def _look_at_checkpoint(self) -> None:
        while (newest := newest_checkpoint(self.directory, self.kernel)) is not None:
            if not (why := self._problem_of_checkpoint(*newest)):
                return
            self._move(newest[0], why)

    def _problem_of_checkpoint(self, path: str, upto: int) -> str:
        fd = open_wherever(path, self.kernel)
        try:
            size = self.kernel.size(fd)
            data = self.kernel.read_at(fd, max(0, size - LAST_LINE_BYTES), LAST_LINE_BYTES)
        finally:
            self.kernel.close(fd)
        try:
            record = decode(data.rstrip(b"\n").rpartition(b"\n")[2], self.keys)
        except BrokenRecord as error:
            return "" if "checksum" in str(error) else str(error)  # damage is the doctor's
        told = object_of(record.payload).get("upto")
        if record.action != CHECKPOINT or told != upto:
            return "its last line is that of another file"
        return ""

    def _bring_back_segments(self) -> None:
        """Return what an older checkpoint, or none, doesn't cover, from the archive."""
        archive = f"{self.directory}/{ARCHIVE}"
        moved = False
        if newest_checkpoint(self.directory, self.kernel) is None:
            for name in sorted(self.kernel.list_directory(archive), reverse=True):
                upto = number_of(name, PREFIX)
                if upto is not None and not self._problem_of_checkpoint(f"{archive}/{name}", upto):
                    self.kernel.rename(f"{archive}/{name}", f"{self.directory}/{name}")
                    moved = True
                    break
        newest = newest_checkpoint(self.directory, self.kernel)
        after = 0 if newest is None else newest[1]
        for segment in list_segments(self.directory, self.kernel, archived=True):
            name = segment.path.rpartition("/")[2]
            if segment.path.startswith(f"{archive}/") and segment.reaches(after + 1):
                self.kernel.rename(segment.path, f"{self.directory}/{name}")
                moved = True
        if moved:
            self.kernel.sync_directory(self.directory)
