"""A broker that serves as many clients as it may: looked at, stopped, and plain to the others."""

import itertools
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from palace.broker import connections
from palace.broker.assemble import connections_max
from palace.broker.reporting.status import status_of
from palace.client.control import Control
from palace.protocol import wire
from palace.protocol.budget import Use
from palace.protocol.errors import BrokerFull, BrokerUnreachable, PalaceError
from palace.protocol.lifecycle import EngineState
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
    running.state.connections.budget.limit = CLIENTS
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
        await until(lambda: not running.state.connections.is_full())
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


async def test_whoever_asks_for_an_adoption_again_and_again_takes_no_more_than_one_thread(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trio has forty for all, and a broker needs one to leave."""
    asked, done = itertools.count(), threading.Event()
    engine = GatedEngine()

    def adopt() -> int:
        next(asked)
        done.wait(30)
        return 0

    monkeypatch.setattr(engine, "adopt", adopt)
    async with open_broker(root, engine) as running:
        await until(lambda: running.state.lifecycle.engine is EngineState.READY)
        for _ in range(45):
            running.connect().stream.send_soon(wire.encode_header(wire.CONTROL, {"ask": "adopt"}))
        await until(lambda: running.state.connections.open == 45)
        await trio.testing.wait_all_tasks_blocked(0.05)

        assert next(asked) == 1
        assert await trio.to_thread.run_sync(threading.get_ident) > 0
        done.set()
        assert {(await shim.header())[0] for shim in running.shims} == {wire.ANSWER}


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


def parties(monkeypatch: pytest.MonkeyPatch, *, first: int) -> None:
    """Let so many connections be of one party, and all later ones of another."""
    asked = itertools.count()
    monkeypatch.setattr(
        connections, "party_of_peer", lambda _peer: "pid 1" if next(asked) < first else "pid 2"
    )


async def test_silent_connections_of_one_client_keep_no_other_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_broker(root) as running:
        held = running.state.connections
        held.budget.limit = CLIENTS
        parties(monkeypatch, first=CLIENTS + held.reserve)
        silent = [running.connect() for _ in range(CLIENTS + held.reserve)]
        await until(lambda: held.budget.held + held.budget.shed >= len(silent))

        await running.session("another's")

        assert held.budget.last_shed == "pid 1"
        assert await silent[0].line() == b"", "the oldest of those that had said nothing"
        assert held.budget in running.state.budgets, "status and metrics name it"
        await until(lambda: held.open <= CLIENTS)


async def test_a_connection_with_a_session_goes_for_another_client_and_may_come_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_broker(root) as running:
        parties(monkeypatch, first=2 * CLIENTS)  # a connection asks, then its session
        await fill(running)

        await running.session("another's")

        assert running.state.connections.budget.last_shed == "pid 1"
        assert await running.shims[0].line() == b""
        assert "s0" in running.state.sessions or running.state.sessions.budget.held == CLIENTS


async def test_sessions_that_only_ask_keep_no_other_client_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long-polls last for minutes, and whoever loses one asks again."""
    async with open_broker(root, sessions_max=CLIENTS) as running:
        parties(monkeypatch, first=2 * CLIENTS)
        polling = [await running.session(f"p{number}") for number in range(CLIENTS)]
        for shim in polling:
            shim.call("event_wait", 1, hold="polls")
        await until(lambda: len(running.state.scheduler.admission.running) == CLIENTS)
        budgets = {budget["name"]: budget for budget in status_of(running.state)["budgets"]}
        assert (budgets["poll_slots"]["held"], budgets["poll_slots"]["most"]) == (CLIENTS, "pid 1")

        await running.session("another's")

        assert running.state.sessions.budget.last_shed == "pid 1"
        stay = [n for n in range(CLIENTS) if f"p{n}" in running.state.sessions]
        (gone,) = set(range(CLIENTS)) - set(stay)
        assert await polling[gone].line() == b""
        running.engine.gate("polls").set()
        for number in stay:
            assert (await polling[number].reply())[0] == 0


async def test_a_session_whose_change_has_begun_is_left_alone_whatever_its_party_holds(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = GatedEngine()
    async with open_broker(root, engine, sessions_max=CLIENTS) as running:
        parties(monkeypatch, first=2 * CLIENTS)
        shims = [await running.session(f"c{number}") for number in range(CLIENTS)]
        shims[0].call("add_drawer", 1, name="kept", hold="change")
        await until(lambda: engine.begun)

        await running.session("another's")

        assert await shims[1].line() == b"", "the next one in its place"
        engine.gate("change").set()
        assert (await shims[0].reply())[0] == 0
        assert engine.written == ["kept"]


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
