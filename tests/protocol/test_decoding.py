"""Decoding what somebody else may have written."""

import pytest

from palace.protocol.decoding import (
    TEXT_MAX,
    decode_json,
    decode_json_once,
    decode_toml,
    is_number,
    is_text,
    is_word,
    number_in,
)


def test_json_and_toml_are_decoded() -> None:
    assert decode_json(b'{"a": [1]}') == {"a": [1]}
    assert decode_toml(b'a = ["x"]\n') == {"a": ["x"]}


@pytest.mark.parametrize("data", [b"", b"[[", b"[" * 100_000, b"9" * 5000, b"\xff"])
def test_whatever_is_wrong_with_json_is_one_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_json(data)


@pytest.mark.parametrize("data", [b"a =", b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000, b"\xff"])
def test_whatever_is_wrong_with_toml_is_one_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_toml(data)


def test_a_text_is_bounded() -> None:
    assert is_text("x" * TEXT_MAX)
    assert not is_text("x" * (TEXT_MAX + 1))
    assert not is_text(7)


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"n": 7}, 7),
        ({"n": -1}, 0),
        ({"n": 1 << 70}, 0),
        ({"n": True}, 0),
        ({"n": "7"}, 0),
        ({}, 0),
        ([7], 0),
    ],
)
def test_a_number_is_read_or_counts_as_none(fields: object, number: int) -> None:
    assert number_in(fields, "n") == number


def test_what_is_nested_too_deeply_is_said_so() -> None:
    for decode, data in ((decode_json, b"[" * 100_000), (decode_toml, b"a = " + b"[" * 100_000)):
        with pytest.raises(ValueError, match="nested too deeply"):
            decode(data)


def test_numbers_and_words_are_bounded_by_what_is_said() -> None:
    assert is_number(0)
    assert is_number(7, 7)
    assert not is_number(8, 7)
    assert is_number((1 << 63) - 1)
    assert not is_number(1 << 63)
    assert is_word("x" * 3, 3)
    assert not is_word("x" * 4, 3)
    assert not is_word("a\nb")


def test_a_name_that_is_there_twice_is_refused_at_any_depth() -> None:
    assert decode_json_once(b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}') == {
        "a": {"a": 1},
        "b": [{"a": 1}, {"a": 2}],
    }
    for text in (
        '{"a": 1, "a": 1}',
        '[{"b": {"a": 1, "\\u0061": 2}}]',
        "[" * 100_000,
        "{",
        b"\xff",
    ):
        with pytest.raises(ValueError, match=r"."):
            decode_json_once(text)
