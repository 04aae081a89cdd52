"""The owner's tools are for palace's own commands, and these for nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.protocol.tools import OWNER_TOOLS
from tests.broker.test_guests import set_out
from tests.broker.test_rights import NOT_YOURS, USER, asked, code, hello
from tests.support.brokers.owner import Shim, open_broker
from tests.support.machines.needs import need_root
from tests.support.machines.sshd import free_port


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


def call(name: str) -> dict[str, Any]:
    params = {"name": name, "arguments": {}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def answered(shim: Shim, name: str) -> Any:
    shim.say(call(name))
    _, reply = await shim.reply()
    return reply.get("error", {}).get("code")


async def test_an_agent_finds_none_of_them_and_a_command_nothing_else(root: Path) -> None:
    async with open_broker(root) as running:
        agent = await running.session("agent")
        command = await running.session("command", command="1")
        for name in OWNER_TOOLS:
            assert await answered(agent, name) == NOT_YOURS
            assert await answered(command, name) is None
        assert await answered(command, "mempalace_search") == NOT_YOURS
        assert await answered(command, "mempalace_add_drawer") == NOT_YOURS
        assert await answered(agent, "mempalace_search") is None

        assert running.engine.begun == [*OWNER_TOOLS, "mempalace_search"]


async def test_no_list_names_them(root: Path) -> None:
    async with open_broker(root) as running:
        for fields in ({}, {"command": "1"}):
            shim = await running.session(f"s{len(fields)}", **fields)
            shim.say({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            _, reply = await shim.reply()

            assert len(reply["result"]["tools"]) == 47
            assert not {tool["name"] for tool in reply["result"]["tools"]} & set(OWNER_TOOLS)


async def test_another_user_who_says_that_it_is_a_command_is_refused(root: Path) -> None:
    need_root()
    root.parent.chmod(0o711)
    async with open_broker(root, allow_uids=(USER,)) as running:
        root.chmod(0o711)
        endpoint = running.state.services.endpoint
        assert endpoint is not None
        Path(endpoint.path).chmod(0o666)
        lines = [[hello(command="1"), *(json.dumps(call(name)) for name in OWNER_TOOLS)]]
        answers = await asked(running, uid=USER, lines=lines)

        assert [code(answer) for answer in answers[1:]] == [NOT_YOURS] * len(OWNER_TOOLS)
        assert running.engine.begun == []


async def test_a_guest_who_says_that_it_is_a_command_is_refused(root: Path) -> None:
    async with open_broker(root, listen=f"127.0.0.1:{free_port()}") as running:
        guest = set_out(running)
        await guest.shim.welcome(command="1")
        for name in OWNER_TOOLS:
            assert await answered(guest.shim, name) == NOT_YOURS

        assert running.engine.begun == []
