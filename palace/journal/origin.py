"""Which palace the records of a journal are of.

A palace that is restored from a backup gets an identity of its own in mid-journal, so that its
present identity says nothing of earlier records.  Each segment is of one palace, which its header
names; a checkpoint, whose records come from many segments, names them all in its last line.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from palace.journal.record import SEGMENT, Record
from palace.journal.schema import NAME_MAX, SEQ_MAX, object_of
from palace.journal.segment import Segment, list_segments, read_segment
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import is_number
from palace.protocol.keyring import ANYBODYS, Keyring

# In a checkpoint: the newest, so that its last line stays short (aside.py).
ORIGINS_MAX = 20

Origin = tuple[int, str]  # from this seq on: the palace's identity, "" for an unknown one


def origins_told(payload: object) -> list[Origin]:
    """Return what a checkpoint's last line says of its records, oldest first."""
    told = object_of(payload).get("origins")
    found: list[Origin] = []
    for entry in told if isinstance(told, list) else ():
        if not isinstance(entry, list) or len(entry) != 2:
            return []
        first, origin = entry
        if not is_number(first, SEQ_MAX) or not isinstance(origin, str) or len(origin) > NAME_MAX:
            return []
        found.append((first, origin))
    return found


def origin_of(segment: Segment, kernel: Kernel, keys: Keyring = ANYBODYS) -> str:
    """Return the palace that a segment is of, "" where its header doesn't say."""
    for _, found in read_segment(segment, kernel, keys):
        if isinstance(found, Record) and found.action == SEGMENT:
            return origin_in(found)
        return ""
    return ""


def begun_in(segments: Sequence[Segment], kernel: Kernel, keys: Keyring = ANYBODYS) -> int:
    """Return the epoch in which a journal was begun, 0 where its first segment isn't among these.

    Of two journals with one palace's name it tells which is which: a second one is a later epoch's.
    """
    if not segments or segments[0].first != 1:
        return 0
    for _, found in read_segment(segments[0], kernel, keys):
        return found.epoch if isinstance(found, Record) and found.action == SEGMENT else 0
    return 0


def origin_in(header: Record) -> str:
    """Return the palace that a segment's header names, "" where it names none."""
    origin = object_of(header.payload).get("origin")
    return origin if isinstance(origin, str) and len(origin) <= NAME_MAX else ""


def origins_of(
    segments: Iterable[Segment], kernel: Kernel, keys: Keyring, before: Sequence[Origin] = ()
) -> list[Origin]:
    """Return the palaces of segments in turn, after those that are known; the newest ones."""
    found = list(before)
    for segment in segments:
        origin = origin_of(segment, kernel, keys)
        if not found or (segment.first > found[-1][0] and origin != found[-1][1]):
            found.append((segment.first, origin))
    return found[-ORIGINS_MAX:]


def earlier_palaces(
    directory: str, palace: str, kernel: Kernel, keys: Keyring = ANYBODYS
) -> tuple[str, ...]:
    """Return the identities that a palace had before, as its journal names them."""
    segments = list_segments(directory, kernel, archived=True)
    return tuple(
        sorted({origin for _, origin in origins_of(segments, kernel, keys)} - {palace, ""})
    )


def origin_at(origins: Sequence[Origin], seq: int) -> str:
    """Return the palace that a record is of, "" for an unknown one."""
    at = bisect_right(origins, seq, key=lambda origin: origin[0])
    return origins[at - 1][1] if at else ""
