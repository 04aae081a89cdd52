"""Palaces that share a knowledge graph and a parent, all in use at once, while brokers are killed.

Each serves everything, and what any of them has acknowledged is there once, whoever looks.
"""

import json
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.faults.killing import assert_journal_is_right, is_full
from tests.support.loads.changes import (
    QUARANTINED,
    ChangeLoad,
    Promises,
    Turns,
    broken_promises,
    count_in_another_process,
    living_owner,
    nonces_there_twice,
)
from tests.support.loads.pool import Caller
from tests.support.processes.brokers import status_of
from tests.support.processes.clients import Site, brokers_of, end_brokers, wait_until
from tests.support.processes.sites import make_site
from tests.support.stores.nonces import NONCE

pytestmark = [pytest.mark.engine, pytest.mark.process]

PALACES = ("a", "b", "c")
KILLS = 30 if is_full() else 3
CLIENTS = 2
SEED = 20


class SharingTurns(Turns):
    """A load's turns, with a tunnel in each; `waits` are how long calls took, in seconds."""

    def __init__(self, client: Caller, promises: Promises, tunnels: set[str], waits: list[float]):
        super().__init__(client, promises)
        self._tunnels = tunnels
        self._waits = waits

    def take(self) -> None:
        super().take()
        self._dig(next(self._nonces))

    def _ask(self, tool: str, nonce: str, **arguments: Any) -> dict[str, Any] | None:
        begun_s = time.monotonic()
        try:
            return super()._ask(tool, nonce, **arguments)
        finally:
            self._waits.append(time.monotonic() - begun_s)

    def _dig(self, nonce: str) -> None:
        filed = self._ask("add_drawer", nonce, wing="far", room=nonce, content=f"of {nonce}d")
        if filed is None:
            return
        ends = {"source_wing": "own", "source_room": self._who, "target_wing": "far"}
        told = self._ask("create_tunnel", nonce, target_room=nonce, label=f"to {nonce}", **ends)
        if told is not None:
            self._tunnels.add(nonce)


class SharingLoad(ChangeLoad):
    """The agents of one of the palaces; their numbers are theirs alone among all."""

    def __init__(self, site: Site, first: int) -> None:
        super().__init__(site, CLIENTS)
        for number, promises in enumerate(self.promises, first):
            promises.number = number
        self.tunnels: set[str] = set()
        self.waits: list[float] = []

    def _take_turns(self, client: Caller, promises: Promises) -> Iterator[None]:
        turns = SharingTurns(client, promises, self.tunnels, self.waits)
        turns.make_drawer()
        while True:
            yield
            turns.take()


@attrs.define
class Home:
    """Palaces of one parent whose settings name one graph."""

    root: Path
    sites: list[Site]

    @property
    def graph(self) -> Path:
        return self.root / "home" / "graph.sqlite3"

    def share(self, site: Site) -> None:
        told = site.run("config", "set", f"graph={self.graph}")
        assert told.returncode == 0, told.stderr

    def facts(self) -> dict[str, int]:
        """Return how often the graph holds each nonce."""
        with closing(sqlite3.connect(f"file:{self.graph}?mode=ro", uri=True)) as connection:
            told = connection.execute("SELECT object FROM triples").fetchall()
        return Counter(nonce for (text,) in told for nonce in set(NONCE.findall(text)))

    def tunnels(self) -> Counter[str]:
        told = json.loads((self.sites[0].palace.parent / "tunnels.json").read_text())
        return Counter(one["target"]["room"] for one in told)

    def stop(self) -> None:
        for site in self.sites:
            assert site.run("stop").returncode == 0
            wait_until(lambda site=site: not brokers_of(site.palace), 60, "nobody is left")


@pytest.fixture
def home(short_dir: Path, model_home: Path) -> Iterator[Home]:
    sites = [make_site(short_dir, model_home, f"store/{name}") for name in PALACES]
    for site in sites:
        site.palace.chmod(0o700)
    found = Home(short_dir, sites)
    for site in sites:
        found.share(site)
    yield found
    end_brokers(short_dir)


def kill_at_random(sites: list[Site], loads: list[SharingLoad], kills: int) -> None:
    rng = random.Random(SEED)
    for _ in range(kills):
        site = sites[rng.randrange(len(sites))]
        pause_s = rng.uniform(0.0, 1.0)
        for load in loads:
            load.await_replies()
        assert not [problem for load in loads for problem in load.failed()]
        wait_until(partial(living_owner, site, spared=[], ready=True), 90, "a broker")
        time.sleep(pause_s)
        site.kill_broker(signal.SIGKILL)


def rebuild(site: Site) -> None:
    """Do what `palace rebuild` asks for, since the others have gone on meanwhile."""
    told = site.run("rebuild", timeout_s=240)
    if "let a broker take it over first" in told.stderr:
        with site.session() as client:
            client.tool("kg_stats")
            wait_until(
                lambda: status_of(site)["journal"]["adoption"] is None, 90, "the others' is adopted"
            )
        assert site.run("stop", timeout_s=120).returncode == 0
        wait_until(lambda: not brokers_of(site.palace), 60, "nobody is left")
        told = site.run("rebuild", timeout_s=240)
    assert told.returncode == 0, told.stdout + told.stderr


def test_three_palaces_write_one_graph_and_one_parents_lists(home: Home) -> None:
    with ExitStack() as closing_:
        loads = []
        for number, site in enumerate(home.sites):
            loads.append(SharingLoad(site, number * CLIENTS))
            closing_.callback(loads[-1].close)
        for load in loads:
            load.start()
        kill_at_random(home.sites, loads, KILLS)
        for load in loads:
            load.await_replies()
        for load in loads:
            load.end()
    waits = [wait for load in loads for wait in load.waits]
    print(f"{len(waits)} calls, the longest waited {max(waits):.1f} s")
    refused = [one for load in loads for told in load.promises for one in told.refused]
    assert [one for one in refused if one[2] != QUARANTINED] == []
    home.stop()

    # A palace that is opened afterwards sees all of it, and one that is rebuilt undoes nothing.
    rebuild(home.sites[1])
    fourth = make_site(home.root, Path("/nowhere"), "store/d")
    home.share(fourth)
    home.sites.append(fourth)
    for site in home.sites:
        with site.session() as client:
            assert client.tool("kg_stats")["triples"] >= len(home.facts())
    home.stop()

    facts, tunnels = home.facts(), home.tunnels()
    for site, load in zip(home.sites, loads, strict=False):
        found = count_in_another_process(site) | {"facts": facts}
        assert broken_promises(load, found) == []
        assert nonces_there_twice(found) == []
        assert {nonce: tunnels[nonce] for nonce in load.tunnels} == dict.fromkeys(load.tunnels, 1)
        assert_journal_is_right(site.palace, torn=True)
        drift = site.run("doctor", "--drift", "--json", timeout_s=120)
        found_ = [json.loads(line) for line in drift.stdout.splitlines()]
        assert [one for one in found_ if one["level"] == "error"] == []
