"""A broker that serves as many clients as it may: looked at, stopped, and plain to the others."""

from pathlib import Path

import pytest
import trio

from palace.broker.assemble import connections_max
from palace.client.control import Control
from palace.protocol import wire
from palace.protocol.errors import BrokerFull, BrokerUnreachable, PalaceError
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.brokers.owner import Running, open_broker, until

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
