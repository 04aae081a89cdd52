"""The journal of one palace, open for its owner: append, make durable, and know the present.

    <palace>/journal/00000000000000000001.jsonl ...   segments, the newest is appended to
    <palace>/journal/checkpoint-<seq>.jsonl           all live entities up to seq (checkpoint.py)
    <palace>/journal/archive/                         segments that a checkpoint made redundant
    <palace>/journal/HEAD.json                        a cache: it may be lost
    <palace>/journal/paused                           why its silence says nothing of resent lines
    <palace>/journal/doubt                            an fsync has failed (append.py)

Threads share one; the syncer's thread is its own.
"""

import json
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

import attrs

from palace.journal.append import Appender
from palace.journal.aside import set_aside
from palace.journal.author import NOBODY, Author
from palace.journal.keeping import KeptFiles
from palace.journal.record import (
    ABORT,
    FIRST,
    LEAVE,
    OUTCOME,
    SEGMENT,
    STATE,
    UNIT,
    Draft,
    JsonObject,
    Record,
    Stamp,
)
from palace.journal.schema import SEQ_MAX, header_problem
from palace.journal.segment import (
    Broken,
    Order,
    Segment,
    in_order,
    list_segments,
    read_segment,
)
from palace.journal.tail import Adopting, Tail
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalBroken, JournalFailed
from palace.protocol.keyring import ANYBODYS, Keyring

SEGMENT_BYTES = 16 << 20
SEQ_PLAUSIBLE = SEQ_MAX // 2  # an owner that wrote up to SEQ_MAX could not be read again
HEAD = "HEAD.json"
PAUSE = "paused"
_WITHOUT = b"an owner worked without the journal\n"
_LOST = b"records that were acknowledged are in no copy\n"

logger = logging.getLogger("palace.journal")

SyncCallback = Callable[[JournalFailed | None], None]  # None: the records are durable
Waiting = tuple[int, SyncCallback]  # for the records up to a seq


@attrs.define(eq=False, kw_only=True)
class Journal:
    """One palace's journal, open from `open` to `close`.

    `fingerprints` returns those of all stores, None if they are not known yet; it is called when no
    group is open.
    """

    directory: str
    kernel: Kernel
    stamp: Stamp
    tail: Tail
    segment_bytes: int = SEGMENT_BYTES
    fingerprints: Callable[[], JsonObject | None] = lambda: None
    rolled: Callable[[], None] = lambda: None  # called after each new segment
    is_new: bool = False
    fsyncs: bool = True
    _appender: Appender = attrs.field(init=False)
    _kept: KeptFiles = attrs.field(init=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock)
    _waiting: "queue.SimpleQueue[Waiting | None]" = attrs.field(factory=queue.SimpleQueue)
    _syncer: threading.Thread | None = None
    # Acknowledgements come from the broker's loop, which must not wait for the lock: its holder may
    # be in an fsync.
    _settled: "deque[tuple[str, int | None]]" = attrs.field(factory=deque)

    def __attrs_post_init__(self) -> None:
        self._appender = Appender(
            directory=self.directory,
            kernel=self.kernel,
            stamp=self.stamp,
            header=self._header,
            next_seq=self.tail.seq + 1,
            link=self.tail.link or FIRST,
            fsyncs=self.fsyncs,
        )
        self._kept = KeptFiles(directory=self.directory, kernel=self.kernel)

    @classmethod
    def open(
        cls,
        directory: str,
        kernel: Kernel,
        stamp: Stamp,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        fsyncs: bool = True,
    ) -> "Journal":
        """Open a palace's journal, or begin it; call it under the lock.

        Without `fsyncs` what is appended survives a killed process, and no power cut.
        Raises JournalBroken where it can't be read or belongs to a later epoch.
        """
        kernel.make_directory(directory)
        for name in kernel.list_directory(directory):
            if name.endswith(".tmp"):  # a killed owner's
                kernel.unlink(f"{directory}/{name}")
        segments = list_segments(directory, kernel)
        if not segments:
            # Else a power cut could take the directory, with all that was acknowledged in it.
            kernel.sync_directory(directory.rpartition("/")[0])
        tail = read_tail(list_segments(directory, kernel, archived=True), kernel, stamp.keys)
        aside = set_aside(directory, kernel, stamp.keys, stamp.epoch, lines=tail.foreign > 0)
        if aside:
            logger.error(
                "%d records and %d files of the journal are not by its owner, and were set aside: "
                "see palace doctor",
                aside.lines,
                aside.files,
            )
            segments = list_segments(directory, kernel)
            tail = read_tail(list_segments(directory, kernel, archived=True), kernel, stamp.keys)
        _check(tail, directory, stamp)
        tail.forget_old_sessions(stamp.epoch)
        pause = f"{directory}/{PAUSE}"
        noted = kernel.read_hint(pause)
        tail.paused |= noted == _WITHOUT
        if aside or tail.gaps or noted is not None:
            # Any outcome may be among what is missing: a resent line is answered with "unknown"
            # rather than run a second time.
            tail.forget_sessions(stamp.epoch)
        journal = cls(
            directory=directory,
            kernel=kernel,
            stamp=stamp,
            tail=tail,
            segment_bytes=segment_bytes,
            is_new=not segments,
            fsyncs=fsyncs,
        )
        appender = journal._appender
        if segments:
            appender.open_last(segments[-1].path, segments[-1].first)
            # Its header keeps the horizon, so that the note may go; and a segment is of one palace.
            if aside or noted is not None or tail.origin != stamp.origin:
                appender.open_new()
        else:
            appender.open_new()
        journal._kept.refresh()
        journal._write_head()
        kernel.unlink(pause)  # last: an owner that dies before this finds it again
        return journal

    @staticmethod
    def note_pause(directory: str, kernel: Kernel) -> None:
        """Note that an owner works without the journal: its silence then says nothing."""
        kernel.make_directory(directory)
        kernel.write_durable(f"{directory}/{PAUSE}", _WITHOUT)

    @staticmethod
    def note_lost(directory: str, kernel: Kernel) -> None:
        """Note that the journal's end is missing: a line that is sent again may be of it."""
        kernel.write_durable(f"{directory}/{PAUSE}", _LOST)

    # Writing.

    def append(self, drafts: Sequence[Draft]) -> int:
        """Write records in one piece; return the last one's seq.  Raises JournalFailed."""
        with self._lock:
            self._forget_settled()
            self.kernel.failpoint("append")
            seq = self._appender.append(drafts)
            # In the order of the file, and only once it is written: a header that is composed
            # later speaks of exactly these records.
            for place, draft in enumerate(drafts, seq - len(drafts) + 1):
                self.tail.note(draft, place, self.stamp.epoch)
            self.kernel.failpoint("appended")
            return seq

    def sync(self, seq: int) -> None:
        """Return when all up to `seq` is on the disk; raises JournalFailed."""
        self._appender.sync(seq)
        self.kernel.failpoint("synced")

    def _header(self) -> JsonObject:
        return {**self.tail.header(), "origin": self.stamp.origin}

    def close_key(self, key: str, action: str, author: Author = NOBODY, **payload: object) -> int:
        """Append what ends a key's changes; where nothing else is open it also tells the state."""
        assert action in (OUTCOME, UNIT, ABORT, STATE)
        # Under one lock: a change that another thread appended in between would precede the
        # baseline in the journal, and be missing from its fingerprints.  `fingerprints` takes no
        # store's lock: a thread that changes a store holds that, and waits for this one to append.
        with self._lock:
            payload |= self.tail.numbers.next(author)
            quiet = not (self.tail.open.keys() - {key})
            if quiet and (at := self.fingerprints()) is not None:
                payload |= self.tail.fingerprints_as(at)
            seq = self.append([Draft(action=action, key=key, payload=payload)])
            if quiet and self.is_long():
                self.roll()
            return seq

    def leave(self) -> None:
        """Say durably that this owner was told to leave, before it cuts anything off.

        A call that is unfinished when its owner dies may have been the cause, and is not tried for
        ever; one that is cut off by a stop is innocent.  Raises JournalFailed.
        """
        self.sync(self.append([Draft(action=LEAVE)]))

    def begin_adoption(self, adopting: Adopting) -> None:
        """Say durably that the journal doesn't hold all that the stores do; no group is open."""
        with self._lock:
            self.tail.adopting = adopting
            self.tail.settled.clear()
            seq = self.close_key("", STATE)
        self.sync(seq)

    def end_adoption(self) -> None:
        """Say durably that the journal is whole; where a group is open its end will say it."""
        with self._lock:
            self.tail.adopting = None
            self.tail.settled.clear()
            seq = self.close_key("", STATE)
        self.sync(seq)

    def is_long(self) -> bool:
        """Tell whether the newest segment has its size, and the next one may begin."""
        return self._appender.grown > self.segment_bytes

    def roll(self) -> None:
        """Begin a new segment; where there is no space for it, the old one goes on."""
        with self._lock:
            try:
                self._open_next()
            except JournalFailed:
                return
            self._kept.refresh()
            self._write_head()
            self.rolled()

    def when_synced(self, seq: int, callback: SyncCallback) -> None:
        """Call back from another thread as soon as `seq` is on the disk, or can't be."""
        with self._lock:
            if self._syncer is None:
                self._syncer = threading.Thread(
                    target=self._serve_syncs, name="palace-journal", daemon=True
                )
                self._syncer.start()
        self._waiting.put((seq, callback))

    def close(self) -> None:
        """Make everything durable and close the files."""
        self._waiting.put(None)
        if self._syncer is not None:
            self._syncer.join()
        try:
            self.sync(self.tail.seq)
            self._write_head()
        finally:
            self._appender.close()
            self._kept.close()

    # Asking.

    @property
    def seq(self) -> int:
        return self.tail.seq

    @property
    def keys(self) -> Keyring:
        return self.stamp.keys

    @property
    def synced(self) -> int:
        return self._appender.synced

    @property
    def durable(self) -> int:
        return self._appender.durable

    def reply(self, session: str, ordinal: int) -> str | None:
        """Return the recorded reply of a call, None where none is known."""
        with self._lock:
            return self.tail.reply(session, ordinal)

    def reply_for(self, session: str, ordinal: int) -> str:
        """Return the workspace for which a call's reply was recorded, "" for the owner."""
        with self._lock:
            return self.tail.reply_for(session, ordinal)

    def crashes(self, key: str) -> int:
        """Return how many owners have died while this key was unfinished."""
        with self._lock:
            return self.tail.attempts.get(key, 0)

    def is_forgotten(self, session: str, ordinal: int, epoch: int) -> bool:
        with self._lock:
            return self.tail.is_forgotten(session, ordinal, epoch)

    def acknowledge(self, session: str, upto: int) -> None:
        """Forget a session's outcomes below `upto`, at the next append."""
        self._settled.append((session, upto))

    def end_session(self, session: str) -> None:
        """Forget all of a session's outcomes, at the next append."""
        self._settled.append((session, None))

    def _forget_settled(self) -> None:
        while self._settled:
            session, upto = self._settled.popleft()
            if upto is None:
                self.tail.end_session(session)
            else:
                self.tail.acknowledge(session, upto)

    def segments(self) -> list[Segment]:
        return list_segments(self.directory, self.kernel)

    def _serve_syncs(self) -> None:
        while (first := self._waiting.get()) is not None:
            # All that wait share one fsync.  What arrives during it is the next batch.
            batch = [first]
            ended = False
            while not self._waiting.empty():
                item = self._waiting.get()
                if item is None:
                    ended = True
                    break
                batch.append(item)
            problem = self._sync_or_repair(max(seq for seq, _ in batch))
            for _, callback in batch:
                self._call_back(callback, problem)
            if ended:
                return

    def _call_back(self, callback: SyncCallback, problem: JournalFailed | None) -> None:
        try:
            callback(problem)
        except Exception:  # the other callbacks of the batch must still be called
            logger.exception("a reply could not be handed over")

    def _sync_or_repair(self, seq: int) -> JournalFailed | None:
        try:
            self.sync(seq)
        except JournalFailed:
            try:
                self.repair()
                self.sync(seq)
            except JournalFailed as error:
                return error
        return None

    def is_in_place(self) -> bool:
        """Tell whether its directory and its newest file are those that were opened; any thread."""
        return self._kept.is_in_place() and self._appender.is_in_place()

    def repair(self) -> None:
        """After a failed fsync, write what no fsync has confirmed into a new segment.

        Raises JournalFailed.
        """
        with self._lock:
            self._open_next()
            self._kept.refresh()

    def _open_next(self) -> None:
        """Begin a segment; raises JournalFailed in a directory that took the journal's place.

        There may be another owner's journal in it.  What is open stays what it was, is saved, and
        is brought back.
        """
        if not self.is_in_place():
            raise JournalFailed(
                f"{self.directory} was replaced by another program, so that nothing can be written "
                "there. The next broker brings back what this one has. Ask again."
            )
        self._appender.open_new()

    def note_archived(self) -> None:
        """Note that a checkpoint was made: other files are read from now on."""
        with self._lock:
            self._kept.refresh()

    def save_to(self, target: str) -> int:
        """Copy the journal's files into a new directory, whatever became of their own; return how
        many there were.

        For an owner whose directory was replaced: nothing can be appended any more, and whoever
        tries waits for ever, since what is written from now on would not be in the copy.
        Raises OSError; it may then be called again, by the same thread.
        """
        self._lock.acquire()
        return self._kept.copy_to(target)

    def _write_head(self) -> None:
        if not self.is_in_place():  # it would say of another journal what is not in it
            return
        head = {
            "seq": self.tail.seq,
            "epoch": self.stamp.epoch,
            "segment": self._appender.path.rpartition("/")[2],
        }
        try:
            path = f"{self.directory}/{HEAD}"
            self.kernel.write_durable(path, json.dumps(head).encode() + b"\n")
        except OSError:
            return  # a cache: the segments say the same


def _check(tail: Tail, directory: str, stamp: Stamp) -> None:
    """Raise JournalBroken where an owner can't go on with a journal."""
    if tail.epoch > stamp.epoch:
        raise JournalBroken(
            f"The journal in {directory} was last written in epoch {tail.epoch}, and this "
            f"owner has epoch {stamp.epoch}: an older copy of the palace's files was put "
            "back. Put back all of them, or write the larger number into the file `epoch`."
        )
    if tail.seq > SEQ_PLAUSIBLE:
        raise JournalBroken(
            f"The journal in {directory} goes up to record {tail.seq}, which no palace "
            "reaches: a file's name or a record there is not its owner's. See which (palace "
            "doctor, palace history), move that file out of the palace, and start again."
        )


def read_tail(segments: Sequence[Segment], kernel: Kernel, keys: Keyring = ANYBODYS) -> Tail:
    """Return what the journal says of the present; reads the newest readable segment and on."""
    # A header holds all that came before it, so that one file is enough.  A damaged one is made up
    # for by reading on from an older segment.
    start = len(segments) - 1
    while start > 0 and not _has_header(segments[start], kernel, keys):
        start -= 1
    tail, order, origin = Tail(), Order(), ""
    foreign = broken = 0
    for segment in segments[max(start, 0) :]:
        for place, found in read_segment(segment, kernel, keys):
            if isinstance(found, Broken):
                foreign += found.is_foreign
                broken += 1
                continue  # torn by a crash, or damaged: `palace doctor` tells them apart
            if found.action == SEGMENT:
                if not _begins(segment, found):
                    continue
                origin = found.payload.get("origin") or ""
                if segment is segments[start]:  # later ones repeat what was read already
                    tail = Tail.from_header(found.payload, found.seq, found.epoch)
                    order = Order(seq=found.seq, link=found.after)
            elif isinstance(in_order(found, place, order, keys), Record):
                tail.note(found, found.seq, found.epoch)
            else:
                foreign += 1
                broken += 1
    if segments:
        # What is written next is looked for behind the last file's name, whatever is in the file.
        tail.expect(segments[-1].first)
    tail.link = order.link if order.seq == tail.seq else ""
    tail.foreign, tail.broken, tail.origin = foreign, broken, origin
    return tail


def _has_header(segment: Segment, kernel: Kernel, keys: Keyring) -> bool:
    for _, found in read_segment(segment, kernel, keys):
        return isinstance(found, Record) and _begins(segment, found)
    return False


def _begins(segment: Segment, record: Record) -> bool:
    """Tell whether a record is this segment's header, and not another one's."""
    is_its_own = record.action == SEGMENT and record.seq == segment.first - 1
    return is_its_own and not header_problem(record.payload)
