"""Lines out of pieces: the same ones, wherever it is cut, and none that grows without end."""

from itertools import repeat
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from palace.client.feeds.pieces import lines_of


@given(text=st.binary(max_size=60), size=st.integers(1, 7))
def test_lines_are_the_same_wherever_they_are_cut(text: bytes, size: int) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(lines_of(pieces, 100)) == text.split(b"\n")[:-1], "what has no end broke off"


def test_a_line_without_an_end_is_cut_and_nothing_is_read_behind_it() -> None:
    (line,) = lines_of(repeat(b"x" * 100), 1000)
    assert 1000 < len(line) <= 1100
    assert [*lines_of([b"a\n", b"b" * 20, b"c\n"], 10)] == [b"a", b"b" * 20]


class Piece(bytes):
    """Notes what it is added to."""

    added_to: ClassVar[list[int]] = []

    def __radd__(self, before: bytes) -> bytes:
        self.added_to.append(len(before))
        return before + bytes(self)


def test_a_long_line_in_small_pieces_is_not_copied_for_each_of_them() -> None:
    """Whoever answers would else have the puller copy gigabytes for each megabyte."""
    pieces = [Piece(b"x" * 16)] * 1000 + [Piece(b"\n")]

    assert [len(line) for line in lines_of(pieces, 1 << 20)] == [16_000]
    assert sum(Piece.added_to) <= 16_000
