"""A broker that serves as many clients as it may: looked at, stopped, and plain to the others."""

from pathlib import Path

import pytest
import trio

from palace.broker import connections
from palace.broker.assemble import connections_max
from palace.client.control import Control
from palace.protocol import wire
from palace.protocol.budget import Use
from palace.protocol.errors import BrokerFull, BrokerUnreachable, PalaceError
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.brokers.owner import Running, open_broker, until
from tests.support.engines.gated import GatedEngine

CLIENTS = 3


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def fill(running: Running) -> None:
    running.state.connections.limit = CLIENTS
    for number in range(CLIENTS):
        await running.session(f"s{number}")


async def refusal(running: Running) -> dict[str, str]:
    shim = running.connect()
    shim.hello("one too many")
    kind, fields = await shim.header()
    assert kind == wire.REFUSED
    assert await shim.line() == b"", "the broker has not hung up"
    return fields


async def test_a_client_too_many_is_told_the_number_at_once(root: Path) -> None:
    async with open_broker(root) as running:
        await fill(running)

        for _ in range(running.state.connections.reserve + 2):  # none of them stays
            fields = await refusal(running)

        assert fields["code"] == BrokerFull.name
        assert fields["text"].startswith(f"{CLIENTS} connections are open")
        running.shims[0].close()
        await until(lambda: running.state.connections.open < CLIENTS)
        await running.session("room again")


async def test_a_full_broker_can_be_looked_at_and_stopped(root: Path) -> None:
    def ask() -> int:
        with Control(Paths(str(root)), ShimEnvironment({})) as control:
            sessions = len(control.status()["sessions"])
        with Control(Paths(str(root)), ShimEnvironment({})) as control:
            control.ask("stop", now="1")
        return sessions

    async with open_broker(root) as running:
        await fill(running)

        assert await trio.to_thread.run_sync(ask) == CLIENTS
        await running.ended.wait()
        assert running.code == 0


async def test_a_refusal_is_not_taken_for_another_version(root: Path) -> None:
    def ask() -> PalaceError:
        with (
            Control(Paths(str(root)), ShimEnvironment({})) as control,
            pytest.raises(PalaceError) as caught,
        ):
            control.status()
        return caught.value

    async with open_broker(root) as running:
        await fill(running)
        running.state.connections.reserve = 0

        error = await trio.to_thread.run_sync(ask)

    assert isinstance(error, BrokerUnreachable)
    assert f"{CLIENTS} connections are open" in error.message


def test_few_descriptors_leave_room_for_the_engine_and_for_questions() -> None:
    config = Config(graph="/kg", config_dir="/c")

    assert connections_max(config, 256) == 256 - 96 - 16
    assert connections_max(config, 100) == 1
    assert connections_max(config, 4096) == config.sessions_max + 64


# Who gives way where all sessions are taken.


async def test_sessions_that_nobody_is_connected_to_keep_nobody_out(root: Path) -> None:
    async with open_broker(root, sessions_max=3) as running:
        stays = await running.session("stays")
        for number in range(5):
            shim = await running.session(f"left {number}")
            shim.call("search", number, hold="query")
            shim.close()
            await until(lambda: any(s.use is Use.LEFT for s in running.state.sessions))

        await running.session("new")

        sessions = running.state.sessions
        assert (sessions.budget.held, len(sessions)) == (3, 3)
        assert sessions.budget.shed >= 3
        running.engine.gate("query").set()
        stays.say({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert (await stays.reply())[0] == 0


async def test_a_change_that_has_begun_keeps_its_session(root: Path) -> None:
    engine = GatedEngine()
    async with open_broker(root, engine, sessions_max=1) as running:
        shim = await running.session("changes")
        shim.call("add_drawer", 1, name="kept", hold="change")
        await until(lambda: engine.begun)
        shim.close()
        await until(lambda: running.state.sessions["changes"].use is Use.LEFT)

        assert (await refusal(running))["code"] == BrokerFull.name
        engine.gate("change").set()
        await until(lambda: not running.state.scheduler.runs_calls)
        await running.session("new")
        assert engine.written == ["kept"]


async def test_calls_that_wait_go_with_their_session_and_may_be_sent_again(root: Path) -> None:
    engine = GatedEngine()
    async with open_broker(root, engine, sessions_max=2) as running:
        writes = await running.session("writes")
        writes.call("add_drawer", 1, name="first", hold="change")
        await until(lambda: engine.begun)
        left = await running.session("left")
        left.call("add_drawer", 1, name="second")
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        left.close()
        await until(lambda: running.state.sessions["left"].use is Use.LEFT)

        new = await running.session("new")  # in place of the one that left
        assert running.state.scheduler.admission.waiting == 0
        new.close()
        await until(lambda: len(running.state.sessions) == 1)
        again = await running.session("left", next="1", resend="0:0")
        again.call("add_drawer", 1, name="second")
        engine.gate("change").set()

        assert (await again.reply())[0] == 0
        assert engine.written == ["first", "second"]


async def test_a_client_with_many_idle_sessions_makes_room_for_another(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parties = iter(["pid 1"] * 6 + ["pid 2"] * 2)  # a connection asks, then its session
    monkeypatch.setattr(connections, "party_of_peer", lambda _peer: next(parties))
    async with open_broker(root, sessions_max=3) as running:
        hoard = [await running.session(f"h{number}") for number in range(3)]

        await running.session("another's")

        assert await hoard[0].line() == b"", "the one that was silent for longest"
        assert running.state.sessions.budget.last_shed == "pid 1"
