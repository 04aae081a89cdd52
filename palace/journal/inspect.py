"""What a journal holds from a record on, read without a lock and without changing it."""

from collections.abc import Iterator

import attrs

from palace.journal.record import Record
from palace.journal.segment import Broken, list_segments, read_since
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import ANYBODYS, Keyring


@attrs.frozen(kw_only=True)
class Gap:
    """Records that are missing; both ends included."""

    first: int
    last: int


def read_from(
    directory: str, kernel: Kernel, since: int = 1, keys: Keyring = ANYBODYS
) -> Iterator[Record | Gap | Broken]:
    """Yield what the journal holds from a seq on, archive included, in order."""
    expected = since
    segments = list_segments(directory, kernel, archived=True)
    for _, found in read_since(segments, kernel, since, keys):
        if isinstance(found, Record):
            if found.seq > expected:
                yield Gap(first=expected, last=found.seq - 1)
            expected = found.seq + 1
        yield found
