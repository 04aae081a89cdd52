"""Changes of kept inputs, for Hypothesis: where no fuzzer is at hand, and in the ordinary tests."""

from collections.abc import Sequence

from hypothesis import strategies as st

_PIECES = (b"\0", b"\xff", b"%", b"\n", b'"', b"\\", b"[", b"{", b"0", b"18446744073709551616")


def mutated(corpus: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return inputs: of the corpus with some changes, two of them joined, or bytes alone."""
    if not corpus:
        return st.binary(max_size=200)
    return st.one_of(_changed(corpus), _changed(corpus), st.binary(max_size=200))


@st.composite
def _changed(draw: st.DrawFn, corpus: Sequence[bytes]) -> bytes:
    data = draw(st.sampled_from(corpus))
    if draw(st.integers(0, 4)) == 0:
        other = draw(st.sampled_from(corpus))
        data = data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]
    for _ in range(draw(st.integers(1, 4))):
        at, size = draw(st.integers(0, len(data))), draw(st.sampled_from((0, 1, 1, 2, 9)))
        new = draw(st.one_of(st.binary(max_size=4), st.sampled_from(_PIECES)))
        data = data[:at] + new + data[at + size :]
    return data
