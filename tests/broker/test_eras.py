"""Both eras of MCP in one session: each request is answered in the form in which it was asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.protocol import wire
from tests.broker.http.test_modern import META, enveloped
from tests.support.brokers.http import call, request
from tests.support.brokers.owner import Shim, open_broker, until
from tests.support.engines.gated import GatedEngine


async def reply_of(shim: Shim, ordinal: int) -> tuple[int, Any]:
    """Return the next reply, which must be that line's; what its shim is told besides is passed."""
    while (line := await shim.line()).startswith(wire.PREFIX):
        continue
    found, payload = wire.decode_reply(line)
    assert found == ordinal
    return found, json.loads(payload) if payload else None


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def test_a_session_may_mix_both(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        for message in (
            enveloped(request("server/discover", 0)),
            request("initialize", 1, clientInfo={"name": "old", "version": "1"}),
            enveloped(call("search", 2, name="x")),
            call("search", 3, name="x"),
            request("ping", 4),
            enveloped(request("ping", 5)),
        ):
            shim.say(message)
        told = []
        replies: dict[int, Any] = {}
        while len(replies) < 6:
            line = await shim.line()
            if line.startswith(wire.PREFIX):
                told.append(wire.decode_header(line)[2])
            else:
                ordinal, payload = wire.decode_reply(line)
                replies[ordinal] = payload
        running_as = [session.client for session in running.state.sessions]

    decoded = {ordinal: json.loads(reply) for ordinal, reply in replies.items()}
    results = {ordinal: reply.get("result", {}) for ordinal, reply in decoded.items()}
    assert [ordinal for ordinal in results if "resultType" in results[ordinal]] == [0, 2]
    assert results[2]["content"] == results[3]["content"]
    assert results[1]["protocolVersion"] == "2024-11-05"
    assert (results[4], decoded[5]["error"]["code"]) == ({}, -32601)
    # Its shim is told who asks whenever that is somebody else, for the next owner's sake.
    assert [fields["client"] for fields in told] == ["host 9", "old 1", "host 9"]
    assert running_as == ["host 9"]


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        (META | {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}, -32022),
        (META | {"io.modelcontextprotocol/clientCapabilities": None}, -32602),
    ],
)
async def test_a_malformed_call_never_reaches_the_engine(
    root: Path, meta: dict[str, Any], code: int
) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.say(enveloped(call("add_drawer", "m", name="never"), meta))
        _, refused = await reply_of(shim, 0)
        no_id = enveloped(call("add_drawer", name="nobody asked"))
        del no_id["id"]
        shim.say(no_id)
        assert await reply_of(shim, 1) == (1, None)

    assert (refused["id"], refused["error"]["code"]) == ("m", code)
    assert running.engine.begun == []


async def test_a_reply_that_found_no_connection_comes_in_its_form(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session("s")
        shim.say(enveloped(call("add_drawer", 1, name="one", hold="w")))
        await until(lambda: running.engine.begun)
        shim.close()
        session = running.state.sessions["s"]
        running.engine.gate("w").set()
        await until(lambda: not session.machine.calls)
        again = await running.session("s", next="1", resend="0:1")
        again.say(enveloped(call("add_drawer", 1, name="one", hold="w")))
        _, reply = await reply_of(again, 0)

    assert reply["result"]["resultType"] == "complete"
    assert running.engine.written == ["one"]


async def test_what_comes_while_the_engine_loads_is_answered_in_its_form(root: Path) -> None:
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        running.state.services.catalogue = None  # another version's is not answered with
        shim = await running.session()
        shim.say(enveloped(request("server/discover", 1)))
        shim.say(enveloped(request("tools/list", 2)))
        shim.say(enveloped(request("ping", 3)))
        assert (await reply_of(shim, 2))[1]["error"]["code"] == -32601
        engine.may_load.set()
        replies = [(await reply_of(shim, number))[1] for number in (0, 1)]

    assert [reply["result"]["resultType"] for reply in replies] == ["complete"] * 2


async def test_our_own_refusals_keep_their_names_and_leave_the_reserved_codes(root: Path) -> None:
    async with open_broker(root, queue_depth_max=1, admission_wait_s=0.1) as running:
        shim = await running.session()
        for number in range(3):
            shim.say(enveloped(call("add_drawer", number, name=f"n{number}", hold="w")))
        ordinal, refused = await reply_of(shim, 2)
        running.engine.gate("w").set()

    assert (ordinal, refused["error"]["data"]["palace"]) == (2, "busy")
    assert refused["error"]["code"] == -31041
