"""Copying a journal while its owner writes it: a beginning of its history, whole, without a lock.

Theory of operation.  Closed segments never change; the newest is only appended to, so that what is
there when its size is asked is a beginning of it.  Segments are listed before the newest checkpoint
is looked for: whatever a checkpoint covers that is made meanwhile was listed, and is read from the
archive if it has moved there.  What the owner was in the middle of writing is cut off.  The copy is
then read, record by record, and one that lacks any is thrown away and made again.

Every reply of a change leaves after its records are in the file, so whatever was acknowledged
before the copy began is in it.  A call that was under way has no outcome in it, and is taken back
by the owner that opens the copy, as after a death.
"""

import hashlib
import os

import attrs

from palace.journal.aside import take_out
from palace.journal.journal import read_tail
from palace.journal.record import BrokenRecord, Entity, decode
from palace.journal.replay import (
    Progress,
    digest_of,
    newest_checkpoint,
    no_progress,
    replay,
)
from palace.journal.segment import CHUNK, list_segments, open_wherever, read_lines
from palace.journal.undo import first_changes, newest_first
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalBroken
from palace.protocol.keyring import ANYBODYS, Keyring

TRIES_MAX = 3
_64_BITS = (1 << 64) - 1


class Missing(Exception):
    """A copy lacks records; its text says which."""


@attrs.frozen(kw_only=True)
class Contents:
    """What a journal holds once unfinished calls are taken back.

    `seq` and `epoch` are the last record's; `digest` is one number for all entities.
    """

    seq: int
    epoch: int
    kinds: dict[str, int]
    digest: str

    @property
    def entities(self) -> int:
        return sum(self.kinds.values())


def copy_journal(
    directory: str,
    target: str,
    kernel: Kernel,
    progress: Progress = no_progress,
    keys: Keyring = ANYBODYS,
) -> Contents:
    """Copy the newest checkpoint and all segments after it into a new directory, durably.

    Raises JournalBroken where the journal itself lacks records; the caller removes what is left.
    """
    kernel.make_directory(target)
    problem = ""
    for _ in range(TRIES_MAX):
        for name in kernel.list_directory(target):
            kernel.unlink(f"{target}/{name}")
        was = kernel.file_id(directory)
        try:
            _copy_files(directory, target, kernel, progress)
            take_out(target, kernel, keys)
            contents = read_contents(target, kernel, progress, keys)
        except (Missing, FileNotFoundError) as error:
            problem = str(error)
            continue
        if kernel.file_id(directory) == was:  # else another journal was put in its place meanwhile
            kernel.sync_directory(target)
            return contents
        problem = "it was replaced while it was read"
    raise JournalBroken(
        f"The journal in {directory} can't be copied whole: {problem}. "
        "See what is wrong with it: palace doctor"
    )


def _copy_files(directory: str, target: str, kernel: Kernel, progress: Progress) -> None:
    # Before the checkpoint: one that is made in between covers only segments that are listed here.
    segments = list_segments(directory, kernel)
    found = newest_checkpoint(directory, kernel)
    after = 0 if found is None else found[1]
    wanted = [segment for segment in segments if segment.reaches(after + 1)]
    if not wanted or wanted[0].first > after + 1:
        raise Missing(f"no segment begins at record {after + 1}")
    paths = [*([found[0]] if found is not None else []), *(s.path for s in wanted)]
    for number, path in enumerate(paths):
        progress("copying the journal", number / len(paths))
        copy_file(path, f"{target}/{os.path.basename(path)}", kernel)
    _cut_unfinished(f"{target}/{os.path.basename(paths[-1])}", kernel)


def check_whole(directory: str, kernel: Kernel, keys: Keyring = ANYBODYS) -> None:
    """Raise JournalBroken while a palace is being adopted: its journal lacks what stock wrote."""
    tail = read_tail(list_segments(directory, kernel), kernel, keys)
    if tail.adopting is not None:
        known = len(replay(directory, kernel, keys=keys).live)
        raise JournalBroken(tail.adopting.problem(known))


def copy_file(source: str, target: str, kernel: Kernel) -> None:
    """Copy as many bytes as a journal's file has now into a new file, durably."""
    fd = open_wherever(source, kernel)
    try:
        size, done = kernel.size(fd), 0
        new = kernel.open_append(target)
        try:
            while done < size and (data := kernel.read_at(fd, done, min(CHUNK, size - done))):
                done += len(data)
                kernel.write_all(new, data)
            kernel.sync(new)
        finally:
            kernel.close(new)
    finally:
        kernel.close(fd)


def _cut_unfinished(path: str, kernel: Kernel) -> None:
    """Cut off what follows the last whole record; a damaged one there was whole once."""
    end = 0
    for place, line in read_lines(path, kernel):
        try:
            decode(line)
        except BrokenRecord as error:
            if "checksum" in str(error):
                raise Missing(f"{os.path.basename(path)} at byte {place.offset}: {error}") from None
            continue
        end = place.offset + place.length + 1
    fd = kernel.open_append(path)
    try:
        if end < kernel.size(fd):
            kernel.truncate(fd, end)
            kernel.sync(fd)
    finally:
        kernel.close(fd)


def read_contents(
    directory: str,
    kernel: Kernel,
    progress: Progress = no_progress,
    keys: Keyring = ANYBODYS,
) -> Contents:
    """Read a journal that no process writes; raises Missing where it lacks records."""
    known = replay(directory, kernel, progress, keys=keys)
    if known.gaps:
        first, last = known.gaps[0]
        broken = [
            f"{os.path.basename(b.place.path)} at byte {b.place.offset}: {b.why}; "
            for b in known.broken
        ]
        raise Missing(f"{''.join(broken)}records {first} to {last} are missing")
    tail = read_tail(list_segments(directory, kernel), kernel, keys)
    digests = {entity: live.digest for entity, live in known.live.items()}
    for _, changes in newest_first(tail.open):
        for entity, change in first_changes(changes).items():
            digests.pop(entity, None)
            if change.before is not None:
                digests[entity] = digest_of(change.before)
    return Contents(
        seq=known.seq, epoch=tail.epoch, kinds=_counted(digests), digest=_digest(digests)
    )


def _counted(digests: dict[Entity, int]) -> dict[str, int]:
    kinds = sorted({kind for kind, _ in digests})
    return {kind: sum(known == kind for known, _ in digests) for kind in kinds}


def _digest(digests: dict[Entity, int]) -> str:
    total = sum(digest_of([*entity, digest]) for entity, digest in digests.items())
    return f"{total & _64_BITS:016x}"


def file_digest(path: str, kernel: Kernel) -> tuple[int, str]:
    """Return a file's size in bytes and its SHA-256 in hexadecimal."""
    digest, done = hashlib.sha256(), 0
    fd = kernel.open_read(path)
    try:
        while data := kernel.read_at(fd, done, CHUNK):
            digest.update(data)
            done += len(data)
    finally:
        kernel.close(fd)
    return done, digest.hexdigest()
