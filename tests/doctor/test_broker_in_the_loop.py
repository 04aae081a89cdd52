"""What the doctor says of a broker that the test holds at one moment, and what ends it."""

from pathlib import Path

import pytest
import trio

from palace.broker.reporting import status as reporting
from palace.commands.status_text import status_text
from palace.doctor.diagnostics import gather
from palace.doctor.finding import ERROR, WARNING, Finding
from palace.doctor.serving import check_serving
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.brokers.owner import open_broker, until
from tests.support.engines.gated import GatedEngine


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def findings(root: Path) -> dict[str, Finding]:
    def look() -> dict[str, Finding]:
        found = gather(Paths(str(root)), ShimEnvironment({"HOME": str(root.parent)}))
        return {finding.code: finding for finding in check_serving(found)}

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
