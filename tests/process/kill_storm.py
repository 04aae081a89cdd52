"""Real processes under a rain of signals, on a light store for numbers or the real one for truth.

    python -m tests.process.kill_storm --kills N --seed S [--store light|real]

Shims' clients change one palace all the time.  A killer hits brokers (those that start, those that
lose, and the owner), direct openers and shims with SIGKILL, SIGTERM, and SIGSTOP with a SIGCONT
later; brokers end themselves at named points of a change, too.  Every other burst comes with the
weather of a sandbox: whoever starts a detached broker sees it die, and opens the palace by itself.
A watcher outside looks who has the store open.

One line is printed; the exit code is 1 where a promise was broken.  `kills` counts SIGKILLs alone.
"""

import argparse
import itertools
import pickle
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from palace.engine.embedding.model import install_model, is_installed
from tests.support.faults.killing import Failpoints, assert_journal_is_right
from tests.support.faults.signals import Killer, plan_injections, victims_of
from tests.support.loads.changes import (
    broken_promises,
    count_in_another_process,
    left_by_quarantined,
    nonces_there_twice,
    wrong_updates,
)
from tests.support.loads.light import (
    LEAD,
    REFUSALS,
    ClientHistory,
    fail_at_points,
    problems_of,
    sandbox,
    storm_site,
    take_turns_and_decree,
)
from tests.support.loads.memories import MemoryLoad, secrets_left, wrong_memories
from tests.support.loads.pool import ClientPool, RestartingClient
from tests.support.processes.clients import Site, end_brokers, wait_until
from tests.support.processes.sites import start_shim
from tests.support.processes.watch import Watcher

CLIENTS = 4
ROUND_KILLS = 125  # on one palace: a store that grows for ever makes each opening slower
OWNERS = 10  # at least one of so many kills hits an owner
BURST = 8  # injections until each client must have got a reply
LANES = {"light": 4, "real": 1}  # storms at a time
REST_MS = {"light": 20, "real": 0}  # of the watcher: the light store observes its own openers
PACE_S = {"light": 0.1, "real": 0.6}


@dataclass
class Outcome:
    """What came of a storm, or of all its rounds so far."""

    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    owners: int = 0  # of the killed
    calls: int = 0
    acknowledged: int = 0
    memories: int = 0  # of these, stored and forgotten in namespaces
    overlaps: int = 0
    samples: int = 0
    openers: int = 0
    epochs: int = 0
    litter: int = 0  # temporary files that killed owners left behind
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        return sum(n for (_, name), n in self.struck.items() if name == "SIGKILL")

    def add(self, other: "Outcome") -> None:
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def line(self) -> str:
        hits = ", ".join(f"{kind} {name} {n}" for (kind, name), n in sorted(self.struck.items()))
        refused = ", ".join(f"{code}: {n}" for code, n in sorted(self.refused.items()))
        return (
            f"{self.kills} kills in {self.seconds:.0f} s, {self.owners} of owners ({hits}); "
            f"{self.calls} calls, {self.acknowledged} changes acknowledged, "
            f"{self.memories} of them of memories, "
            f"refused by code: {refused or 'none'}; "
            f"{self.epochs} owners, {self.openers} seen with the store open, "
            f"{self.overlaps} overlaps in {self.samples} samples; {self.litter} files left over; "
            f"{len(self.problems)} problems"
        )


class Storm:
    """A pool of clients on one palace, a killer among its processes, and a watcher outside."""

    def __init__(
        self,
        site: Site,
        pool: ClientPool[RestartingClient, Any],
        failpoints: Failpoints,
        store: str,
    ) -> None:
        self._site = site
        self._pool = pool
        self._killer = Killer(site.palace, failpoints)
        self._watcher = Watcher(site.palace, rest_ms=REST_MS[store])
        self._pace_s = PACE_S[store]

    def rage(self, seed: int, kills: int) -> Outcome:
        """Raise the storm and let it end; the caller judges the store."""
        begun_s = time.monotonic()
        problems: list[str] = []
        with self._watcher:
            self._pool.start()
            problems += _complaints(lambda: self._strike(seed, kills))
            self._killer.relieve()
            problems += _complaints(self._pool.end)
            codes = [client.close() for client in self._pool.clients]
            self._site.run("stop")
            problems += _complaints(self._await_the_end)
        problems += [f"overlap: {overlap}" for overlap in self._watcher.overlaps]
        problems += [f"a shim ended with {code}" for code in codes if code]
        names = {entry.name for entry in self._site.palace.iterdir()}
        problems += [f"{name} is left" for name in names & {"broker.json", "broker.sock"}]
        return Outcome(
            struck=self._killer.struck,
            problems=problems,
            owners=self._killer.owners,
            overlaps=len(self._watcher.overlaps),
            samples=self._watcher.samples,
            openers=len(self._watcher.pids),
            epochs=int((self._site.palace / "epoch").read_text()),
            litter=sum(name.endswith(".tmp") for name in names),
            seconds=time.monotonic() - begun_s,
        )

    def _strike(self, seed: int, kills: int) -> None:
        """Strike until so many are killed; every client must go on between two bursts.

        Chance decides whom a kill finds: it goes on, up to four times as many, until enough were
        owners.
        """
        injections = plan_injections(seed, self._pace_s)
        weather = itertools.cycle((False, True))
        while self._killer.kills < kills or (
            self._killer.owners <= kills // OWNERS and self._killer.kills < 4 * kills
        ):
            if self._is_lost():
                return
            if next(weather):
                sandbox(self._site).touch()
            else:
                sandbox(self._site).unlink(missing_ok=True)
            for injection in itertools.islice(injections, BURST):
                self._killer.deliver(injection)
            self._killer.relieve()
            self._pool.await_replies()

    def _is_lost(self) -> bool:
        """Tell whether something went wrong already."""
        return bool(self._pool.failed() or self._watcher.overlaps)

    def _await_the_end(self) -> None:
        wait_until(lambda: not any(victims_of(self._site.palace).values()), 60, "nobody is left")


def light_storm(root: Path, seed: int, kills: int) -> Outcome:
    """Raise one storm on a new palace with the light store."""
    site = storm_site(root)
    failpoints = fail_at_points(site)
    registered = site.run("workspace", "add", LEAD)
    assert registered.returncode == 0, registered.stderr

    def start() -> Any:
        return start_shim(site.environ(), f"--palace={site.palace}")

    everybody = [ClientHistory(number) for number in range(CLIENTS)]
    pool = ClientPool(
        [RestartingClient(start) for _ in everybody], everybody, take_turns_and_decree
    )
    try:
        outcome = Storm(site, pool, failpoints, "light").rage(seed, kills)
    finally:
        end_brokers(root)
    outcome.problems += problems_of(site, everybody)
    outcome.calls = sum(told.calls for told in everybody)
    outcome.acknowledged = sum(told.acknowledged for told in everybody)
    outcome.memories = sum(len(told.decrees) for told in everybody)
    outcome.refused.update(code for told in everybody for code in told.refused.values())
    return outcome


def real_storm(root: Path, seed: int, kills: int) -> Outcome:
    """Raise one storm on a new palace with the real engine; `root` has a home with the model."""
    site = storm_site(root, light=False)
    failpoints = fail_at_points(site)
    with site.shim() as first:  # the making of a palace is for other tests
        first.tool("add_drawer", wing="w", room="r", content="so that there are drawers")
    assert site.run("stop").returncode == 0
    load = MemoryLoad(site, CLIENTS)
    try:
        outcome = Storm(site, load, failpoints, "real").rage(seed, kills)
    finally:
        load.close()
        end_brokers(root)
    outcome.acknowledged = sum(promises.acknowledged for promises in load.promises)
    found = count_in_another_process(site)
    for judge in (broken_promises, wrong_updates, left_by_quarantined):
        outcome.problems += [f"{judge.__name__}: {one}" for one in judge(load, found)]
    outcome.problems += [f"twice: {one}" for one in nonces_there_twice(found)]
    outcome.problems += [f"memories: {one}" for one in wrong_memories(load, found, site)]
    outcome.problems += [f"a secret is in {path}" for path in secrets_left(site)]
    outcome.problems += [f"{problem}" for problem in load.failed()]
    outcome.memories = load.memories
    outcome.problems += _complaints(lambda: assert_journal_is_right(site.palace, torn=True))
    outcome.calls = sum(promises.calls for promises in load.promises)
    outcome.refused.update(code for p in load.promises for _, _, code, _ in p.refused)
    outcome.problems += [f"refused with {code}" for code in set(outcome.refused) - REFUSALS]
    return outcome


def _complaints(check: Callable[[], object]) -> list[str]:
    """Do something; whatever is wrong with it is told with all else."""
    try:
        check()
    except Exception as problem:
        return [f"{type(problem).__name__}: {problem}"]
    return []


def find_model() -> Path:
    """Return the home with the genuine model that the tests keep, made if it isn't there."""
    home = Path(__file__).parents[2] / ".pytest_cache" / "d" / "model-home"
    home.mkdir(parents=True, exist_ok=True)
    if not is_installed(home):
        install_model(home)
    return home


def run_round(seed: int, kills: int, model_home: Path | None) -> Outcome:
    """Raise one storm on a palace of its own, which is kept where something is wrong."""
    with tempfile.TemporaryDirectory(prefix="kill-storm-") as name:
        root = Path(name).resolve()
        if model_home is None:
            outcome = light_storm(root, seed, kills)
        else:
            (root / "home" / ".cache").mkdir(parents=True)
            (root / "home" / ".cache" / "chroma").symlink_to(model_home / ".cache" / "chroma")
            outcome = real_storm(root, seed, kills)
        if outcome.problems:
            kept = Path(f"{name}-kept")
            subprocess.run(["cp", "-a", name, str(kept)], check=True)
            outcome.problems.append(f"seed {seed}; what is left: {kept}")
    return outcome


def run_apart(seed: int, kills: int, model_home: Path | None) -> Outcome:
    """Raise one storm in an interpreter of its own, as the others' would wait for each other's."""
    # Not by `multiprocessing`: its spawned processes need shared memory, which some builds lack.
    code = (
        "import pickle, sys; from tests.process.kill_storm import run_round;"
        "pickle.dump(run_round(*pickle.load(sys.stdin.buffer)), sys.stdout.buffer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((seed, kills, model_home)),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    outcome: Outcome = pickle.loads(done.stdout)  # another's class, where this is __main__
    return outcome


def run(kills: int, seed: int, model_home: Path | None = None) -> Outcome:
    """Raise as many storms as it takes, some at a time: most of a storm is waiting.

    They are on the light store, or with a home that has the model on the real engine.
    """
    lanes = LANES["light" if model_home is None else "real"]
    rounds = max(lanes, -(-kills // ROUND_KILLS))
    total = Outcome()
    begun_s = time.monotonic()
    with ThreadPoolExecutor(lanes) as pool:
        sizes = [kills * (place + 1) // rounds - kills * place // rounds for place in range(rounds)]
        seeds = range(seed, seed + rounds)
        for outcome in pool.map(run_apart, seeds, sizes, [model_home] * rounds):
            total.add(outcome)
    total.seconds = time.monotonic() - begun_s
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=("light", "real"), default="light")
    given = parser.parse_args()
    total = run(given.kills, given.seed, find_model() if given.store == "real" else None)
    for problem in total.problems[:20]:
        print(problem)
    print(total.line())
    return 1 if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
