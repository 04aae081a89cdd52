"""Storms of signals on real processes: nobody opens a store beside another, no promise is broken.

The quick profile has a dozen kills on the light store, and five on the real engine;
PALACE_TEST_PROFILE=deep has 100 of those, full 2,000 on the light store as well.  In both,
memories are stored and forgotten beside all else, and audited where they are decreed.  By hand:
python -m tests.process.kill_storm --seed SEED
"""

import os
import secrets
from pathlib import Path

import pytest

from tests.process.kill_storm import OWNERS, Outcome, run
from tests.support.faults.killing import is_deep, is_full
from tests.support.faults.signals import BROKER, DIRECT, POINT, SHIM, SIGNALS

pytestmark = pytest.mark.process

KILLS = {"light": 2000 if is_full() else 15, "real": 100 if is_deep() else 5}


def raise_storms(store: str, model_home: Path | None = None) -> Outcome:
    seed = int(os.environ.get("PALACE_KILL_SEED") or secrets.randbelow(1 << 32))
    total = run(KILLS[store], seed, model_home)
    print(f"PALACE_KILL_SEED={seed}: {total.line()}")
    return total


def assert_calm(total: Outcome, kills: int) -> None:
    """Assert that nothing went wrong, and that enough happened for that to mean something."""
    assert total.problems == []
    assert total.overlaps == 0
    assert total.kills >= kills
    if kills >= 100:  # a small storm may miss one of them
        assert all(total.struck[kind, "SIGKILL"] for kind in (BROKER, DIRECT, SHIM, POINT))
        names = {name for _, name in total.struck}
        assert names == {number.name for number in SIGNALS}
    assert total.owners > kills // OWNERS
    assert total.openers > kills // 10, "the watcher has hardly seen anybody"
    assert total.acknowledged > kills
    assert total.memories > kills // 4


def test_light_palaces_survive_a_storm_of_kills() -> None:
    assert_calm(raise_storms("light"), KILLS["light"])


@pytest.mark.engine
def test_real_palace_survives_a_storm_of_kills(model_home: Path) -> None:
    assert_calm(raise_storms("real", model_home), KILLS["real"])
