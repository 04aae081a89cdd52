"""The right to write a database's tables: what must hold does, broken protocols are found."""

import os
import re
from pathlib import Path

import pytest

from tests.model import fence_checks
from tests.model.fence_search import (
    DEEP,
    FLOORS,
    FULL,
    MUTANTS,
    QUICK,
    STEPS,
    Mutant,
    describe,
    explore,
    run,
)
from tests.model.fence_state import Scope

IS_FULL = os.environ.get("PALACE_MODEL") == "full"
# `just model-check` searches all of them.
SMALL = [scope for scope in QUICK if FLOORS[scope.name] <= 16_000]


@pytest.mark.parametrize("scope", FULL if IS_FULL else SMALL, ids=lambda scope: scope.name)
def test_a_scope_holds(scope: Scope) -> None:
    result = explore(scope)
    assert not result.broken, "\n".join(describe(result))
    assert result.states >= FLOORS[scope.name]
    assert result.reached.keys() <= STEPS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.name}-{mutant.breaks}")
def test_a_broken_protocol_is_found(mutant: Mutant) -> None:
    result = run(mutant)
    assert result.invariant == mutant.breaks, "\n".join(describe(result))


def test_every_broken_protocol_of_the_model_is_searched_and_every_invariant_finds_one() -> None:
    text = (Path(__file__).parent / "fence.py").read_text()
    named = {
        name
        for line in text.splitlines()
        if "broken" in line
        for name in re.findall(r'"([a-z_]{5,})"', line)
    }
    assert named == {mutant.name for mutant in MUTANTS}
    found = set(re.findall(r"^\| (F\d+) \|", str(fence_checks.__doc__), re.MULTILINE))
    assert found - {mutant.breaks for mutant in MUTANTS} == {"F11"}, "a search of its own"


def test_somebody_who_never_gets_the_right_is_found() -> None:
    """As long as a directory's note is lost, nobody gets the right of its dead owner."""
    scope = Scope("stuck", palaces=1, claims=3, crashes=2, live=True)
    result = explore(scope, "note_overwritten", without=("F10",))
    assert result.invariant == "F11", result.broken


def test_profiles_grow() -> None:
    assert len(QUICK) < len(DEEP) < len(FULL)
    assert any(scope.live for scope in QUICK)
    assert sum(FLOORS[scope.name] for scope in FULL) >= 2_000_000
