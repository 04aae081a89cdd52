"""The doctor's findings on one screen: causes first, with their remedies, then what is in order."""

import json
import textwrap
from collections.abc import Sequence

import attrs

from palace.doctor.finding import ERROR, OK, WARNING, Finding
from palace.kernel.output import say
from palace.settings.paths import Paths

COLUMNS = 100
LINES = 24
FIRST_LINES = 10  # of the first finding; NEXT_LINES of each further one
NEXT_LINES = 4
INDENT = 9
LABEL = 18


def print_report(paths: Paths, findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print all findings as JSON, one object per line, or at most a screen of text."""
    if as_json:
        for finding in findings:
            say(json.dumps(_public(finding)))
    else:
        say("\n".join(screen(paths.root, findings)))


def _public(finding: Finding) -> dict[str, str]:
    fields = attrs.asdict(finding, recurse=False)
    return fields | {"fix": finding.fix.text if finding.fix else ""}


def screen(root: str, findings: Sequence[Finding]) -> list[str]:
    """Return at most LINES lines of COLUMNS columns; findings that don't fit are counted."""
    wrong = [finding for finding in findings if finding.level != OK]
    well = [finding for finding in findings if finding.level == OK]
    room = LINES - 2  # the last two lines are the summary
    lines: list[str] = []
    left = 0
    for number, finding in enumerate(wrong):
        block = _block(finding, NEXT_LINES if number else FIRST_LINES)
        if left or len(lines) + len(block) > room:
            left += 1
        else:
            lines += block
    rows = [_clip(f"{OK:<{INDENT}}{found.code:<{LABEL}}{found.text}") for found in well]
    lines += rows[: room - len(lines)]
    if left:
        lines.append(f"{left} more: palace doctor --json")
    errors = sum(finding.level == ERROR for finding in findings)
    warnings = sum(finding.level == WARNING for finding in findings)
    lines.append(_clip(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}: {root}"))
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _block(finding: Finding, lines_max: int) -> list[str]:
    """Return a finding and its remedy; the finding's text is what is shortened."""
    said = f"{finding.remedy} (or: palace doctor --fix)" if finding.fix else finding.remedy
    remedy = _wrapped(f"-> {said}", lines_max // 2) if said else []
    text = _wrapped(f"{finding.text} [{finding.code}]", lines_max - len(remedy))
    text[0] = f"{finding.level + ':':<{INDENT}}{text[0].lstrip()}"
    return text + remedy


def _wrapped(text: str, lines_max: int) -> list[str]:
    margin = " " * INDENT
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=margin,
        subsequent_indent=margin,
        max_lines=lines_max,
        placeholder=" ...",
        break_on_hyphens=False,
    )


def _clip(line: str) -> str:
    return line if len(line) <= COLUMNS else line[: COLUMNS - 3] + "..."
