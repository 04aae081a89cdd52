"""The watch over tasks asks no more than it has to, and is no use of the palace."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from palace.broker.reporting.status import status_of
from palace.broker.session import LiveSession
from palace.broker.task_claims import note_claim
from palace.broker.task_watch import LOOK_S, TaskWatch
from palace.broker.telemetry.telemetry import TaskNotes
from palace.commands.status_text import status_text
from palace.doctor.delegations import check_delegations
from palace.doctor.finding import NOTE
from palace.engine.api import Call, Reply
from palace.protocol import wire
from palace.protocol.budget import HTTP
from palace.protocol.claims import CLAIMS_MAX
from palace.protocol.errors import StoreUnavailable
from palace.protocol.lifecycle import EngineState
from palace.protocol.resolver import Tree
from palace.protocol.workspaces import Workspace
from tests.support.brokers.owner import Running, Shim, open_broker, until
from tests.support.engines.gated import GatedEngine

if TYPE_CHECKING:
    from palace.doctor.diagnostics import Diagnostics

TASK = {"id": "t", "sign": "e", "in_progress": True, "is_heard": True, "deadline_at": None}
WATCHED = "palace_task_watched"
ACK = "mempalace_event_ack"
WORKERS = 400
CLAIMED = {**TASK, "silence_s": 600, "claim": "evt_1", "worker": "coder"}


class WatchedEngine(GatedEngine):
    """Has these tasks to watch, and ends what it is told to end."""

    def __init__(self, *tasks: dict[str, Any]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.verdicts: list[dict[str, Any]] = []
        self.is_broken = False

    def call(self, call: Call) -> Reply:
        name = call.request.name
        if name == ACK:
            text = json.dumps({"success": True, "event": {"id": call.request.arguments["name"]}})
            reply = {"id": 1, "result": {"content": [{"type": "text", "text": text}]}}
            return Reply(payload=json.dumps(reply).encode())
        if not name.startswith("palace_task"):
            return super().call(call)
        self.begun.append(name)
        self.clients.append(call.client)
        if self.is_broken:
            return Reply(payload=b'{"error": {"code": -31000, "message": "broken"}}')
        told: list[Any] = self.tasks
        if name != WATCHED:
            self.verdicts += call.request.arguments["verdicts"]
            told = [verdict["id"] for verdict in call.request.arguments["verdicts"]]
        text = json.dumps({"tasks": told})
        reply = {"result": {"content": [{"type": "text", "text": text}]}}
        return Reply(payload=json.dumps(reply).encode())


class Minutes:
    """A clock that goes on by one look at each look."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += LOOK_S
        return self.now_s


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


def watch_of(running: Running) -> TaskWatch:
    return TaskWatch(running.state, running.nursery, clock=Minutes(), monotonic=Minutes())


async def test_a_palace_without_a_log_of_events_is_asked_nothing(root: Path) -> None:
    engine = WatchedEngine({**TASK, "silence_s": 60})
    async with open_broker(root, engine) as running:
        watch = watch_of(running)
        for _ in range(5):
            assert await watch.look() == []
        assert engine.begun == []


async def test_a_log_in_which_nothing_is_to_be_watched_is_read_when_it_changes(root: Path) -> None:
    engine = WatchedEngine()
    async with open_broker(root, engine) as running:
        watch = watch_of(running)
        for text in ("one", "longer"):
            (root / "logstream.sqlite3").write_text(text)
            for _ in range(3):
                assert await watch.look() == []
        assert engine.begun == [WATCHED] * 2


async def test_what_is_silent_ends_and_nobody_has_used_the_palace(root: Path) -> None:
    engine = WatchedEngine({**TASK, "silence_s": 600})
    async with open_broker(root, engine) as running:
        (root / "logstream.sqlite3").write_text("one")
        watch = watch_of(running)
        lifecycle = running.state.lifecycle
        await until(lambda: lifecycle.engine is EngineState.READY)  # which is a use of it
        before = lifecycle.idle_for_s(trio.current_time())
        assert [await watch.look() for _ in range(11)] == [[]] * 10 + [["t"]]
        assert [(one["id"], one["sign"], one["why"]) for one in engine.verdicts] == [
            ("t", "e", "silent")
        ]
        assert lifecycle.idle_for_s(trio.current_time()) >= before
        assert set(engine.clients) == {"palace tasks"}
        told = status_of(running.state)
        assert told["tasks"] == {"watched": 1, "stuck": 1}
        assert "1 watched, 1 given up" in status_text(told)
        none = {**told, "tasks": {"watched": 0, "stuck": 0}}
        assert "given up" not in status_text(none)
        (finding,) = check_delegations(cast("Diagnostics", SimpleNamespace(status=told)))
        assert (finding.level, finding.code) == (NOTE, "tasks_stuck")
        assert not list(check_delegations(cast("Diagnostics", SimpleNamespace(status=none))))


async def test_a_store_that_fails_is_asked_again(root: Path) -> None:
    engine = WatchedEngine({**TASK, "silence_s": 600})
    async with open_broker(root, engine) as running:
        (root / "logstream.sqlite3").write_text("one")
        watch = watch_of(running)
        engine.is_broken = True
        with pytest.raises(StoreUnavailable):
            await watch.look()
        engine.is_broken = False
        await watch.look()
        assert engine.begun == [WATCHED] * 2


# A worker that is there is not silent.


async def claim(shim: Shim, event: str) -> tuple[str, dict[str, str]]:
    """Claim a task, and return what the shim is told beside the reply."""
    params = {"name": ACK, "arguments": {"status": "claimed", "name": event}}
    shim.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    told = await shim.header()
    await shim.reply()
    return told


async def looks(watch: TaskWatch, most: int) -> int:
    """Return how many looks it takes until something ends, 0 for none."""
    for number in range(1, most + 1):
        if await watch.look():
            return number
    return 0


async def test_a_worker_whose_session_lasts_is_not_silent_until_it_ends(root: Path) -> None:
    engine = WatchedEngine(CLAIMED)
    async with open_broker(root, engine) as running:
        (root / "logstream.sqlite3").write_text("one")
        watch = watch_of(running)
        shim = await running.session("worker")
        assert await claim(shim, "evt_1") == (wire.CLAIMS, {"events": "evt_1"})
        assert await looks(watch, 50) == 0
        assert running.state.lifecycle.idle_for_s(trio.current_time()) < 60, "it is used"
        shim.stream.close()
        await until(lambda: not any(one.is_connected for one in running.state.sessions))

        assert await looks(watch, 50) == 10


async def test_four_hundred_workers_are_not_silent_and_the_one_that_goes_is(root: Path) -> None:
    """A look asks once, however many there are, and writes nothing but an end."""
    tasks = [{**CLAIMED, "id": f"t{n}", "claim": f"evt_{n}"} for n in range(WORKERS)]
    engine = WatchedEngine(*tasks)
    async with open_broker(root, engine, sessions_max=WORKERS) as running:
        (root / "logstream.sqlite3").write_text("one")
        watch = watch_of(running)
        shims = [await running.session(f"w{n}") for n in range(WORKERS)]
        for n, shim in enumerate(shims):
            await claim(shim, f"evt_{n}")
        engine.begun.clear()
        assert await looks(watch, 50) == 0, engine.verdicts
        assert set(engine.begun) == {WATCHED}
        assert len(engine.begun) <= 50
        shims[7].stream.close()
        await until(lambda: sum(one.is_connected for one in running.state.sessions) == WORKERS - 1)

        assert await looks(watch, 50) == 10
        assert [one["id"] for one in engine.verdicts] == ["t7"]


async def test_a_worker_that_was_gone_before_the_first_look_is_silent_all_the_same(
    root: Path,
) -> None:
    """It has claimed its task with this owner, so that it is none that may still come."""
    engine = WatchedEngine(CLAIMED)
    async with open_broker(root, engine) as running:
        (root / "logstream.sqlite3").write_text("one")
        shim = await running.session("worker")
        await claim(shim, "evt_1")
        shim.stream.close()
        await until(lambda: not any(one.is_connected for one in running.state.sessions))

        assert await looks(watch_of(running), 50) == 11


async def test_the_next_owner_knows_for_which_tasks_a_session_stands(root: Path) -> None:
    engine = WatchedEngine(CLAIMED)
    async with open_broker(root, engine) as running:
        (root / "logstream.sqlite3").write_text("one")
        await running.session("worker", claims="evt_0,evt_1")

        assert await looks(watch_of(running), 50) == 0


@pytest.mark.parametrize(("ident", "ended"), [("coder", 0), ("other", 11)])
async def test_a_confined_session_stands_for_its_own_claims_alone(
    root: Path, ident: str, ended: int
) -> None:
    locked = Workspace(id=ident, cwd="/locked", confined=True)
    engine = WatchedEngine(CLAIMED)
    engine.tree = Tree({ident: locked})
    async with open_broker(root, engine) as running:
        running.state.services.died = 7
        (root / "logstream.sqlite3").write_text("one")
        place = running.state.services.place
        await running.session("s", claims="evt_1", cwd="/locked", place=place)

        assert await looks(watch_of(running), 50) == ended


@pytest.mark.parametrize(("died", "ended"), [(0, 0), (7, 11)])
async def test_who_never_came_is_silent_only_where_the_last_owner_died(
    root: Path, died: int, ended: int
) -> None:
    engine = WatchedEngine(CLAIMED)
    async with open_broker(root, engine) as running:
        running.state.services.died = died
        (root / "logstream.sqlite3").write_text("one")

        assert await looks(watch_of(running), 50) == ended


def test_a_session_keeps_the_newest_claims_and_each_is_heard_once() -> None:
    session, notes = LiveSession(id="s", pid=1, since_s=0.0), TaskNotes()
    events = [f"evt_{number}" for number in range(CLAIMS_MAX + 2)]
    for event in (*events, events[-1]):
        text = json.dumps({"task": {"claim": event}})
        reply = {"result": {"content": [{"type": "text", "text": text}]}}
        note_claim(session, notes, json.dumps(reply).encode())
    assert list(session.claims) == events[2:]
    assert notes.heard == set(events), "as of the next look, whether it is there then or not"

    notes.heard.clear()
    over_http = LiveSession(id="h", pid=0, since_s=0.0, party=HTTP)
    note_claim(over_http, notes, json.dumps(reply).encode())
    note_claim(over_http, notes, b'{"error": {}}')
    assert notes.heard == {events[-1]}
