"""Code that stands in two places: runs of six or more equal lines across the tree's own code.

Lines are compared as they are written, names included, but for their indentation. Blank lines,
comments, imports, docstrings and lone brackets are passed over: they neither count nor interrupt
a run.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ROOMS = ("palace", "bench", "images", "tests/support")
LINES_MIN = 6
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# Pairs that wait for their code to be put into one place: (file, file, first line of the run).
# An entry that is no longer found fails the test, too, so this can only become empty.
PENDING = {
    # Both run as programs that must not import tests.
    (
        "tests/support/engines/maintenance.py",
        "tests/support/engines/probe.py",
        "assert self._process.stdin is not None",
    ),
}


class Line(NamedTuple):
    """A line of code: its file, its number and its text without indentation."""

    path: str
    number: int
    text: str


class Run(NamedTuple):
    """The same lines in two places."""

    one: Line
    other: Line
    length: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.one.path, self.other.path, self.one.text

    def __str__(self) -> str:
        places = [f"{line.path}:{line.number}" for line in (self.one, self.other)]
        return f"{' and '.join(places)} share {self.length} lines from `{self.one.text}` on"


def code_lines(path: str, text: str) -> list[Line]:
    """Return the lines that count."""
    tree = ast.parse(text)
    ignored: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            passed: ast.stmt = node.body[0]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            passed = node
        else:
            continue
        ignored |= set(range(passed.lineno, (passed.end_lineno or passed.lineno) + 1))
    found = []
    for number, row in enumerate(text.splitlines(), 1):
        words = row.strip()
        if number not in ignored and re.search(r"\w", words) and not words.startswith("#"):
            found.append(Line(path, number, words))
    return found


def runs(files: Iterable[list[Line]]) -> list[Run]:
    """Return each longest run that two places share; places in one file don't overlap."""
    all_files = list(files)
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for index, lines in enumerate(all_files):
        texts = [line.text for line in lines]
        for start in range(len(texts) - LINES_MIN + 1):
            places[tuple(texts[start : start + LINES_MIN])].append((index, start))
    found: list[Run] = []
    seen: set[tuple[int, int, int, int]] = set()
    for same in places.values():
        for position, (a, i) in enumerate(same):
            for b, j in same[position + 1 :]:
                if (a, i, b, j) in seen or (a == b and j - i < LINES_MIN):
                    continue
                one, other, length = all_files[a], all_files[b], 0
                while i + length < len(one) and j + length < len(other):
                    if one[i + length].text != other[j + length].text:
                        break
                    if a == b and i + length >= j:
                        break
                    seen.add((a, i + length, b, j + length))
                    length += 1
                found.append(Run(one[i], other[j], length))
    return found


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def test_no_code_stands_in_two_places() -> None:
    found = runs(code_lines(str(p.relative_to(ROOT)), p.read_text()) for p in sources())

    assert not [str(run) for run in found if run.key not in PENDING]
    assert {run.key for run in found} >= PENDING, "pending pairs that are gone: take them out"


BODY = "a = 1\nb = 2\nfor c in d:\n    e(c)\n    f(c)\ng = 3\n"
INDENTED = "def h():\n" + "".join(f"    {row}\n" for row in BODY.splitlines())


def test_the_same_six_lines_are_found_whatever_stands_between_them() -> None:
    between = BODY.replace("b = 2", "# why\n\nimport os\nb = 2").replace("e(c)", "e(c)  ")

    assert runs([code_lines("x", BODY), code_lines("y", INDENTED)])[0].length == LINES_MIN
    assert str(runs([code_lines("x", BODY), code_lines("y", between)])[0]).startswith("x:1 and y:1")
    assert len(runs([code_lines("x", f"{BODY}{BODY}")])) == 1


def test_other_names_and_five_lines_are_no_pair() -> None:
    assert not runs([code_lines("x", BODY), code_lines("y", BODY.replace("f(c)", "f(d)"))])
    assert not runs([code_lines("x", BODY), code_lines("y", BODY.removesuffix("g = 3\n"))])
    documented = [f'"""One\ntwo\nthree\nfour\nfive\nsix {name}"""\n' for name in "xx"]
    assert not runs([code_lines(name, text) for name, text in zip("xy", documented, strict=True)])
