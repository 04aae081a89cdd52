"""Lines of what comes in pieces, each of bounded length."""

from collections.abc import Iterable, Iterator


def lines_of(pieces: Iterable[bytes], line_bytes_max: int) -> Iterator[bytes]:
    """Yield lines without their ends; of one that is longer, its beginning alone, as the last.

    One that has no end broke off, and says nothing.
    """
    kept = b""
    for piece in pieces:
        *whole, kept = (kept + piece).split(b"\n")
        yield from whole
        if len(kept) > line_bytes_max:
            yield kept
            return
