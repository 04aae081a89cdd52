"""Lines out of pieces: the same ones, wherever the pieces end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.oversize import IdScanner
from palace.shim.input_lines import InputLines


def read(pieces: list[bytes], limit: int = 1 << 20) -> list[bytes | IdScanner]:
    lines = InputLines()
    lines.line_bytes_max = limit
    found = [line for piece in pieces for line in lines.feed(piece)]
    found += lines.end()
    assert lines.end() == [], "it was taken"
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]


@given(
    st.lists(st.sampled_from([b"{}", b"", b"  ", b"long line", b"\xff"]), max_size=6),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_lines_are_the_same_wherever_their_pieces_end(
    lines: list[bytes], places: list[int]
) -> None:
    data = b"\n".join(lines)

    assert read(cut(data, places)) == [line for line in lines if line.strip()]


def test_half_a_line_before_the_end_counts() -> None:
    assert read([b'{"id"', b":1}"]) == [b'{"id":1}']


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_a_line_of_more_than_the_limit_is_not_kept_but_has_its_id(size: int) -> None:
    line = b'{"id":5,"x":"' + b"y" * 20 + b'"}'
    pieces = [line[at : at + size] for at in range(0, len(line), size)]

    kept = read([*pieces, b"\n"], limit=len(line))
    assert kept == [line]
    scanner, after = read([*pieces, b"\nnext"], limit=len(line) - 1)
    assert isinstance(scanner, IdScanner)
    assert scanner.request_id() == 5
    assert after == b"next"
