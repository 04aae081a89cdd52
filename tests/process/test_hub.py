"""A hub of stock's that runs already: found, named in every refusal, and taken over.

`mempalace-mcp --ensure-hub` is announced: sessions start one server over HTTP for all of them, and
go through it.  mempalace 3.11 has the server and the way through it; what starts it here is the
command that the announced option runs.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.settings.stock_config import server_directory
from tests.support.processes.brokers import code_of, status_of
from tests.support.processes.clients import Client, Site, wait_until

pytestmark = [pytest.mark.process, pytest.mark.engine]

FOREIGN_WRITER = -31052
BIN = Path(sys.executable).parent
SERVE = ("--transport", "http", "--host", "127.0.0.1", "--port", "0")
WRITER_WAITS_NOT = {"MEMPALACE_MCP_WRITER_WAIT_SECONDS": "0"}


def told(site: Site) -> dict[str, int]:
    path = Path(server_directory(str(site.home), str(site.palace))) / "serverinfo.json"
    return json.loads(path.read_text()) if path.exists() else {}


def is_healthy(site: Site) -> bool:
    port = told(site).get("port", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def hub(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-P", "-m", "mempalace.mcp_server", *SERVE]
    started = subprocess.Popen(
        [*argv, "--palace", str(site.palace)],
        env=site.environ(**WRITER_WAITS_NOT),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: is_healthy(site), 60, "the hub")
        yield started
    finally:
        started.kill()
        started.wait()


def session(site: Site) -> Client:
    """Start a stock session, which finds whatever server there is."""
    environ = site.environ(MEMPALACE_PALACE_PATH=str(site.palace))
    return Client([str(BIN / "mempalace-mcp")], environ, stderr=subprocess.DEVNULL)


def texts(client: Client) -> set[str]:
    return {one["content_preview"] for one in client.tool("list_drawers", wing="w")["drawers"]}


def test_a_hub_is_named_in_every_refusal_and_taken_over(
    site: Site, hub: subprocess.Popen[bytes]
) -> None:
    with session(site) as theirs, site.shim() as ours:
        assert theirs.tool("add_drawer", wing="w", room="r", content="through the hub")["success"]
        (site.palace / "palace.toml").write_text("mempalace_lock_wait_s = 0.5\n")

        refused = ours.call("mempalace_add_drawer", wing="w", room="r", content="refused")
        assert code_of(refused) == FOREIGN_WRITER
        doctor = site.run("doctor").stdout
        words = (refused["error"]["message"], doctor, site.run("status").stdout)
        for said in words:
            assert "stock's hub" in said
            assert f"kill {hub.pid}" in said
        assert texts(ours) == {"through the hub"}, "reading goes on, from a copy"

        subprocess.run(["kill", str(hub.pid)], check=True)  # as all three say
        hub.wait()
        assert ours.tool("add_drawer", wing="w", room="r", content="ours")["success"]
        broker = status_of(site)["pid"]
        wait_until(lambda: told(site).get("pid") == broker, what="stock is led to the broker")
        assert theirs.tool("add_drawer", wing="w", room="r", content="the same session")["success"]
        assert texts(ours) == texts(theirs) == {"through the hub", "ours", "the same session"}
        assert status_of(site)["pid"] == broker
