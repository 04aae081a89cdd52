"""Storms of the world on real processes: what was acknowledged is there once, whatever was done.

The deep profile has twenty seconds of one, the full profile three minutes.  Again by hand, with the
seed that is printed: python -m tests.process.world_storm --seed SEED
"""

import os
import secrets
from pathlib import Path

import pytest

from tests.process.world_storm import CLIENTS, DEEDS_MIN, run
from tests.support.faults.killing import is_deep, is_full
from tests.support.faults.world import WEIGHTS, World, plan_deeds
from tests.support.machines.needs import need_root

pytestmark = pytest.mark.process

SECONDS = 180 if is_full() else 20


def test_a_seed_is_a_plan_and_every_deed_is_there_to_do() -> None:
    one, other = plan_deeds(7, 1.0), plan_deeds(7, 1.0)
    deeds = [next(one) for _ in range(300)]

    assert deeds == [next(other) for _ in range(300)]
    assert {deed.name for deed in deeds} == set(WEIGHTS)
    assert all(hasattr(World, f"_{deed.name}") for deed in deeds)
    assert all(hasattr(World, f"_{deed.beside}") for deed in deeds if deed.beside)


@pytest.mark.engine
@pytest.mark.skipif(not is_deep(), reason="takes a minute: PALACE_TEST_PROFILE=deep")
def test_nothing_acknowledged_is_lost_in_a_storm_of_the_world(model_home: Path) -> None:
    need_root()
    seed = int(os.environ.get("PALACE_WORLD_SEED") or secrets.randbelow(1 << 32))
    outcome = run(seed, SECONDS, model_home)
    print(outcome.line())
    print("\n".join(outcome.log))

    assert outcome.problems == []
    assert outcome.acknowledged > CLIENTS
    assert outcome.done.total() >= min(DEEDS_MIN, SECONDS / 4)
