"""Servers that keep the contract: a broker with the light engine, and the plugin of fifty lines."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.brokers import flat_plugin
from tests.support.calls.contract import ContractClient
from tests.support.loads.light import storm_site
from tests.support.processes.brokers import Serving, settle
from tests.support.processes.clients import Site, end_brokers, wait_until

ON = 'memory_contract = "on"'


@contextmanager
def serving(root: Path, settings: str = ON) -> Iterator[Site]:
    """Serve a palace with the light engine, and wait for its http.sock."""
    site = storm_site(root)
    settle(site, settings)
    with Serving(site):
        wait_until((site.palace / "http.sock").exists, what="the contract is served")
        yield site


@contextmanager
def flat() -> Iterator[str]:
    """Run the plugin of fifty lines; yield its address."""
    argv = [sys.executable, "-I", str(flat_plugin.__file__)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as plugin:
        assert plugin.stdout is not None
        try:
            yield f"127.0.0.1:{plugin.stdout.readline().strip()}"
        finally:
            plugin.kill()


@pytest.fixture(scope="module")
def palace_address() -> Iterator[str]:
    root = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    try:
        with serving(root) as site:
            yield str(site.palace / "http.sock")
    finally:
        end_brokers(root)
        shutil.rmtree(root)


@pytest.fixture(scope="module", params=["palace", "flat"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "palace":
        yield request.getfixturevalue("palace_address")
    else:
        with flat() as found:
            yield found


@pytest.fixture
def client(address: str) -> Iterator[ContractClient]:
    with ContractClient(address) as found:
        yield found
