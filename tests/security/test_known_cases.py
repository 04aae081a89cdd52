"""What a case script means that can't say it any more is held by a test of ours."""

import pytest

from tests.process.known_cases import KNOWN
from tests.process.test_case_scripts import named, scripts
from tests.security.threats import exists


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith("security/")])
def test_a_script_of_an_attack_that_goes_no_further_names_what_holds_it(name: str) -> None:
    held_by = KNOWN[name].held_by

    assert held_by, "nothing holds it"
    assert [test for test in held_by if not exists(test)] == []


def test_none_is_listed_that_is_no_more() -> None:
    there = {named(path) for path in scripts()}

    assert not there or KNOWN.keys() <= there


def test_a_test_that_is_not_there_is_found_out() -> None:
    assert exists("tests/security/test_known_cases.py::test_none_is_listed_that_is_no_more")
    assert not exists("tests/security/test_known_cases.py::test_none_is_listed")
    assert not exists("tests/security/test_no_such.py::test_none_is_listed_that_is_no_more")
