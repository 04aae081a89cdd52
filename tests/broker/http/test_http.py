"""The loopback HTTP listener: whom it answers, how, and what of it is left when a broker goes."""

import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from palace.broker import progress
from palace.broker.http import app, exchange, listener, sessions
from palace.broker.http.sessions import name_of
from palace.broker.reporting.status import status_of
from palace.canary.recording import record_death
from palace.canary.records import Owner, open_directory
from palace.engine.api import Call, Reply
from palace.protocol import jsonrpc
from palace.protocol.lifecycle import Reason
from palace.settings.stock_config import server_directory
from palace.transport import http
from tests.support.brokers.http import ACCEPT, Caller, call, request, serverinfo_of
from tests.support.brokers.owner import Running, open_broker, until
from tests.support.engines.gated import GatedEngine
from tests.support.machines.sshd import free_port

Dial = Callable[[], Awaitable[Caller]]
INFO = {"protocolVersion": "2025-06-18", "clientInfo": {"name": "host", "version": "9"}}


@pytest.fixture
def home(short_dir: Path) -> Path:
    path = short_dir / "home"
    path.mkdir()
    return path


@pytest.fixture
async def dial(home: Path) -> AsyncIterator[Dial]:
    """How tests open connections, which are closed at their end."""
    callers = []

    async def open_caller() -> Caller:
        callers.append(await Caller.open(home))
        return callers[-1]

    yield open_caller
    for caller in callers:
        await caller.aclose()


@asynccontextmanager
async def open_web(
    home: Path, engine: GatedEngine | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """Open a broker and wait until stock can find it."""
    root = home.parent / "palace"
    async with open_broker(root, engine, home=str(home), **settings) as running:
        await until(lambda: serverinfo_of(home).exists())
        yield running


async def begin_session(caller: Caller, **headers: str) -> str:
    answer = await caller.post(request("initialize", **INFO), accept=ACCEPT, **headers)
    assert answer.status == 200
    return answer.headers["mcp-session-id"]


# What stock asks for.


async def test_health_is_for_everybody_and_the_rest_for_who_has_the_token(
    home: Path, dial: Dial
) -> None:
    async with open_web(home):
        health = await (await dial()).ask("GET", "/healthz", authorization="")
        answers = [
            await (await dial()).ask(method, path, body=body, authorization=shown)
            for method, path, body in (("POST", "/mcp", b"{}"), ("GET", "/metrics", None))
            for shown in ("", "Bearer wrong", "Bearer t\xf6ken", "Basic abc")
        ]
        [right] = {(await dial())._headers["authorization"]}
        answers += [
            await (await dial()).ask("POST", "/mcp", body=b"{}", authorization=shown)
            for shown in (f"{right}x", right[:-1], right.lower(), f"x{right}")
        ]

    assert (health.status, health.body) == (200, b"ok\n")
    assert [answer.status for answer in answers] == [401] * 12
    assert all(answer.headers["connection"] == "close" for answer in answers)


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        *("/register", "/token", "/", "/mcp/", "/metricsx"),
    ],
)
async def test_a_path_that_is_not_there_is_not_found_by_anybody(
    home: Path, dial: Dial, path: str
) -> None:
    """A client that is asked for a token looks for OAuth, and must learn that there is none."""
    async with open_web(home):
        answers = [
            await (await dial()).ask(method, path, authorization="")
            for method in ("GET", "POST", "OPTIONS")
        ]

    assert [answer.status for answer in answers] == [404] * 3
    assert not any("www-authenticate" in answer.headers for answer in answers)


async def test_a_line_without_a_session_is_answered_like_stocks_hub(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        caller = await dial()
        added = await caller.post(call("add_drawer", "x", name="one"))
        noted = await caller.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        broken = await (await dial()).ask("POST", "/mcp", body=b"{nonsense")
        empty = await (await dial()).ask("POST", "/mcp", body=b"")
        header = await (await dial()).ask("POST", "/mcp", body=b"palace/1 ack upto=9")
        begun = await caller.post(request("initialize", **INFO))

        assert added.json()["id"] == "x"
        assert running.engine.written == ["one"]
        assert (noted.status, noted.body) == (202, b"")
        assert [(a.status, a.json()["error"]["code"]) for a in (broken, empty, header)] == [
            (400, -32700)
        ] * 3
        assert begun.json()["result"]["serverInfo"]["name"] == "mempalace"
        assert "mcp-session-id" not in begun.headers
        await until(lambda: not running.state.sessions)


async def test_what_stock_reads_is_private_whole_and_gone_with_the_broker(home: Path) -> None:
    async with open_web(home) as running:
        path = serverinfo_of(home)
        told = json.loads(path.read_text())
        modes = {
            name: stat.S_IMODE((path.parent / name).stat().st_mode)
            for name in os.listdir(path.parent)
        }
        running.state.leaving.stop(Reason.IDLE)

        assert not path.exists()  # in the step that removes the record
        assert not (home.parent / "palace" / "broker.json").exists()

    assert (told["pid"], told["host"], told["scheme"]) == (os.getpid(), "127.0.0.1", "http")
    assert told["search_config_fingerprint"] == "light"
    assert modes == {"serverinfo.json": 0o600, "token": 0o600}


@pytest.mark.parametrize("mode", [0o600, 0o644])
async def test_a_token_is_worth_nothing_to_the_next_broker(
    home: Path, dial: Dial, mode: int
) -> None:
    """Whoever listens at a port that was fixed, while no broker does, is told what clients have."""
    async with open_web(home):
        path = serverinfo_of(home).parent / "token"
        told = path.read_text().strip()
        assert (await (await dial()).post(request("ping"))).status == 200
    path.chmod(mode)
    path.parent.chmod(0o755)
    async with open_web(home):
        port = json.loads(serverinfo_of(home).read_text())["port"]
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        assert (await Caller(stream, port, told).post(request("ping"))).status == 401
        await stream.aclose()
        assert (await (await dial()).post(request("ping"))).status == 200
        assert path.stat().st_mode & 0o777 == 0o600
        assert told not in path.read_text()


async def test_a_token_is_not_kept_where_others_may_write(home: Path) -> None:
    palace = home.parent / "palace"
    directory = Path(server_directory(str(home), str(palace)))
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    async with open_broker(palace, home=str(home)) as running:
        await until(lambda: "can't hold a token" in running.state.telemetry.errors.last)

    assert not list(directory.iterdir())


async def test_beside_a_writer_queries_are_answered_and_stock_is_told_nothing(home: Path) -> None:
    def from_a_copy(asked: Call) -> Reply:
        return Reply(payload=jsonrpc.encode(jsonrpc.result(asked.request.id, "a copy's")))

    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(home.parent / "palace", engine, home=str(home)) as running:
        running.state.scheduler.begin_reading(from_a_copy)
        url = await url_of(running)
        assert url.port is not None
        token = (
            (Path(server_directory(str(home), str(home.parent / "palace"))) / "token")
            .read_text()
            .strip()
        )
        stream = await trio.open_tcp_stream("127.0.0.1", url.port)
        caller = Caller(stream, url.port, token)
        answer = await caller.post(call("search"))
        assert answer.json()["result"] == "a copy's"
        assert not serverinfo_of(home).exists(), "stock's clients would hand over changes"

        engine.may_load.set()
        await until(lambda: serverinfo_of(home).exists())
        await running.state.scheduler.end_reading()
        await caller.post(call("add_drawer", name="one"))
        await caller.aclose()
        told = json.loads(serverinfo_of(home).read_text())
    assert (told["pid"], told["port"]) == (os.getpid(), url.port)
    assert engine.written == ["one"]
    assert not serverinfo_of(home).exists()


async def test_beside_stocks_own_server_nobody_listens_or_takes_its_token(home: Path) -> None:
    root = home.parent / "palace"
    directory = Path(server_directory(str(home), str(root)))
    directory.mkdir(parents=True, mode=0o700)
    (directory / "serverinfo.json").write_text(json.dumps({"pid": os.getppid(), "port": 1}))
    (directory / "token").write_text("stock's")
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine, home=str(home)) as running:
        running.state.scheduler.begin_reading(lambda _call: Reply(payload=None))
        await trio.sleep(0.3)
        assert (directory / "token").read_text() == "stock's"
        assert status_of(running.state)["http"]["url"] == ""
        engine.may_load.set()  # it has ended, or the lock would not be ours
        await url_of(running)


async def url_of(running: Running) -> SplitResult:
    """Return where a broker listens for HTTP, once it does."""
    await until(lambda: status_of(running.state)["http"]["url"])
    return urlsplit(status_of(running.state)["http"]["url"])


async def test_another_servers_serverinfo_is_left_alone(home: Path) -> None:
    async with open_web(home) as running:
        path = serverinfo_of(home)
        path.write_text('{"pid": 1, "host": "127.0.0.1", "port": 1}')
        running.state.leaving.stop(Reason.STOP)

        assert path.exists()


async def test_a_dead_brokers_serverinfo_goes_before_the_engine_loads(home: Path) -> None:
    async with open_web(home):
        path = serverinfo_of(home)
        left = path.read_bytes()
    path.write_bytes(left)
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(home.parent / "palace", engine, home=str(home)):
        assert not path.exists()
        await trio.sleep(0.3)
        assert not path.exists()  # before there is an engine stock is told nothing
        engine.may_load.set()
        await until(path.exists)


async def test_nothing_is_served_or_told_where_http_is_off(home: Path) -> None:
    async with open_broker(home.parent / "palace", home=str(home), http=False) as running:
        await running.session()
        await until(lambda: running.state.scheduler.admission.ready)

        assert running.state.telemetry.http is None
    assert not list(home.iterdir())


async def test_a_port_that_is_taken_is_tried_again(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "AGAIN_S", 0.02)
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        async with open_broker(home.parent / "palace", home=str(home), http=port) as running:
            await until(lambda: "HTTP is not served" in running.state.telemetry.errors.last)
            assert not serverinfo_of(home).exists()
            other.close()
            await until(lambda: serverinfo_of(home).exists())

            assert (await (await dial()).ask("GET", "/healthz")).status == 200


# Who may ask.


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1:1"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"host": "localhost"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
    ],
)
async def test_pages_that_were_led_here_are_refused(
    home: Path, dial: Dial, header: dict[str, str], status: int
) -> None:
    async with open_web(home):
        for path, method in (("/healthz", "GET"), ("/mcp", "POST")):
            caller = await dial()
            body = json.dumps(request("ping")).encode() if method == "POST" else None
            assert (await caller.ask(method, path, body=body, **header)).status == status


async def test_a_body_that_is_too_long_is_refused_declared_or_not(home: Path, dial: Dial) -> None:
    async with open_web(home, line_bytes_max=65_536):
        long = b" " * 70_000
        declaring = await dial()
        await declaring.begin("POST", "/mcp", body=b"{", content_length="70000")
        declared = await declaring.answer()
        chunked = await dial()
        await chunked.stream.send_all(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: " + chunked._headers["authorization"].encode() + b"\r\n\r\n"
            b"11170\r\n" + long + b"\r\n"
        )
        reply = await chunked.stream.receive_some()

    assert declared.status == 413
    assert reply.startswith(b"HTTP/1.1 413")


async def test_a_body_that_comes_too_slowly_is_given_up(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "BODY_S", 0.05)
    async with open_web(home) as running:
        caller = await dial()
        await caller.begin("POST", "/mcp", body=b"{", content_length="100")

        assert (await caller.answer()).status == 408
        await until(lambda: not running.state.connections.open)


async def test_who_never_asks_is_turned_out(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LOGIN_S", 0.3)
    async with open_web(home) as running:
        known = await dial()
        assert (await known.post(request("ping"))).status == 200
        strangers = [await dial() for _ in range(2)]

        assert [await stranger.ended() for stranger in strangers] == [True, True]
        assert (await known.post(request("ping"))).status == 200
        assert running.state.telemetry.budgets_named("http_strangers")[0].held == 0


async def test_who_has_no_token_keeps_nobody_out_who_has_it(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "STRANGERS_MAX", 2)
    monkeypatch.setattr(http, "LOGIN_S", 3600.0)  # nobody leaves but to make room
    async with open_web(home) as running:
        (places,) = running.state.telemetry.budgets_named("http_strangers")
        silent = [await dial() for _ in range(2)]
        await until(lambda: places.held == 2)
        half = await dial()
        await half.stream.send_all(b"POST /mcp HTTP/1.1\r\n")
        known = await dial()

        assert (await known.post(request("ping"))).status == 200

        with trio.fail_after(20):
            assert [await stranger.ended() for stranger in silent] == [True, True]
        assert places.shed >= 2
        assert places.last_shed == listener.ADDRESS

        shed = places.shed
        for _ in range(4):
            other = await dial()
            await other.stream.send_all(b"POST /mcp HTTP/1.1\r\n")
        await until(lambda: places.shed >= shed + 2)
        assert (await known.post(request("ping"))).status == 200


async def test_kept_connections_make_room_and_busy_ones_do_not(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 2)
    async with open_web(home) as running:
        kept, busy = await dial(), await dial()
        assert (await kept.post(request("ping"))).status == 200
        await busy.begin("POST", "/mcp", body=b"{", content_length="100")
        await wait_all_tasks_blocked(0.05)  # the server knows that one waits, and one is busy
        later = await dial()

        assert (await later.post(request("ping"))).status == 200
        assert await kept.ended()
        assert running.state.telemetry.http is not None
        assert running.state.telemetry.http.refused == 0


@pytest.mark.parametrize(
    "asking",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 2,
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    ],
    ids=["prior knowledge", "upgrade"],
)
async def test_http_2_is_not_spoken(home: Path, dial: Dial, asking: bytes) -> None:
    async with open_web(home):
        caller = await dial()
        await caller.stream.send_all(asking)

        answer = bytes(await caller.stream.receive_some())
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 403")), answer


async def test_a_connection_ends_with_its_client(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        caller = await dial()
        assert (await caller.post(request("ping"))).status == 200
        await wait_all_tasks_blocked(0.05)  # the server waits for another request
        await caller.aclose()

        await until(lambda: not running.state.connections.open)


async def test_a_client_that_never_reads_keeps_no_broker(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SEND_S", 0.1)
    async with open_web(home) as running:
        caller = await dial()
        body = json.dumps(call("add_drawer", name="x" * 20_000_000)).encode()
        await caller.begin("POST", "/mcp", body=body)
        await until(lambda: running.engine.written)

        await until(lambda: not running.state.connections.open and not running.state.sessions)


# The streamable HTTP transport.


async def test_a_session_lives_from_initialize_to_delete(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        caller = await dial()
        ident = await begin_session(caller)
        named: dict[str, Any] = {"accept": ACCEPT, "mcp_session_id": ident}
        named["mcp_protocol_version"] = "2025-06-18"
        added = await caller.post(call("add_drawer", 5, name="one"), **named)
        clients = [session.client for session in running.state.sessions]
        deleted = await caller.ask("DELETE", "/mcp", **named)
        await until(lambda: not running.state.sessions)
        late = await caller.post(request("ping"), **named)

    assert added.headers["content-type"] == "application/json"
    assert added.json()["id"] == 5
    assert clients == ["host 9"]
    assert deleted.status == 204
    assert late.status == 404


async def test_a_sessions_name_which_is_written_down_is_not_what_its_client_shows(
    home: Path, dial: Dial
) -> None:
    """Who reads the journal could end it, or cancel what it asks, by what stands there."""
    async with open_web(home) as running:
        caller = await dial()
        ident = await begin_session(caller)
        (name,) = [session.id for session in running.state.sessions]
        ended = await (await dial()).ask("DELETE", "/mcp", mcp_session_id=name)
        still = await caller.post(request("ping"), accept=ACCEPT, mcp_session_id=ident)

    assert ident not in name
    assert ended.status == 404
    assert still.status == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"accept": "text/event-stream"}, 405),
        ("PUT", {}, 405),
        ("DELETE", {}, 400),
        ("DELETE", {"mcp_session_id": "unknown"}, 404),
        ("POST", {"mcp_session_id": "unknown"}, 404),
        ("POST", {"mcp_protocol_version": "1999-01-01"}, 400),
        ("POST", {"accept": "text/html"}, 406),
    ],
)
async def test_what_the_transport_refuses(
    home: Path, dial: Dial, method: str, headers: dict[str, str], status: int
) -> None:
    async with open_web(home):
        body = json.dumps(request("ping")).encode() if method == "POST" else None
        answer = await (await dial()).ask(method, "/mcp", body=body, **headers)

    assert answer.status == status
    assert answer.json()["error"]["message"]


async def test_a_long_call_comes_as_a_stream_of_events(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PLAIN_S", 0.05)
    monkeypatch.setattr(app, "BEAT_S", 0.05)
    async with open_web(home) as running:
        caller = await dial()
        message = call("search", 3, name="found", hold="gate")
        await caller.begin("POST", "/mcp", body=json.dumps(message).encode(), accept=ACCEPT)
        data = await caller.read_until(b"under way")
        running.engine.gate("gate").set()
        data = await caller.read_until(b"data: ", data)
        only = await (await dial()).post(request("ping"), accept="text/event-stream")

    assert b"content-type: text/event-stream" in data
    assert json.loads(data.partition(b"data: ")[2].partition(b"\n")[0])["id"] == 3
    assert only.events() == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


async def test_a_long_call_that_asked_for_progress_is_told_of_it(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PLAIN_S", 0.05)
    monkeypatch.setattr(app, "TELL_S", 0.05)
    monkeypatch.setattr(progress, "TELL_S", 0.05)
    async with open_web(home) as running:
        caller = await dial()
        message = call("search", 3, name="found", hold="gate")
        message["params"]["_meta"] = {"progressToken": "t"}
        await caller.begin("POST", "/mcp", body=json.dumps(message).encode(), accept=ACCEPT)
        data = b""
        while data.count(b"data: ") < 2:
            data += await caller.stream.receive_some()
        running.engine.gate("gate").set()
        data = await caller.read_until(b'"result"', data)

    said = [json.loads(part.partition(b"\n")[0]) for part in data.split(b"data: ")[1:]]
    assert {one["method"] for one in said[:-1]} == {"notifications/progress"}
    assert {one["params"]["progressToken"] for one in said[:-1]} == {"t"}
    assert said[0]["params"]["progress"] < said[1]["params"]["progress"]
    assert said[-1]["id"] == 3


async def test_a_cancelled_call_of_a_session_ends_its_request(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        waiting, other = await dial(), await dial()
        named: dict[str, Any] = {"accept": ACCEPT, "mcp_session_id": await begin_session(waiting)}
        body = json.dumps(call("event_wait", "w", hold="gate")).encode()
        await waiting.begin("POST", "/mcp", body=body, **named)
        await until(lambda: running.engine.begun)
        cancelled = {"method": "notifications/cancelled", "params": {"requestId": "w"}}
        await other.post({"jsonrpc": "2.0", **cancelled}, **named)

        assert (await waiting.answer()).status == 202


async def test_a_session_may_be_read_only(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        caller = await dial()
        ident = await begin_session(caller, palace_read_only="1")
        listed = await caller.post(request("tools/list"), accept=ACCEPT, mcp_session_id=ident)
        await caller.post(call("add_drawer", 2), accept=ACCEPT, mcp_session_id=ident)

        assert "mempalace_add_drawer" not in str(listed.json())
        assert running.engine.read_only_calls == [True]


async def test_a_silent_session_ends_and_a_new_one_takes_the_oldest_ones_place(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_web(home, sessions_max=2) as running:
        caller = await dial()
        first = await begin_session(caller)
        second = await begin_session(caller)
        third = await begin_session(caller)
        answers = [
            await (await dial()).post(request("ping"), mcp_session_id=ident)
            for ident in (first, second, third)
        ]
        assert [answer.status for answer in answers] == [404, 200, 200]

        monkeypatch.setattr(sessions, "QUIET_S", 0.05)
        fourth = await begin_session(caller)
        await until(lambda: fourth not in running.state.sessions)


async def test_a_session_that_is_used_outlives_any_number_that_are_not(
    home: Path, dial: Dial
) -> None:
    """All clients over HTTP are one party: the oldest would be of whoever thinks for a moment."""
    async with open_web(home, sessions_max=4) as running:
        caller = await dial()
        used = await begin_session(caller)
        await caller.post(call("search"), accept=ACCEPT, mcp_session_id=used)
        hoard = [await begin_session(caller) for _ in range(8)]
        answer = await caller.post(call("search"), accept=ACCEPT, mcp_session_id=used)

        assert answer.status == 200
        assert [name_of(ident) in running.state.sessions for ident in hoard] == [False] * 5 + [
            True
        ] * 3


# The same sessions and queues, the same limits.


async def test_who_hangs_up_gives_up_a_query_and_not_a_change(home: Path, dial: Dial) -> None:
    async with open_web(home, readers=1) as running:
        callers = [await dial() for _ in range(3)]
        messages = [
            call("search", name="first", hold="gate"),
            call("search", name="given up"),
            call("add_drawer", name="kept", hold="change"),
        ]
        for caller, message in zip(callers, messages, strict=True):
            await caller.begin("POST", "/mcp", body=json.dumps(message).encode())
            await until(lambda: len(running.state.sessions) >= 1)
        await until(
            lambda: len(running.engine.begun) == 2 and running.state.scheduler.admission.waiting
        )
        for caller in callers:
            await caller.aclose()
        await until(lambda: not running.state.scheduler.admission.waiting)
        for gate in ("gate", "change"):
            running.engine.gate(gate).set()

        await until(lambda: not running.state.sessions)
        assert running.engine.written == ["kept"]
        assert sorted(running.engine.begun) == ["first", "kept"]


async def test_a_full_queue_says_busy_in_the_reply(home: Path, dial: Dial) -> None:
    settings: dict[str, Any] = {"readers": 1, "queue_depth_max": 1, "admission_wait_s": 0.05}
    async with open_web(home, **settings) as running:
        callers = [await dial() for _ in range(3)]
        for number, caller in enumerate(callers[:2]):
            body = json.dumps(call("search", number, name="held", hold="gate")).encode()
            await caller.begin("POST", "/mcp", body=body)
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        answer = await callers[2].post(call("search", "late"))
        running.engine.gate("gate").set()

        assert (answer.status, answer.json()["id"]) == (200, "late")
        assert answer.json()["error"]["code"] == -31041


async def test_a_leaving_broker_answers_what_it_has_begun_and_gives_back_the_rest(
    home: Path,
    dial: Dial,
) -> None:
    async with open_web(home, grace_s=30.0) as running:
        callers = [await dial() for _ in range(3)]
        await callers[2].post(request("ping"))
        begun = json.dumps(call("add_drawer", "begun", name="begun", hold="gate")).encode()
        await callers[0].begin("POST", "/mcp", body=begun)
        await until(lambda: running.engine.begun)
        named = {"accept": ACCEPT, "mcp_session_id": await begin_session(callers[1])}
        waits = json.dumps(call("event_wait", "poll", hold="poll")).encode()
        await callers[1].begin("POST", "/mcp", body=waits, **named)
        await until(lambda: len(running.engine.begun) == 2)
        running.state.leaving.stop(Reason.STOP)
        given_back = await callers[1].answer()
        idle_ended = await callers[2].ended()
        running.engine.gate("gate").set()
        answered = await callers[0].answer()
        running.engine.gate("poll").set()
        await running.ended.wait()

    assert given_back.json()["error"]["code"] == -31042
    assert answered.json()["result"]
    assert idle_ended


async def test_a_session_with_a_fault_ends_alone(home: Path, dial: Dial) -> None:
    class Faulty(GatedEngine):
        def end_session(self, session: str) -> None:
            raise RuntimeError("the engine has a fault")

    async with open_web(home, Faulty()) as running:
        caller = await dial()
        await caller.post(request("ping"))
        await caller.aclose()
        shim = await running.session()
        shim.call("status", 1)

        assert (await shim.reply())[0] == 0
        assert (await (await dial()).ask("GET", "/healthz")).status == 200


async def test_the_engine_forgets_what_nobody_will_ask_for_again(home: Path, dial: Dial) -> None:
    class Remembering(GatedEngine):
        def acknowledge(self, session: str, upto: int) -> None:
            acknowledged.append(upto)

        def end_session(self, session: str) -> None:
            ended.add(session)

    acknowledged: list[int] = []
    ended: set[str] = set()
    async with open_web(home, Remembering()):
        caller = await dial()
        ident = await begin_session(caller)
        await caller.post(call("add_drawer", name="one"), accept=ACCEPT, mcp_session_id=ident)
        await until(lambda: acknowledged == [1, 2])
        await caller.ask("DELETE", "/mcp", mcp_session_id=ident)
        await until(lambda: ended == {name_of(ident)})
        await caller.post(call("add_drawer", name="two"))
        await until(lambda: len(ended) == 2)


# Numbers.


async def test_metrics_tell_of_the_journal(
    home: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = {"journal": "on", "seq": 70, "durable_seq": 60, "quarantined": 5, "broken_lines": 4}
    async with open_web(home) as running:
        monkeypatch.setattr(running.engine, "status", lambda: journal)
        answer = await (await dial()).ask("GET", "/metrics")

    lines = answer.body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("palace_journal"))
    assert values == {
        "palace_journal_seq": "70",
        "palace_journal_durable_seq": "60",
        "palace_journal_quarantined": "5",
        "palace_journal_broken_lines": "4",
        "palace_journal_left": "0",
    }


async def test_metrics_tell_of_deaths_and_whether_one_would_be_noticed(
    home: Path, dial: Dial
) -> None:
    async def told() -> list[str]:
        answer = await (await dial()).ask("GET", "/metrics")
        rows = answer.body.decode().splitlines()
        return [row for row in rows if row.startswith(("palace_deaths", "palace_canary"))]

    async with open_web(home) as running:
        services = running.state.services
        life, kernel = services.life, services.kernel
        assert await told() == ["palace_deaths_total 0", "palace_canary_armed 0"]
        life.begin(services.ownership, "0")
        life.arm("", log_path="")
        directory = open_directory(services.ownership.paths.root, kernel)
        for epoch in (5, 6):
            assert record_death(directory, Owner(epoch, "a" * 32), {"cause": "oom"}, kernel)
        directory.close()
        try:
            assert await told() == ["palace_deaths_total 2", "palace_canary_armed 1"]
        finally:
            life.left("test")
        await until(lambda: kernel.reap(life.canary.pid) is not None)


async def test_metrics_count_what_was_done(home: Path, dial: Dial) -> None:
    async with open_web(home) as running:
        caller = await dial()
        await caller.post(call("add_drawer", name="a memory nobody else may read"))
        await caller.post(call("search", name="q"))
        answer = await caller.ask("GET", "/metrics")
        http = status_of(running.state)["http"]

    text = answer.body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert values["palace_epoch"] == "1"
    assert values["palace_replies_total"] == "2"
    assert values['palace_call_seconds_count{lane="writer"}'] == "1"
    assert values['palace_call_seconds_bucket{lane="reader",le="+Inf"}'] == "1"
    assert values['palace_engine_state{state="ready"}'] == "1"
    assert values['palace_http_answers_total{code="200"}'] == "2"
    assert "memory nobody" not in text
    assert (http["connections"], http["sessions"]) == (1, 0)
