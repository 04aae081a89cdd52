"""Seeds: whole palaces under every misfortune, and proof that the simulation would notice.

PALACE_SIM_SEEDS sets how many seeds run: 300 where nothing is said, 10,000 for the full profile.
"""

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tests.sim.__main__ import command_of
from tests.sim.breakages import BREAKAGES, broken
from tests.sim.scenario import Plan, Run, plan_of
from tests.support.faults.killing import is_deep

SEEDS = int(os.environ.get("PALACE_SIM_SEEDS", "300"))
CHUNKS = 10
ROOT = Path(__file__).parent.parent.parent
WITHIN = 400
# One seed in some hundreds meets these: lines that an earlier owner had begun, and an owner that
# leaves, or can't load, before it has asked the journal.
RARE = {"handed_back": 3000, "denied": 3000}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_promises_hold_whatever_happens(chunk: int) -> None:
    failed = {}
    for seed in range(chunk, SEEDS, CHUNKS):
        outcome = Run(seed).run()
        if outcome.problems:
            failed[command_of(seed)] = outcome.problems

    assert not failed


def test_the_same_seed_is_the_same_run() -> None:
    argv = [sys.executable, "-m", "tests.sim", "--seed", "42", "--steps"]
    runs = [
        subprocess.run(
            argv,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]

    assert runs[0] == runs[1]
    assert len(runs[0].splitlines()) > 500


def test_a_run_leaves_nothing_behind() -> None:
    descriptors = os.listdir("/proc/self/fd")
    for seed in range(20):
        Run(seed).run()

    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_no_process_of_a_simulation_reaches_the_real_system() -> None:
    # In a process of its own: what other tests have loaded is no part of a simulation.
    code = (
        "from tests.sim.install import unsimulated; from tests.sim.scenario import Run; "
        "Run(0).run(); print(unsimulated())"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_one_seed_in_a_calm_world_serves_everybody() -> None:
    plan = Plan(clients=3, calls=6, depth=2, switch=0.2, faults_s=2.0)
    run = Run(7, plan)
    outcome = run.run()

    assert outcome.problems == []
    assert outcome.counts["owners"] <= 2
    assert {op.outcome for client in run.clients for op in client.ops} == {"ok"}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_palace_is_noticed(name: str) -> None:
    if name in RARE and not is_deep():
        pytest.skip("takes minutes: PALACE_TEST_PROFILE=deep")
    breakage = BREAKAGES[name]
    within = RARE.get(name, WITHIN)
    with broken(name):
        for seed in range(within):
            if Run(seed, breakage.plan).run().problems:
                return

    pytest.fail(f"nothing was noticed within {within} seeds: {BREAKAGES[name].text}")


def test_plans_differ_and_are_told_apart_by_their_seeds_alone() -> None:
    plans = [plan_of(seed) for seed in range(200)]

    assert plans == [plan_of(seed) for seed in range(200)]
    assert len({attrs.astuple(plan) for plan in plans}) > 190
    assert any(plan.kill_broker == 0 and not plan.actions for plan in plans)
