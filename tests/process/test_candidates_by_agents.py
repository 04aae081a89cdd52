"""Agents accept what other palaces know, through shims and brokers that die in the middle of it."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from palace.journal.offering import DRAWERS
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.protocol.tools import CANDIDATE_TOOLS
from tests.support.faults.killing import POINTS, Failpoints
from tests.support.loads.light import fail_at_points, storm_site
from tests.support.processes.brokers import text_of, wait_gone
from tests.support.processes.clients import Client, Site
from tests.support.stores.exporter import export

pytestmark = pytest.mark.process

ACCEPT = "palace_accept_candidate"
AT_ONCE = 5


def run(site: Site, *arguments: str) -> str:
    done = site.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def site(short_dir: Path) -> Iterator[Site]:
    """Yield a palace that has pulled some texts from another one."""
    site, there = storm_site(short_dir), short_dir / "there"
    export(there, {f"{number}": f"text {number}" for number in range(len(POINTS) + 2)})
    run(site, "remote", "add", "desk", str(there))
    run(site, "pull")
    yield site
    site.run("stop")


@pytest.fixture
def points(site: Site) -> Failpoints:
    run(site, "stop")
    return fail_at_points(site)


def waiting(agent: Client) -> list[dict[str, str]]:
    told = text_of(agent.call("palace_search_candidates"))
    return [{"key": one["key"], "digest": one["digest"]} for one in told["candidates"]]


def filed(site: Site) -> Counter[str]:
    """Return how often each text is among our drawers, as the journal has them."""
    known = replay(str(site.palace / "journal"), Kernel())
    drawers: list[Any] = [known.payload(one) for one in known.live if one[0] == DRAWERS]
    return Counter(one["document"] for one in drawers)


def test_what_is_accepted_is_filed_once_wherever_the_broker_dies(
    site: Site, points: Failpoints
) -> None:
    with site.session() as agent:
        found = waiting(agent)
        for one, point in zip(found, POINTS, strict=False):
            points.arm((point, 1))
            told = text_of(agent.call(ACCEPT, **one))
            assert points.left() == "", point
            assert told["status"] == "accepted", point
            assert text_of(agent.call(ACCEPT, **one))["existing"] is True, point
        assert len(waiting(agent)) == len(found) - len(POINTS)
    assert sum(filed(site).values()) == len(filed(site)) == len(POINTS)


def test_an_agent_that_dies_with_the_broker_is_followed_by_one_that_asks_again(
    site: Site, points: Failpoints
) -> None:
    for point in ("applied", "outcome"):
        with site.session() as agent:
            one = waiting(agent)[0]
            owner = site.record()["pid"]
            points.arm((point, 1))
            asked = {"name": ACCEPT, "arguments": one}
            line = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": asked}
            agent.send(json.dumps(line).encode() + b"\n")
            wait_gone(owner)
            os.kill(agent.process.pid, signal.SIGKILL)
        for existing in (None, True):
            with site.session() as other:
                told = text_of(other.call(ACCEPT, **one))
                assert existing in (None, told["existing"])
    assert sorted(filed(site).values()) == [1, 1]


def test_agents_that_accept_at_once_file_it_once(site: Site) -> None:
    def accept(one: dict[str, str]) -> bool:
        with site.session() as agent:
            return bool(text_of(agent.call(ACCEPT, **one))["existing"])

    with site.session() as agent:
        one, other = waiting(agent)[:2]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            told = list(threads.map(accept, [one] * AT_ONCE))
        assert sorted(told) == [False] + [True] * (AT_ONCE - 1)
        dismissed = text_of(agent.call("palace_dismiss_candidate", **other))
        assert dismissed["status"] == "dismissed"
        assert {one["key"], other["key"]}.isdisjoint(now["key"] for now in waiting(agent))
    assert list(filed(site).values()) == [1]


def test_sessions_see_the_tools_once_there_is_a_remote(short_dir: Path) -> None:
    site = storm_site(short_dir)
    shown: dict[str, list[list[str]]] = {"": [], "1": []}

    def look() -> None:
        for reads_only, lists in shown.items():
            with site.shim(MEMPALACE_MCP_READ_ONLY=reads_only) as agent:
                agent.initialize()
                told = agent.request("tools/list")["result"]["tools"]
                lists.append([tool["name"] for tool in told])

    look()
    run(site, "remote", "add", "desk", str(short_dir))
    look()
    run(site, "remote", "remove", "desk")
    look()
    run(site, "stop")
    for reads_only, added in (
        ("", list(CANDIDATE_TOOLS)),
        ("1", ["palace_search_candidates"]),
    ):
        before, pulling, after = shown[reads_only]
        assert pulling == before + added
        assert after == before
