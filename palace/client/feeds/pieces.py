"""Lines of what comes in pieces, each of bounded length."""

from collections.abc import Iterable, Iterator


def lines_of(pieces: Iterable[bytes], line_bytes_max: int) -> Iterator[bytes]:
    """Yield lines without their ends; of one that is longer, its beginning alone, as the last.

    One that has no end broke off, and says nothing.
    """
    kept = bytearray()  # what comes in small pieces would else be copied once for each of them
    for piece in pieces:
        first, newline, others = piece.partition(b"\n")
        kept.extend(first)
        if newline:
            yield bytes(kept)
            *whole, last = others.split(b"\n")
            yield from whole
            kept = bytearray(last)
        if len(kept) > line_bytes_max:
            yield bytes(kept)
            return
