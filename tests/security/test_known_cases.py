"""What a case script means that can't say it any more is held by a test of ours."""

from pathlib import Path

import pytest

from tests.process.known_cases import KNOWN
from tests.process.test_case_scripts import in_other_words, named, say_today, scripts
from tests.security.threats import exists


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith("security/")])
def test_a_script_of_an_attack_that_goes_no_further_names_what_holds_it(name: str) -> None:
    held_by = KNOWN[name].held_by

    assert held_by, "nothing holds it"
    assert [test for test in held_by if not exists(test)] == []


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith("security/")])
def test_a_script_of_an_attack_that_goes_no_further_is_tried_in_todays_words(name: str) -> None:
    assert KNOWN[name].today is not None, "its reason is only said"


def test_todays_words_take_the_place_of_words_that_the_scripts_say(tmp_path: Path) -> None:
    for name in {named(path) for path in scripts()} & KNOWN.keys():
        if KNOWN[name].today is not None:
            (directory := tmp_path / Path(name).stem).mkdir()
            assert say_today(name, directory).name == Path(name).name


def test_words_that_a_script_does_not_say_any_more_are_named() -> None:
    assert in_other_words("one two", (("one", "a"), ("two", "b"))) == "a b"
    with pytest.raises(AssertionError, match="'three'"):
        in_other_words("one two", (("three", "c"),))


def test_none_is_listed_that_is_no_more() -> None:
    there = {named(path) for path in scripts()}

    assert not there or KNOWN.keys() <= there


def test_a_test_that_is_not_there_is_found_out() -> None:
    assert exists("tests/security/test_known_cases.py::test_none_is_listed_that_is_no_more")
    assert not exists("tests/security/test_known_cases.py::test_none_is_listed")
    assert not exists("tests/security/test_no_such.py::test_none_is_listed_that_is_no_more")
