"""Each line of the threat model is tried by another user, a container, a guest and a client."""

from pathlib import Path

import attrs
import pytest

from tests.security.threats import MAY, PARTIES, ROOT, Threat, complaints, read_threats

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

    (complaint,) = complaints([untried, *threats[1:]], MODEL)
    assert PARTIES[party] in complaint


def test_a_line_that_is_new_and_a_test_that_is_gone_are_named(threats: list[Threat]) -> None:
    row = "| do harm | `tests/cli/test_cli.py::test_x` |\n"
    model = MODEL.replace("\n## What is deleted", row + "\n## What is deleted")
    first = attrs.evolve(threats[0], tries=threats[0].tries | {"guest": ("tests/x.py::test_x",)})

    named, gone = complaints([first, *threats[1:]], model)
    assert named == "nobody tried it: do harm"
    assert gone.endswith("no such test: tests/x.py::test_x")


def test_the_file_of_threats_lies_beside_what_tries_them() -> None:
    assert (Path(__file__).parent / "test_tries.py").is_file()
