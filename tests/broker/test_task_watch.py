"""The watch over tasks asks no more than it has to, and is no use of the palace."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from palace.broker.reporting.status import status_of
from palace.broker.task_watch import LOOK_S, TaskWatch
from palace.commands.status_text import status_text
from palace.doctor.delegations import check_delegations
from palace.doctor.finding import NOTE
from palace.engine.api import Call, Reply
from palace.protocol.errors import StoreUnavailable
from tests.support.brokers.owner import Running, open_broker
from tests.support.engines.gated import GatedEngine

if TYPE_CHECKING:
    from palace.doctor.diagnostics import Diagnostics

TASK = {"id": "t", "sign": "e", "in_progress": True, "is_heard": True, "deadline_at": None}
WATCHED = "palace_task_watched"


class WatchedEngine(GatedEngine):
    """Has these tasks to watch, and ends what it is told to end."""

    def __init__(self, *tasks: dict[str, Any]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.verdicts: list[dict[str, Any]] = []
        self.is_broken = False

    def call(self, call: Call) -> Reply:
        name = call.request.name
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
        before = running.state.lifecycle.idle_for_s(trio.current_time())
        assert [await watch.look() for _ in range(11)] == [[]] * 10 + [["t"]]
        assert [(one["id"], one["sign"], one["why"]) for one in engine.verdicts] == [
            ("t", "e", "silent")
        ]
        assert running.state.lifecycle.idle_for_s(trio.current_time()) >= before
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
