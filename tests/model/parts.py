"""The parts of `just model-check`: the jobs of each, what came of them, what must not shrink.

A part's judgement is pure: it gets what its jobs returned, in their order.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.model import federation_search, fence_search, spin
from tests.model.code_mutants import ROOT, Outcome, all_patches, try_patch
from tests.model.explore import Result, describe, explore
from tests.model.lanes import Job
from tests.model.machine import Examples, run_examples
from tests.model.mutants import MUTANTS, run
from tests.model.scopes import FLOORS, FULL, QUICK, SCOPES
from tests.model.walks import Walks, walk_many
from tests.process import kill_storm
from tests.sim.__main__ import Tally, run_seeds

# In one scope or another every step must have been taken.
_STEPS = (
    "B1.open B2.lock B2.lost B3.verify B3.held B3.free B4.fence B4.late B4.refuse B4.data "
    "B4.shared B5.epoch B6.bind B6.deaf B7.publish B9.open B9.note B9.ready B9.fail "
    "X0.idle X0.stop X0.upgrade X0.direct X2.goodbye X3.backlog X4.hangup X4.settled X4.grace "
    "X5.close X5.abandon X6.exit "
    "A.hello A.line A.room A.eof A.forget "
    "W.journal W.sync W.apply W.outcome W.synced W.done W.query W.poll W.repeat W.unknown "
    "W.quarantine W.roll R.attempt R.undo R.abort R.write R.state "
    "C.ask C.dial C.dial.late C.child C.reply C.goodbye C.leave "
    "C2.welcome C3.refused C3.reset C3.silent C4.lost "
    "crash crash.torn reboot sandbox fault tear lose_epoch stock stock.end other other.end alien "
    "X6.unmark X6.left canary.again canary.death canary.end canary.kill canary.left "
    "canary.unserved former.late former.record "
    "hold hold.told hold.end wedge watchdog poison cut"
)
STEPS_EXPECTED = frozenset(_STEPS.split())
COVERED = "palace.protocol"
COVERING = ("tests/protocol",)  # what is pure, and calls it


@attrs.frozen
class Profile:
    """How much of each part is done; each number is a floor, too."""

    name: str
    states: int
    lives: int
    mutants: int
    walks: int
    examples: int
    patches: int
    spin: dict[str, int]  # the sizes of the world that contains everything
    seeds: int
    light: int
    real: int


PROFILES = {
    "quick": Profile(
        name="quick",
        states=540_000,
        lives=4,
        mutants=80,
        walks=200,
        examples=200,
        patches=12,
        spin=spin.FLOOR | {"LIVES": 1},
        seeds=300,
        light=40,
        real=5,
    ),
    "deep": Profile(
        name="deep",
        states=540_000,
        lives=4,
        mutants=81,
        walks=500,
        examples=300,
        patches=30,
        spin=spin.FLOOR | {"LIVES": 1},
        seeds=1_000,
        light=100,
        real=100,
    ),
    "full": Profile(
        name="full",
        states=3_700_000,
        lives=5,
        mutants=81,
        walks=5_000,
        examples=2_000,
        patches=30,
        spin=spin.FLOOR,
        seeds=10_000,
        light=2_000,
        real=100,
    ),
}


@attrs.define
class Verdict:
    """`figures` are (what, found, floor); `wrong` says what else is not as it must be."""

    scope: str
    figures: list[tuple[str, int, int]] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)

    def problems(self) -> list[str]:
        low = [
            f"{what}: {found:,}, the floor is {floor:,}"
            for what, found, floor in self.figures
            if found < floor
        ]
        return low + self.wrong


@attrs.frozen
class Part:
    name: str
    jobs: tuple[Job, ...]
    judge: Callable[[list[Any]], Verdict]


def all_parts(profile: Profile) -> list[Part]:
    """Return the parts, those first that need the whole machine or take longest."""
    makers = (
        _light_storm,
        _real_storm,
        _exploration,
        _fence,
        _federation,
        _spin_searches,
        _simulation,
        _patches,
        _spin_mutants,
        _walks,
        _examples,
        _mutants,
        _coverage,
    )
    return [make(profile) for make in makers]


def _chunks(count: int, size: int) -> list[tuple[int, int]]:
    """Cut 0..count into pieces of at most `size`."""
    return [(first, min(first + size, count)) for first in range(0, count, size)]


# The model.


def _explore(name: str) -> Result:
    return explore(SCOPES[name])


def _exploration(profile: Profile) -> Part:
    scopes = FULL if profile.name == "full" else QUICK
    names = sorted((scope.name for scope in scopes), key=lambda name: -FLOORS[name])

    def judge(results: list[Result]) -> Verdict:
        reached: Counter[str] = Counter()
        verdict = Verdict("")
        for result in results:
            reached.update(result.reached)
            if result.broken:
                verdict.wrong.append(f"{result.scope}: {result.broken}")
                verdict.wrong += describe(SCOPES[result.scope], result.trace)
            if not result.complete or result.states < FLOORS[result.scope]:
                verdict.wrong.append(f"{result.scope} has only {result.states:,} states")
        missing = sorted(STEPS_EXPECTED - reached.keys())
        if missing:
            verdict.wrong.append(f"steps that no scope took: {' '.join(missing)}")
        sizes = {
            "processes at once": (max(scope.slots for scope in scopes), 2),
            "lives": (max(scope.starts for scope in scopes), profile.lives),
            "crashes": (max(scope.crashes for scope in scopes), 3),
            "clients": (max(scope.clients for scope in scopes), 2),
        }
        steps = sum(result.transitions for result in results)
        verdict.scope = f"{len(results)} scopes whole, {len(reached)} actions, {steps:,} steps"
        states = sum(result.states for result in results)
        verdict.figures = [("states", states, profile.states)]
        verdict.figures += [(name, found, least) for name, (found, least) in sizes.items()]
        return verdict

    jobs = [Job("exploration", name, _explore, (name,)) for name in names]
    return Part("exploration", tuple(jobs), judge)


def _run_mutants(names: Sequence[str]) -> list[Result]:
    return [run(mutant) for mutant in MUTANTS if mutant.name in names]


def _mutants(profile: Profile) -> Part:
    chosen = [mutant for mutant in MUTANTS if profile.name != "quick" or not mutant.slow]
    # The last ones take longest: each job gets some of all.
    groups = [chosen[start::4] for start in range(4)]

    def judge(results: list[list[Result]]) -> Verdict:
        verdict = Verdict(f"{len(chosen)} broken protocols, each by the invariant that is for it")
        killed = 0
        for mutant, result in (
            (mutant, result)
            for group, found in zip(groups, results, strict=True)
            for mutant, result in zip(group, found, strict=True)
        ):
            killed += result.invariant == mutant.breaks
            if result.invariant != mutant.breaks:
                found = result.broken or "survived"
                verdict.wrong.append(f"mutant {mutant.name}: {found}, expected {mutant.breaks}")
        verdict.figures = [("killed", killed, max(profile.mutants, len(chosen)))]
        return verdict

    jobs = [
        Job("mutants", f"{n + 1} of 4", _run_mutants, ([mutant.name for mutant in group],))
        for n, group in enumerate(groups)
    ]
    return Part("mutants", tuple(jobs), judge)


def _walk(first: int, last: int) -> Walks:
    return walk_many(last - first, first)


def _walks(profile: Profile) -> Part:
    def judge(results: list[Walks]) -> Verdict:
        steps = sum(walks.steps for walks in results)
        verdict = Verdict(f"3 clients, 8 lives, every fault at once; {steps:,} steps")
        verdict.figures = [("walks", sum(walks.count for walks in results), profile.walks)]
        verdict.wrong = [f"walk {walks.seed}: {walks.broken}" for walks in results if walks.broken]
        return verdict

    jobs = [
        Job("walks", f"{first}..{last}", _walk, (first, last))
        for first, last in _chunks(profile.walks, 500)
    ]
    return Part("walks", tuple(jobs), judge)


def _examples(profile: Profile) -> Part:
    def judge(results: list[Examples]) -> Verdict:
        steps = sum(found.steps for found in results)
        verdict = Verdict(f"Hypothesis, the same worlds; {steps:,} steps, none broken")
        whole = sum(found.whole for found in results)
        verdict.figures = [("examples of 50 steps", whole, profile.examples)]
        return verdict

    seed = int.from_bytes(os.urandom(4), "big")
    jobs = [
        Job("examples", f"seed {seed + first}", run_examples, (last - first, seed + first))
        for first, last in _chunks(profile.examples + profile.examples // 5, 350)
    ]
    return Part("examples", tuple(jobs), judge)


def _explore_small(model: Any, name: str) -> Result:
    return model.explore(model.SCOPES[name])


def _run_small_mutants(model: Any) -> list[Result]:
    return [model.run(mutant) for mutant in model.MUTANTS]


def _fence(profile: Profile) -> Part:
    return _small("fence", fence_search, profile)


def _federation(profile: Profile) -> Part:
    return _small("federation", federation_search, profile)


def _small(part: str, model: Any, profile: Profile) -> Part:
    """Return a model that has its own scopes, mutants and steps as a part."""
    scopes, mutants, floors = model.PROFILES[profile.name], model.MUTANTS, model.FLOORS

    def judge(results: list[Any]) -> Verdict:
        *searched, broken = results
        reached: Counter[str] = Counter()
        verdict = Verdict(f"{len(scopes)} scopes whole, {len(mutants)} broken protocols")
        for result in searched:
            reached.update(result.reached)
            if result.broken or result.states < floors[result.scope]:
                verdict.wrong.append(f"{result.scope}, {result.states:,} states: {result.broken}")
                verdict.wrong += model.describe(result)
        missing = sorted(model.STEPS - reached.keys())
        verdict.wrong += [f"a step that no scope took: {name}" for name in missing]
        found = list(zip(mutants, broken, strict=True))
        for mutant, result in found:
            if result.invariant != mutant.breaks:
                said = result.broken or "survived"
                verdict.wrong.append(f"mutant {mutant.name}: {said}, expected {mutant.breaks}")
        killed = sum(result.invariant == mutant.breaks for mutant, result in found)
        states = sum(result.states for result in searched)
        verdict.figures = [
            ("states", states, sum(floors[scope.name] for scope in scopes)),
            ("killed", killed, max(len(mutants), model.MUTANTS_MIN)),
        ]
        return verdict

    jobs = [Job(part, scope.name, _explore_small, (model, scope.name)) for scope in scopes]
    return Part(part, (*jobs, Job(part, "mutants", _run_small_mutants, (model,))), judge)


# The specs.


def _spin_searches(profile: Profile) -> Part:
    searches = spin.PROFILES[profile.name]
    whole = searches[[search.name.startswith("all together") for search in searches].index(True)]

    def judge(results: list[spin.Found]) -> Verdict:
        states = sum(found.states for found in results)
        lively = sum(search.prop > 0 for search in searches)
        verdict = Verdict(
            f"{len(searches)} searches, {lively} of them for liveness under weak fairness; "
            f"{states:,} states; "
            + ", ".join(f"{name} {size}" for name, size in spin.sizes(whole).items())
        )
        held = 0
        for search, found in zip(searches, results, strict=True):
            good = found.complete and not found.errors and found.states >= search.states_min
            held += good
            if not good:
                why = found.broken or f"{found.states:,} states, complete: {found.complete}"
                verdict.wrong.append(f"search {search.name}: {why}")
        left = spin.unreached(results)
        if left:
            verdict.wrong.append(f"actions that no search took: {' '.join(left)}")
        for name, least in profile.spin.items():
            if spin.sizes(whole)[name] < least:
                verdict.wrong.append(f"{whole.name} has {name}={spin.sizes(whole)[name]}")
        verdict.figures = [
            ("complete, without error", held, len(searches)),
            ("actions", len(spin.actions()), spin.ACTIONS_MIN),
        ]
        return verdict

    jobs = [Job("spin", search.name, spin.run_search, (search,)) for search in searches]
    return Part("spin", tuple(jobs), judge)


def _run_spin_mutants(mutants: Sequence[spin.Mutant]) -> list[spin.Found]:
    return [spin.run_mutant(mutant) for mutant in mutants]


def _spin_mutants(profile: Profile) -> Part:
    is_quick = profile.name == "quick"
    mutants = spin.QUICK_MUTANTS if is_quick else spin.MUTANTS
    groups = [mutants[first:last] for first, last in _chunks(len(mutants), 8)]

    def judge(results: list[list[spin.Found]]) -> Verdict:
        verdict = Verdict(f"{len(mutants)} searches of broken specs")
        found = [one for group in results for one in group]
        killed = set()
        for mutant, one in zip(mutants, found, strict=True):
            if one.broken == mutant.breaks:
                killed.add(mutant.name)
            else:
                why = one.broken or "survived"
                verdict.wrong.append(f"spec {mutant.name}: {why}, expected {mutant.breaks}")
        verdict.figures = [
            ("killed", len(killed), spin.QUICK_MIN if is_quick else spin.MUTANTS_MIN)
        ]
        return verdict

    jobs = [
        Job("spin mutants", f"{group[0].name} and on", _run_spin_mutants, (group,))
        for group in groups
    ]
    return Part("spin mutants", tuple(jobs), judge)


# The code.


def _patches(profile: Profile) -> Part:
    patches = all_patches()
    if profile.name == "quick":  # some of all kinds
        patches = patches[:: len(patches) // profile.patches]

    def judge(results: list[Outcome]) -> Verdict:
        verdict = Verdict("palace/ changed, the test that each patch names run")
        survived = [outcome for outcome in results if not outcome.killed]
        verdict.figures = [("killed", len(results) - len(survived), profile.patches)]
        verdict.wrong = [f"patch {one.patch.name} survived: {one.words}" for one in survived]
        return verdict

    jobs = [Job("patches", patch.name, try_patch, (patch,)) for patch in patches]
    return Part("patches", tuple(jobs), judge)


def _simulation(profile: Profile) -> Part:
    def judge(results: list[Tally]) -> Verdict:
        total: Counter[str] = Counter()
        for tally in results:
            total.update(tally.totals)
        verdict = Verdict(
            f"each one's trace followed; {total['owners']:,} owners, {total['killed']:,} killed, "
            f"{total['cut']:,} power cuts"
        )
        verdict.figures = [("seeds", sum(tally.count for tally in results), profile.seeds)]
        verdict.wrong = [text for tally in results for text in tally.failed]
        return verdict

    jobs = [
        Job("simulation", f"{first}..{last}", run_seeds, (range(first, last),))
        for first, last in _chunks(profile.seeds, 250)
    ]
    return Part("simulation", tuple(jobs), judge)


def _storm(store: str, kills: int, seed: int) -> kill_storm.Outcome:
    return kill_storm.run(kills, seed, kill_storm.find_model() if store == "real" else None)


def _light_storm(profile: Profile) -> Part:
    return _storms("light", profile.light, cores=2)  # four palaces at a time


def _real_storm(profile: Profile) -> Part:
    return _storms("real", profile.real, cores=1)


def _storms(store: str, kills: int, cores: int) -> Part:
    def judge(results: list[kill_storm.Outcome]) -> Verdict:
        (total,) = results
        verdict = Verdict(
            f"{store} store; {total.owners:,} of the killed were owners, {total.acknowledged:,} "
            f"changes acknowledged, {total.overlaps} overlaps in {total.samples:,} samples"
        )
        verdict.figures = [
            ("kills", total.kills, kills),
            ("acknowledged", total.acknowledged, kills),
        ]
        verdict.wrong = list(total.problems)
        if total.overlaps:
            verdict.wrong.append(f"{total.overlaps} overlaps")
        return verdict

    seed = int.from_bytes(os.urandom(4), "big")
    job = Job(f"kills, {store}", f"seed {seed}", _storm, (store, kills, seed), cores)
    return Part(job.part, (job,), judge)


@attrs.frozen
class Covered:
    """How many branches there are, how many were taken, and where some were not."""

    branches: int
    taken: int
    missing: tuple[str, ...]


def _cover() -> Covered:
    with tempfile.TemporaryDirectory(prefix="cover-") as directory:
        environ = os.environ | {"COVERAGE_FILE": f"{directory}/data"}
        command = [sys.executable, "-m", "coverage"]
        run_tests = ["run", "--branch", f"--source={COVERED}", "-m", "pytest", "-q"]
        arguments = ["-p", "no:cacheprovider", "-p", "no:xdist", *COVERING]
        subprocess.run([*command, *run_tests, *arguments], cwd=ROOT, env=environ, check=True)
        report = Path(directory) / "report.json"
        told = [*command, "json", "-q", "-o", str(report)]
        subprocess.run(told, cwd=ROOT, env=environ, check=True)
        found = json.loads(report.read_text())
    missing = [
        f"{name}: lines {file['missing_lines']}, branches {file['missing_branches']}"
        for name, file in found["files"].items()
        if file["missing_lines"] or file["missing_branches"]
    ]
    totals = found["totals"]
    return Covered(totals["num_branches"], totals["covered_branches"], tuple(missing))


def _coverage(_: Profile) -> Part:
    def judge(results: list[Covered]) -> Verdict:
        (covered,) = results
        verdict = Verdict(f"{COVERED}, every line and every branch")
        verdict.figures = [("branches taken", covered.taken, max(covered.branches, 1))]
        verdict.wrong = list(covered.missing)
        return verdict

    return Part("coverage", (Job("coverage", " ".join(COVERING), _cover),), judge)
