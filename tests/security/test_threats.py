"""Each line of the threat model is tried by another user, a container, a guest and a client."""

from pathlib import Path

import attrs
import pytest

from tests.security.threats import MAY, PARTIES, ROOT, Cells, Threat, complaints, read_threats

MODEL = (ROOT / "docs/security.md").read_text()


@pytest.fixture
def threats() -> list[Threat]:
    return read_threats()


def test_each_line_of_the_threat_model_has_its_four_tries(threats: list[Threat]) -> None:
    assert list(complaints(threats, MODEL)) == []


def test_whoever_may_do_it_is_said_to_and_somebody_may_not(threats: list[Threat]) -> None:
    for threat in threats:
        cells = [cell for cells in threat.tries.values() for cell in cells]
        assert not all(cell.startswith(MAY) for cell in cells), threat.says
        assert all(len(cell) > len(MAY) + 20 for cell in cells if cell.startswith(MAY)), threat.says


@pytest.mark.parametrize("party", PARTIES)
def test_a_threat_that_one_of_them_did_not_try_is_named(threats: list[Threat], party: str) -> None:
    first = threats[0]
    untried = attrs.evolve(first, tries=first.tries | {party: ()})

    found = list(complaints([untried, *threats[1:]], MODEL))
    assert found, "no line of it has such a try of its own"
    assert all(one.endswith(f"not tried by {PARTIES[party]}") for one in found)


def test_a_line_has_the_tests_of_its_row_and_its_own_before_those_of_all(
    threats: list[Threat],
) -> None:
    first, line = threats[0], threats[0].lines[0]
    rows: dict[str, Cells] = {line: {"client": ("tests/a.py::row",)}}
    alike: Cells = dict.fromkeys(PARTIES, ("may: as everybody knows, and for good reasons",))
    own = attrs.evolve(first, tries=alike, own={line: {"guest": ("tests/a.py::own",)}})

    assert own.cells(line, "client", rows) == ("tests/a.py::row",), "which says more than a word"
    assert own.cells(line, "guest", rows) == ("tests/a.py::own",)
    assert own.cells(first.lines[1], "guest", rows) == alike["guest"]
    assert [*complaints([attrs.evolve(first, own={"else": {}}), *threats[1:]], MODEL)] == [
        f"{first.says}: no such line: else"
    ]


def test_a_line_that_is_new_and_a_test_that_is_gone_are_named(threats: list[Threat]) -> None:
    row = "| do harm | `tests/cli/test_cli.py::test_x` |\n"
    model = MODEL.replace("\n## What is deleted", row + "\n## What is deleted")
    first = attrs.evolve(threats[0], tries=threats[0].tries | {"guest": ("tests/x.py::test_x",)})

    named, *gone = complaints([first, *threats[1:]], model)
    assert named == "nobody tried it: do harm"
    assert len(gone) == len(first.lines)
    assert all(one.endswith("no such test: tests/x.py::test_x") for one in gone)


def test_the_file_of_threats_lies_beside_what_tries_them() -> None:
    assert (Path(__file__).parent / "test_tries.py").is_file()
