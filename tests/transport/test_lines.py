"""Lines out of bytes: whole ones only, wherever the pieces were cut, and none without a limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.errors import WireError
from palace.transport.lines import LineSplitter

LIMIT = 16


@given(
    st.lists(st.binary(max_size=LIMIT).filter(lambda line: b"\n" not in line), max_size=12),
    st.data(),
)
def test_lines_come_back_however_the_stream_is_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter(LIMIT)
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]

    assert found == lines


def test_half_a_line_waits_for_its_newline() -> None:
    splitter = LineSplitter(LIMIT)

    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.feed(b"o") == []
    assert splitter.feed(b"\n\n") == [b"two", b""]


def test_a_line_may_be_as_long_as_the_limit() -> None:
    splitter = LineSplitter(LIMIT)

    assert splitter.feed(b"x" * LIMIT) == []
    assert splitter.feed(b"\n") == [b"x" * LIMIT]


@pytest.mark.parametrize("before", [[], [LIMIT], [1] * LIMIT])
def test_a_line_without_an_end_is_refused_beyond_its_limit(before: list[int]) -> None:
    splitter = LineSplitter(LIMIT)
    splitter.feed(b"a line\n")
    for size in before:
        assert splitter.feed(b"x" * size) == []

    with pytest.raises(WireError, match="16 bytes"):
        splitter.feed(b"x" * (LIMIT + 1 - sum(before)))


def test_many_short_lines_at_once_are_no_long_one() -> None:
    assert LineSplitter(LIMIT).feed(b"line\n" * 100) == [b"line"] * 100


@pytest.mark.parametrize("data", [b"x" * (LIMIT + 1) + b"\n", b"ok\n" + b"x" * (LIMIT + 1)])
def test_a_line_is_too_long_in_whichever_pieces_it_comes(data: bytes) -> None:
    with pytest.raises(WireError, match="more than"):
        LineSplitter(LIMIT).feed(data)
