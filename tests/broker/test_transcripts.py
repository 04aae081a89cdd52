"""What a client is told, by era and by door, word for word: tests/broker/transcripts.json.

After a change that is meant: `python -m tests.broker.test_transcripts`, and read the difference.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import trio

from palace.kernel.kernel import Kernel
from palace.protocol import jsonrpc, wire
from palace.protocol.weight import VALUES_MAX
from palace.settings.paths import Paths
from palace.shim import local_answers
from tests.broker.http.test_http import INFO, open_web
from tests.broker.http.test_modern import META, MODERN, enveloped
from tests.broker.test_guests import set_out
from tests.support.brokers.http import ACCEPT, Caller, call, request
from tests.support.brokers.owner import Running, Shim
from tests.support.machines.sshd import free_port

GOLDEN = Path(__file__).parent / "transcripts.json"
LEGACY = "legacy"
VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
DECLARED = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
OUTSIDE = {"source": "../notes"}  # a path that no client over HTTP or TLS may name
HEADERS = {"mcp_protocol_version": MODERN}


def modern(message: dict[str, Any], **instead: Any) -> dict[str, Any]:
    meta = {key: value for key, value in (META | instead).items() if value is not None}
    return enveloped(message, meta)


def nameless(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without an id."""
    return {key: value for key, value in message.items() if key != "id"}


TOO_MUCH = call("add_drawer", 9, names=[0] * (VALUES_MAX + 1))
ASKED: dict[str, Any] = {
    "legacy: a handshake": request("initialize", 1, **INFO),
    "legacy: a handshake for a version of the other era": request(
        "initialize", 1, **INFO | {"protocolVersion": MODERN}
    ),
    "legacy: the tools": request("tools/list", 1),
    "legacy: a call": call("add_drawer", "c", name="one"),
    "legacy: a call without an id": nameless(call("add_drawer", name="one")),
    "legacy: a ping": request("ping", 1),
    "legacy: a notification": nameless(request("notifications/initialized")),
    "legacy: a method that is not there": request("prompts/list", 1),
    "legacy: a probe for the other era without its version": request("server/discover", 1),
    "legacy: a method that is no text": {"jsonrpc": "2.0", "id": 1, "method": 7},
    "legacy: an array": [request("ping", 1)],
    "legacy: no JSON": "{nonsense",
    "legacy: too many values": TOO_MUCH,
    "legacy: a path that is not there for others": call("mine", "p", **OUTSIDE),
    "modern: a probe": modern(request("server/discover", "d")),
    "modern: a probe without capabilities": modern(
        request("server/discover", 1), **{CAPABILITIES: None}
    ),
    "modern: the tools": modern(request("tools/list", 1)),
    "modern: a call": modern(call("add_drawer", "c", name="one")),
    "modern: a call without an id": modern(nameless(call("add_drawer", name="one"))),
    "modern: a notification": modern(nameless(request("notifications/cancelled"))),
    "modern: a ping": modern(request("ping", 1)),
    "modern: a handshake without a version": modern(request("initialize", 1)),
    "modern: a subscription": modern(request("subscriptions/listen", 1)),
    "modern: a header that says otherwise": modern(request("tools/list", 1)),
    "modern: a version that is not spoken": modern(
        request("tools/list", 1), **{VERSION: "2031-01-01"}
    ),
    "modern: a version that is no text": modern(request("tools/list", 1), **{VERSION: 7}),
    "modern: a call without capabilities": modern(call("search", 1), **{CAPABILITIES: None}),
    "modern: an id that is null": modern(request("tools/list", None)),
    "modern: a task that is not known": modern(
        request("tasks/get", 1, taskId="t"), **{CAPABILITIES: DECLARED}
    ),
    "modern: a task that is not named": modern(
        request("tasks/cancel", 1), **{CAPABILITIES: DECLARED}
    ),
    "modern: a task of a client that knows none": modern(request("tasks/update", 1, taskId="t")),
    "modern: too many values": modern(TOO_MUCH),
    "modern: a path that is not there for others": modern(call("mine", "p", **OUTSIDE)),
}
Doors = dict[str, Any]


def line_of(asked: Any) -> bytes:
    return asked.encode() if isinstance(asked, str) else jsonrpc.encode(asked)


def shown(reply: Any) -> Any:
    """Return a reply without what other tests look at: the tools, and the engine's version."""
    if isinstance(reply, dict) and isinstance(reply.get("result"), dict):
        result = dict(reply["result"])
        if "tools" in result:
            result["tools"] = f"{len(result['tools'])} tools"
        reply = reply | {"result": result}
    return reply


def of_shim(asked: Any, root: Path) -> Any:
    """Return what a shim says without a broker, "asks a broker" where it needs one."""
    message = local_answers.parsed(line_of(asked))
    if local_answers.needs_engine(message):
        return "asks a broker"
    line = local_answers.inline_line(message, Kernel(), Paths(str(root)), read_only=False)
    return json.loads(line) if line else None


async def over_lines(shim: Shim, asked: Any) -> Any:
    shim.stream.send_soon(line_of(asked) + b"\n")
    while (line := await shim.line()).startswith(wire.PREFIX):
        continue
    payload = wire.decode_reply(line)[1]
    return json.loads(payload) if payload else None


async def over_http(home: Path, name: str, asked: Any) -> Any:
    """Ask over a connection of its own; what refuses a request may end it."""
    caller = await Caller.open(home)
    try:
        said: dict[str, str] = {"accept": ACCEPT}
        if name.startswith("modern"):
            meta = asked["params"]["_meta"]
            said |= {"mcp_protocol_version": str(meta[VERSION]), "mcp_method": asked["method"]}
            params = asked["params"]
            said |= {"mcp_name": params.get("name") or params.get("taskId", "")}
        if name.endswith("says otherwise"):
            said["mcp_method"] = "tools/call"
        answer = await caller.ask("POST", "/mcp", body=line_of(asked), **said)
        reply = shown(json.loads(answer.body)) if answer.body else None
        return {"status": answer.status, "reply": reply}
    finally:
        await caller.aclose()


async def ask_all(running: Running, home: Path, root: Path) -> dict[str, Doors]:
    """Put every question at every door; those that say the same stand together."""
    neighbour = await running.session("neighbour")
    guest = set_out(running).shim
    await guest.welcome("guest")
    said: dict[str, Doors] = {}
    for name, asked in ASKED.items():
        doors: Doors = {
            "shim alone": shown(of_shim(asked, root)),
            "unix": shown(await over_lines(neighbour, asked)),
            "wss": shown(await over_lines(guest, asked)),
        }
        http = await over_http(home, name, asked)
        grouped: Doors = {}
        for door, reply in doors.items():
            text = json.dumps(reply, sort_keys=True)
            same = next(
                (k for k, v in grouped.items() if json.dumps(v, sort_keys=True) == text), ""
            )
            if same:
                grouped = {f"{k}, {door}" if k == same else k: v for k, v in grouped.items()}
            else:
                grouped[door] = reply
        said[name] = {"http": http, **grouped}
    return said


async def transcripts(scratch: Path) -> dict[str, Doors]:
    home, none = scratch / "home", scratch / "none"
    home.mkdir()
    listen = f"127.0.0.1:{free_port()}"
    async with open_web(home, listen=listen) as running:
        return await ask_all(running, home, none)


async def test_every_client_is_told_what_it_always_was(short_dir: Path) -> None:
    assert await transcripts(short_dir) == json.loads(GOLDEN.read_text())


def test_nothing_that_is_reserved_or_unknown_is_said() -> None:
    allowed = {-32700, -32600, -32601, -32602, -32020, -32021, -32022}
    codes: set[int] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            error = value.get("error")
            if isinstance(error, dict):
                codes.add(error["code"])
            for inner in value.values():
                look(inner)

    look(json.loads(GOLDEN.read_text()))
    assert codes >= {-32022, -32602, -32020, -31043, -31064}
    assert not {code for code in codes if -32768 <= code <= -32000} - allowed


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="p-") as scratch:
        said = trio.run(transcripts, Path(scratch))
    GOLDEN.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
