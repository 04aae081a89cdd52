"""The doctor's screen: the cause first and whole, never more than a screen, and its exit code."""

import json

import attrs
import pytest

from palace.doctor.examine import EXIT_CODES, LEVELS, exit_code_of
from palace.doctor.finding import ERROR, NOTE, WARNING, Finding
from palace.doctor.report import COLUMNS, LINES, print_report, screen
from palace.settings.paths import Paths

LONG = "word " * 200
NOTED = Finding(level=NOTE, code="c", text="t", remedy="do it")
WRONG = Finding(level=ERROR, code="wrong", text="it broke", remedy="mend it")
WELL = Finding(level="ok", code="disk", text="enough of it")


def test_a_finding_is_shown_with_its_code_and_its_remedy() -> None:
    lines = screen("/p", [WRONG, NOTED, WELL])

    assert lines == [
        "error:   it broke [wrong]",
        "         -> mend it",
        "note:    t [c]",
        "         -> do it",
        "ok       disk              enough of it",
        "1 error, 0 warnings: /p",
    ]


def test_many_long_findings_stay_on_one_screen_and_the_rest_is_counted() -> None:
    long = Finding(level=WARNING, code="long", text=LONG, remedy=LONG)

    lines = screen(f"/{'p' * 200}", [WRONG, *[long] * 30, WELL])

    assert lines[:2] == ["error:   it broke [wrong]", "         -> mend it"]
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert sum(line.startswith("warning:") for line in lines) == 5
    assert "25 more: palace doctor --json" in lines


def test_a_word_longer_than_a_line_is_broken() -> None:
    lines = screen("/p", [attrs.evolve(WRONG, text="/x" * 150)])

    assert max(map(len, lines)) <= COLUMNS
    assert "".join(line.strip() for line in lines).count("/x") == 150


def test_machines_are_told_everything(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [WRONG, *[NOTED] * 40, WELL]

    print_report(Paths("/p"), findings, as_json=True)

    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [attrs.asdict(finding) | {"fix": ""} for finding in findings]


@pytest.mark.parametrize(
    ("levels", "code"),
    [([], 0), (["ok", NOTE], 0), ([NOTE, WARNING], 1), ([ERROR, WARNING], 65)],
)
def test_the_exit_code_says_the_worst(levels: list[str], code: int) -> None:
    assert exit_code_of([attrs.evolve(NOTED, level=level) for level in levels]) == code
    assert set(EXIT_CODES) < set(LEVELS)
