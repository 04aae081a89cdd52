"""All attacks at once, by processes that do what they can, beside four honest clients."""

import http.client
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.faults.killing import is_deep
from tests.support.loads.attacks import ATTACKS, Place, under_attack
from tests.support.loads.honest import Agent, honest_agents, place_of, work_together
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import (
    Serving,
    make_palace,
    make_site,
    status_of,
    wait_ready,
)
from tests.support.processes.clients import Site, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.engine,
    pytest.mark.skipif(not is_deep(), reason="takes a minute: PALACE_TEST_PROFILE=deep"),
]

ATTACK_S = 45
# What all clients may hold together is 256 MiB (decision 31), and a line is read whole before its
# values are counted.  Without bounds the attacks take gigabytes.
MEMORY_GROWTH_MAX = 1536 << 20
DESCRIPTORS_MAX = 1024
# The budgets that attacks here exceed; all others only make their parties wait.
SHED = {"sessions", "client_bytes", "http_strangers", "guest_strangers"}
_SHED = re.compile(r'(?m)^palace_budget_shed_total\{budget="(\w+)"\} (\d+)$')


@attrs.define(eq=False)
class Lookout:
    """Looks at a broker now and then: what it holds, and whom it took something from."""

    site: Site
    pid: int
    memory_max: int = 0
    descriptors_max: int = 0
    shed: dict[str, set[str]] = attrs.field(factory=dict)  # budget -> parties
    looks: int = 0

    def look(self) -> dict[str, Any]:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        self.memory_max = max(self.memory_max, pages * os.sysconf("SC_PAGE_SIZE"))
        self.descriptors_max = max(self.descriptors_max, len(os.listdir(f"/proc/{self.pid}/fd")))
        status = status_of(self.site)
        for budget in status["budgets"]:
            if budget["shed"]:
                self.shed.setdefault(budget["name"], set()).add(budget["last_shed"])
        self.looks += 1
        return status

    @contextmanager
    def looking(self) -> Iterator[None]:
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.5):
                self.look()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def metrics_of(place: Place) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", place.http, timeout=120)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {place.token}"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def shed_in(metrics: str) -> dict[str, int]:
    """Return how often something was taken from a party, by budget."""
    return {name: int(count) for name, count in _SHED.findall(metrics)}


def sessions_of(status: dict[str, Any], agents: list[Agent]) -> dict[str, str]:
    """Return each honest client's session."""
    names = {f"honest-{agent.name}" for agent in agents}
    return {
        entry["client"].split()[0]: entry["session"]
        for entry in status["sessions"]
        if entry["client"].split()[:1] and entry["client"].split()[0] in names
    }


def test_honest_clients_are_answered_beside_all_attacks_at_once(
    short_dir: Path, model_home: Path
) -> None:
    site = make_site(short_dir, model_home)
    make_palace(site, f'listen = "127.0.0.1:{free_port()}"\n')
    with Serving(site) as broker:
        wait_ready(site)
        wait_until(lambda: bool(status_of(site)["http"]["url"]), what="HTTP is served")
        place = place_of(status_of(site), site.palace / "broker.sock")
        with honest_agents(place, site.shim) as agents:
            work_together(agents, 1)  # the store exists, and all is loaded
            lookout = Lookout(site, broker.pid)
            before = lookout.look()
            resting = lookout.memory_max
            with under_attack(place), lookout.looking():
                work_together(agents, ATTACK_S)
                during = lookout.look()
            metrics = metrics_of(place)  # in peace: one request alone may be cut off before

    assert {agent.name: agent.failures for agent in agents if agent.failures} == {}
    for agent in agents:
        assert all(agent.taken_ms.values()), agent
    # Nobody's session was taken from under it.
    assert len(sessions_of(before, agents)) == len(agents)
    assert sessions_of(during, agents) == sessions_of(before, agents)
    # What was taken from whom is named, and was taken from none of them.
    honest = {f"pid {entry['pid']}" for entry in before["sessions"]}
    assert set(lookout.shed) >= SHED, lookout.shed
    assert not honest & set().union(*lookout.shed.values()), lookout.shed
    assert set(lookout.shed) <= {budget["name"] for budget in during["budgets"]}
    assert lookout.memory_max - resting < MEMORY_GROWTH_MAX, lookout
    assert lookout.descriptors_max < DESCRIPTORS_MAX, lookout
    assert {name for name, count in shed_in(metrics).items() if count} >= SHED, metrics
    assert len(ATTACKS) == 8
