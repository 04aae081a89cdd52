"""Patterns that no text keeps busy: what repeats within a repetition gives nothing back.

A pattern that can cut a run in many ways tries them all before it gives up, which takes for ever on
a text that somebody made for it.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]

import pytest

import palace.memory

REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
GROUPS = (*REPEATS, codes.POSSESSIVE_REPEAT, codes.SUBPATTERN, codes.BRANCH)


def compiled(value: object) -> Iterator[str]:
    if isinstance(value, re.Pattern):
        yield value.pattern
    elif isinstance(value, tuple | list):
        for part in value:
            yield from compiled(part)


def patterns() -> list[str]:
    found = []
    for module in pkgutil.iter_modules(palace.memory.__path__):
        for value in vars(importlib.import_module(f"palace.memory.{module.name}")).values():
            found += compiled(value)
    return sorted(set(found))


def faults(tree, *, within: bool = False, kept: bool = False) -> Iterator[str]:
    """Yield repetitions without a bound, and those within others, that can give back.

    `kept`: the tree is of an atomic group, which gives nothing back.  A possessive repetition of
    more than one character is wrong before Python 3.11.5: it keeps what a failed turn had matched.
    """
    for code, argument in tree:
        if code in REPEATS:
            least, most, body = argument
            if most is codes.MAXREPEAT and not kept:
                yield "no bound"
            if within and least != most and most > 1:
                yield "a repetition within another"
            yield from faults(body, within=within or most > 1)
        elif code is codes.POSSESSIVE_REPEAT:
            if len(argument[2]) != 1 or argument[2][0][0] in GROUPS:
                yield "a possessive repetition of a group"
            yield from faults(argument[2])
        elif code is codes.ATOMIC_GROUP:
            yield from faults(argument, kept=True)
        elif code is codes.SUBPATTERN:
            yield from faults(argument[-1], within=within)
        elif code is codes.BRANCH:
            for branch in argument[1]:
                yield from faults(branch, within=within)
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            yield from faults(argument[1])


@pytest.mark.parametrize("pattern", patterns())
def test_no_pattern_is_kept_busy(pattern: str) -> None:
    assert list(faults(parser.parse(pattern))) == []


def test_the_rule_finds_what_it_forbids() -> None:
    assert len(patterns()) > 50
    for bad in (
        r"(?:[A-Za-z]{2,24}(?:[_-]?[A-Za-z]{2,24}){0,8})!",
        r"(a+)+b",
        r"a*b",
        r"(?:a|b{1,9}){3}",
        r"(?:ab)*+c",
        r"(?:a|bc){1,3}+",
        r"(a)?+",
    ):
        assert list(faults(parser.parse(bad))), bad
    for good in (
        r"(?:[a-z]{1,9}+-){0,8}",
        r"a*+",
        r"(?>a*+)b{1,4}",
        r"(?>(?:ab)*)c",
        r"(?:ab){3}c{1,9}",
    ):
        assert not list(faults(parser.parse(good))), good
