"""The threat model's lines, and who tried each: threats.toml, and the page that is made of it.

Each `[[threat]]` says what nobody may do, which lines of docs/security.md come to that, and by
which tests another user, a container, a guest and a client try it.  A cell that begins with "may: "
says why one of them can do it without any attack.

A line has its own four cells: the tests that its row in docs/security.md names are those of the
party whose table it is in, `[threat.own."LINE"]` says what else differs by line, and what is left
is tried for all lines of a threat alike.
"""

import re
import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
PARTIES = {
    "other_user": "another user",
    "container": "a container with the directory",
    "guest": "a guest over TLS",
    "client": "a client of the owner's",
}
# Whose tries the tests are that a table of docs/security.md names; others' have no table.
TABLES = {
    "Other agents of the owner": "client",
    "Containers with the directory": "container",
    "Other users": "other_user",
    "Guests with the token": "guest",
}
MAY = "may: "
Cells = dict[str, tuple[str, ...]]
_TEST_TEXT = re.compile(r"tests/[\w/]+\.py::\w+")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)(?:\[([\w, -]+)\])?")


@attrs.frozen(kw_only=True)
class Threat:
    """What nobody may do; `tries` are by party, tests or why it may; `own` by line and party."""

    says: str
    lines: tuple[str, ...]
    tries: Cells
    own: dict[str, Cells] = attrs.field(factory=dict)

    def cells(self, line: str, party: str, rows: dict[str, Cells]) -> tuple[str, ...]:
        """Return how a party tries a line: its row's tests and its own before those of all."""
        special = (*rows.get(line, {}).get(party, ()), *self.own.get(line, {}).get(party, ()))
        shared = self.tries[party]
        if special:  # a test is better than any word for why there is none
            shared = tuple(cell for cell in shared if not cell.startswith(MAY))
        return tuple(dict.fromkeys((*special, *shared)))


def read_threats() -> list[Threat]:
    found = tomllib.loads((Path(__file__).parent / "threats.toml").read_text())
    return [
        Threat(
            says=entry["says"],
            lines=tuple(entry["lines"]),
            tries={party: _cells(entry.get(party, ())) for party in PARTIES},
            own={
                line: {party: _cells(cell) for party, cell in own.items()}
                for line, own in entry.get("own", {}).items()
            },
        )
        for entry in found["threat"]
    ]


def _cells(cell: str | list[str]) -> tuple[str, ...]:
    return (cell,) if isinstance(cell, str) else tuple(cell)


def rows_of_the_model(text: str) -> dict[str, Cells]:
    """Return the tests that the tables of docs/security.md name, by line and party."""
    found: dict[str, Cells] = {}
    for section in text.split("\n## ")[1:]:
        party = TABLES.get(section.partition("\n")[0])
        for row, tests in re.findall(r"(?m)^\| (.*?) \| (.*) \|$", section) if party else ():
            found[row] = {str(party): tuple(cell[0] for cell in _TEST_TEXT.finditer(tests))}
    return found


def lines_of_the_model(text: str) -> list[str]:
    """Return what each line of the tables of docs/security.md says that somebody can't."""
    held = text.partition("\n## Other agents")[2].partition("\n## What is deleted")[0]
    rows = re.findall(r"(?m)^\| (.*?) \| .* \|$", held)
    return [row for row in rows if row not in ("they can't", "it can't")]


def complaints(threats: list[Threat], model: str) -> Iterator[str]:
    """Say what a table lacks: lines that nobody tried, and tries that there aren't."""
    lines = lines_of_the_model(model)
    known = [line for threat in threats for line in threat.lines]
    yield from (f"nobody tried it: {line}" for line in lines if line not in known)
    yield from (f"security.md has no such line: {line}" for line in known if line not in lines)
    yield from (f"it stands twice: {line}" for line in set(known) if known.count(line) > 1)
    rows = rows_of_the_model(model)
    for threat in threats:
        yield from (
            f"{threat.says}: no such line: {own}" for own in threat.own.keys() - threat.lines
        )
        for line, party in product(threat.lines, PARTIES):
            cells = threat.cells(line, party, rows)
            if not cells:
                yield f"{line}: not tried by {PARTIES[party]}"
            for cell in cells:
                if not (cell.startswith(MAY) or exists(cell, party)):
                    yield f"{line}: no such test: {cell}"


def exists(cell: str, party: str = "") -> bool:
    """Tell whether a test is there, and has the party as its parameter if it names one."""
    named = _TEST.fullmatch(cell)
    if named is None or named[3] not in (None, party) or not (ROOT / named[1]).is_file():
        return False
    text = (ROOT / named[1]).read_text()
    return re.search(rf"(?m)^(?:async )?def {named[2]}\(", text) is not None


def page() -> str:
    """Return docs/reference/tries.md."""
    out = [
        "# Who tried what",
        "",
        "Generated from tests/security/threats.toml and from the tables in",
        "[security](../security.md) by `just reference`. Each line there that says what somebody",
        "can't do is listed once, with the tests by which each of four tries it.",
        "",
    ]
    rows = rows_of_the_model((ROOT / "docs/security.md").read_text())
    for threat in read_threats():
        out += [f"## {threat.says}", ""]
        for line in threat.lines:
            out += [f"**{line}**", "", "| tried by | test |", "|---|---|"]
            for party, who in PARTIES.items():
                cells = threat.cells(line, party, rows)
                shown = (c.removeprefix(MAY) if c.startswith(MAY) else f"`{c}`" for c in cells)
                out.append(f"| {who} | {', '.join(shown)} |")
            out.append("")
    return "\n".join(out)
