"""Whom the tests of memories share an office with."""

from pathlib import Path

import pytest

from tests.support.stores.team import Team, team


@pytest.fixture
def office(tmp_path: Path) -> Team:
    """Return a lead with two below it, and somebody else."""
    office = team(tmp_path / "palace")
    for ident, parent in (("lead", ""), ("coder", "lead"), ("tester", "lead"), ("other", "")):
        office.add(ident, parent)
    return office
