"""Sealing a journal again: each of its records gets the code of another key.

What is accepted is read, in order, and written again with the same fields; what is not stays as it
is, and is nobody's.  Files are replaced one by one, each durably: whoever is interrupted does it
again, and finds the same.
"""

from collections.abc import Generator
from contextlib import closing
from hashlib import blake2b

from palace.journal.record import (
    CHECKPOINT,
    FIRST,
    SEGMENT,
    BrokenRecord,
    Draft,
    Record,
    Stamp,
    authenticate,
    decode,
    encode,
    seal,
    unseal,
)
from palace.journal.replay import PREFIX
from palace.journal.schema import object_of
from palace.journal.segment import (
    ARCHIVE,
    Segment,
    list_segments,
    number_of,
    read_lines,
)
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import CODE_BYTES, Key, Keyring


def reseal(directory: str, kernel: Kernel, accepted: Keyring, key: Key) -> None:
    """Seal with a key what a journal holds of accepted records, its archive included.

    Call it under the palace's lock, with the journal closed.
    """
    sealing = _Sealing(accepted, key)
    for segment in list_segments(directory, kernel, archived=True):
        _replace(segment.path, kernel, sealing.segment(segment, kernel))
    for place in (directory, f"{directory}/{ARCHIVE}"):
        for name in kernel.list_directory(place):
            if number_of(name, PREFIX) is not None:
                _replace(f"{place}/{name}", kernel, sealing.checkpoint(f"{place}/{name}", kernel))


class _Sealing:
    def __init__(self, accepted: Keyring, key: Key) -> None:
        self._accepted = accepted
        self._key = key
        self._seq, self._link = 0, FIRST

    def segment(self, segment: Segment, kernel: Kernel) -> Generator[bytes, None, None]:
        with closing(self._read(segment.path, kernel)) as found:
            for line, record in found:
                if record is None:
                    yield line
                elif record.action == SEGMENT:
                    yield self._sealed(line, self._link)
                elif segment.end is not None and record.seq >= segment.end:
                    continue  # the next segment repeats it
                elif record.seq <= self._seq:
                    yield line  # it has no place here
                else:
                    new = self._sealed(line, self._link)
                    self._seq, self._link = record.seq, decode(new).link
                    yield new

    def checkpoint(self, path: str, kernel: Kernel) -> Generator[bytes, None, None]:
        codes = blake2b(digest_size=CODE_BYTES)
        with closing(self._read(path, kernel)) as found:
            for line, record in found:
                if record is None:
                    yield line
                elif record.action == CHECKPOINT:
                    yield self._terminator(record, codes.hexdigest())
                else:
                    new = self._sealed(line, FIRST)
                    codes.update(decode(new).link.encode())
                    yield new

    def _read(
        self, path: str, kernel: Kernel
    ) -> Generator[tuple[bytes, Record | None], None, None]:
        """Yield each line and its record, None for what is not accepted."""
        with closing(read_lines(path, kernel)) as lines:
            for _, line in lines:
                try:
                    record = decode(line, self._accepted)
                except BrokenRecord:
                    yield line, None
                else:
                    yield line, record

    def _sealed(self, line: bytes, after: str) -> bytes:
        return seal(authenticate(unseal(line), self._key, after)).strip(b"\n")

    def _terminator(self, record: Record, lines: str) -> bytes:
        payload = {**object_of(record.payload), "lines": lines}
        stamp = Stamp(epoch=record.epoch, writer=record.writer, keys=Keyring([self._key]))
        draft = Draft(action=CHECKPOINT, payload=payload)
        return encode(draft, record.seq, stamp, record.ts).strip(b"\n")


def _replace(path: str, kernel: Kernel, made: Generator[bytes, None, None]) -> None:
    """Put a file of other lines in a file's place, without holding all of it in memory."""
    temporary = f"{path}.tmp"
    kernel.unlink(temporary)
    fd = kernel.open_append(temporary)
    try:
        with closing(made) as lines:  # a write that fails must not leave the old file open
            for line in lines:
                kernel.write_all(fd, b"\n%b\n" % line)
        kernel.sync(fd)
    finally:
        kernel.close(fd)
    kernel.rename(temporary, path)
    kernel.sync_directory(path.rpartition("/")[0])
