"""A palace with the light engine, its clients, and what must be true of it after a storm.

Nothing here trusts the engine's word: the store's file is read line by line, and held against what
the clients were told and against the journal.
"""

import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palace.journal.replay import digest_of, replay
from palace.kernel.kernel import Kernel
from tests.sim.checks import given_up
from tests.support.engines.light.engine import STORE
from tests.support.faults.killing import Failpoints
from tests.support.loads.pool import SHIM_KILLED, Caller
from tests.support.processes.brokers import OUTCOME_UNKNOWN, code_of, make_palace, text_of
from tests.support.processes.clients import Site

LIGHT = Path(__file__).parents[1] / "engines" / "light"
THINK_S = 0.03  # between two calls of a client, so that storms cost no more than they must
QUARANTINED = -31063
SPAWN_FAILED = -31054
REFUSALS = {SHIM_KILLED, OUTCOME_UNKNOWN, QUARANTINED, SPAWN_FAILED}


def storm_site(root: Path, *, light: bool = True) -> Site:
    """Return a site whose brokers live with a sandbox where the file `sandbox(site)` is there."""
    site = Site(home=root / "home", palace=root / "store" / "palace")
    site.home.mkdir(exist_ok=True)
    site.palace.parent.mkdir()
    search = [str(LIGHT), os.environ.get("PYTHONPATH", "")]
    site.extra["PYTHONPATH"] = os.pathsep.join(filter(None, search))
    site.extra["PALACESANDBOX"] = str(sandbox(site))
    if light:
        site.extra["PALACELIGHT"] = "1"
    make_palace(site)
    return site


def fail_at_points(site: Site) -> Failpoints:
    """Let brokers of a storm's site end themselves where they are told to."""
    ours = site.extra["PYTHONPATH"]
    failpoints = Failpoints(site, site.home / "kills")
    site.extra["PYTHONPATH"] = ours  # whose sitecustomize runs that one
    return failpoints


def sandbox(site: Site) -> Path:
    return site.home / "sandbox"


@dataclass
class ClientHistory:
    """What one client was told of its nonces."""

    number: int
    drawers: set[str] = field(default_factory=set)  # acknowledged
    entries: set[str] = field(default_factory=set)  # acknowledged
    effects: set[str] = field(default_factory=set)
    refused: dict[str, int] = field(default_factory=dict)  # nonce -> code
    torn: set[str] = field(default_factory=set)  # the tool itself said that it had failed
    unexpected: list[object] = field(default_factory=list)
    calls: int = 0

    @property
    def who(self) -> str:
        return f"worker{self.number}"

    @property
    def replies(self) -> int:
        """Return how many calls were answered by a broker that did what was asked."""
        return self.calls - len(self.refused)

    @property
    def acknowledged(self) -> int:
        return len(self.drawers) + len(self.entries) + len(self.effects)


TOOLS = ("add_drawer", "diary_write", "get_drawer", "hook_settings")
WEIGHTS = (5, 5, 2, 1)


def take_turns(client: Caller, told: ClientHistory) -> Iterator[None]:
    """File drawers; now and then ask, or do something outside of the palace."""
    rng = random.Random(told.number)
    for turn in itertools.count():
        nonce = f"n{told.number}x{turn}z"
        tool = rng.choices(TOOLS, WEIGHTS)[0]
        choices: dict[str, dict[str, Any]] = {
            "add_drawer": {"parts": rng.randint(1, 3)},
            "diary_write": {"agent_name": told.who, "entry": nonce},
        }
        more = choices.get(tool, {})
        reply = client.call(f"mempalace_{tool}", who=told.who, nonce=nonce, **more)
        told.calls += 1
        if "error" in reply:
            told.refused[nonce] = code_of(reply)
            if code_of(reply) not in REFUSALS:
                told.unexpected.append((tool, nonce, reply))
        elif tool == "add_drawer":
            told.drawers.add(nonce)
        elif tool == "diary_write":
            told.entries.add(nonce)
        elif tool == "hook_settings":
            told.effects.add(nonce)
        elif text_of(reply)["count"] < len(told.drawers):
            told.unexpected.append((tool, nonce, reply, f"of {len(told.drawers)} acknowledged"))
        yield
        time.sleep(rng.uniform(0, 2 * THINK_S))


# What must be true afterwards.


def problems_of(site: Site, everybody: list[ClientHistory]) -> list[str]:
    """Return what is wrong with a light palace that nobody has open."""
    found = [f"{told.who}: {problem}" for told in everybody for problem in told.unexpected]
    live = _read_store(site, found)
    overlaps = Path(f"{site.palace}.overlaps")
    if overlaps.exists():
        found.append(f"the store was opened while it was open: {overlaps.read_text().split()}")
    lost = given_up(str(site.palace))
    _compare_with_journal(site, live, lost, found)
    for told in everybody:
        found += _of_one_client(told, {k: v for k, v in live.items() if k not in lost})
        found += [] if ("tally", told.who) in lost else _of_one_tally(told, live)
    found += _of_effects(site, everybody)
    return found


def _read_store(site: Site, found: list[str]) -> dict[tuple[str, str], Any]:
    """Return what is alive in the store; its lines are numbered by one writer at a time."""
    live: dict[tuple[str, str], Any] = {}
    last_epoch = 0
    lines = (
        (site.palace / STORE).read_bytes().splitlines() if (site.palace / STORE).exists() else []
    )
    for place, line in enumerate(lines, 1):
        number, epoch, kind, ident, payload = json.loads(line)
        if number != place or epoch < last_epoch:
            found.append(f"line {place} of the store has number {number} and epoch {epoch}")
        last_epoch = epoch
        if payload is None:
            live.pop((kind, ident), None)
        else:
            live[kind, ident] = payload
    return live


def _compare_with_journal(
    site: Site, live: dict[tuple[str, str], Any], lost: set[tuple[str, str]], found: list[str]
) -> None:
    journal = replay(str(site.palace / "journal"), Kernel())
    known = {entity: entry.digest for entity, entry in journal.live.items() if entity[0] != "file"}
    there = {entity: digest_of(payload) for entity, payload in live.items()}
    found += [
        f"journal and store differ in {entity}"
        for entity in sorted({*known, *there} - lost)
        if known.get(entity) != there.get(entity)
    ]
    if journal.gaps:
        found.append(f"the journal has gaps: {journal.gaps}")


def _of_one_client(told: ClientHistory, live: dict[tuple[str, str], Any]) -> list[str]:
    """Hold a client's promises against what is alive: all of a drawer once, or nothing of it."""
    found = []
    parts: dict[str, list[tuple[int, int]]] = {}
    for (kind, _), body in live.items():
        if kind == "drawer" and body["who"] == told.who:
            parts.setdefault(body["nonce"], []).append((body["part"], body["of"]))
    for nonce, there in parts.items():
        if nonce not in told.torn and sorted(there) != [
            (part, there[0][1]) for part in range(there[0][1])
        ]:
            found.append(f"{nonce} is there as {sorted(there)}")
        if told.refused.get(nonce) == QUARANTINED:
            found.append(f"{nonce} is there, and its client was told that nothing of it was kept")
    found += [f"{nonce} was acknowledged and is lost" for nonce in told.drawers - set(parts)]
    entries = Counter(
        body["nonce"]
        for (kind, _), body in live.items()
        if kind == "entry" and body["who"] == told.who
    )
    found += [f"the entry {nonce} is there {n} times" for nonce, n in entries.items() if n > 1]
    found += [f"{nonce} was acknowledged and is lost" for nonce in told.entries - set(entries)]
    return found


def _of_one_tally(told: ClientHistory, live: dict[tuple[str, str], Any]) -> list[str]:
    """Each drawer was counted once, by whoever filed it."""
    drawers = [body for (kind, _), body in live.items() if kind == "drawer"]
    there = {body["nonce"] for body in drawers if body["who"] == told.who}
    count = live.get(("tally", told.who), {"count": 0})["count"]
    if len(there - told.torn) <= count <= len(there):
        return []
    return [f"{told.who} has {len(there)} drawers, and {count} were counted"]


def _of_effects(site: Site, everybody: list[ClientHistory]) -> list[str]:
    path = Path(f"{site.palace}.effects")
    there = Counter(path.read_text().split()) if path.exists() else Counter()
    wanted = {nonce for told in everybody for nonce in told.effects}
    found = [f"the effect {nonce} was had {n} times" for nonce, n in there.items() if n > 1]
    return found + [f"the effect {nonce} was acknowledged only" for nonce in wanted - set(there)]
