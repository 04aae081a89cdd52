"""Four clients of the official SDKs at once, of both languages and eras, over killed brokers.

Over stdio nothing fails.  Over HTTP a call may: its client reads the next broker's address and
token and asks again, as the operator's page says; what was acknowledged is there.
"""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from palace.settings.stock_config import server_directory
from tests.engine.test_sdk import LEGACY, MODERN, TYPESCRIPT_SDKS, over_http, over_stdio, tool
from tests.support.machines.npm import npm_packages
from tests.support.processes.brokers import wait_gone
from tests.support.processes.clients import PALACE, Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

ROOT = Path(__file__).parents[2]
CALLS, KILLS = 24, 4
CEILING_S = 120


@pytest.fixture
def site(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    site = make_site(tmp_path, model_home)
    assert site.run("start").returncode == 0
    yield site
    end_brokers(tmp_path)


@pytest.fixture(scope="session")
def typescript(pytestconfig: pytest.Config) -> Path:
    directory = npm_packages(pytestconfig, "sdk", *TYPESCRIPT_SDKS)
    script = directory / "storm.mjs"  # packages are looked for beside a script
    script.write_text((ROOT / "tests/support/calls/sdk_storm.mjs").read_text())
    return script


@attrs.define
class Storm:
    """What four clients were told; brokers are killed as they come on."""

    site: Site
    kind: str
    done: Counter[str] = attrs.field(factory=Counter)
    failed: set[tuple[str, int]] = attrs.field(factory=set)  # whose call, and which
    attempts: int = 0  # that failed, while no broker served, too
    kills: int = 0

    def note(self, name: str, line: str) -> None:
        if line.startswith("failed"):
            self.failed.add((name, self.done[name]))
            self.attempts += 1
        else:
            self.done[name] += 1

    async def kill(self) -> None:
        """Kill a broker whenever a part of all calls was answered."""
        whole = 4 * CALLS
        for number in range(1, KILLS + 1):
            while self.done.total() < number * whole // (KILLS + 1):
                await trio.sleep(0.01)
            pid = self.site.record()["pid"]
            os.kill(pid, signal.SIGKILL)
            self.kills += 1
            wait_gone(pid)
            if self.kind == "http":  # which starts none
                await trio.to_thread.run_sync(self.site.run, "start")

    async def python(self, name: str, mode: str) -> None:
        opened = over_stdio if self.kind == "stdio" else over_http
        number = 0
        while number < CALLS:
            try:
                async with opened(self.site, mode) as session:
                    while number < CALLS:
                        fact = {"subject": name, "predicate": "survived", "object": str(number)}
                        assert (await tool(session, "kg_add", **fact))["success"]
                        self.note(name, f"done {number}")
                        number += 1
            except Exception as problem:  # whichever the SDK has for it
                self.note(name, f"failed {problem!r}"[:100])
                await trio.sleep(0.05)

    async def typescript(self, name: str, mode: str, script: Path) -> None:
        published = server_directory(str(self.site.home), str(self.site.palace))
        over = {"stdio": [*PALACE, "shim"]}
        to = over.get(self.kind, [f"{published}/serverinfo.json", f"{published}/token"])
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                ["node", str(script), mode, self.kind, name, str(CALLS), *to],
                env=self.site.environ(),
                stdout=subprocess.PIPE,
            )
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            text = b""
            async for data in process.stdout:
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    self.note(name, line.decode())


@pytest.mark.parametrize("kind", ["stdio", "http"])
@pytest.mark.trio
async def test_four_clients_of_the_official_sdks_outlive_brokers(
    site: Site, typescript: Path, kind: str
) -> None:
    storm = Storm(site, kind)
    with trio.fail_after(CEILING_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storm.python, "auk", LEGACY)
            nursery.start_soon(storm.python, "eider", MODERN)
            nursery.start_soon(storm.typescript, "gannet", LEGACY, typescript)
            nursery.start_soon(storm.typescript, "tern", MODERN, typescript)
            nursery.start_soon(storm.kill)
    held = facts(site)

    failures = f"{len(storm.failed)} calls failed at first, {storm.attempts} attempts"
    print(f"{kind}: {storm.done.total()} calls, {storm.kills} kills, {failures}")
    assert storm.kills == KILLS
    assert storm.done == dict.fromkeys(("auk", "eider", "gannet", "tern"), CALLS)
    assert kind == "http" or not storm.failed
    wanted = sorted(str(number) for number in range(CALLS))
    for name in storm.done:
        assert sorted(fact["object"] for fact in held[name]) == wanted, name


def facts(site: Site) -> dict[str, Any]:
    names = ("auk", "eider", "gannet", "tern")
    with site.shim() as shim:
        return {name: shim.tool("kg_query", entity=name)["facts"] for name in names}
