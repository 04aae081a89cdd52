"""What clients may have the broker keep: replies unread, half lines, replies for nobody."""

from pathlib import Path

import pytest

from palace.broker import connections, memory, requests
from palace.broker import session as broker_session
from palace.protocol import session as sessions
from palace.transport import buffered
from tests.support.brokers.owner import open_broker, until
from tests.support.engines.gated import GatedEngine

BIG = "x" * 400_000  # more than a socket's buffer takes


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def test_who_reads_no_replies_has_no_further_call_begun(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (buffered, requests, broker_session):
        monkeypatch.setattr(module, "UNSENT_MAX", 100_000)
    engine = GatedEngine()
    async with open_broker(root, engine) as running:
        deaf, other = await running.session("deaf"), await running.session("other")
        for number in range(20):
            deaf.call("search", number, name=BIG)
        await until(lambda: running.state.scheduler.admission.choked == {"deaf"})
        other.call("search", 1, name="heard")
        await other.reply()

        running_calls = running.state.scheduler.admission.running
        await until(lambda: not running.state.scheduler.admission.running)
        assert len(engine.begun) < 12, running_calls
        stream = running.state.sessions["deaf"].stream
        assert stream is not None
        assert stream.unsent < 10 * len(BIG)

        assert sorted(await deaf.replies(20)) == list(range(20))
        assert running.state.scheduler.admission.choked == set()


async def test_what_all_hold_is_bounded_and_the_heaviest_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "BYTES_MAX", 1 << 20)
    parties = iter(["pid 1", "pid 2"])
    monkeypatch.setattr(connections, "party_of_peer", lambda _peer: next(parties))
    async with open_broker(root) as running:
        half, modest = running.connect(), running.connect()
        modest.stream.send_soon(b"y" * 1000)
        half.stream.send_soon(b"y" * (2 << 20))

        assert await half.line() == b""

        budget = running.state.memory.budget
        assert (budget.shed, budget.last_shed) in ((1, "pid 1"), (1, "pid 2"))
        assert "had the broker keep" in str(running.state.telemetry.errors.last)
        assert not modest.ended


async def test_queries_of_a_client_that_has_gone_are_dropped_when_too_much_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "KEPT_BYTES_MAX", 1_000_000)
    engine = GatedEngine()
    async with open_broker(root, engine, readers=1) as running:
        gone = await running.session("gone")
        gone.call("search", 0, name="first", hold="first")
        for number in range(1, 30):
            gone.call("search", number, name=BIG)
        await until(lambda: running.state.scheduler.admission.waiting == 29)
        gone.close()
        engine.gate("first").set()

        await until(lambda: not running.state.scheduler.admission.waiting)
        await until(lambda: running.state.sessions["gone"].stream is None)
        assert len(engine.begun) < 10
        assert running.state.sessions["gone"].machine.kept_bytes <= 1_000_000
