"""Stock mempalace has the palace when palace's agents come: one broker waits for all of them."""

import hashlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.broker.reading import READER
from palace.ownership.lock import mempalace_lock_path
from palace.settings.paths import Paths
from tests.support.processes.brokers import (
    call_line,
    code_of,
    holders_of,
    make_palace,
    status_of,
    wait_ready,
)
from tests.support.processes.clients import Client, Site, brokers_of, wait_until

pytestmark = [pytest.mark.process, pytest.mark.engine]

FOREIGN_WRITER = -31052
AGENTS = 6
NOTE = {"agent_name": "a", "entry": "e"}


@pytest.fixture
def stock(site: Site) -> Iterator[Client]:
    """A stock session that holds mempalace's lock, as each does from its first change on."""
    make_palace(site)
    with site.stock() as client:
        assert client.tool("diary_write", agent_name="s", entry="Stock had a day.")["success"]
        yield client


def settings(site: Site, wait_s: float) -> None:
    (site.palace / "palace.toml").write_text(f"mempalace_lock_wait_s = {wait_s}\n")


def copies_of(site: Site) -> Path:
    return site.home / ".local/state/palace/reading"


def readers_of(site: Site) -> list[int]:
    """Return the processes that read a copy of the site's palace."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if READER.encode() in words and str(site.palace).encode() in words:
            found.append(int(entry.name))
    return found


@pytest.mark.usefixtures("follow_trace")
def test_all_agents_share_one_wait_and_are_told_who_writes(site: Site, stock: Client) -> None:
    settings(site, 0.5)
    agents = [site.shim() for _ in range(AGENTS)]
    for number, agent in enumerate(agents):
        agent.send(call_line(number, "diary_write", **NOTE))
    refused = [json.loads(agent.receive()) for agent in agents]
    broker = status_of(site)["pid"]
    again = [agent.call("mempalace_diary_write", **NOTE) for agent in agents]
    status, text = status_of(site), site.run("status").stdout

    for reply in (*refused, *again):
        assert code_of(reply) == FOREIGN_WRITER
        assert f"pid {stock.process.pid} (" in reply["error"]["message"]
    assert (status["pid"], status["epoch"]) == (broker, 1)
    assert brokers_of(site.palace) == [broker]
    assert status["engine"]["state"] == "waiting"
    assert f"pid {stock.process.pid} (" in next(
        line for line in text.splitlines() if line.startswith("engine")
    )

    stock.close()
    wait_ready(site)
    for agent in agents:
        assert agent.tool("diary_write", **NOTE)["success"]
    assert status_of(site)["pid"] == broker
    entries = agents[0].tool("diary_read", agent_name="a", last_n=50)["entries"]
    assert len(entries) == AGENTS
    for agent in agents:
        assert agent.close() == 0


@pytest.mark.usefixtures("follow_trace")
def test_a_call_that_came_within_the_wait_is_served_when_stock_ends(site: Site) -> None:
    make_palace(site)
    settings(site, 3600)
    path = mempalace_lock_path(Paths(str(site.palace)), site.environ())
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with (
        subprocess.Popen(["flock", path, "cat"], stdin=subprocess.PIPE) as command,
        site.shim() as agent,
    ):
        wait_until(lambda: holders_of(Path(path)), what="a command holds mempalace's lock")
        agent.send(call_line("held", "diary_write", **NOTE))
        wait_until(
            lambda: (site.palace / "broker.sock").exists() and status_of(site)["queue"]["waiting"],
            what="the call waits in the broker",
        )
        assert not (site.palace / "journal").exists()
        assert command.stdin is not None
        command.stdin.close()

        reply = json.loads(agent.receive())

    assert (reply["id"], code_of(reply)) == ("held", 0)


def test_a_session_that_will_not_end_by_itself_is_not_waited_for(site: Site, stock: Client) -> None:
    settings(site, 3600)
    with site.shim() as agent:
        reply = agent.call("mempalace_diary_write", **NOTE)

    assert code_of(reply) == FOREIGN_WRITER
    assert f"kill {stock.process.pid}" in reply["error"]["message"]


def test_a_broker_that_waits_leaves_when_it_is_told_to(site: Site, stock: Client) -> None:
    settings(site, 0)
    started = site.run("start")
    assert started.returncode == 73
    assert f"pid {stock.process.pid} (" in started.stderr

    stopped = site.run("stop")

    assert (stopped.returncode, stopped.stdout) == (0, "Stopped.\n")
    assert not brokers_of(site.palace)


def contents_of(site: Site) -> dict[str, tuple[int, int, str]]:
    """Return each file of the stores with its times and contents."""
    graph = site.home / ".mempalace"
    files = [
        *(path for path in site.palace.rglob("*") if "broker" not in path.name),
        *graph.glob("*.sqlite3*"),
        *site.palace.parent.glob("*.json"),
    ]
    return {
        str(path): (
            path.stat().st_size,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
        if path.is_file()
    }


def row(name: str, screen: str) -> str:
    return next(line for line in screen.splitlines() if line.startswith(name))


def asked_over_http(http: dict[str, str], tool: str, **arguments: str) -> str:
    """Return what a broker answers to a client that comes over HTTP."""
    headers = {
        "Authorization": f"Bearer {Path(http['token_file']).read_text().strip()}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    asked = urllib.request.Request(http["url"], call_line(1, tool, **arguments), headers)
    with urllib.request.urlopen(asked, timeout=120) as reply:
        return str(reply.read())


def test_what_stock_stores_can_be_read_while_it_holds_its_lock(site: Site, stock: Client) -> None:
    filed = stock.tool("add_drawer", wing="w", room="r", content="The heron nests by the weir.")
    stock.tool("kg_add", subject="Heron", predicate="nests_by", object="weir")
    with site.shim() as agent:
        refused = agent.call("mempalace_diary_write", **NOTE)
        unasked = status_of(site)["reading"]
        before = contents_of(site)
        found = agent.tool("search", query="Where does the heron nest?")["results"]
        facts = agent.tool("kg_query", entity="Heron")["facts"]
        status = agent.call("mempalace_status")
        after = contents_of(site)
        told, shown = status_of(site), site.run("status").stdout
        over_http = asked_over_http(told["http"], "search", query="Where does the heron nest?")

        assert code_of(refused) == FOREIGN_WRITER
        assert filed["success"]
        assert "heron" in found[0]["text"]
        assert facts[0]["object"] == "weir"
        assert len(status["result"]["content"]) == 1  # nothing has been written since
        assert str(copies_of(site)) not in str(status)
        assert before == after
        assert (unasked["of"], unasked["age_s"], unasked["problem"]) == ("", None, "")
        assert told["reading"]["since"] == unasked["since"] >= told["since"]
        assert told["reading"]["of"].endswith("Z")
        assert told["reading"]["age_s"] > 0
        assert (told["reading"]["behind"], told["reading"]["problem"]) == (False, "")
        assert f"it is of {told['reading']['of']}" in row("queries", shown)
        assert "heron" in over_http
        assert not list(site.home.glob(".mempalace/server/*/serverinfo.json")), "it can't write yet"

        stock.tool("add_drawer", wing="w", room="r", content="The otter sleeps in the reeds.")
        reply = agent.call("mempalace_search", query="Where does the otter sleep?")
        texts = [part["text"] for part in reply["result"]["content"]]
        assert "otter" in texts[0] or "As of" in texts[1]

        stock.close()
        wait_ready(site)
        again = agent.call("mempalace_search", query="Where does the otter sleep?")
        assert len(again["result"]["content"]) == 1
        assert "otter" in again["result"]["content"][0]["text"]
        assert agent.tool("diary_write", **NOTE)["success"]
        assert status_of(site)["reading"] is None
        assert list(site.home.glob(".mempalace/server/*/serverinfo.json"))
    assert not list(copies_of(site).glob("*"))
    assert not readers_of(site)
