"""Durations and log lines as people and programs read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.kernel.durations import span
from palace.kernel.logline import fields_of, log_line


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (9000, "2.5 h"),
    ],
)
def test_a_duration_is_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_a_value_is_bare_where_nothing_in_it_could_be_taken_for_something_else() -> None:
    assert log_line({"a": "b/c:1", "none": "", "text": 'x="y"', "odd": "\x1b[0m", "e": "é"}) == (
        'a=b/c:1 text="x=\\"y\\"" odd="\\u001b[0m" e="é"'
    )


@given(st.dictionaries(st.from_regex(r"\A[a-z_]{1,8}\Z"), st.text(min_size=1), max_size=5))
def test_a_line_is_one_line_and_says_what_it_was_made_of(fields: dict[str, str]) -> None:
    line = log_line(fields)

    assert "\n" not in line
    assert fields_of(line) == fields


def test_what_is_no_field_is_passed_over() -> None:
    assert fields_of('stray a=1 "b" c="half') == {"a": "1", "c": '"half'}
    assert fields_of(r'a="\x"') == {"a": r'"\x"'}
