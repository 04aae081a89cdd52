"""What is shown of tasks over HTTP: to the palace's owner, and to nobody else."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from palace.engine.api import Call, Reply
from palace.protocol.resolver import Tree
from palace.protocol.workspaces import Workspace, digest_of
from tests.broker.http.test_http import home, open_web
from tests.support.brokers.http import Caller
from tests.support.brokers.owner import Running
from tests.support.engines.gated import GatedEngine

PATH = "/palace/v1/delegations"
LEADS = "a" * 64
__all__ = ["home"]  # a fixture


class Engine(GatedEngine):
    """Has a task, and keeps what it is asked."""

    asked: list[Any]
    is_broken = False

    def call(self, call: Call) -> Reply:
        if call.request.name != "palace_task_list":
            return super().call(call)
        if self.is_broken:
            return Reply(payload=b'{"error": {"code": -31000, "message": "broken"}}')
        self.asked.append(call.request.arguments)
        text = json.dumps({"tasks": [{"id": "t", "state": "stuck"}], "more": 2})
        reply = {"result": {"content": [{"type": "text", "text": text}]}}
        return Reply(payload=json.dumps(reply).encode())


@pytest.fixture
def engine() -> Engine:
    tree = Tree({"lead": Workspace(id="lead")}, tokens={digest_of(LEADS): "lead"})
    engine = Engine(tree=tree)
    engine.asked = []
    return engine


@pytest.fixture
async def running(home: Path, engine: Engine) -> AsyncIterator[Running]:
    async with open_web(home, engine) as running:
        yield running


async def got(home: Path, path: str = PATH, method: str = "GET", **headers: Any) -> Any:
    caller = await Caller.open(home)
    try:
        return await caller.ask(method, path, **headers)
    finally:
        await caller.aclose()


async def test_the_owner_is_shown_who_works_on_what(
    home: Path, running: Running, engine: Engine
) -> None:
    before_s = running.state.lifecycle.idle_for_s(trio.current_time())
    every = await got(home)
    some = await got(home, f"{PATH}?states=stuck,in_progress")

    assert every.status == some.status == 200
    assert every.json() == {"tasks": [{"id": "t", "state": "stuck"}], "more": 2}
    assert engine.asked == [
        {"states": None, "goal_chars": 200},
        {"states": ["stuck", "in_progress"], "goal_chars": 200},
    ]
    assert running.state.lifecycle.idle_for_s(trio.current_time()) >= before_s, "it is no use"


REFUSED = [
    (PATH, {"authorization": ""}, 401),
    (PATH, {"authorization": "Bearer " + "f" * 64}, 401),
    (PATH, {"authorization": f"Bearer {LEADS}"}, 403),
    (PATH, {"origin": "https://example.com"}, 403),
    (PATH, {"method": "POST"}, 405),
    (f"{PATH}/", {}, 404),
    (f"{PATH}?states=lost", {}, 400),
    (f"{PATH}?states=", {}, 400),
    (f"{PATH}?states=stuck&states=failed", {}, 400),
    (f"{PATH}?agent=x", {}, 400),
    (f"{PATH}?states={'stuck,' * 400}stuck", {}, 400),
]


async def test_nobody_else_is_and_nothing_else_is_taken(
    home: Path, running: Running, engine: Engine
) -> None:
    for path, given, status in REFUSED:
        assert (await got(home, path, **given)).status == status, (path, given)
    assert not engine.asked
    assert running.state.lifecycle.drain is None


async def test_a_store_that_fails_is_said(home: Path, running: Running, engine: Engine) -> None:
    engine.is_broken = True
    assert (await got(home)).status == 503
    assert running.state.lifecycle.drain is None
