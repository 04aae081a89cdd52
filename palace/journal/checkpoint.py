"""Checkpoints: every live entity in one file, so that older segments are not needed any more.

Theory of operation.  A checkpoint is made from closed segments and the checkpoint before it, which
never change, so that it needs no lock.  Its lines are the records themselves, in order of the
entities' first appearance, and a terminator that counts them.  It is written under another name;
the rename is the switch: before it readers use the older checkpoint and the segments, after it the
new one, and what it covers is still in place for those that began before.  Only then do covered
files move to the archive, where such readers look for them.  Nothing is deleted.
"""

import os
from collections.abc import Callable
from hashlib import blake2b

import attrs

from palace.journal.origin import origins_of
from palace.journal.record import CHECKPOINT, BrokenRecord, Draft, Stamp, decode, encode
from palace.journal.replay import PREFIX, Replay, checkpoint_path, newest_checkpoint, replay
from palace.journal.segment import ARCHIVE, Place, list_segments, number_of, open_wherever
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import CODE_BYTES

BYTES_MIN = 64 << 20
PAUSE_EVERY = 200


@attrs.frozen(kw_only=True)
class Checkpoint:
    path: str
    seq: int
    entities: int


def is_due(directory: str, kernel: Kernel, *, bytes_min: int = BYTES_MIN) -> bool:
    """Tell whether closed segments outweigh the last checkpoint, and are worth the work."""
    closed = list_segments(directory, kernel)[:-1]
    newest = newest_checkpoint(directory, kernel)
    grown = sum(_size(segment.path, kernel) for segment in closed)
    return grown >= max(bytes_min, _size(newest[0], kernel) if newest is not None else 0)


def _size(path: str, kernel: Kernel) -> int:
    found = kernel.signature(path)
    return found[1] if found is not None else 0


def make_checkpoint(
    directory: str, kernel: Kernel, stamp: Stamp, pause: Callable[[], None] = lambda: None
) -> Checkpoint | None:
    """Write a checkpoint over all closed segments and archive them.

    None where there are none, or where records are missing or were changed meanwhile.
    `pause` is called now and then: it may sleep, so that others get on.
    """
    segments = list_segments(directory, kernel)
    if len(segments) < 2:
        return None
    upto = segments[-1].first - 1
    state = replay(directory, kernel, lambda _stage, _fraction: pause(), upto, stamp.keys)
    if state.gaps or state.seq < upto:
        return None  # a checkpoint would hide what is missing
    state.origins = origins_of(segments[:-1], kernel, stamp.keys, state.origins)
    path = checkpoint_path(directory, upto)
    temporary = f"{path}.tmp"
    kernel.unlink(temporary)
    fd = kernel.open_append(temporary)
    try:
        _write(fd, state, upto, stamp, pause)
        kernel.sync(fd)  # before it has its name: what is named is whole
    except BrokenRecord:
        return None  # no broker changes what it has written
    finally:
        kernel.close(fd)
    kernel.rename(temporary, path)
    kernel.make_directory(f"{directory}/{ARCHIVE}")
    # The name is durable before anything that it replaces is moved: a power cut could otherwise
    # undo the rename and keep the moves.
    kernel.sync_directory(directory)
    _archive(directory, kernel, upto, path)
    return Checkpoint(path=path, seq=upto, entities=len(state.live))


def _write(fd: int, state: Replay, upto: int, stamp: Stamp, pause: Callable[[], None]) -> None:
    """Write a checkpoint's lines; raises BrokenRecord for one that isn't what was replayed."""
    kernel, codes = state.kernel, blake2b(digest_size=CODE_BYTES)
    for number, live in enumerate(state.live.values()):
        if number % PAUSE_EVERY == 0:
            pause()
        line = _line(live.place, kernel)
        if stamp.keys.own is not None:
            # The owner answers for all lines by the code of the last: it looks at each again.
            record = decode(line, stamp.keys)
            if record.seq != live.seq:
                raise BrokenRecord(f"record {record.seq} stands where {live.seq} was")
            codes.update(record.link.encode())
        kernel.write_all(fd, b"\n%b\n" % line)
    told = {
        "upto": upto,
        "entities": len(state.live),
        "lines": codes.hexdigest(),
        "origins": state.origins,
    }
    end = Draft(action=CHECKPOINT, payload=told)
    kernel.write_all(fd, encode(end, upto, stamp, kernel.utc_text()))


def _line(place: Place, kernel: Kernel) -> bytes:
    fd = open_wherever(place.path, kernel)
    try:
        return kernel.read_at(fd, place.offset, place.length)
    finally:
        kernel.close(fd)


def _archive(directory: str, kernel: Kernel, upto: int, newest: str) -> None:
    old = [
        s.path for s in list_segments(directory, kernel) if s.end is not None and s.end <= upto + 1
    ]
    while (path := _older_checkpoint(directory, kernel, newest)) is not None:
        kernel.rename(path, f"{directory}/{ARCHIVE}/{os.path.basename(path)}")
    for path in old:
        kernel.rename(path, f"{directory}/{ARCHIVE}/{os.path.basename(path)}")
    # The new names first: a power cut between the two leaves files under both names rather than
    # under none.  `list_segments` takes the name in the journal's own directory then.
    kernel.sync_directory(f"{directory}/{ARCHIVE}")
    kernel.sync_directory(directory)


def _older_checkpoint(directory: str, kernel: Kernel, newest: str) -> str | None:
    for name in kernel.list_directory(directory):
        path = f"{directory}/{name}"
        if number_of(name, PREFIX) is not None and path < newest:
            return path
    return None
