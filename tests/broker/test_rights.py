"""Who may do what, asked of a broker by other users, by guests and by processes in containers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from palace.protocol import wire
from tests.broker.test_guests import Guest, set_out
from tests.support.brokers.owner import Running, open_broker
from tests.support.machines.needs import need_command, need_root
from tests.support.machines.sshd import free_port

USER = 65534
ASK = """
import json, os, socket, sys
uid = int(sys.argv[2])
if uid: os.setgroups([]); os.setgid(uid); os.setuid(uid)
found = []
for header, *lines in json.loads(sys.argv[3]):
    sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])
    file = sock.makefile("rwb", 0)
    for text in (header, *lines):
        try:  # a stranger is refused before it has said anything
            file.write(text.encode() + b"\\n"); file.flush()
        except OSError: pass
        found.append(file.readline().decode())
    sock.close()
print(json.dumps(found))
"""


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": f"mempalace_{tool}", "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def hello(**fields: str) -> str:
    fields = {"session": "s", "secret": "of s", "next": "0"} | fields
    return wire.encode_header(wire.HELLO, fields).decode().strip()


async def asked(running: Running, *words: str, uid: int = 0, lines: Any) -> list[str]:
    """Return what a process of another user, or one that `words` start, is answered."""
    assert running.state.services.endpoint is not None
    path = running.state.services.endpoint.path
    command = [*words, sys.executable, "-c", ASK, path, str(uid), json.dumps(lines)]
    ended = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT)
    answers: list[str] = json.loads(ended.stdout)
    return answers


def code(answer: str) -> Any:
    """Return the error of a reply, or of a refusal; None where it was answered."""
    if answer.startswith(wire.PREFIX.decode()):
        _, kind, fields = wire.decode_header(answer.encode().strip())
        return fields["code"] if kind == wire.REFUSED else None
    return json.loads(answer.partition(" ")[2]).get("error", {}).get("code")


def lines_for(path: str) -> list[list[str]]:
    """Return what a client may try that a stranger must not."""
    calls = [
        call("search", query="x"),
        call("add_drawer", name="d"),
        call("mine", source=path),
        call("sync"),
        call("hook_settings", silent_save=True),
        call("mine", source="/lent/in"),
    ]
    return [
        [hello(place=""), *map(json.dumps, calls)],
        ["palace/1 control ask=status"],
        ["palace/1 control ask=adopt"],
        ["palace/1 control ask=upgrade"],
        ["palace/1 control ask=stop now=1"],
    ]


PATH, NOT_YOURS = -31064, -31075
LENT = {"/lent": "/srv/lent"}


@pytest.mark.parametrize("allowed", [False, True])
async def test_another_user_may_use_memories_or_nothing(root: Path, allowed: bool) -> None:
    need_root()
    root.parent.chmod(0o711)
    async with open_broker(root, allow_uids=(USER,) if allowed else (), path_map=LENT) as running:
        root.chmod(0o711)
        endpoint = running.state.services.endpoint
        assert endpoint is not None
        Path(endpoint.path).chmod(0o666)
        if not allowed:
            answers = await asked(running, uid=USER, lines=[[hello()], *lines_for("/")[1:]])
            assert {code(answer) for answer in answers} == {"forbidden"}
        else:
            answers = await asked(running, uid=USER, lines=lines_for("/root"))
            calls = [None, None, None, PATH, PATH, NOT_YOURS, None]
            assert list(map(code, answers)) == [*calls, *["forbidden"] * 4]
            assert f"uid {USER}" in answers[3]
        assert running.state.lifecycle.drain is None
        assert "mempalace_sync" not in running.engine.begun


ROOTLESS = ("--user", "--map-root-user", "--mount")


@pytest.mark.parametrize(
    "namespaces",
    [("--mount",), ROOTLESS, (*ROOTLESS, "--pid", "--fork"), ("--user", "--map-user=4", "--mount")],
    ids=" ".join,
)
async def test_a_container_counts_as_one_whatever_it_says(
    root: Path, namespaces: tuple[str, ...]
) -> None:
    if "--user" not in namespaces:
        need_root()
    need_command("unshare")
    async with open_broker(root, path_map=LENT) as running:
        place = running.state.services.place
        near = [[hello(), json.dumps(call("mine", source="/etc"))]]
        assert list(map(code, await asked(running, lines=near))) == [None, None]
        for said in ({}, {"place": ""}, {"place": place}):
            far = [[hello(**said), *lines_for("/etc")[0][1:]]]
            answers = await asked(running, "unshare", *namespaces, lines=far)
            assert list(map(code, answers)) == [None, None, None, PATH, PATH, None, None]


async def tried(guest: Guest, message: dict[str, Any]) -> Any:
    guest.shim.say(message)
    _, reply = await guest.shim.reply()
    return reply.get("error", {}).get("code")


@pytest.mark.parametrize("said", ["nothing", "the broker's place"])
async def test_a_guest_is_a_guest_whatever_it_says(root: Path, said: str) -> None:
    listen = f"127.0.0.1:{free_port()}"
    async with open_broker(root, listen=listen, path_map=LENT) as running:
        guest = set_out(running)
        place = running.state.services.place
        await guest.shim.welcome(**({} if said == "nothing" else {"place": place}))

        assert await tried(guest, call("search", query="x")) is None
        assert await tried(guest, call("mine", source="/etc")) == PATH
        assert await tried(guest, call("sync")) == PATH
        assert await tried(guest, call("hook_settings")) == NOT_YOURS
        assert await tried(guest, call("mine", source="/lent/in")) is None
        assert running.engine.beneath == ["", "/srv/lent"]


async def test_a_neighbour_names_what_it_likes(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        for message in (call("mine", source="/etc"), call("sync"), call("hook_settings")):
            shim.say(message)
            assert "error" not in (await shim.reply())[1]
        assert running.engine.beneath == ["", "", ""]
