"""What a client is told, by era and by door, word for word: tests/broker/transcripts.json.

After a change that is meant: `python -m tests.broker.test_transcripts`, and read the difference.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import trio

from palace.kernel.kernel import Kernel
from palace.protocol import errors, jsonrpc, wire
from palace.protocol.modern import in_modern_form
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
TOPIC = {"name": "recall_topic", "arguments": {"topic": "otters"}}
WING = {"type": "ref/resource", "uri": "mempalace://wing/{wing}"}
COMPLETED = {"ref": WING, "argument": {"name": "wing", "value": "s"}}
# With `mcp_extras`, in the form of both eras; the engine that answers here knows no drawer.
EXTRAS: dict[str, dict[str, Any]] = {
    "a handshake": request("initialize", 1, **INFO),
    "a probe": request("server/discover", 1),
    "the templates": request("resources/templates/list", 1),
    "the resources": request("resources/list", 1),
    "a cursor that is none": request("resources/list", 1, cursor="x"),
    "a drawer that is not there": request("resources/read", 1, uri="mempalace://drawer/d1"),
    "a wing that is not there": request("resources/read", 1, uri="mempalace://wing/sea"),
    "a resource of something else": request("resources/read", 1, uri="file:///etc/passwd"),
    "a resource that is not named": request("resources/read", 1),
    "the prompts": request("prompts/list", 1),
    "a prompt": request("prompts/get", 1, **TOPIC),
    "a prompt without its argument": request("prompts/get", 1, name="recall_topic"),
    "a prompt that is not there": request("prompts/get", 1, name="forget_all"),
    "a completion": request("completion/complete", 1, **COMPLETED),
    "a completion of nothing": request("completion/complete", 1, ref={}, argument={}),
    "a completion without a reference": request("completion/complete", 1),
    "a method that is not there": request("resources/subscribe", 1, uri="mempalace://wing/sea"),
}
OF_EXTRAS = {
    f"{era}, extras: {name}": modern(message) if era == "modern" else message
    for name, message in EXTRAS.items()
    for era in (LEGACY, "modern")
    if (era, name) not in ((LEGACY, "a probe"), ("modern", "a handshake"))
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
    if line is None:
        return "asks a broker"
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
            named = params.get("name") or params.get("taskId") or params.get("uri", "")
            said |= {"mcp_name": named}
        if name.endswith("says otherwise"):
            said["mcp_method"] = "tools/call"
        answer = await caller.ask("POST", "/mcp", body=line_of(asked), **said)
        reply = shown(json.loads(answer.body)) if answer.body else None
        return {"status": answer.status, "reply": reply}
    finally:
        await caller.aclose()


async def ask_all(
    running: Running, home: Path, root: Path, questions: dict[str, Any]
) -> dict[str, Doors]:
    """Put every question at every door; those that say the same stand together."""
    neighbour = await running.session("neighbour")
    guest = set_out(running).shim
    await guest.welcome("guest")
    said: dict[str, Doors] = {}
    for name, asked in questions.items():
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


def refusals() -> dict[str, Any]:
    """Return what each error of palace's is to a client of each era."""
    kinds: list[type[errors.PalaceError]] = [errors.PalaceError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    said = {}
    for kind in sorted(kinds, key=lambda one: one.name):
        if kind.__module__ == errors.__name__:
            old = jsonrpc.failure(1, kind("What happened. What to do."))
            new = jsonrpc.parse(in_modern_form(jsonrpc.encode(old), 1, None))
            said[kind.name] = old if new == old else {LEGACY: old, "modern": new}
    return said


async def transcripts(scratch: Path) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, questions in (("plain", ASKED), ("extras", OF_EXTRAS)):
        home, none = scratch / name / "home", scratch / name / "none"
        home.mkdir(parents=True)
        settings: dict[str, Any] = {"mcp_extras": True} if name == "extras" else {}
        async with open_web(home, listen=f"127.0.0.1:{free_port()}", **settings) as running:
            catalogue = running.state.services.catalogue
            if settings and catalogue is not None:  # a shim alone finds what was served last
                none.mkdir()
                Path(Paths(str(none)).catalogue).write_bytes(catalogue.to_json())
            said |= await ask_all(running, home, none, questions)
    return said | {"refusals": refusals()}


async def test_every_client_is_told_what_it_always_was(short_dir: Path) -> None:
    assert await transcripts(short_dir) == json.loads(GOLDEN.read_text())


def codes_in(value: Any) -> set[int]:
    if isinstance(value, list):
        return set[int]().union(*map(codes_in, value))
    if not isinstance(value, dict):
        return set()
    error = value.get("error")
    own = {error["code"]} if isinstance(error, dict) else set()
    return own.union(*map(codes_in, value.values()))


def test_nothing_that_is_reserved_or_unknown_is_said() -> None:
    allowed = {-32700, -32600, -32601, -32602, -32020, -32021, -32022}
    golden = json.loads(GOLDEN.read_text())
    missing = {-32002}  # a resource's, before the revision that reserves the range
    old = codes_in({name: said for name, said in golden.items() if name.startswith(LEGACY)})
    new = codes_in({name: said for name, said in golden.items() if not name.startswith(LEGACY)})

    assert old | new >= {-32022, -32602, -32020, -31043, -31064}
    for codes, known in ((old, allowed | missing), (new, allowed)):
        assert not {code for code in codes if -32768 <= code <= -32000} - known


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="p-") as scratch:
        said = trio.run(transcripts, Path(scratch))
    GOLDEN.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
