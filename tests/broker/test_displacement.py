"""A palace whose directory is elsewhere at the moment in which something is to be answered."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from palace.broker.broker import Broker
from palace.broker.displacement import Displacement
from palace.broker.watch import Watch
from palace.ownership.lock import LockReplaced
from palace.ownership.served import Memory, Served, read_served
from palace.protocol import wire
from palace.protocol.lifecycle import EngineState
from tests.support.brokers.owner import Running, make_state, open_broker, until
from tests.support.engines.gated import GatedEngine


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


def away_when_asked(running: Running, root: Path) -> None:
    """Let the directory be elsewhere whenever its owner looks whether a reply may leave."""
    withhold: Callable[[bool, bool], bool] = running.state.scheduler.withhold

    def asked(recorded: bool, _lately: bool) -> bool:
        away = root.with_name("away")
        root.rename(away)
        try:
            return withhold(recorded, False)
        finally:
            if away.exists():
                away.rename(root)

    running.state.scheduler.withhold = asked


@contextmanager
def remembered(running: Running, root: Path) -> Iterator[Callable[[], Served | None]]:
    """Give a broker a memory outside of its palace; yields what reads it."""
    services = running.state.services
    environ = {"HOME": str(root.parent)}
    services.ownership.memory = Memory(Served(str(root), "1" * 32), environ, services.kernel)
    yield lambda: read_served(str(root), environ, services.kernel)
    services.ownership.memory = None


@pytest.mark.parametrize("tool", ["search", "add_drawer"])
async def test_what_ends_while_the_palace_is_away_is_left_to_the_next_owner(
    root: Path, tool: str
) -> None:
    async with open_broker(root, GatedEngine(journalled=True), grace_s=3600.0) as running:
        shim = await running.session()
        away_when_asked(running, root)
        shim.call(tool, 1, name="ends")
        kind, fields = await shim.header()
        with trio.fail_after(60):  # the grace is an hour: nothing waits for what is not answered
            assert await shim.line() == b""
            await running.ended.wait()

    assert (kind, fields["reason"], fields["unrun"]) == (wire.GOODBYE, "moved", "")
    assert fields["read_upto"] == "0"


async def test_an_absence_that_ends_before_the_owner_looks_again_counts_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Watch.look

    def after_it_is_back(self: Watch, now_s: float) -> None:
        if root.with_name("away").exists():
            root.with_name("away").rename(root)
        look(self, now_s)

    monkeypatch.setattr(Watch, "look", after_it_is_back)
    async with open_broker(root, GatedEngine(journalled=True)) as running:
        shim = await running.session()
        away_when_asked(running, root)
        shim.call("search", 1)
        assert (await shim.header())[1]["reason"] == "moved"
        await running.ended.wait()


async def test_what_nobody_could_decide_later_is_answered_all_the_same(root: Path) -> None:
    async with open_broker(root, GatedEngine(journalled=False)) as running:
        shim = await running.session()
        away_when_asked(running, root)
        shim.call("add_drawer", 1, name="ends")

        assert (await shim.reply())[0] == 0


@pytest.mark.parametrize("journalled", [False, True])
async def test_an_owner_notes_that_no_journal_knows_what_its_palace_holds(
    root: Path, journalled: bool
) -> None:
    engine = GatedEngine(journalled=journalled)
    async with open_broker(root, engine) as running:
        services = running.state.services
        (root / "chroma.sqlite3").touch()
        with remembered(running, root) as read:
            displacement = Displacement(services=services, lifecycle=running.state.lifecycle)
            await until(lambda: running.state.lifecycle.engine is EngineState.READY)
            if journalled:
                engine.status = lambda: {"journal": "on", "durable_seq": 3}  # type: ignore[method-assign]
            displacement.note_seq()
            found = read()

    assert found is not None
    assert (found.unjournalled, found.seq) == ((False, 3) if journalled else (True, 0))


async def test_a_first_record_is_noted_before_its_reply_and_later_ones_by_the_tick(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Displacement, "tick", lambda *_: None)
    engine = GatedEngine(journalled=True)
    noted = []
    async with open_broker(root, engine) as running:
        with remembered(running, root) as read:
            for durable, recorded in ((3, False), (3, True), (4, True)):
                status = {"journal": "on", "durable_seq": durable}
                engine.status = lambda status=status: status  # type: ignore[method-assign]
                assert not running.state.scheduler.withhold(recorded, False)
                found = read()
                noted.append(found.seq if found else 0)

    assert noted == [0, 3, 3]


async def test_without_a_journal_the_first_change_is_noted_before_its_reply(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Displacement, "tick", lambda *_: None)
    engine = GatedEngine(journalled=False)
    engine.status = lambda: {"journal": "none, since the backend is x"}  # type: ignore[method-assign]
    async with open_broker(root, engine) as running:
        with remembered(running, root) as read:
            shim = await running.session()
            shim.call("search", 1)
            await shim.reply()
            asked = read()
            shim.call("add_drawer", 2, name="first")
            await shim.reply()
            changed = read()

    assert asked is None or not asked.unjournalled
    assert changed is not None
    assert changed.unjournalled, "a palace that held nothing isn't missed when it is gone"


@pytest.mark.parametrize("whole", [True, False])
async def test_what_the_last_tick_did_not_know_is_noted_of_a_palace_that_was_moved_whole(
    root: Path, whole: bool
) -> None:
    engine = GatedEngine(journalled=True)
    away = root.with_name("away")
    async with open_broker(root, engine) as running:
        services = running.state.services
        with remembered(running, root) as read:
            (root / "palace_id").write_text(services.ownership.palace_id + "\n")
            displacement = Displacement(services=services, lifecycle=running.state.lifecycle)
            displacement.begin()
            engine.status = lambda: {"journal": "on", "durable_seq": 5}  # type: ignore[method-assign]
            root.rename(away)
            if not whole:
                (away / "palace_id").unlink()
            displacement.note_moved(str(away))
            found = read()
        away.rename(root)
        services.kernel.close(displacement._root_fd)  # an owner has it for life

    assert found is not None
    assert (found.seq, found.moved_to) == (5 if whole else 0, str(away))


async def test_an_owner_whose_directory_was_replaced_before_it_watches_serves_nobody(
    root: Path,
) -> None:
    """Nothing that it does from here on is the palace's: not even the record is published."""
    state = make_state(root, GatedEngine())
    services = state.services
    away = root.rename(root.with_name("palace.pre-rebuild-20260101-000000"))
    root.mkdir(mode=0o700)
    try:
        with pytest.raises(LockReplaced):
            await Broker(state).serve()
    finally:
        services.kernel.close(services.ownership.lock_fd)
        assert services.endpoint is not None
        services.endpoint.socket.close()

    assert list(root.iterdir()) == []
    assert not (away / "broker.json").exists()
