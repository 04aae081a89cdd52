"""What is over is forgotten while the palace is in use, and that is no use of its own."""

import threading
from pathlib import Path

import attrs
import pytest
import trio

from palace.broker.sweeping import Part, Sweeping, sweep_part
from palace.canary.lifecycle_log import LifecycleLog
from palace.engine.api import Call, Reply
from palace.protocol.principals import OWNER
from palace.protocol.resolver import Tree
from palace.protocol.workspaces import Workspace
from tests.support.brokers.owner import open_broker, until
from tests.support.engines.gated import GatedEngine

TREE = Tree({"lead": Workspace(id="lead")})


class SweptEngine(GatedEngine):
    """Has `over` memories left that are over."""

    over = 3

    def call(self, call: Call) -> Reply:
        if call.request.name != "palace_sweep":
            return super().call(call)
        assert call.principal == OWNER
        self.begun.append("sweep")
        part, self.over = min(self.over, 2), max(0, self.over - 2)
        text = f'{{\\"forgotten\\": {part}}}'
        return Reply(payload=b'{"result": {"content": [{"text": "%s"}]}}' % text.encode())


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def test_it_sweeps_in_parts_once_somebody_has_asked(root: Path) -> None:
    engine = SweptEngine(tree=TREE)
    async with open_broker(root, engine) as running:
        services = running.state.services
        services.life.begin(services.ownership, "0")  # which is when logging begins
        sweeping = Sweeping(running.state)
        assert await sweeping.sweep() == 0, "nobody has asked for anything"
        shim = await running.session("a")
        shim.call("search", query="x")
        await shim.header()
        await shim.reply()
        idle_before = running.state.lifecycle.idle_for_s(trio.current_time())
        assert await sweeping.sweep() == 3
        log = LifecycleLog(str(root), services.kernel)
        assert [line["forgotten"] for line in log.latest() if line["ev"] == "sweep"] == ["3"]
        assert engine.begun.count("sweep") == 3
        assert running.state.lifecycle.idle_for_s(trio.current_time()) > idle_before
        assert not running.state.scheduler.admission.busy
        assert await sweeping.sweep() == 0
        assert engine.begun.count("sweep") == 3, "and nobody has since then"


@pytest.mark.parametrize("tree", [None, Tree()])
async def test_a_palace_without_workspaces_is_left_alone(root: Path, tree: Tree | None) -> None:
    engine = SweptEngine(tree=tree)
    async with open_broker(root, engine) as running:
        sweeping = Sweeping(running.state)
        shim = await running.session("a")
        shim.call("search", query="x")
        await shim.reply()
        assert await sweeping.sweep() == 0
        assert "sweep" not in engine.begun


async def test_a_refusal_ends_a_sweep_and_nothing_else(root: Path) -> None:
    class Refusing(SweptEngine):
        def call(self, call: Call) -> Reply:
            reply = super().call(call)
            return attrs.evolve(reply, payload=b'{"error": {"code": -31075}}')

    engine = Refusing(tree=TREE)
    async with open_broker(root, engine) as running:
        assert sweep_part(running.state.services) == Part()
        assert engine.begun == ["sweep"]


async def test_an_owner_that_leaves_waits_for_one_part_and_not_for_all(root: Path) -> None:
    class Slow(SweptEngine):
        over = 1000
        go_on = threading.Event()

        def call(self, call: Call) -> Reply:
            reply = super().call(call)
            if call.request.name == "palace_sweep":
                self.go_on.wait(60)
            return reply

    engine = Slow(tree=TREE)
    async with open_broker(root, engine) as running:
        shim = await running.session("a")
        shim.call("search", query="x")
        await shim.header()
        await shim.reply()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Sweeping(running.state).sweep)
            await until(lambda: "sweep" in engine.begun)
            nursery.cancel_scope.cancel()
            engine.go_on.set()
        assert engine.begun.count("sweep") == 1


async def test_what_a_server_has_to_forget_is_asked_of_it_afterwards(root: Path) -> None:
    class Served(SweptEngine):
        def call(self, call: Call) -> Reply:
            self.begun.append(call.request.name)
            text = '{\\"forgotten\\": 0, \\"server\\": true, \\"why\\": \\"it is away\\"}'
            return Reply(payload=b'{"result": {"content": [{"text": "%s"}]}}' % text.encode())

    engine = Served(tree=TREE)
    async with open_broker(root, engine) as running:
        shim = await running.session("a")
        shim.call("search", query="x")
        await shim.header()
        await shim.reply()
        assert await Sweeping(running.state).sweep() == 0
        assert engine.begun[-2:] == ["palace_sweep", "palace_memory_drop"]
