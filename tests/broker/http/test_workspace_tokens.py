"""Clients over HTTP that show a workspace's token: they are that workspace, and nobody else."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.broker.http import app
from palace.broker.http.sessions import name_of
from palace.protocol import jsonrpc
from palace.protocol.errors import PathUnknown
from palace.protocol.principals import OWNER, Principal
from palace.protocol.resolver import Tree
from palace.protocol.tools import BASIC_TOOLS, OWN_TOOLS
from palace.protocol.workspaces import Workspace, digest_of
from tests.broker.http.test_http import Dial, begin_session, home, open_web
from tests.broker.http.test_modern import ask
from tests.broker.test_transcripts import modern
from tests.protocol.test_tasks import DECLARED
from tests.support.brokers.http import ACCEPT, Answer, Caller, call, request, serverinfo_of
from tests.support.brokers.owner import Running
from tests.support.engines.gated import GatedEngine

LEADS, CODERS, WRONG = "a" * 64, "b" * 64, "c" * 64
LEAD = Principal("lead", confined=True, token=digest_of(LEADS))
__all__ = ["home"]  # a fixture


@pytest.fixture
async def running(home: Path) -> AsyncIterator[Running]:
    found = {name: Workspace(id=name) for name in ("lead", "coder")}
    tokens = {digest_of(LEADS): "lead", digest_of(CODERS): "coder"}
    async with open_web(home, GatedEngine(tree=Tree(found, tokens=tokens))) as running:
        yield running


@pytest.fixture
async def dial(home: Path, running: Running) -> AsyncIterator[Dial]:
    callers = []

    async def open_caller() -> Caller:
        callers.append(await Caller.open(home))
        return callers[-1]

    yield open_caller
    for caller in callers:
        await caller.aclose()


def shown(token: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", **more}


def tools_of(answer: Answer) -> set[str]:
    assert answer.status == 200, answer.body
    return {tool["name"] for tool in answer.json()["result"]["tools"]}


async def test_who_shows_a_workspaces_token_is_that_workspace(running: Running, dial: Dial) -> None:
    caller = await dial()
    line = await caller.post(call("search", query="x"), **shown(LEADS))
    assert line.status == 200
    session = await begin_session(caller, **shown(LEADS))
    await caller.post(
        call("search", query="x"), accept=ACCEPT, mcp_session_id=session, **shown(LEADS)
    )
    await (await dial()).post(call("search", query="x"), **shown(CODERS))
    await (await dial()).post(call("search", query="x"))

    coder = Principal("coder", confined=True, token=digest_of(CODERS))
    assert running.engine.principals == [LEAD, LEAD, coder, OWNER]


async def test_it_is_shown_the_tools_of_a_confined_session_in_both_eras(dial: Dial) -> None:
    caller = await dial()
    legacy = await caller.post(request("tools/list"), **shown(LEADS))
    headers = shown(LEADS, mcp_protocol_version="2026-07-28", mcp_method="tools/list")
    listed = await caller.post(modern(request("tools/list")), accept=ACCEPT, **headers)

    assert tools_of(legacy) == tools_of(listed) == {*OWN_TOOLS, *BASIC_TOOLS}


async def test_a_token_counts_until_it_is_revoked(running: Running, dial: Dial) -> None:
    caller = await dial()
    session = await begin_session(caller, **shown(LEADS))
    assert (await (await dial()).post(call("search"), **shown(WRONG))).status == 401
    assert running.engine.tree is not None
    running.engine.tree = attrs.evolve(running.engine.tree, tokens={})

    refused = await caller.post(call("search", query="x"), **shown(LEADS, mcp_session_id=session))
    assert refused.status == 401
    assert running.engine.principals == []


async def test_a_token_in_an_address_is_none_and_is_logged_nowhere(
    home: Path, running: Running, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    """Addresses are logged by whatever lies between."""
    caplog.set_level(0)
    owners = (serverinfo_of(home).parent / "token").read_text().strip()
    body = json.dumps(call("search", query="x")).encode()
    for name in ("token", "access_token", "authorization"):
        for token in (LEADS, owners):
            path = f"/mcp?{name}={token}"
            refused = await (await dial()).ask("POST", path, body=body, authorization="")
            assert refused.status == 401
            assert token.encode() not in refused.body
    assert running.engine.principals == []
    assert LEADS not in caplog.text
    assert owners not in caplog.text


@pytest.mark.parametrize("token", [CODERS, ""], ids=["another workspace", "the owner"])
async def test_a_session_is_gone_on_with_by_its_own_token_alone(
    running: Running, dial: Dial, token: str
) -> None:
    caller = await dial()
    session = await begin_session(caller, **shown(LEADS))
    owners = await begin_session(await dial())
    thief: Any = shown(token) if token else {}
    message = call("search", query="x")

    tried: list[tuple[str, Any]] = [(session, thief), (owners, shown(LEADS))]
    for ident, credentials in tried:
        refused = await (await dial()).post(
            message, accept=ACCEPT, mcp_session_id=ident, **credentials
        )
        assert refused.status == 404
        ended = await (await dial()).ask("DELETE", "/mcp", mcp_session_id=ident, **credentials)
        assert ended.status == 404
    told = await caller.post(message, accept=ACCEPT, mcp_session_id=session, **shown(LEADS))
    assert told.status == 200
    assert running.engine.principals == [LEAD]


async def test_a_workspace_has_neither_figures_nor_files(running: Running, dial: Dial) -> None:
    assert (await (await dial()).ask("GET", "/metrics", body=None, **shown(LEADS))).status == 403
    mined = await (await dial()).post(call("mine", source="/etc"), **shown(LEADS))

    assert mined.json()["error"]["code"] == PathUnknown.wire_code
    assert running.engine.begun == []


async def test_where_the_register_is_not_read_yet_a_client_may_come_again(
    running: Running, dial: Dial
) -> None:
    running.engine.tree = None
    refused = await (await dial()).post(call("search", query="x"), **shown(LEADS))
    wrong = await (await dial()).post(call("search", query="x"), **shown("no token of ours"))

    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert wrong.status == 401
    assert running.engine.principals == []


async def about_task(caller: Caller, method: str, ident: str, token: str) -> Any:
    who = shown(token) if token else {}
    message = request(method, "q", taskId=ident)
    return (await ask(caller, message, DECLARED, mcp_name=ident, **who)).json()


@pytest.mark.parametrize("others", [CODERS, ""], ids=["another workspace", "the owner"])
async def test_a_task_is_for_whom_it_was_made_whoever_knows_its_id(
    running: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    """Also after that one's token was exchanged for another one, and after its broker's end."""
    monkeypatch.setattr(app, "AFTER_S", 0.2)
    caller = await dial()
    begun = await ask(caller, call("add_drawer", "c", hold="w"), DECLARED, **shown(LEADS))
    ident = begun.json()["result"]["taskId"]
    for method in ("tasks/get", "tasks/cancel"):
        assert "error" in await about_task(caller, method, ident, others)
    working = await about_task(caller, "tasks/get", ident, LEADS)
    assert working["result"]["status"] == "working"
    running.engine.gate("w").set()

    recorded = jsonrpc.encode(jsonrpc.result("c", {"content": []}))
    running.engine.outcomes[name_of("earlier"), 0] = recorded
    running.engine.outcomes_for = "lead"
    assert "error" in await about_task(caller, "tasks/get", "earlier", others)
    tree = running.engine.tree
    assert tree is not None
    running.engine.tree = attrs.evolve(tree, tokens={**tree.tokens, digest_of(WRONG): "lead"})
    for token in (LEADS, WRONG):
        found = await about_task(caller, "tasks/get", "earlier", token)
        assert found["result"]["status"] == "completed"
