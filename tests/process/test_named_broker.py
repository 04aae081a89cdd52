"""A guest whose MEMPALACE_BROKER names the address, and whose token is in the palace's record."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loads.light import storm_site
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import Serving, settle, wait_ready
from tests.support.processes.clients import Site, end_brokers

pytestmark = pytest.mark.process


@pytest.fixture
def site(short_dir: Path) -> Iterator[Site]:
    site = storm_site(short_dir)
    site.palace.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield site
    end_brokers(site.palace)


def test_a_call_between_two_owners_waits_for_the_next_one(site: Site) -> None:
    address = f"127.0.0.1:{free_port()}"
    settle(site, f'listen = "{address}"\n')
    first = Serving(site)
    wait_ready(site)
    with site.shim(MEMPALACE_BROKER=f"wss://{address}") as guest:
        guest.initialize()
        guest.call("mempalace_search", query="first")
        first.end(signal.SIGTERM)
        assert not (site.palace / "broker.json").exists(), "an owner that leaves takes it along"
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.append(guest.call("mempalace_search")))
        asking.start()
        asking.join(1)
        assert answers == []
        with Serving(site):
            asking.join(60)
            assert [list(answer) for answer in answers if isinstance(answer, dict)] == [
                ["jsonrpc", "id", "result"]
            ]
