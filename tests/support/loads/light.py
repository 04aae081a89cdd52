"""A palace with the light engine, its clients, and what must be true of it after a storm.

Nothing here trusts the engine's word: the store's file is read line by line, and held against what
the clients were told and against the journal.
"""

import itertools
import json
import os
import random
import subprocess
import sys
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
MEMORY = "memory"
THINK_S = 0.03  # between two calls of a client, so that storms cost no more than they must
QUARANTINED = -31063
SPAWN_FAILED = -31054
NO_MEMORY = -31077
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
    decrees: set[str] = field(default_factory=set)  # acknowledged: ids in the organisation's
    forgotten: set[str] = field(default_factory=set)  # asked for, acknowledged or not
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
        changes = (self.drawers, self.entries, self.effects, self.decrees)
        return sum(map(len, changes))


LEAD = "lead"  # the root of the organisation in which is decreed
STOCKS = {
    "mempalace_add_drawer": 5,
    "mempalace_diary_write": 5,
    "mempalace_get_drawer": 2,
    "mempalace_hook_settings": 1,
}
COMMIT, SEARCH, FORGET = (f"palace_{name}_memory" for name in ("commit", "search", "forget"))
DECREES = {COMMIT: 5, SEARCH: 1, FORGET: 2}  # of a palace that has the workspace LEAD


def take_turns(client: Caller, told: ClientHistory) -> Iterator[None]:
    """File drawers; now and then ask, or do something outside of the palace."""
    return _take_turns(client, told, STOCKS)


def take_turns_and_decree(client: Caller, told: ClientHistory) -> Iterator[None]:
    """Decree and forget besides."""
    return _take_turns(client, told, STOCKS | DECREES)


def _take_turns(client: Caller, told: ClientHistory, weights: dict[str, int]) -> Iterator[None]:
    rng = random.Random(told.number)
    for turn in itertools.count():
        nonce = f"n{told.number}x{turn}z"
        tool = rng.choices(tuple(weights), tuple(weights.values()))[0]
        reply = client.call(tool, **_arguments(tool, told, nonce, rng))
        told.calls += 1
        if "error" in reply:
            told.refused[nonce] = code_of(reply)
            if code_of(reply) not in (REFUSALS | {NO_MEMORY} if tool == FORGET else REFUSALS):
                told.unexpected.append((tool, nonce, reply))
        elif tool == "mempalace_add_drawer":
            told.drawers.add(nonce)
        elif tool == "mempalace_diary_write":
            told.entries.add(nonce)
        elif tool == "mempalace_hook_settings":
            told.effects.add(nonce)
        elif tool == COMMIT:
            told.decrees.add(text_of(reply)["id"])
        elif tool.startswith("mempalace_") and text_of(reply)["count"] < len(told.drawers):
            told.unexpected.append((tool, nonce, reply, f"of {len(told.drawers)} acknowledged"))
        yield
        time.sleep(rng.uniform(0, 2 * THINK_S))


def _arguments(tool: str, told: ClientHistory, nonce: str, rng: random.Random) -> dict[str, Any]:
    if tool == COMMIT:
        named = {"id": f"mem-{nonce}"} if rng.random() < 0.5 else {}
        return {"content": f"a decree, {nonce}", "namespace": f"org:{LEAD}", **named}
    if tool == FORGET:
        known = sorted(told.decrees - told.forgotten) or ["mem-nothing"]
        told.forgotten.add(known[0])
        return {"id": known[0]}
    if tool == SEARCH:
        return {"query": "a decree", "namespaces": [f"org:{LEAD}"]}
    more: dict[str, Any] = {}
    if tool == "mempalace_add_drawer":
        more = {"parts": rng.randint(1, 3)}
    elif tool == "mempalace_diary_write":
        more = {"agent_name": told.who, "entry": nonce}
    return {"who": told.who, "nonce": nonce, **more}


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
    found += _of_decrees(site, everybody, live, {ident for kind, ident in lost if kind == MEMORY})
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
    elsewhere = ("file", "palace:")  # not in the light store
    known = {
        entity: entry.digest
        for entity, entry in journal.live.items()
        if not entity[0].startswith(elsewhere)
    }
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


def _of_decrees(
    site: Site,
    everybody: list[ClientHistory],
    live: dict[tuple[str, str], Any],
    lost: set[str],
) -> list[str]:
    """Each change of an organisation's memories has its one row among the audits, and is there."""
    if not (site.palace / "palace.sqlite3").exists():
        return [f"{ident} was acknowledged" for told in everybody for ident in told.decrees]
    audits = Counter(_audits_in_another_process(site))
    there = {ident for kind, ident in live if kind == MEMORY}
    found = [f"{row} was audited {times} times" for row, times in audits.items() if times > 1]
    committed = {ident for action, ident in audits if action == "commit"}
    gone = {ident for action, ident in audits if action == "forget"}
    for what, idents in (
        ("is there and was not audited", there - committed),
        ("was audited and is not there", committed - gone - there),
        ("is there and was audited as forgotten", there & gone),
    ):
        found += [f"{ident} {what}" for ident in sorted(idents - lost)]
    for told in everybody:
        missing = told.decrees - committed
        found += [f"{ident} was acknowledged and is lost" for ident in sorted(missing - lost)]
        missing = told.decrees - told.forgotten - there
        found += [f"{ident} was forgotten by nobody, and is gone" for ident in missing - lost]
    return found


def _audits_in_another_process(site: Site) -> list[tuple[str, str]]:
    """Return the action and the memory of each audit, as SQLite has them."""
    script = (
        "import json, sqlite3, sys; print(json.dumps(sqlite3.connect(sys.argv[1]).execute("
        "'SELECT action, memory_id FROM audit').fetchall()))"
    )
    argv = [sys.executable, "-I", "-c", script, f"{site.palace}/palace.sqlite3"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [(action, ident) for action, ident in json.loads(done.stdout)]


def _of_effects(site: Site, everybody: list[ClientHistory]) -> list[str]:
    path = Path(f"{site.palace}.effects")
    there = Counter(path.read_text().split()) if path.exists() else Counter()
    wanted = {nonce for told in everybody for nonce in told.effects}
    found = [f"the effect {nonce} was had {n} times" for nonce, n in there.items() if n > 1]
    return found + [f"the effect {nonce} was acknowledged only" for nonce in wanted - set(there)]
