"""Each test can fail: it asserts something, and nothing that is true whatever the code does.

A test asserts by `assert`, by `raise`, by expecting an exception or a warning, by a limit within
which something has to happen, or by a function of tests/ that does any of these.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
# Calls of others' code that fail a test by themselves.
FAILING = frozenset({"raises", "warns", "fail", "fail_after", "check_call", "check_output"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Facts(NamedTuple):
    """Of one function: where it is, whether it fails by itself, and the names of what it calls."""

    path: str
    name: str
    line: int
    fails: bool
    called: frozenset[str]

    @classmethod
    def of(cls, path: str, function: Function) -> "Facts":
        called, fails = set(), False
        for part in ast.walk(function):
            if isinstance(part, ast.Assert | ast.Raise):
                fails = True
            elif isinstance(part, ast.Call):
                name = part.func
                if isinstance(name, ast.Attribute | ast.Name):
                    called.add(name.attr if isinstance(name, ast.Attribute) else name.id)
                fails = fails or any(map(is_checked, part.keywords))
        return cls(
            path, function.name, function.lineno, fails or bool(called & FAILING), frozenset(called)
        )


def is_checked(keyword: ast.keyword) -> bool:
    """Tell whether an argument has a program's failure raised: `check=True`."""
    value = keyword.value
    return keyword.arg == "check" and isinstance(value, ast.Constant) and value.value is True


def asserting(facts: Sequence[Facts]) -> set[str]:
    """Return the names of functions that fail by themselves, or by others of these functions."""
    known = {one.name for one in facts if one.fails}
    while more := {one.name for one in facts if one.name not in known and one.called & known}:
        known |= more
    return known


def idle(test: ast.expr) -> str:
    """Return why an asserted expression is true whatever the code does, "" where it need not be."""
    if isinstance(test, ast.Tuple | ast.List | ast.Dict | ast.Lambda | ast.JoinedStr):
        return "it is no condition"
    if isinstance(test, ast.GeneratorExp):
        return "a generator is always true: all(...) or any(...)?"
    parts = list(ast.walk(test))
    if not any(isinstance(part, ast.Name | ast.Attribute | ast.Call) for part in parts):
        return "it compares constants"
    ors = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else ()
    if any(isinstance(value, ast.Constant) and value.value for value in ors):
        return "one of the alternatives is a constant"
    if isinstance(test, ast.Compare) and not any(isinstance(part, ast.Call) for part in parts):
        sides = [ast.unparse(side) for side in (test.left, *test.comparators)]
        if len(set(sides)) < len(sides):
            return "something is compared with itself"
    return ""


def complaints(sources: Mapping[str, str]) -> list[str]:
    facts, said = [], []
    for path, source in sources.items():
        for part in ast.walk(ast.parse(source)):
            if isinstance(part, Function):
                facts.append(Facts.of(path, part))
            elif isinstance(part, ast.Assert) and (why := idle(part.test)):
                said.append(f"{path}:{part.lineno}: {ast.unparse(part)[:80]}: {why}")
    known = asserting(facts)
    said += [
        f"{one.path}:{one.line}: {one.name} asserts nothing"
        for one in facts
        if one.name.startswith("test_") and not one.fails and not one.called & known
    ]
    return said


def test_each_test_can_fail() -> None:
    paths = sorted(TESTS.rglob("*.py"))
    assert complaints({str(path): path.read_text() for path in paths}) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("work()", "asserts nothing"),
        ("for each in work(): print(each)", "asserts nothing"),
        ("assert (work() == 1, 'why')", "it is no condition"),
        ("assert (one for one in work())", "a generator is always true"),
        ("assert 1 == 1", "it compares constants"),
        ("assert True", "it compares constants"),
        ("assert work() or 'none'", "one of the alternatives is a constant"),
        ("assert one.name == one.name", "something is compared with itself"),
        ("assert one <= two <= one", "something is compared with itself"),
    ],
)
def test_what_cannot_fail_is_found(body: str, says: str) -> None:
    source = f"def work(): pass\ndef test_it(one, two):\n    {body}\n"

    (said,) = complaints({"tests/test_x.py": source})

    assert said.startswith("tests/test_x.py:")
    assert says in said


@pytest.mark.parametrize(
    "body",
    [
        "assert work() == 1",
        "assert make() == make()",
        "check(work())",
        "with pytest.raises(OSError): work()",
        "with trio.fail_after(9): work()",
        "subprocess.run(['true'], check=True)",
        "if work(): raise AssertionError",
        "assert one or two",
    ],
)
def test_what_can_fail_is_not(body: str) -> None:
    helper = "def check(found): within(found)\ndef within(found): assert found\n"
    source = f"def work(): pass\n{helper}def test_it(one, two):\n    {body}\n"

    assert complaints({"tests/test_x.py": source}) == []
