"""The threat model's lines, and who tried each: threats.toml, and the page that is made of it.

Each `[[threat]]` says what nobody may do, which lines of docs/security.md come to that, and by
which tests another user, a container, a guest and a client try it.  A cell that begins with "may: "
says why one of them can do it without any attack.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
PARTIES = {
    "other_user": "another user",
    "container": "a container with the directory",
    "guest": "a guest over TLS",
    "client": "a client of the owner's",
}
MAY = "may: "
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)(?:\[([\w, -]+)\])?")


@attrs.frozen(kw_only=True)
class Threat:
    """What nobody may do; `tries` are by party, tests or why it may."""

    says: str
    lines: tuple[str, ...]
    tries: dict[str, tuple[str, ...]]


def read_threats() -> list[Threat]:
    found = tomllib.loads((Path(__file__).parent / "threats.toml").read_text())
    return [
        Threat(
            says=entry["says"],
            lines=tuple(entry["lines"]),
            tries={
                party: (cell,) if isinstance(cell := entry.get(party, ()), str) else tuple(cell)
                for party in PARTIES
            },
        )
        for entry in found["threat"]
    ]


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
    for threat in threats:
        for party, cells in threat.tries.items():
            if not cells:
                yield f"{threat.says}: not tried by {PARTIES[party]}"
            for cell in cells:
                if not (cell.startswith(MAY) or exists(cell, party)):
                    yield f"{threat.says}: no such test: {cell}"


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
        "Generated from tests/security/threats.toml by `just reference`. Each line of the tables",
        "in [security](../security.md) that says what somebody can't do is listed once, under",
        "what it comes to, with the tests by which each of four tries it.",
        "",
    ]
    for threat in read_threats():
        out += [f"## {threat.says}", "", *(f"- {line}" for line in threat.lines), ""]
        out += ["| tried by | test |", "|---|---|"]
        for party, cells in threat.tries.items():
            shown = (c.removeprefix(MAY) if c.startswith(MAY) else f"`{c}`" for c in cells)
            out.append(f"| {PARTIES[party]} | {', '.join(shown)} |")
        out.append("")
    return "\n".join(out)
