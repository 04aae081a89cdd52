"""Whom sessions of a broker act as, and that they stay it, however they come back."""

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.protocol import wire
from palace.protocol.principals import OWNER, Principal
from palace.protocol.resolver import Tree
from palace.protocol.rights import Peer, Who
from palace.protocol.tools import BASIC_TOOLS, CANDIDATE_TOOLS, OWN_TOOLS
from palace.protocol.workspaces import Workspace, digest_of
from tests.broker.test_guests import set_out
from tests.broker.test_rights import USER, asked, call, hello
from tests.broker.test_transcripts import modern
from tests.support.brokers.http import request
from tests.support.brokers.owner import Running, Shim, open_broker, until
from tests.support.engines.gated import GatedEngine
from tests.support.machines.needs import need_root
from tests.support.machines.sshd import free_port


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


def engine_with(*workspaces: Workspace) -> GatedEngine:
    return GatedEngine(tree=Tree({workspace.id: workspace for workspace in workspaces}))


LEAD = Workspace(id="lead", cwd="/src")
CODER = Workspace(id="coder", parent="lead", cwd="/src/app")


async def told(running: Running, shim: Shim) -> tuple[dict[str, str], Principal | None]:
    """Return what a session is told with its first reply, and whom it acted as."""
    shim.call("search", query="x")
    kind, fields = await shim.header()
    assert kind == wire.WORKSPACE
    await shim.reply()
    return fields, running.engine.principals[-1]


async def started_in(running: Running, name: str, cwd: str, **fields: str) -> Shim:
    place = running.state.services.place
    return await running.session(name, cwd=cwd, place=place, **fields)


async def test_a_session_is_told_once_whom_it_acts_as(root: Path) -> None:
    async with open_broker(root, engine_with(LEAD, CODER)) as running:
        shim = await started_in(running, "a", "/src/app/deep")
        assert await told(running, shim) == ({"name": "coder"}, Principal("coder"))
        shim.call("search", query="x")
        await shim.reply()
        other = await started_in(running, "b", "/elsewhere")
        assert await told(running, other) == ({"name": ""}, OWNER)

        assert running.engine.principals == [Principal("coder"), Principal("coder"), OWNER]


async def test_where_there_is_no_workspace_nothing_is_said(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await started_in(running, "a", "/src")
        shim.call("search", query="x")
        assert (await shim.reply())[0] == 0
        shim.say({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        _, reply = await shim.reply()

        assert len(reply["result"]["tools"]) == 47
        assert running.engine.principals == [OWNER]


async def test_a_session_stays_who_it_was(root: Path) -> None:
    async with open_broker(root, engine_with(LEAD, CODER)) as running:
        shim = await started_in(running, "a", "/src/app")
        await told(running, shim)
        tree = running.engine.tree
        assert tree is not None
        running.engine.tree = Tree(
            {**tree.workspaces, "new": Workspace(id="new", cwd="/src/app/x")}
        )
        shim.call("search", query="x")
        await shim.reply()
        # The same broker, from another directory; then another broker, which knows nothing of it.
        again = await started_in(running, "a", "/elsewhere", next="2")
        again.call("search", query="x")
        await again.reply()
        heir = await started_in(running, "b", "/elsewhere", workspace="coder")
        assert await told(running, heir) == ({"name": "coder"}, Principal("coder"))
        owner = await started_in(running, "c", "/src/app", workspace="")
        assert await told(running, owner) == ({"name": ""}, OWNER)

        assert running.engine.principals == [Principal("coder")] * 4 + [OWNER]


async def test_the_tools_of_a_palace_with_workspaces(root: Path) -> None:
    locked = Workspace(id="locked", cwd="/locked", confined=True)
    async with open_broker(root, engine_with(LEAD, locked)) as running:
        lists: dict[str, Any] = {}
        for name, cwd in (("owner", "/"), ("lead", "/src"), ("locked", "/locked")):
            shim = await started_in(running, name, cwd)
            shim.say({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            assert (await shim.header())[0] == wire.WORKSPACE
            lists[name] = (await shim.reply())[1]["result"]["tools"]

        stock = list(running.state.services.catalogue.tools)  # type: ignore[union-attr]
        assert lists["owner"] == lists["lead"]
        assert lists["owner"][:47] == stock
        # A confined one has stock's basic tools as stock describes them, and palace's own.
        basic = [tool for tool in stock if tool["name"] in BASIC_TOOLS]
        assert lists["locked"] == [*basic, *lists["owner"][47:]]
        assert {tool["name"] for tool in lists["locked"]} == {*BASIC_TOOLS, *OWN_TOOLS}


async def tools_of(shim: Shim, *, is_bound: bool = True) -> list[str]:
    """Return the names of the tools that a session is shown; `is_bound`: it knows whom it is."""
    shim.say({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    if not is_bound:
        assert (await shim.header())[0] == wire.WORKSPACE
    return [tool["name"] for tool in (await shim.reply())[1]["result"]["tools"]]


@pytest.mark.parametrize("has_workspaces", [False, True])
@pytest.mark.parametrize("own_tools", ["auto", "on", "off"])
async def test_tools_for_candidates_are_shown_where_there_are_remotes(
    root: Path, own_tools: str, has_workspaces: bool
) -> None:
    """To whoever isn't confined, behind all others; without a remote the list is as it was."""
    locked = Workspace(id="locked", cwd="/locked", confined=True)
    engine = engine_with(*([LEAD, locked] if has_workspaces else []))
    async with open_broker(root, engine, own_tools=own_tools) as running:
        for name, cwd in (("owner", "/"), ("locked", "/locked")):
            shim = await started_in(running, name, cwd)
            engine.remotes = False
            plain = await tools_of(shim, is_bound=not has_workspaces)
            engine.remotes = True
            more = await tools_of(shim)
            hidden = own_tools == "off" or (name == "locked" and has_workspaces)
            assert more == plain + ([] if hidden else list(CANDIDATE_TOOLS))


async def test_both_eras_show_a_confined_session_the_same_tools(root: Path) -> None:
    async with open_broker(root, engine_with(Workspace(id="locked", cwd="/", confined=True))) as it:
        shim = await started_in(it, "a", "/")
        shim.say(request("tools/list", 1))
        assert (await shim.header())[0] == wire.WORKSPACE
        legacy = (await shim.reply())[1]["result"]["tools"]
        shim.say(modern(request("tools/list", 2)))
        assert (await shim.header())[0] == wire.CLIENT
        listed = (await shim.reply())[1]["result"]["tools"]
        shim.say([request("tools/list", 3)])  # nobody answers arrays, so nothing slips through one
        assert "error" in (await shim.reply())[1]

        assert [tool["name"] for tool in listed] == [tool["name"] for tool in legacy]
        assert len(legacy) == len(BASIC_TOOLS) + len(OWN_TOOLS)


async def test_a_mapped_user_is_its_workspace_whatever_it_says(root: Path) -> None:
    need_root()
    root.parent.chmod(0o711)
    mapped = Workspace(id="mapped", parent="lead", uid=USER)
    async with open_broker(root, engine_with(LEAD, mapped), allow_uids=(USER,)) as running:
        root.chmod(0o711)
        endpoint = running.state.services.endpoint
        assert endpoint is not None
        Path(endpoint.path).chmod(0o666)
        line = json.dumps(call("search", query="x"))
        for fields in ({}, {"workspace": ""}, {"workspace": "lead"}, {"cwd": "/src", "place": ""}):
            await asked(
                running, uid=USER, lines=[[hello(session=f"m{len(fields)}", **fields), line]]
            )

        assert set(running.engine.principals) == {Principal("mapped", confined=True)}


async def test_an_owners_session_is_not_gone_on_with_by_a_mapped_user(root: Path) -> None:
    """It knows the session's secret, and is still somebody else."""
    need_root()
    root.parent.chmod(0o711)
    mapped = Workspace(id="mapped", uid=USER)
    async with open_broker(root, engine_with(mapped), allow_uids=(USER,)) as running:
        root.chmod(0o711)
        endpoint = running.state.services.endpoint
        assert endpoint is not None
        Path(endpoint.path).chmod(0o666)
        shim = await started_in(running, "a", "/")
        await told(running, shim)
        line = json.dumps(call("search", query="x"))
        await asked(running, uid=USER, lines=[[hello(session="a", secret="of a"), line]])

        # It has hung up after one line, which may have been the word of whom it is.
        await until(lambda: len(running.engine.principals) == 2)
        assert running.engine.principals == [OWNER, Principal("mapped", confined=True)]
        shim.call("search", query="y")
        await shim.reply()
        assert running.engine.principals[-1] == OWNER


async def test_a_user_that_is_given_a_workspace_is_it_with_the_next_call(root: Path) -> None:
    mapped = Workspace(id="mapped", uid=USER)
    async with open_broker(root, engine_with(LEAD)) as running:
        shim = await running.session("a")
        [session] = running.state.sessions
        session.peer = Peer(who=Who.ALLOWED, pid=1, uid=USER)
        await told(running, shim)
        running.engine.tree = Tree({"mapped": mapped})
        shim.call("search", query="x")
        await shim.reply()
        running.engine.tree = Tree({"mapped": attrs.evolve(mapped, removed=True)})
        shim.call("search", query="x")
        await shim.reply()

        confined = Principal("mapped", confined=True)
        assert running.engine.principals == [OWNER, confined, confined]


async def test_a_token_is_asked_for_at_each_call(root: Path) -> None:
    digest = digest_of("t" * 64)
    async with open_broker(root, engine_with(LEAD)) as running:
        tree = running.engine.tree
        assert tree is not None
        running.engine.tree = attrs.evolve(tree, tokens={digest: "lead"})
        shim = await running.session("a", token="t" * 64)
        proven = Principal("lead", confined=True, token=digest)
        assert await told(running, shim) == ({"name": "lead"}, proven)
        wrong = await running.session("b", token="f" * 64)
        _, nobody = await told(running, wrong)
        assert nobody == Principal("", confined=True, token=digest_of("f" * 64))

        # Who comes back to its session shows the token again: its secret alone is no proof.
        again = await running.session("a", token="t" * 64, next="1")
        again.call("search", query="x")
        await again.reply()
        assert running.engine.principals[-1] == proven
        thief = await started_in(running, "a", "/elsewhere", next="2")
        assert await told(running, thief) == ({"name": ""}, OWNER)
        # And who goes on with the owner's session by its secret, with a token, is somebody else.
        await told(running, await started_in(running, "o", "/elsewhere"))
        other = await running.session("o", token="t" * 64)
        assert (await told(running, other))[1] == proven


async def test_a_guest_is_no_workspace_by_what_it_says(root: Path) -> None:
    engine = engine_with(LEAD)
    async with open_broker(root, engine, listen=f"127.0.0.1:{free_port()}") as running:
        guest = set_out(running)
        place = running.state.services.place
        await guest.shim.welcome(cwd="/src", place=place, workspace="lead")
        assert await told(running, guest.shim) == ({"name": ""}, OWNER)


async def test_whoever_shows_a_token_is_not_the_owner_where_there_is_no_register(
    root: Path,
) -> None:
    async with open_broker(root, GatedEngine(tree=None)) as running:
        shim = await running.session(token="t" * 64)
        shim.call("search", query="x")
        await shim.reply()

        assert running.engine.principals == [None]


@pytest.mark.parametrize("registered", [False, True])
async def test_where_workspaces_can_not_be_known_nobody_is_taken_for_the_owner(
    root: Path, registered: bool
) -> None:
    async with open_broker(root, GatedEngine(tree=None)) as running:
        if registered:
            Path(running.state.services.ownership.paths.register).touch()
        shim = await running.session()
        shim.call("search", query="x")
        await shim.reply()
        command = await running.session("command", command="1")
        params = {"name": "palace_workspace_list", "arguments": {}}
        command.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        await command.reply()

        assert running.engine.principals == [None if registered else OWNER, OWNER]


async def test_a_command_acts_for_the_owner_wherever_it_is_started(root: Path) -> None:
    async with open_broker(root, engine_with(Workspace(id="here", cwd=os.getcwd()))) as running:
        shim = await started_in(running, "c", os.getcwd(), command="1")
        params = {"name": "palace_workspace_list", "arguments": {}}
        shim.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        await shim.reply()

        assert running.engine.principals == [OWNER]
