"""A task whose worker is killed wakes whoever waits for it, whatever brokers die meanwhile."""

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.killing import POINTS, Failpoints, is_deep
from tests.support.processes.brokers import wait_gone
from tests.support.processes.clients import Client, Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

FAST_WATCH = Path(__file__).parent.parent / "support" / "faults" / "fast_watch"
WAIT_MS = 240_000
# Where the owner dies while it is asked for a task, and how often.
DEATHS = [POINTS[number % len(POINTS)] for number in range(100)]


@pytest.fixture
def site(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    site = make_site(tmp_path, model_home)
    site.palace.chmod(0o700)
    site.extra["PYTHONPATH"] = str(FAST_WATCH)
    yield site
    end_brokers(tmp_path)


def delegate(lead: Client, task: str = "task_1", **asked: Any) -> str:
    made = lead.tool(
        "event_append",
        type="task.request",
        stream="project/x",
        room="delegation",
        from_agent="lead",
        to_agent="worker",
        correlation_id=task,
        status="open",
        body="mend it",
        metadata={"palace": asked},
    )
    return str(made["event"]["id"])


def stuck_events(site: Site) -> list[str]:
    with closing(sqlite3.connect(site.palace / "logstream.sqlite3")) as connection:
        query = "SELECT body FROM events WHERE type = 'task.stuck'"
        return [body for (body,) in connection.execute(query)]


@pytest.mark.parametrize("broker_dies", [False, True])
def test_a_killed_worker_wakes_who_waits_for_its_task(site: Site, broker_dies: bool) -> None:
    heard: list[Any] = []
    with site.session() as lead:
        event = delegate(lead, silence_s=600)
        beside = site.shim()
        beside.initialize()
        if not broker_dies:  # or how fast its shim comes back would matter, since looks are fast
            # Whoever is there is not silent, though it says nothing for just as long.
            other = delegate(lead, "task_2", silence_s=600)
            beside.tool("event_ack", event_id=other, from_agent="beside", status="claimed")
        worker = site.shim()
        worker.initialize()
        worker.tool("event_ack", event_id=event, from_agent="worker", status="claimed")

        def wait() -> None:
            for_it = {"correlation_id": "task_1", "to_agent": "lead", "status": "failed"}
            heard.append(lead.tool("event_wait", timeout_ms=WAIT_MS, **for_it))

        waiting = threading.Thread(target=wait)
        waiting.start()
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.close()
        if broker_dies:  # and the next one has heard of no silence yet
            wait_gone(site.kill_broker())
        waiting.join()
        (found,) = heard[0]["events"]
        assert (found["type"], found["from_agent"]) == ("task.stuck", "palace")
        assert found["body"] in ("Nothing was heard of its worker for 600 s.", *stuck_events(site))
        assert len(stuck_events(site)) == 1, "the one that is there has not ended"

        told = site.run("delegations", "--stuck", "--json").stdout.splitlines()
        assert [json.loads(line)["id"] for line in told] == ["task_1"]
        assert "lead -> worker" in site.run("delegations").stdout
        beside.close()  # not before: looks are fast here, and it would be stuck then, too


@pytest.mark.skipif(not is_deep(), reason="takes minutes: PALACE_TEST_PROFILE=deep")
def test_a_task_with_a_key_is_asked_for_once_whoever_dies(site: Site, tmp_path: Path) -> None:
    """The owner dies in the midst of it, then the agent; others ask again until all have lived."""
    assert site.run("config", "set", "own_tools=on").returncode == 0
    points = Failpoints(site, tmp_path / "points")
    work = {"project": "x", "from_agent": "lead", "to_agent": "worker", "goal": "mend it"}
    work |= {"done": "it is mended", "branch": "main", "base_commit": "abcdef0"}
    tasks = set()
    for number, point in enumerate(DEATHS):
        arguments = {**work, "idempotency_key": f"k{number}"}
        asked = {"name": "palace_delegate", "arguments": arguments}
        line = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": asked}
        with site.session() as lead:
            lead.tool("status")
            owner = site.record()["pid"]
            points.arm((point, 1))
            lead.send(json.dumps(line).encode() + b"\n")
            wait_gone(owner)
            os.kill(lead.process.pid, signal.SIGKILL)
        for _ in range(2):
            with site.session() as again:
                reply = again.call("palace_delegate", **arguments)
                told = json.loads(reply["result"]["content"][0]["text"])
        assert told["existing"] is True
        tasks.add(told["task"]["id"])
    with closing(sqlite3.connect(site.palace / "logstream.sqlite3")) as connection:
        found = connection.execute("SELECT correlation_id FROM events").fetchall()
    assert sorted(task for (task,) in found) == sorted(tasks)
    assert len(tasks) == len(DEATHS)
