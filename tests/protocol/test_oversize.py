import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.oversize import IdScanner

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
SCALARS = st.one_of(st.integers(), st.text(max_size=30), st.none(), st.booleans())


def scan(line: bytes, size: int) -> object:
    scanner = IdScanner()
    for start in range(0, len(line), size):
        scanner.feed(line[start : start + size])
    return scanner.request_id()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "params", 'x"y', "id2", ""]), JSON), max_size=4),
    SCALARS,
    st.integers(0, 4),
    st.integers(1, 40),
    st.booleans(),
)
def test_the_outermost_id_is_found_wherever_it_stands(
    members: list, ident: object, place: int, size: int, spaced: bool
) -> None:
    members = [*members[:place], ("id", ident), *members[place:]]
    separators = (", ", " : ") if spaced else (",", ":")
    body = separators[0].join(f"{json.dumps(k)}{separators[1]}{json.dumps(v)}" for k, v in members)

    assert scan(f"{{{body}}}".encode(), size) == ident


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[1, 2]",
        b'"id"',
        b'{"params": {"id": 3}}',
        b'{"id": [1]}',
        b'{"id": ["a"]}',
        b"\x00\xff" * 50,
    ],
)
def test_no_id_is_found_where_there_is_none(line: bytes) -> None:
    assert scan(line, 7) is None


def test_an_id_survives_what_is_cut_off_behind_it() -> None:
    assert scan(b'{"id": 12, "params": {"text": "aaaa', 5) == 12


def test_an_endless_id_is_not_kept() -> None:
    scanner = IdScanner()
    scanner.feed(b'{"id": "')
    for _ in range(100):
        scanner.feed(b"x" * 1000)

    assert scanner.request_id() is None
    assert len(scanner._token) < 10_000


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("text", ["a\\", "\\\\", 'a\\"b', "\\a\\\\b"])
def test_a_string_ends_where_it_does_whatever_is_escaped_in_it(text: str, size: int) -> None:
    line = json.dumps({"text": text, "id": 7}).encode()

    assert scan(line, size) == 7
    assert scan(json.dumps({"id": text}).encode(), size) == text
