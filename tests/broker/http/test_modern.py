"""MCP from 2026-07-28 on over HTTP: each request stands for itself, and its headers agree."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from palace.broker.http import app
from tests.broker.http.test_http import INFO, Dial, begin_session, dial, home, open_web
from tests.support.brokers.http import ACCEPT, Answer, Caller, call, request

__all__ = ["dial", "home"]  # fixtures

MODERN = "2026-07-28"
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "host", "version": "9"},
}


def enveloped(message: dict[str, Any], meta: Any = META) -> dict[str, Any]:
    return message | {"params": message["params"] | {"_meta": meta}}


async def ask(caller: Caller, message: dict[str, Any], meta: Any = META, **headers: str) -> Answer:
    """Send a request as a modern client does; `headers` replace what it says of the body."""
    said = {"mcp_protocol_version": MODERN, "mcp_method": message["method"], "accept": ACCEPT}
    if name := message["params"].get("name"):
        said["mcp_name"] = name
    return await caller.post(enveloped(message, meta), **said | headers)


async def test_each_request_stands_for_itself_and_is_answered_in_its_form(
    home: Path, dial: Dial
) -> None:
    async with open_web(home) as running:
        caller = await dial()
        found = await ask(caller, request("server/discover", "d"), mcp_session_id="unknown")
        listed = await ask(caller, request("tools/list", 2))
        added = await ask(caller, call("add_drawer", 3, name="one"))
        kept = len(running.state.sessions)

    assert [answer.status for answer in (found, listed, added)] == [200, 200, 200]
    results = [answer.json()["result"] for answer in (found, listed, added)]
    assert found.json()["id"] == "d"
    assert results[0]["supportedVersions"][0] == MODERN
    assert results[1]["cacheScope"] == "private"
    assert results[2]["content"]
    assert {result["resultType"] for result in results} == {"complete"}
    servers = {json.dumps(result["_meta"]) for result in results}
    assert len(servers) == 1
    assert "mempalace" in servers.pop()
    assert running.engine.clients == ["host 9"]
    assert not any("mcp-session-id" in answer.headers for answer in (found, listed, added))
    assert kept == 0


@pytest.mark.parametrize(
    ("message", "headers"),
    [
        (request("tools/list"), {"mcp_protocol_version": ""}),
        (request("tools/list"), {"mcp_protocol_version": "2025-11-25"}),
        (request("tools/list"), {"mcp_method": ""}),
        (request("tools/list"), {"mcp_method": "tools/call"}),
        (request("tools/list"), {"mcp_method": "Tools/list"}),
        (call("add_drawer", name="never"), {"mcp_name": ""}),
        (call("add_drawer", name="never"), {"mcp_name": "mempalace_search"}),
        (call("add_drawer", name="never"), {"mcp_name": "=?base64?bWVtcGFsYWNl!?="}),
        (call("add_drawer", name="never"), {"mcp_name": "=?base64?/w==?="}),
        (request("prompts/get", name="x"), {"mcp_name": "y"}),
        (request("resources/read", uri="x"), {}),
    ],
)
async def test_headers_that_say_something_else_than_the_body_are_refused(
    home: Path, dial: Dial, message: dict[str, Any], headers: dict[str, str]
) -> None:
    async with open_web(home) as running:
        refused = await ask(await dial(), message | {"id": "r"}, **headers)

    assert refused.status == 400
    reply = refused.json()
    assert (reply["id"], reply["error"]["code"]) == ("r", -32020)
    assert running.engine.written == []


async def test_a_header_that_stands_there_twice_is_refused(home: Path, dial: Dial) -> None:
    async with open_web(home):
        caller = await dial()
        body = json.dumps(enveloped(request("tools/list", 4))).encode()
        lines = [
            b"POST /mcp HTTP/1.1",
            *(f"{name}: {text}".encode() for name, text in caller._headers.items()),
            b"mcp-protocol-version: 2026-07-28",
            b"mcp-method: tools/list",
            b"MCP-Method: tools/call",
            b"content-length: %d" % len(body),
        ]
        await caller.stream.send_all(b"\r\n".join([*lines, b"", body]))
        data = await caller.read_until(b"-32020")

    assert data.startswith(b"HTTP/1.1 400")


async def test_a_name_may_be_encoded(home: Path, dial: Dial) -> None:
    encoded = base64.b64encode(b"mempalace_add_drawer").decode()
    spelt_otherwise = encoded.rstrip("=")
    async with open_web(home) as running:
        caller = await dial()
        message = call("add_drawer", name="one")
        taken = await ask(caller, message, mcp_name=f"=?base64?{encoded}?=")
        other = await ask(await dial(), message, mcp_name=f"=?base64?{spelt_otherwise[:-1]}?=")

    assert (taken.status, other.status) == (200, 400)
    assert running.engine.written == ["one"]


async def test_a_malformed_request_is_refused_with_its_own_id(home: Path, dial: Dial) -> None:
    no_version = {k: v for k, v in META.items() if not k.endswith("protocolVersion")}
    no_capabilities = {k: v for k, v in META.items() if not k.endswith("clientCapabilities")}
    async with open_web(home):
        answers = [
            await ask(await dial(), request("server/discover", "m"), meta)
            for meta in (None, no_version, no_capabilities)
        ]
        no_id = await ask(await dial(), request("tools/list", None))
        array = await (await dial()).post([], mcp_protocol_version=MODERN)
        broken = await (await dial()).ask("POST", "/mcp", body=b"{", mcp_protocol_version=MODERN)

    for answer in answers:
        said = (answer.status, answer.json()["id"], answer.json()["error"]["code"])
        assert said == (400, "m", -32602)
    assert (no_id.status, no_id.json()["error"]["code"], "id" in no_id.json()) == (
        *(400, -32600),
        False,
    )
    assert [(a.status, a.json()["error"]["code"]) for a in (array, broken)] == [
        (400, -32600),
        (400, -32700),
    ]


async def test_a_version_that_is_not_spoken_is_answered_with_those_that_are(
    home: Path, dial: Dial
) -> None:
    newer = "2031-01-01"
    meta = META | {"io.modelcontextprotocol/protocolVersion": newer}
    async with open_web(home):
        found = await ask(await dial(), request("server/discover"))
        asked = await ask(
            await dial(), request("tools/list", "v"), meta, mcp_protocol_version=newer
        )
        in_header = await (await dial()).post(request("ping", "h"), mcp_protocol_version=newer)

    for ident, answer in (("v", asked), ("h", in_header)):
        reply = answer.json()
        assert (answer.status, reply["id"], reply["error"]["code"]) == (400, ident, -32022)
        supported = found.json()["result"]["supportedVersions"]
        assert reply["error"]["data"] == {"supported": supported, "requested": newer}


@pytest.mark.parametrize("method", ["ping", "initialize", "logging/setLevel", "unknown/method"])
async def test_a_method_that_is_not_there_is_not_found(home: Path, dial: Dial, method: str) -> None:
    async with open_web(home):
        answer = await ask(await dial(), request(method, "n"))

    assert answer.status == 404
    assert (answer.json()["id"], answer.json()["error"]["code"]) == ("n", -32601)


async def test_a_handshake_is_agreed_upon_whatever_version_its_header_wishes_for(
    home: Path, dial: Dial
) -> None:
    async with open_web(home):
        for version in (MODERN, "2031-01-01"):
            caller = await dial()
            message = request("initialize", **INFO | {"protocolVersion": version})
            begun = await caller.post(message, accept=ACCEPT, mcp_protocol_version=version)

            assert begun.status == 200
            assert begun.json()["result"]["protocolVersion"] == "2025-11-25"
            named = {"mcp_session_id": begun.headers["mcp-session-id"]}
            assert (await caller.post(request("ping"), **named)).status == 200


async def test_both_eras_are_served_over_one_connection(home: Path, dial: Dial) -> None:
    async with open_web(home):
        caller = await dial()
        ident = await begin_session(caller)
        modern = await ask(caller, request("tools/list"))
        legacy = await caller.post(request("tools/list"), mcp_session_id=ident)

    assert legacy.json()["result"].keys() == {"tools"}
    assert modern.json()["result"].keys() > {"tools", "resultType"}


async def test_it_has_no_sessions_to_end_and_no_streams_to_open(home: Path, dial: Dial) -> None:
    async with open_web(home):
        for method in ("GET", "DELETE"):
            answer = await (await dial()).ask(method, "/mcp", mcp_protocol_version=MODERN)
            assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_a_notification_is_taken_without_a_word(home: Path, dial: Dial) -> None:
    async with open_web(home):
        message = enveloped(request("notifications/cancelled", requestId=1))
        del message["id"]
        answer = await (await dial()).post(message, mcp_protocol_version=MODERN)

    assert (answer.status, answer.body) == (202, b"")


async def test_who_may_only_read_is_shown_less_and_refused_the_rest(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        caller = await dial()
        listed = await ask(caller, request("tools/list"), palace_read_only="1")
        all_of_them = await ask(caller, request("tools/list"))
        await ask(caller, call("add_drawer", name="one"), palace_read_only="1")

    assert len(listed.json()["result"]["tools"]) < len(all_of_them.json()["result"]["tools"])
    assert running.engine.read_only_calls == [True]


async def test_a_long_call_comes_as_events_that_no_proxy_holds_back(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PLAIN_S", 0.05)
    monkeypatch.setattr(app, "BEAT_S", 0.05)
    async with open_web(home) as running:
        caller = await dial()
        message = enveloped(call("search", 3, name="found", hold="gate"))
        said = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "accept": ACCEPT}
        body = json.dumps(message).encode()
        await caller.begin("POST", "/mcp", body=body, mcp_name="mempalace_search", **said)
        data = await caller.read_until(b"under way")
        running.engine.gate("gate").set()
        data = await caller.read_until(b"data: ", data)

    assert b"x-accel-buffering: no" in data
    last = json.loads(data.partition(b"data: ")[2].partition(b"\n")[0])
    assert (last["id"], last["result"]["resultType"]) == (3, "complete")
