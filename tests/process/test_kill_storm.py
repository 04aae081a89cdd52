"""Storms of signals on real processes: nobody opens a store beside another, no promise is broken.

The quick profile has a dozen kills on the light store; PALACE_TEST_PROFILE=full has 2,000 of them,
and 100 on the real engine.  `just model-check deep` has 200 and 100.  Again by hand:
python -m tests.process.kill_storm --seed SEED
"""

import os
import secrets
from pathlib import Path

import pytest

from tests.process.kill_storm import OWNERS, Outcome, run
from tests.support.faults.killing import is_full
from tests.support.faults.signals import BROKER, DIRECT, POINT, SHIM, SIGNALS

pytestmark = pytest.mark.process

KILLS = {"light": 2000 if is_full() else 15, "real": 100}


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


def test_light_palaces_survive_a_storm_of_kills() -> None:
    assert_calm(raise_storms("light"), KILLS["light"])


@pytest.mark.engine
@pytest.mark.skipif(not is_full(), reason="takes minutes: PALACE_TEST_PROFILE=full")
def test_real_palace_survives_a_storm_of_kills(model_home: Path) -> None:
    assert_calm(raise_storms("real", model_home), KILLS["real"])
