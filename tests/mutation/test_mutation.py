"""How survivors are named and excused; what the tests find is up to `just mutants`."""

import re

import pytest

from tests.mutation.__main__ import sample_of
from tests.mutation.results import Excuse, Mutant, _functions, _readable, excuses
from tests.mutation.rooms import ROOMS, ROOT, Room, room_of


def mutant(before: str, after: str, function: str = "palace.a.f") -> Mutant:
    return Mutant("", function, before, after)


def test_every_excuse_has_its_reason_and_says_what_it_excuses() -> None:
    for excuse in excuses():
        assert excuse.reason
        assert excuse.words or excuse.changes.pattern


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('raise Odd("it is odd")', 'raise Odd("XXit is oddXX")', True),
        ('raise Odd("it is odd")', 'raise Odd("IT IS ODD")', True),
        ('raise Odd("it is odd")', "raise Odd(None)", False),
        ('raise Odd("it is odd", 3)', 'raise Odd("it is odd", 4)', False),
        ('{"name": 3}', '{"XXnameXX": 3}', False),
    ],
)
def test_the_same_text_in_other_letters_is_told_from_all_else(
    before: str, after: str, words: bool
) -> None:
    assert mutant(before, after).differs_in_words is words


def test_an_excuse_covers_a_change_only_in_its_function() -> None:
    excuse = Excuse("why", re.compile(r"a -> b"), re.compile(r"palace\.a\..*"), words=False)

    assert not excuse.covers(mutant("x = a", "x = b"))
    assert excuse.covers(mutant("x = a", "b"))
    assert not excuse.covers(mutant("x = a", "b", "palace.b.f"))


def test_changed_lines_are_the_functions_that_mutmut_knows() -> None:
    path = "palace/protocol/keyring.py"
    lines = (ROOT / path).read_text().splitlines()
    code = next(at for at, line in enumerate(lines, 1) if "def code" in line)

    assert list(_functions(path, {code + 1})) == ["palace.protocol.keyring.xǁKeyǁcode"]
    assert list(_functions(path, {1})) == []
    assert _readable("palace.protocol.keyring", "xǁKeyǁcode") == "palace.protocol.keyring.Key.code"
    assert _readable("palace.protocol.wire", "x_number_of") == "palace.protocol.wire.number_of"


def test_every_room_has_tests_and_every_module_but_a_few_has_a_room() -> None:
    for name in ROOMS:
        assert (ROOT / Room(name).source).is_dir()
        assert (ROOT / Room(name).tests).is_dir()
    files = (str(path.relative_to(ROOT)) for path in (ROOT / "palace").rglob("*.py"))
    loose = {path.rsplit("/", 1)[0] for path in files if room_of(path) is None}
    assert loose == {"palace", "palace/engine"}


def test_a_sample_is_the_same_for_its_seed_whatever_order_the_mutants_come_in() -> None:
    mutants = [f"palace.a.f__mutmut_{number}" for number in range(40)]

    sampled = sample_of(mutants, 10, seed=3)
    assert len(set(sampled)) == 10
    assert sample_of(mutants[::-1], 10, seed=3) == sampled
    assert sample_of(mutants, 10, seed=4) != sampled
    assert sorted(sample_of(mutants, 99, seed=3)) == sorted(mutants)
