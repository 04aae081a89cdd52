"""Every broken protocol is caught, by the invariant that is there for it."""

import os

import pytest

from tests.model.explore import describe
from tests.model.mutants import MUTANTS, Mutant, run

IS_FULL = os.environ.get("PALACE_MODEL") == "full"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_protocol_is_caught(mutant: Mutant) -> None:
    if mutant.slow and not IS_FULL:
        pytest.skip("left to the full profile")
    result = run(mutant)
    assert result.broken, f"{mutant.name} survived {result.states} states"
    shown = "\n".join(describe(mutant.scope, result.trace, mutant.name))
    assert result.invariant == mutant.breaks, shown


def test_names_are_unique_and_enough() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 80


def test_every_variant_of_the_model_has_its_mutant() -> None:
    """A variant that nobody runs would rot."""
    import re
    from pathlib import Path

    used = set()
    for path in Path(__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            if "variant" in line and path.name not in ("mutants.py", "test_mutants.py"):
                used.update(re.findall(r'"([a-z_]{5,})"', line))
            elif re.search(r'\bv == "', line):
                used.update(re.findall(r'v == "([a-z_]+)"', line))
    names = {mutant.name for mutant in MUTANTS}
    assert used - names <= {"loading", "withdraw"}, used - names
