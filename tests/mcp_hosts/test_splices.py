"""Splices: exactly these changes are made, and exactly these are undone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.mcp_hosts.splices import (
    Splice,
    Unreadable,
    apply,
    begins_line,
    in_order,
    indent_at,
    newline_of,
    undo,
    undo_elsewhere,
)

TEXT = "one two three"


@st.composite
def sequences(draw: st.DrawFn) -> tuple[str, list[Splice]]:
    """A text, and splices of it, each at a place of the text after those before it."""
    text = now = draw(st.text("ab\n", max_size=12))
    splices = []
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(now)))
        end = draw(st.integers(at, len(now)))
        splice = Splice(at=at, removed=now[at:end], inserted=draw(st.text("ab\n", max_size=3)))
        splices.append(splice)
        now = now[:at] + splice.inserted + now[end:]
    return text, splices


@given(sequences())
def test_what_was_applied_is_undone_to_the_character(case: tuple[str, list[Splice]]) -> None:
    text, splices = case

    assert undo(apply(text, splices), splices) == text


def test_places_of_a_later_splice_are_those_of_the_text_before_it() -> None:
    splices = [Splice(at=4, removed="two", inserted="2"), Splice(at=6, removed="three")]

    assert apply(TEXT, splices) == "one 2 "
    assert undo("one 2 ", splices) == TEXT


@pytest.mark.parametrize("text", ["one tow three", "one", ""])
def test_another_text_is_left_alone(text: str) -> None:
    splices = [Splice(at=4, removed="two", inserted="2")]

    with pytest.raises(ValueError, match="offset 4"):
        apply(text, splices)
    with pytest.raises(ValueError, match="offset 4"):
        undo(text, splices)


def test_places_of_one_text_become_a_sequence_with_the_last_first() -> None:
    splices = [Splice(at=0, removed="one"), Splice(at=8, removed="three"), Splice(at=4)]

    assert [splice.at for splice in in_order(splices)] == [8, 4, 0]
    assert apply(TEXT, in_order(splices)) == " two "


def test_what_was_inserted_is_found_again_in_a_text_that_has_changed_around_it() -> None:
    splices = [Splice(at=4, removed="two", inserted="2"), Splice(at=0, inserted="zero ")]
    now = apply(TEXT, splices)

    assert undo_elsewhere(f"more\n{now}\nand more", splices) == f"more\n{TEXT}\nand more"


def test_what_is_not_found_or_found_twice_is_not_undone() -> None:
    splices = [Splice(at=4, removed="two", inserted="2")]

    assert undo_elsewhere("one three", splices) is None
    assert undo_elsewhere("one 2 2 three", splices) is None
    assert undo_elsewhere(TEXT, [Splice(at=4, removed="two")]) is None


def test_lines_and_indents_are_those_of_the_place() -> None:
    text = "a:\r\n \t b\r\n"

    assert newline_of(text) == "\r\n"
    assert newline_of("a\nb\r\n") == newline_of("a") == newline_of("\n") == "\n"
    assert indent_at(text, 7) == " \t "
    assert indent_at(text, 5) == " "
    assert indent_at(text, 1) == ""
    assert begins_line(text, 7)
    assert begins_line(text, 0)
    assert not begins_line(text, 8)


def test_what_can_not_be_read_is_told_by_its_line() -> None:
    odd = Unreadable("a\nb\nc", 4, "it is odd")

    assert (odd.line, str(odd), odd.summary) == (3, "line 3: it is odd", "can't be parsed (line 3)")
