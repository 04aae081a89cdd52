"""Appending: one writer of the newest segment, and fsyncs that every waiting thread shares.

Theory of operation.  `append` writes records in one piece and gives them their seqs; `sync` returns
when they are on the disk.  One thread at a time is in fsync.  A thread that arrives meanwhile waits
for it, and its records are covered by the next fsync, which takes all that were written by then.

Failures.  A write that the disk took only in part is cut off again.  After a failed fsync the
kernel may have marked the pages clean and dropped them, so a second fsync that succeeds proves
nothing: the records that no fsync has confirmed are written again, with their seqs, into a new
segment, and readers ignore what the older one holds from there on (segment.py).

Until then a marker file says that the page cache may show more of the segment than the disk holds.
An owner that dies in between leaves it, and the next one copies the file before it appends to it.

Without `fsyncs` no thread waits for the disk: what was appended survives the process, and a power
cut takes what the kernel has not written by then.  A segment is still whole on the disk before the
next one has a name.

Space for closing records is reserved ahead, so that a full disk refuses changes, not their ends.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

import attrs

from palace.journal.record import (
    ENTITIES,
    FIRST,
    SEGMENT,
    Draft,
    Stamp,
    encode,
    told_of,
)
from palace.journal.segment import segment_path
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalFailed

RESERVE_STEP = 1 << 20
RESERVE_LEFT = 1 << 18  # kept for closing records when the disk is full
# A file that says that an fsync has failed.  It is never synced itself: it need not survive a power
# cut, after which nothing is left that only the page cache held.
UNSYNCED_MARKER = "doubt"


@attrs.define(eq=False, kw_only=True)
class Appender:
    """The newest segment, open for appending.  Threads may call everything but `close`."""

    directory: str
    kernel: Kernel
    stamp: Stamp
    header: Callable[[], object]  # what a new segment's first record says
    next_seq: int = 1
    link: str = FIRST  # the code of the record before the next one
    fsyncs: bool = True
    _fd: int = -1
    _path: str = ""
    _first: int = 1
    _length: int = 0
    _start: int = 0
    _reserved: int = 0
    _can_reserve: bool = True
    _broken: str = ""
    _synced: int = 0  # nobody waits for what is up to here
    _durable: int = 0
    _syncing: bool = False
    _unsynced: deque[tuple[int, bytes]] = attrs.field(factory=deque)
    _lock: threading.Condition = attrs.field(factory=lambda: threading.Condition(threading.RLock()))

    @property
    def path(self) -> str:
        return self._path

    def is_in_place(self) -> bool:
        """Tell whether the newest segment has its name still, and all that was written; any thread.

        An older copy of it, or a shorter one written into it, is somebody else's doing.
        """
        while not self._is_there(self._fd, self._path, self._length):
            seen = self._fd, self._path
            with self._lock:
                if self._broken:  # our own trouble with the disk: the next segment ends it
                    return True
                if seen == (self._fd, self._path):
                    return False
        return True

    def _is_there(self, fd: int, path: str, length: int) -> bool:
        if fd < 0:
            return True
        try:
            return self.kernel.same_file(fd, path) and self.kernel.size(fd) >= length
        except OSError:  # it was closed meanwhile, or can't be looked at
            return False

    @property
    def grown(self) -> int:
        """Return how many bytes the newest segment has grown by since it was begun or opened."""
        return self._length - self._start

    @property
    def durable(self) -> int:
        """Return the last record that survives a power cut."""
        return self._durable

    @property
    def synced(self) -> int:
        return self._synced

    def open_last(self, path: str, first: int) -> None:
        """Go on in an existing segment; what stands in it is made durable first.

        The caller has read it: a killed owner's records may still be in the page cache alone, and
        what is built upon them must not outlive them in a power cut.
        """
        if self.kernel.file_id(self._marker) is not None:
            self._rewrite(path)
        self._fd = self.kernel.open_append(path)
        self.kernel.sync(self._fd)
        self._path, self._first = path, first
        self._length = self._reserved = self.kernel.size(self._fd)
        self._synced = self._durable = self.next_seq - 1

    @property
    def _marker(self) -> str:
        return f"{self.directory}/{UNSYNCED_MARKER}"

    def _rewrite(self, path: str) -> None:
        """Put a copy in a file's place: some pages of this one may be clean and never written."""
        fd = self.kernel.open_read(path)
        try:
            data = self.kernel.read_at(fd, 0, self.kernel.size(fd))
        finally:
            self.kernel.close(fd)
        self.kernel.write_durable(path, data)  # before the marker goes: a crash repeats the copy
        self._remove_marker()

    def _mark_unsynced(self) -> None:
        try:
            self.kernel.close(self.kernel.open_append(self._marker))
        except OSError:
            return  # unprotected only if this process dies before the new segment is durable

    def open_new(self) -> None:
        """Go on in a new segment, once all that stands in this one is on the disk or in it."""
        with self._lock:
            self._begin_segment()

    def append(self, drafts: Sequence[Draft]) -> int:
        """Write records; return the last one's seq.  Raises JournalFailed, and then none stands."""
        with self._lock:
            if self._broken:
                self._begin_segment()
            ts = self.kernel.utc_text()
            seqs = range(self.next_seq, self.next_seq + len(drafts))
            try:
                lines, link = self._encode(drafts, seqs, ts)
            except (TypeError, ValueError, RecursionError) as error:
                raise JournalFailed(f"A change could not be written down: {error}.") from None
            data = b"".join(lines)
            self._make_room(len(data), spare=any(draft.action in ENTITIES for draft in drafts))
            self._write(data)
            self._unsynced.extend(zip(seqs, lines, strict=True))
            self.next_seq += len(drafts)
            self.link = link
            return self.next_seq - 1

    def _encode(
        self, drafts: Sequence[Draft], seqs: Sequence[int], ts: str
    ) -> tuple[list[bytes], str]:
        """Return the lines of records, each after the one before, and the last one's code."""
        lines, link = [], self.link
        for draft, seq in zip(drafts, seqs, strict=True):
            lines.append(encode(draft, seq, self.stamp, ts, link))
            if self.stamp.keys.own is not None:
                link = told_of(lines[-1]).code
        return lines, link

    def sync(self, seq: int) -> None:
        """Return when everything up to `seq` survives a power cut; raises JournalFailed.

        May block for as long as two fsyncs take: one under way, and the one that covers `seq`.
        """
        with self._lock:
            while self._synced < seq:
                if self._broken:  # another thread's fsync failed, and these records with it
                    raise self._failed(self._broken)
                if not self.fsyncs:
                    self._confirm(self.next_seq - 1, durable=False)
                    return
                if not self._syncing:
                    break
                self._lock.wait()
            else:
                return
            # Taken together under the lock: all that was written to this descriptor by now.
            self._syncing = True
            target, fd = self.next_seq - 1, self._fd
        problem = ""
        try:
            self.kernel.sync(fd)
        except OSError as error:
            problem = error.strerror or repr(error)
            # Before any thread hears of it: this process may die at the next instruction.
            self._mark_unsynced()
        with self._lock:
            self._syncing = False
            if problem:
                self._broken = problem
            else:
                self._confirm(target)
            self._lock.notify_all()
            if problem:
                raise self._failed(problem)

    def close(self) -> None:
        """Give reserved space back and close the file; what is not synced may be lost."""
        with self._lock:
            if self._fd < 0:
                return
            self._let_go()
            self._fd = -1

    def _remove_marker(self) -> None:
        try:
            self.kernel.unlink(self._marker)
        except OSError:
            return  # the next owner makes a needless copy

    def _confirm(self, seq: int, *, durable: bool = True) -> None:
        self._synced = max(self._synced, seq)
        if durable:
            self._durable = max(self._durable, seq)
        while self._unsynced and self._unsynced[0][0] <= self._durable:
            self._unsynced.popleft()

    def _write(self, data: bytes) -> None:
        try:
            written = self.kernel.write(self._fd, data)
        except OSError as error:
            written, problem = 0, error.strerror or repr(error)
        else:
            problem = "the disk took a part only"
        if written == len(data):
            self._length += written
            return
        try:
            self.kernel.truncate(self._fd, self._length)
            self._reserved = self._length
        except OSError:
            # The torn piece stays behind, and what is appended after it could be read as part of
            # it: go on in a new segment.
            self._broken = problem
        raise self._failed(problem)

    def _make_room(self, size: int, *, spare: bool) -> None:
        """Reserve blocks ahead; `spare` keeps some of them for records that close something."""
        wanted = self._length + size + (RESERVE_LEFT if spare else 0)
        if not self._can_reserve or wanted <= self._reserved:
            return
        try:
            for step in (RESERVE_STEP, 0):
                if self._try_reserve(wanted + step, last=step == 0):
                    return
        except OSError as error:
            if spare:
                raise self._failed(error.strerror or repr(error)) from None

    def _try_reserve(self, upto: int, *, last: bool) -> bool:
        try:
            self._can_reserve = self.kernel.reserve(self._fd, self._length, upto - self._length)
        except OSError:
            if last:
                raise
            return False
        self._reserved = upto
        return True

    def _begin_segment(self) -> None:
        while self._syncing:  # the old descriptor is in use, and must not be closed yet
            self._lock.wait()
        # The old segment is complete on the disk before the new one has a name: a reader takes a
        # segment that has a successor for whole.
        if self._fd >= 0 and not self._broken:
            try:
                self.kernel.sync(self._fd)
                self._confirm(self.next_seq - 1)
            except OSError as error:
                self._broken = error.strerror or repr(error)
                self._mark_unsynced()
        again = tuple(self._unsynced)  # empty, unless an fsync has failed
        first = again[0][0] if again else self.next_seq
        path = segment_path(self.directory, first)
        header = Draft(action=SEGMENT, payload=self.header())
        after = told_of(again[0][1]).after if again else self.link
        data = encode(header, first - 1, self.stamp, self.kernel.utc_text(), after)
        data += b"".join(line for _, line in again)
        # With the same first seq as the old segment, the new file takes its place by the rename.
        there = self.kernel.file_id(path)
        try:
            self.kernel.write_durable(path, data)
            fd = self.kernel.open_append(path)
        except OSError as error:
            problem = error.strerror or repr(error)
            if self.kernel.file_id(path) != there:
                # The rename was made, so readers follow the new segment: a record that is appended
                # to the old one now would not be read.
                self._broken = problem
            raise self._failed(problem) from None
        if self._fd >= 0:
            self._let_go()
        if self._broken:  # what the marker warned of is in the new segment, and durable
            self._remove_marker()
        self._fd, self._path, self._first, self._broken = fd, path, first, ""
        self._length = self._reserved = self._start = len(data)
        self._confirm(self.next_seq - 1)
        self._lock.notify_all()

    def _let_go(self) -> None:
        try:
            self.kernel.truncate(self._fd, self._length)  # gives back what was reserved
        except OSError:
            pass  # blocks stay reserved; no record depends on it
        self.kernel.close(self._fd)

    def _failed(self, problem: str) -> JournalFailed:
        where = self._path or self.directory
        return JournalFailed(
            f"The journal {where} could not be written: {problem}. Free some space, or repair "
            "the disk, and ask again; the broker goes on by itself."
        )
