"""A storm of the world: agents write, while stock, hosts and people do what they do.

    python -m tests.process.world_storm --seed S [--seconds N] [--keep DIR]

Four agents, with a real shim each, change one palace all the time.  Meanwhile deeds are done to it
by seed (tests/support/faults/world.py).  Afterwards whatever the doctor asks for is done, and then
every acknowledged memory has to be there, once.

The deeds are printed, what agents were told when nothing was done, what is wrong, and one line for
it all; the exit code is 1 where a promise was broken.
"""

import argparse
import json
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.process.kill_storm import find_model
from tests.support.faults.killing import assert_journal_is_right
from tests.support.faults.world import World, plan_deeds, small_disk
from tests.support.loads.changes import (
    ChangeLoad,
    Promises,
    Turns,
    broken_promises,
    count_in_another_process,
    nonces_there_twice,
    wrong_updates,
)
from tests.support.loads.pool import Caller, ClientPool
from tests.support.processes.clients import Site, brokers_of, end_brokers, wait_until
from tests.support.processes.sites import make_site

CLIENTS = 4
PACE_S = 0.8
DEEDS_MIN = 20
THINK_S = 0.1
REMEDIES_MAX = 4
RECOVERY_S = 150


@dataclass
class Outcome:
    """What came of a storm."""

    seed: int
    problems: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    remedies: list[str] = field(default_factory=list)
    acknowledged: int = 0
    calls: int = 0
    epochs: int = 0
    seconds: float = 0.0

    def line(self) -> str:
        deeds = ", ".join(f"{name} {n}" for name, n in sorted(self.done.items()))
        refused = ", ".join(f"{code}: {n}" for code, n in sorted(self.refused.items()))
        return (
            f"seed {self.seed}: {sum(self.done.values())} deeds in {self.seconds:.0f} s ({deeds}); "
            f"{self.calls} calls, {self.acknowledged} acknowledged, refused by code: "
            f"{refused or 'none'}; {self.epochs} owners; remedies: {self.remedies or 'none'}; "
            f"{len(self.problems)} problems"
        )


class WorldTurns(Turns):
    """The turns of a load's client, and a drawer that is filed and deleted, and a tunnel."""

    def __init__(self, client: Caller, promises: Promises, gone: set[str]) -> None:
        super().__init__(client, promises)
        self._gone = gone

    def take(self) -> None:
        super().take()
        self._file_and_delete(next(self._nonces))
        time.sleep(THINK_S)

    def _file_and_delete(self, nonce: str) -> None:
        filed = self._ask(
            "add_drawer", nonce, wing="own", room=self._who, content=f"to be deleted: {nonce}d"
        )
        if filed is not None:
            told = self._ask("delete_drawer", nonce, drawer_id=filed["drawer_id"])
            if told is not None:
                self._gone.add(f"{nonce}d")


class WorldLoad(ChangeLoad):
    """Agents whose refusals are no failures: what counts is what they were promised."""

    def __init__(self, site: Site, clients: int) -> None:
        super().__init__(site, clients, f"--palace={site.palace}")
        self.gone: set[str] = set()

    def _take_turns(self, client: Caller, promises: Promises) -> Iterator[None]:
        turns = WorldTurns(client, promises, self.gone)
        turns.make_drawer()
        while True:
            yield
            turns.take()


def raise_storm(root: Path, model_home: Path, seed: int, seconds: float) -> Outcome:
    """Raise one storm on a new palace below `root`, a disk of its own, and judge what is left.

    However slow the machine is, some deeds are done.
    """
    outcome = Outcome(seed)
    site = make_site(root, model_home)
    site.palace.chmod(0o700)
    world = World(site, root)
    with site.shim() as first:  # the making of a palace is for other tests
        first.tool("add_drawer", wing="w", room="r", content="so that there are drawers")
    load = WorldLoad(site, CLIENTS)
    begun_s = time.monotonic()
    try:
        load.start()
        for deed in plan_deeds(seed, PACE_S):
            is_enough = world.done.total() >= min(DEEDS_MIN, seconds / 4)
            if is_enough and time.monotonic() - begun_s > seconds:
                break
            world.do(deed)
        world.relieve()
        outcome.problems += _complaint(load)
    finally:
        load.close()
    outcome.seconds = time.monotonic() - begun_s
    outcome.problems += [f"{problem}" for problem in world.promises.unexpected]
    for told in (*load.promises, world.promises):
        outcome.acknowledged += told.acknowledged
        outcome.calls += told.calls
        outcome.refused.update(code for _, _, code, _ in told.refused)
        for problem in told.unexpected:
            if isinstance(problem, Exception):
                outcome.problems.append(f"client {told.number}: {problem!r}")
    for text, times in words_of(load).most_common():
        world.note(f"{times} times: {text}")
    settle(site, outcome, world, world.end(seed))
    judge(site, load, world, outcome)
    outcome.done, outcome.log = world.done, world.log
    outcome.epochs = int((site.palace / "epoch").read_text())
    return outcome


def words_of(load: WorldLoad) -> Counter[str]:
    """Count what agents were told where nothing was done, without what differs each time."""
    told = [one for promises in load.promises for one in promises.refused]
    words = [f"{code} {message}" for _, _, code, message in told]
    odd = [one for promises in load.promises for one in promises.unexpected]
    words += [str(answer) for _, _, answer in (one for one in odd if isinstance(one, tuple))]
    return Counter(re.sub(r"[0-9a-f]{8,}|pid \d+|\d+ s\b", "_", text)[:300] for text in words)


def _complaint(load: ClientPool[Any, Any]) -> list[str]:
    try:
        load.end()
    except AssertionError as problem:
        return [str(problem)]
    return []


# Afterwards.


def findings_of(site: Site, *more: str) -> list[dict[str, Any]]:
    said = site.run("doctor", "--json", *more, timeout_s=RECOVERY_S)
    return [json.loads(line) for line in said.stdout.splitlines()]


def errors_of(site: Site, *more: str) -> list[dict[str, Any]]:
    return [found for found in findings_of(site, *more) if found["level"] == "error"]


def command_in(remedy: str) -> list[str]:
    """Return the arguments of the palace command that a remedy names, [] for none."""
    found = re.finditer(r"\bpalace ((?:recover|start|rebuild|restore)\b[^;,)]*)", remedy)
    commands = [shlex.split(one[1].rstrip(".")) for one in found]
    return next((one for one in commands if "DIR" not in one), [])  # here nobody has a backup


def refusal_of(site: Site) -> str:
    with site.shim(f"--palace={site.palace}") as client:
        reply = client.call("mempalace_search", query="my drawer of worker1")
    return str(reply.get("error", ""))


def follow(site: Site, outcome: Outcome, world: World, errors: list[dict[str, Any]]) -> bool:
    """Do what the first error asks for that names a command; False where that fails."""
    found = next((one for one in errors if command_in(one["remedy"])), None)
    if found is None:
        outcome.problems.append(f"no command brings it back: {errors}")
        return False
    outcome.remedies.append(f"{found['code']}: {found['remedy'][:200]}")
    first = command = command_in(found["remedy"])
    for _ in range(REMEDIES_MAX):
        tried = site.run(*command, timeout_s=RECOVERY_S)
        if tried.returncode == 0:
            return True
        if "a broker of the newer version" in tried.stderr:
            outcome.remedies.append("then: upgrade; palace start; palace stop; and back")
            with world.newest():
                for one in ("start", "stop"):
                    site.run(one, timeout_s=RECOVERY_S)
            command = first
            continue
        command = command_in(tried.stderr.partition(": ")[2])  # a refusal names what comes first
        if not command:
            break
        outcome.remedies.append(f"then: {' '.join(command)}")
    outcome.problems.append(f"{found['remedy']}: {tried.stderr}")
    return False


def settle(site: Site, outcome: Outcome, world: World, expected: str = "") -> None:
    """Do what the doctor asks for until a broker serves, which has seen what all others wrote.

    `expected`: what it must find before that.
    """
    site.run("stop", timeout_s=RECOVERY_S)
    if expected:
        named = [found for found in errors_of(site) if found["code"] == expected]
        if not named:
            outcome.problems.append(f"doctor does not find {expected}")
        elif not follow(site, outcome, world, named):
            return
    for _ in range(REMEDIES_MAX):
        started = site.run("start", timeout_s=RECOVERY_S)
        problem = started.stderr if started.returncode else refusal_of(site)
        errors = errors_of(site)
        if not problem and not errors:
            break
        if not errors:
            outcome.problems.append(f"no broker serves, and doctor is green: {problem}")
            return
        if not follow(site, outcome, world, errors):
            return
    else:
        outcome.problems.append(f"no remedy of the doctor's helps: {errors_of(site)}")
        return
    stopped = site.run("stop", timeout_s=RECOVERY_S)
    if stopped.returncode:
        outcome.problems.append(f"stop: {stopped.stderr}")
    wait_until(lambda: not brokers_of(site.palace), 60, "nobody is left")


def judge(site: Site, load: WorldLoad, world: World, outcome: Outcome) -> None:
    found = count_in_another_process(site)
    promised = [*load.promises, world.promises]
    load.promises.append(world.promises)
    assert promised == load.promises
    for check in (broken_promises, wrong_updates):
        outcome.problems += [f"{check.__name__}: {one}" for one in check(load, found)]
    outcome.problems += [f"twice: {one}" for one in nonces_there_twice(found)]
    for nonce in world.rows:
        there = sum(map(len, found["drawers"].get(nonce, {}).values()))
        if there != 1:
            outcome.problems.append(f"stock's own {nonce} is there {there} times")
    back = [nonce for nonce in load.gone if nonce in found["drawers"]]
    outcome.problems += [f"deleted, and there again: {nonce}" for nonce in back]
    try:
        assert_journal_is_right(site.palace, torn=True)
    except AssertionError as problem:
        outcome.problems.append(f"journal: {str(problem)[:600]}")
    outcome.problems += [f"doctor --drift: {one}" for one in errors_of(site, "--drift")]


def run(seed: int, seconds: float, model_home: Path) -> Outcome:
    """Raise a storm on a small disk, whose contents are kept where something is wrong."""
    with tempfile.TemporaryDirectory(prefix="world-storm-") as name:
        root = Path(name).resolve()
        with small_disk(root):
            try:
                outcome = raise_storm(root, model_home, seed, seconds)
            finally:
                end_brokers(root)
            if outcome.problems:
                kept = Path(f"{name}-kept")
                subprocess.run(["cp", "-a", name, str(kept)], check=True)
                (kept / "storm.log").write_text("\n".join(outcome.log))
                outcome.problems.append(f"seed {seed}; what is left: {kept}")
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    outcome = run(seed, given.seconds, find_model())
    print("\n".join(outcome.log))
    for problem in outcome.problems[:40]:
        print(problem)
    print(outcome.line())
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
