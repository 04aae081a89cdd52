"""What a journal holds from a record on, read without a lock and without changing it."""

from collections.abc import Iterator

import attrs

from palace.journal.record import SEGMENT, Record
from palace.journal.segment import Broken, list_segments, read_segment
from palace.kernel.kernel import Kernel


@attrs.frozen(kw_only=True)
class Gap:
    """Records that are missing; both ends included."""

    first: int
    last: int


def read_from(directory: str, kernel: Kernel, since: int = 1) -> Iterator[Record | Gap | Broken]:
    """Yield what the journal holds from a seq on, archive included, in order."""
    expected = since
    for segment in list_segments(directory, kernel, archived=True):
        if segment.end is not None and segment.end <= since:
            continue
        for _, found in read_segment(segment, kernel):
            if isinstance(found, Broken):
                yield found
                continue
            if found.seq < since or found.action == SEGMENT:
                continue
            if found.seq > expected:
                yield Gap(first=expected, last=found.seq - 1)
            yield found
            expected = found.seq + 1
