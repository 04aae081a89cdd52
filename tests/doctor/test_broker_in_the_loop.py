"""What the doctor says of a broker that the test holds at one moment, and what ends it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from palace.broker.life import Life
from palace.broker.reporting import status as reporting
from palace.canary.recording import record_death
from palace.canary.records import Owner, open_directory
from palace.commands.status_text import status_text
from palace.doctor.deaths import check_deaths
from palace.doctor.diagnostics import Diagnostics, gather
from palace.doctor.finding import ERROR, WARNING, Finding
from palace.doctor.journal import check_journal
from palace.doctor.serving import check_serving
from palace.doctor.stock_tools import check_stock_tools
from palace.doctor.stores import check_stores
from palace.journal.journal import Journal
from palace.journal.record import PUT, Draft, Stamp
from palace.kernel.kernel import Kernel
from palace.protocol.deaths import OOM
from palace.protocol.lifecycle import EngineState
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.stock_config import server_directory
from tests.support.brokers.owner import open_broker, until
from tests.support.engines.gated import GatedEngine


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


Check = Callable[[Diagnostics], Iterator[Finding]]


async def findings(root: Path, *checks: Check) -> dict[str, Finding]:
    def look() -> dict[str, Finding]:
        found = gather(Paths(str(root)), ShimEnvironment({"HOME": str(root.parent)}))
        return {
            finding.code: finding
            for check in checks or (check_serving,)
            for finding in check(found)
        }

    return await trio.to_thread.run_sync(look)


async def test_an_engine_that_cant_be_loaded_is_told_until_another_broker_has_one(
    root: Path,
) -> None:
    engine = GatedEngine(fail_load="The model is broken. Remove it.")
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        running.state.lifecycle.failed_linger_s = 60.0
        engine.may_load.set()
        await until(lambda: running.state.lifecycle.failure)

        said = (await findings(root))["engine_failed"]

    assert said.level == ERROR
    assert "The model is broken. Remove it." in said.text
    assert said.remedy.startswith("Correct what it names; the next request then starts another")
    async with open_broker(root) as running:
        await running.session()
        assert "engine_failed" not in await findings(root)


async def test_a_full_queue_is_told_and_status_shows_who_asks(root: Path) -> None:
    async with open_broker(root, queue_depth_max=2) as running:
        shim = await running.session("the one who asks")
        for number in range(3):
            shim.call("add_drawer", number, name=f"n{number}", hold="w")
        admission = running.state.scheduler.admission
        await until(lambda: running.engine.begun == ["n0"] and admission.waiting == 2)

        said = (await findings(root))["queue_full"]
        asking = status_text(reporting.status_of(running.state))
        running.engine.gate("w").set()
        await shim.replies(3)
        after = await findings(root)

    assert (said.level, said.remedy) == (WARNING, "See who asks so much: palace status")
    assert "2 requests wait, and no more are let in" in said.text
    assert "3 in flight" in asking
    assert "queue_full" not in after


def listening(found: Diagnostics) -> Iterator[Finding]:
    """Look at stock's way to a broker that says of itself that it listens, at a port of discard."""
    assert found.status is not None
    found.status["http"] = {"url": "http://127.0.0.1:9/mcp"}
    yield from check_stock_tools(found)


async def test_a_broker_without_room_is_told_and_not_taken_for_another_network(
    root: Path,
) -> None:
    async with open_broker(root, sessions_max=2) as running:
        last = [await running.session(f"agent {number}") for number in range(2)][-1]
        await until(lambda: running.state.lifecycle.engine is EngineState.READY)
        published = Path(server_directory(str(root.parent), str(root)))
        published.mkdir(parents=True)
        (published / "serverinfo.json").write_text('{"port": 9}')
        (published / "token").touch()

        told = await findings(root, check_serving, listening)
        last.close()
        await until(lambda: len(running.state.sessions) < 2)
        after = await findings(root, check_serving, listening)

    said = told["broker_full"]
    assert said.level == ERROR
    assert "2 sessions are open, as many as this broker may have" in said.text
    assert said.remedy == (
        "End an agent, or allow more (sessions_max in palace.toml) where brokers are started, and "
        "then: palace stop"
    )
    assert "http_unreachable" not in told
    assert "http_unreachable" in after
    assert "broker_full" not in after


async def test_stores_that_could_not_be_compared_are_a_warning_until_they_can(root: Path) -> None:
    root.mkdir(mode=0o700)
    journal = Journal.open(f"{root}/journal", Kernel(), Stamp(epoch=1, writer="w"))
    journal.append([Draft(action=PUT, key="s:1", kind="file:x", id="x", payload={})])
    journal.close()
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        loading = await findings(root, check_journal, check_stores)
        engine.may_load.set()
        await until(lambda: running.state.lifecycle.engine is EngineState.READY)
        ready = await findings(root, check_journal, check_stores)

    said = loading["not_compared"]
    assert (said.level, "the broker's engine is loading" in said.text) == (WARNING, True)
    assert said.remedy == "Look again once it is ready: palace doctor"
    assert "stores" not in loading, "nor is it said that they are whole"
    assert "not_compared" not in ready


async def test_deaths_are_told_beside_a_broker_that_nobody_watches(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Life, "tick", lambda _life, _now_s: None)  # which tries again in a second
    root.mkdir(mode=0o700)
    directory = open_directory(str(root), Kernel(), make=True)
    record_death(directory, Owner(7, "d" * 32), {"server_pid": "7", "cause": OOM}, Kernel())
    directory.close()
    async with open_broker(root) as running:
        running.state.services.life.canary.fail("no process can be started")
        said = await findings(root, check_deaths)

    assert set(said) == {"unwatched", "deaths"}
    assert "no process can be started" in said["unwatched"].text
