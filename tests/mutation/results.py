"""What mutmut found out about a room's mutants, and which survivors are excused.

A mutant is known by its function and by the lines that it changes, since mutmut's numbers move with
every edit of the function.
"""

import ast
import difflib
import json
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.mutation.rooms import ROOT, Room, room_of

EXCUSED = Path(__file__).with_name("excused.toml")
KILLED = frozenset({1, 3, 24, -24, 36, 37, 152, 255})  # by a failed test, a time limit, or a type
UNTRIED = frozenset({None, 2, 34})
_WORDS = re.compile(r'"[^"]* [^"]*"')
_NUMBER = re.compile(r"__mutmut_\d+$")
_ANY_NUMBER = re.compile(r"__mutmut_(\d+|orig)\b")
_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


@attrs.frozen
class Mutant:
    """A mutant that was made: its name for mutmut, its function, and the lines it changes."""

    name: str
    function: str
    before: str
    after: str

    @property
    def differs_in_words(self) -> bool:
        """Tell whether nothing but the letters of a text with a space in it have changed."""
        same = self.after.replace("XX", "").casefold() == self.before.casefold()
        return same and bool(_WORDS.search(self.before))

    def text(self) -> str:
        return f"{self.function}\n  - {self.before}\n  + {self.after}"


@attrs.define
class Tally:
    """What came of a room's mutants."""

    killed: int = 0
    untried: int = 0
    excused: Counter[str] = attrs.field(factory=Counter)  # by their reason
    survivors: list[Mutant] = attrs.field(factory=list)

    @property
    def rate(self) -> float:
        """Return the share of killed ones; those that change nothing don't count."""
        tried = self.killed + len(self.survivors)
        return self.killed / tried if tried else 1.0


@attrs.frozen
class Excuse:
    """A reason why mutants change nothing that anybody can see.

    `changes` is a pattern of "before -> after"; `function` is a pattern of names; `words` stands
    for a change to nothing but the words of a text for people.
    """

    reason: str
    changes: re.Pattern[str]
    function: re.Pattern[str]
    words: bool

    def covers(self, mutant: Mutant) -> bool:
        change = f"{mutant.before} -> {mutant.after}"
        fits = mutant.differs_in_words if self.words else self.changes.search(change)
        return bool(fits and self.function.fullmatch(mutant.function))


def excuses() -> list[Excuse]:
    """Read the list of excused survivors."""
    entries = tomllib.loads(EXCUSED.read_text())["excused"]
    return [
        Excuse(
            reason=entry["reason"],
            changes=re.compile(entry.get("changes", "")),
            function=re.compile(entry.get("function", ".*")),
            words=entry.get("words", False),
        )
        for entry in entries
    ]


def tally(room: Room, known: list[Excuse], names: list[str] | None = None) -> Tally:
    """Count what is known by now of a room's mutants, or of those that are named.

    `names` are mutants, or functions, which stand for all of theirs.
    """
    result = Tally()
    for name, code in _exit_codes(room):
        if names is not None and not {name, _NUMBER.sub("", name)} & set(names):
            continue
        if code in UNTRIED:
            result.untried += 1
        elif code in KILLED:
            result.killed += 1
        else:
            mutant = _mutant(room, name)
            excuse = next((each for each in known if each.covers(mutant)), None)
            if excuse is None:
                result.survivors.append(mutant)
            else:
                result.excused[excuse.reason] += 1
    return result


def mutants_of(room: Room, *, untried: bool = False) -> list[str]:
    """Return the names of all mutants that were made of a room, or of those not tried yet."""
    return [name for name, code in _exit_codes(room) if code in UNTRIED or not untried]


def try_survivors_again(room: Room) -> None:
    """Let the next run try all that survived, since tests have changed."""
    for meta in _metas(room):
        data = json.loads(meta.read_text())
        codes = data["exit_code_by_key"]
        again = {name: code if code in KILLED else None for name, code in codes.items()}
        if again != codes:
            meta.write_text(json.dumps(data | {"exit_code_by_key": again}, indent=4))


def changed_functions(since: str) -> dict[Room, list[str]]:
    """Return the functions of rooms that differ from a commit's, by mutmut's names for them."""
    found: dict[Room, list[str]] = {}
    command = ["git", "diff", "--name-only", since, "--", "palace"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for path in done.stdout.splitlines():
        room = room_of(path)
        if room is not None and (ROOT / path).is_file():
            found.setdefault(room, []).extend(_functions(path, _changed_lines(path, since)))
    return {room: names for room, names in found.items() if names}


def _changed_lines(path: str, since: str) -> set[int]:
    command = ["git", "diff", "-U0", since, "--", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines: set[int] = set()
    for first, count in _HUNK.findall(done.stdout):
        # Where lines were only taken away, the function around that place has changed.
        lines.update(range(int(first), int(first) + max(1, int(count or 1))))
    return lines


def _functions(path: str, lines: set[int]) -> Iterator[str]:
    """Yield mutmut's names of the functions that have one of these lines."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in ast.parse((ROOT / path).read_text()).body:
        methods = node.body if isinstance(node, ast.ClassDef) else [node]
        for each in methods:
            if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if lines & set(range(each.lineno, (each.end_lineno or each.lineno) + 1)):
                owner = f"xǁ{node.name}ǁ" if isinstance(node, ast.ClassDef) else "x_"
                yield f"{module}.{owner}{each.name}"


def _metas(room: Room) -> list[Path]:
    return sorted((room.workspace / "mutants" / room.source).rglob("*.py.meta"))


def _exit_codes(room: Room) -> Iterator[tuple[str, int | None]]:
    for meta in _metas(room):
        if meta.with_suffix("").exists():
            yield from json.loads(meta.read_text())["exit_code_by_key"].items()


def _mutant(room: Room, name: str) -> Mutant:
    module, _, mangled = name.rpartition(".")
    path = room.workspace / "mutants" / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    spans = json.loads(path.with_name(path.name + ".spans").read_text())["spans"]
    lines = path.read_text().splitlines()
    stock = _NUMBER.sub("__mutmut_orig", mangled)
    first, second = (
        [_ANY_NUMBER.sub("", line) for line in lines[spans[each][0] - 1 : spans[each][1]]]
        for each in (stock, mangled)
    )
    changed = [
        line
        for line in difflib.unified_diff(first, second, lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    before = " ".join(line[1:].strip() for line in changed if line.startswith("-"))
    after = " ".join(line[1:].strip() for line in changed if line.startswith("+"))
    return Mutant(name, _readable(module, _NUMBER.sub("", mangled)), before, after)


def _readable(module: str, mangled: str) -> str:
    return f"{module}." + mangled.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
