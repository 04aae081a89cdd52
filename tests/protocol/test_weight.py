"""What a line would become, told before it is parsed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol import jsonrpc, weight
from palace.protocol.request import TOO_MUCH, read_request
from palace.protocol.weight import VALUES_MAX, has_too_many_values, id_at_ends

VALUES = st.recursive(
    st.none() | st.text(max_size=8) | st.integers(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=30,
)


def count(value: object) -> int:
    """Return what is counted: each container, and each member but its first."""
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(map(count, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(count, value))
    return 0


@given(VALUES, st.integers(1, 9))
def test_values_are_counted_whatever_their_texts_hold_and_wherever_a_piece_ends(
    value: object, piece: int
) -> None:
    line = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight, "_PIECE", piece)

        assert not has_too_many_values(line, count(value))
        if count(value):
            assert has_too_many_values(line, count(value) - 1)


@pytest.mark.parametrize(
    "text", ["[],{}," * 9, '"' * 9, "\\" * 9, "\\" * 8 + '"', '\\",[' * 9, "{:[,é😀"]
)
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_text_weighs_nothing(monkeypatch: pytest.MonkeyPatch, text: str, piece: int) -> None:
    monkeypatch.setattr(weight, "_PIECE", piece)

    assert not has_too_many_values(json.dumps([text]).encode(), 1)
    assert not has_too_many_values(json.dumps([text], ensure_ascii=False).encode(), 1)


def test_counting_ends_at_the_limit() -> None:
    assert has_too_many_values(b"[" * 10 + b'"never ended', 9)


@pytest.mark.parametrize("ident", [1, -7, "a", 'with "quotes" and \\', None])
@pytest.mark.parametrize(
    "order",
    [
        ("jsonrpc", "id", "method", "params"),
        ("jsonrpc", "method", "id", "params"),
        ("id", "params"),
        ("method", "params", "jsonrpc", "id"),
        ("method", "params", "id", "jsonrpc"),
    ],
)
def test_the_id_is_found_where_clients_write_it(ident: object, order: tuple[str, ...]) -> None:
    message = {
        "jsonrpc": "2.0",
        "id": ident,
        "method": "tools/call",
        "params": {"id": 5, "items": ["x" * 9000, '"id": 6}']},
    }
    line = json.dumps({name: message[name] for name in order}).encode()

    assert json.loads(id_at_ends(line)) == ident


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"params":{"id":5},"method":"x"}',
        b'{"id":[1]}',
        b'{"id":1e5}',
        b'"id":1',
        b" " * 900,
    ],
)
def test_what_is_not_found_is_null(line: bytes) -> None:
    assert id_at_ends(line) == b"null"


def test_a_line_of_too_many_values_is_not_parsed_and_keeps_its_id() -> None:
    line = b'{"id":7,"method":"ping","params":[' + b"[]," * VALUES_MAX + b"1]}"

    request = read_request(line)

    assert (request.message, request.id) == (TOO_MUCH, 7)
    assert request.expects_reply


def test_a_long_text_is_parsed_like_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    line = b'{"a":"' + "é😀".encode() * 3 + b"\xff\xc3\xe2\x82" + b'"}'
    short = jsonrpc.parse(line)
    monkeypatch.setattr(jsonrpc, "DECODED_BYTES", 5)

    assert jsonrpc.parse(line) == short
    assert read_request(b'"' + b"x" * weight.SHORT_BYTES + b'"').message == "x" * weight.SHORT_BYTES


SMALL = {"SHORT_BYTES": 20, "TEXT_BYTES": 200, "_QUOTES_MAX": 12, "_RUN_MAX": 8}


def outside_strings(line: bytes) -> int:
    """Count the bytes of a line that are in none of its strings, one at a time."""
    count, in_string, escaped = 0, False, False
    for byte in line:
        if in_string and escaped:
            escaped = False
        elif in_string and byte == ord("\\"):
            escaped = True
        elif byte == ord('"'):
            in_string = not in_string
        elif not in_string:
            count += 1
    return count


OUTSIDE = st.sampled_from([b"", b",", b"[0]", b"[" * 15])
INSIDE = st.sampled_from([b"", b"[" * 9, b'\\"', b"\\" * 2, b"\\" * 8, b'\\"' * 3])


@given(parts=st.lists(st.tuples(OUTSIDE, st.lists(INSIDE, max_size=4))), last=OUTSIDE)
def test_a_light_line_holds_little_but_text(
    parts: list[tuple[bytes, list[bytes]]], last: bytes
) -> None:
    line = b"".join(b'%s"%s"' % (outside, b"".join(inside)) for outside, inside in parts) + last
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(weight, name, value)
        light = weight.is_light(line)

    if light and len(line) > SMALL["SHORT_BYTES"]:
        assert len(line) <= SMALL["TEXT_BYTES"]
        assert outside_strings(line) <= SMALL["SHORT_BYTES"]


@pytest.mark.parametrize(
    ("line", "light"),
    [
        (b"[" * 20, True),
        (b"[" * 21, False),
        (b'["' + b"x" * 190 + b'"]', True),
        (b'["' + b"x" * 196 + b'"]', True),
        (b'["' + b"x" * 197 + b'"]', False),
        (b'["' + b"[" * 179 + b'", ' + b"1" * 15 + b"]", True),
        (b'["' + b"x" * 100 + b'", ' + b"1" * 25 + b"]", False),
        (b'["' + b"x" * 100 + b'", ' + b"1" * 16 + b"]", True),
        (b'["' + b"x" * 100 + b'", ' + b"1" * 17 + b"]", False),
        (b'["' + b"x" * 60 + b'", "' + b"x" * 60 + b'", "y"]', True),
        (b"[" * 20 + b'"' + b"x" * 50, True),
        (b"[" * 21 + b'"' + b"x" * 50, False),
        (b'"' + b'\\"' * 10 + b"[" * 50, True),  # a string without its end is no JSON
        (b'"' + b'\\"' * 11 + b"[" * 50, False),  # too many to look at
        (b'"' + b"x" * 30 + b'\\\\"' + b"[" * 25, False),  # the second backslash is escaped
        (b'"' + b"x" * 30 + b'\\\\\\"' + b"[" * 25, True),
        (b'"' + b"\\" * 9 + b'""' + b"[" * 25, False),  # the run is too long to be counted
    ],
)
def test_light_is_what_is_short_or_short_but_for_its_strings(
    monkeypatch: pytest.MonkeyPatch, line: bytes, light: bool
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(weight, name, value)

    assert weight.is_light(line) is light


@pytest.mark.parametrize("line", [b'{"params":{},"id":7}', b'{"id":7,"method":"x"}'])
def test_the_id_of_a_short_line_is_found(line: bytes) -> None:
    assert id_at_ends(line) == b"7"


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_values_around_a_pieces_end_are_counted_once(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(weight, "_PIECE", piece)
    line = b'["a\\\\", "b\\"c,[{", [1, 2], {"d": "\\\\\\""}]'  # 3 brackets, 4 commas

    assert has_too_many_values(line, 6)
    assert not has_too_many_values(line, 7)
