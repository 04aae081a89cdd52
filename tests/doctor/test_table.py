"""Everything that the doctor may find wrong has a row in the table, and each row its test."""

import ast
from pathlib import Path

from palace.doctor.finding import NOTE, OK
from tests.doctor.situations.table import ELSEWHERE, SITUATIONS

ROOT = Path(__file__).parents[2]
WELL = {"OK", "NOTE"}


def texts_of(node: ast.expr, assigned: dict[str, set[str]]) -> set[str]:
    """Return what strings an expression may be."""
    if isinstance(node, ast.IfExp):
        return texts_of(node.body, assigned) | texts_of(node.orelse, assigned)
    if isinstance(node, ast.Constant):
        return {str(node.value)}
    return assigned.get(node.id, set()) if isinstance(node, ast.Name) else set()


def names_of(node: ast.expr) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def wrong_codes() -> set[str]:
    """Return the codes of all findings in the source that may be warnings or errors."""
    found: set[str] = set()
    for path in (ROOT / "palace" / "doctor").glob("*.py"):
        tree = ast.parse(path.read_text())
        assigned: dict[str, set[str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                assigned.setdefault(node.targets[0].id, set()).update(texts_of(node.value, {}))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and names_of(node.func) == {"Finding"}:
                given = {word.arg: word.value for word in node.keywords}
                if names_of(given["level"]) - WELL:
                    codes = texts_of(given["code"], assigned)
                    assert codes, f"{path}: the code in line {node.lineno} is no text"
                    found |= codes
    return found


def test_the_source_is_read() -> None:
    found = wrong_codes()

    assert {"palace_gone", "other_home", "open_elsewhere", "wrong_checksum", "no_palace"} <= found
    assert not {"mount", "broker", "torn_line", OK, NOTE} & found


def test_every_finding_has_a_row_and_every_row_a_finding() -> None:
    tried = {situation.code for situation in SITUATIONS.values()}

    assert tried | ELSEWHERE.keys() == wrong_codes()
    assert not tried & ELSEWHERE.keys(), "one place for each"


def test_the_tests_that_are_named_are_there() -> None:
    for code, (_, test) in ELSEWHERE.items():
        path, _, function = test.partition("::")
        text = (ROOT / path).read_text()
        assert f"def {function}(" in text, test
        assert f'"{code}"' in text, f"{test} does not look for {code}"
