"""The table of promises: a sentence of a document, the tests that hold it, and their mutants.

A document has a file here, NAME.toml, with one `[[promise]]` for each promise:

    says = "a sentence, or a cell of a table, exactly as the document has it"
    name = "a-name"         # where another promise has the same rows
    as = "another-name"     # instead of mutants of its own

    [[promise.mutant]]
    file = "palace/room/module.py"
    red = "tests/room/test_module.py::test_name"    # or a list; each must turn red
    slip = '''
     a line beside it, where that is needed to find the place
    -a line that stands once in the file
    +what the slip makes of it
    '''

`describes` lists how the paragraphs begin that promise nothing, or nothing that isn't promised
elsewhere.  `untried` lists what is promised and has no mutants yet: beginnings of paragraphs, and
cells of tables.  killed.txt holds a digest of each mutant that was tried and killed, which takes in
the test's own source: what has changed since then has to be tried again.
"""

import ast
import functools
import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
KILLED = HERE / "killed.txt"
DOCUMENTS = {
    "readme": "README.md",
    "security": "docs/security.md",
    "design": "docs/design.md",
}
MUTANTS_MIN = 3
LINES_MAX = 3  # a slip is a line, or an `if` and what it guards
_NO_PROSE = ("#", "|", "```", " ")
OPEN_ENDS = ("## Limits", "## Not held yet", "## Not there yet")  # what follows takes promises back


@attrs.frozen
class Mutant:
    """A change of some lines that stand once in `file`; each test of `red` must fail with it."""

    file: str
    slip: str
    red: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """Return the lines of the change, each with its sign."""
        return [line for line in self.slip.splitlines() if line]

    @property
    def old(self) -> str:
        return _block(line[1:] for line in self.lines if line[0] in " -")

    @property
    def new(self) -> str:
        return _block(line[1:] for line in self.lines if line[0] in " +")

    def count(self, text: str) -> int:
        """Return how often the lines stand in a text."""
        return f"\n{text}".count(self.old)

    @property
    def keys(self) -> dict[str, str]:
        """Return the digest of this slip with each test that must notice it."""
        return {test: self._key(test) for test in self.red}

    def _key(self, test: str) -> str:
        parts = (self.file, *self.lines, test, source_of(test))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def apply(self, text: str) -> str:
        return f"\n{text}".replace(self.old, self.new)[1:]


def _block(lines: Iterable[str]) -> str:
    """Return lines as they stand behind others."""
    return "\n" + "".join(f"{line}\n" for line in lines)


@attrs.frozen
class Promise:
    document: str
    says: str
    name: str
    mutants: tuple[Mutant, ...]

    @property
    def tests(self) -> list[str]:
        return sorted({test for mutant in self.mutants for test in mutant.red})


@attrs.frozen
class Table:
    """All promises of all documents; what else is listed is by document."""

    promises: tuple[Promise, ...]
    describes: dict[str, tuple[str, ...]]
    untried: dict[str, tuple[str, ...]]

    @property
    def mutants(self) -> list[Mutant]:
        return list(dict.fromkeys(m for promise in self.promises for m in promise.mutants))


def read_table(directory: Path = HERE) -> Table:
    """Read the files of all documents; raises KeyError and TypeError for what has no such shape."""
    entries: list[tuple[str, dict[str, Any]]] = []
    describes, untried = {}, {}
    for stem, document in DOCUMENTS.items():
        content = tomllib.loads((directory / f"{stem}.toml").read_text())
        describes[document] = tuple(content.get("describes", ()))
        untried[document] = tuple(content.get("untried", ()))
        entries += [(document, entry) for entry in content.get("promise", ())]
    own = {entry["name"]: _mutants(entry) for _, entry in entries if "name" in entry}
    promises = (
        Promise(
            document=document,
            says=entry["says"],
            name=entry.get("name") or entry.get("as") or _slug(entry["says"]),
            mutants=own[entry["as"]] if "as" in entry else _mutants(entry),
        )
        for document, entry in entries
    )
    return Table(tuple(promises), describes, untried)


def _mutants(entry: dict[str, Any]) -> tuple[Mutant, ...]:
    def as_list(red: str | list[str]) -> tuple[str, ...]:
        return (red,) if isinstance(red, str) else tuple(red)

    return tuple(
        Mutant(one["file"], one["slip"], as_list(one["red"])) for one in entry.get("mutant", ())
    )


def _slug(says: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", says.lower())[:6])


@functools.cache
def _functions(file: str) -> dict[str, str]:
    """Return the source of each test of a file, by its name; of a method's, by CLASS::METHOD."""
    path = ROOT / file
    if not path.is_file():
        return {}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {}
    for node in ast.parse(path.read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for each in members:
            if isinstance(each, kinds) and each.name.startswith("test_"):
                found[prefix + each.name] = ast.unparse(each)
    return found


def source_of(test: str) -> str:
    """Return a test's source as far as it matters, "" where there is no such test."""
    file, _, name = test.partition("::")
    return _functions(file).get(name.partition("[")[0], "")


def killed() -> set[str]:
    """Return the digests of what was tried and killed."""
    return set(KILLED.read_text().split()) if KILLED.exists() else set()


def keep_killed(keys: set[str]) -> None:
    KILLED.write_text("".join(f"{key}\n" for key in sorted(keys)))


def complaints(table: Table) -> Iterator[str]:
    """Say what is wrong with the table, results apart: each a sentence with what to do."""
    texts = {name: (ROOT / name).read_text() for name in DOCUMENTS.values()}
    for promise in table.promises:
        where = f"{promise.document}, {promise.says[:60]!r}"
        if promise.says not in texts[promise.document]:
            yield f"{where}: the document no longer says so; change the promise with it"
        if len(set(promise.mutants)) < MUTANTS_MIN:
            yield f"{where}: a promise needs {MUTANTS_MIN} mutants that its tests kill"
    for mutant in table.mutants:
        yield from _complaints_of(mutant)
    for document, text in texts.items():
        said = [promise.says for promise in table.promises if promise.document == document]
        yield from (f"{document}: {says!r} stands here twice" for says in _twice(said))
        for opening in (*table.describes[document], *table.untried[document]):
            if not re.search(rf"(?m)^(\| )?{re.escape(opening)}", text):
                yield f"{document}: nothing begins with {opening!r} any more"
        yield from _unclaimed(document, text, table)


def _twice(texts: Sequence[str]) -> list[str]:
    return [text for text, count in Counter(texts).items() if count > 1]


def _complaints_of(mutant: Mutant) -> Iterator[str]:
    where = f"{mutant.file}, {mutant.lines[0].strip()[:60]!r}"
    for test in mutant.red:
        if not source_of(test):
            yield f"{where}: there is no test {test}; which one holds the promise now?"
    path = ROOT / mutant.file
    text = path.read_text() if path.is_file() else ""
    if mutant.count(text) != 1:
        yield f"{where}: stands there {mutant.count(text)} times, and not once; fit the mutant"
        return
    signs = Counter(line[0] for line in mutant.lines)
    if not 0 < max(signs["-"], signs["+"]) <= LINES_MAX:
        yield f"{where}: a mutant changes from one to {LINES_MAX} lines"
    if path.suffix == ".py":
        try:
            compile(mutant.apply(text), mutant.file, "exec")
        except SyntaxError as error:
            yield f"{where}: makes no Python: {error}"


def _unclaimed(document: str, text: str, table: Table) -> Iterator[str]:
    """Name each guarantee, line of a table or paragraph of a document that no promise has."""
    mine = [promise for promise in table.promises if promise.document == document]
    said = {promise.says: promise for promise in mine}
    if document == "README.md":
        for says in guarantees(text):
            if says not in said:
                yield f"{document}: {says[:60]!r} is promised, and nothing holds it"
        return
    for says, tests in rows_with_tests(text):
        if says not in said:
            if says not in table.untried[document]:
                yield f"{document}: {says[:60]!r} is promised, and nothing holds it"
        else:
            idle = sorted(set(tests) - set(said[says].tests))
            yield from (f"{document}, {says[:60]!r}: no mutant turns {test} red" for test in idle)
    listed = (*table.describes[document], *table.untried[document])
    for paragraph in paragraphs(text):
        described = paragraph.startswith(listed)
        if not described and not any(says in paragraph for says in said):
            yield f"{document}: {paragraph[:60]!r} has no promise, and isn't among `describes`"


def guarantees(readme: str) -> list[str]:
    """Return the first cells of the README's table of guarantees."""
    part = readme.partition("## Guarantees")[2].partition("\n## ")[0]
    return [row.split(" | ")[0] for row in re.findall(r"(?m)^\| (.*) \|$", part)[1:]]


def rows_with_tests(text: str) -> list[tuple[str, list[str]]]:
    """Return the first cell, and the tests, of each line of a table that names tests."""
    rows = re.findall(r"(?m)^\| (.*) \| ([^|]*::[^|]*) \|$", text)
    return [(says, re.findall(r"`(tests/[^`]+::\w+)`", tests)) for says, tests in rows]


def paragraphs(text: str) -> list[str]:
    """Return a document's lines of prose, but for those that say what isn't held."""
    for end in OPEN_ENDS:
        text = text.partition(f"\n{end}\n")[0]
    return [line for line in text.splitlines() if line and not line.startswith(_NO_PROSE)]


def page() -> str:
    """Return docs/reference/promises.md."""
    table = read_table()
    shown: dict[tuple[Mutant, ...], str] = {}
    lines = [
        "# Promises, their tests, and what turns these red",
        "",
        "Generated from tests/promises by `just reference`. Each promise of a document is followed",
        "by the tests that hold it, and by slips in the code: each was made in a copy of the tree,",
        "and turned the tests above it red. `just promises` tries again those of which the slip or",
        "the test has changed ([decision 50](../decisions/0050-promises.md)).",
    ]
    for document in DOCUMENTS.values():
        lines += ["", f"## {document}"]
        for promise in table.promises:
            if promise.document == document:
                lines += ["", *_section(promise, shown)]
        if table.untried[document]:
            lines += ["", "Promised, and held by no mutant yet:", ""]
            lines += [f"* {_plain(opening)}" for opening in table.untried[document]]
    return "\n".join(lines) + "\n"


def _section(promise: Promise, shown: dict[tuple[Mutant, ...], str]) -> list[str]:
    says = _plain(promise.says)
    if (first := shown.setdefault(promise.mutants, says)) != says:
        return [f"**{says}**", "", f"Held with: {first}"]
    lines = [f"**{says}**"]
    by_tests: dict[tuple[str, ...], list[Mutant]] = {}
    for mutant in promise.mutants:
        by_tests.setdefault(mutant.red, []).append(mutant)
    for tests, mutants in by_tests.items():
        lines += ["", ", ".join(f"`{test}`" for test in tests), "", "```diff"]
        for mutant in mutants:
            lines += [f"@ {mutant.file}", *mutant.lines]
        lines.append("```")
    return lines


def _plain(says: str) -> str:
    """Return a sentence without links, which would lead nowhere from the page, and bold type."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", says).replace("**", "")
