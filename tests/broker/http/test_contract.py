"""The memory contract's requests and answers, with an engine whose answers the test says."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from palace.broker.http import contract, exchange, listener
from palace.broker.http.listener import STRANGERS_MAX
from palace.engine.api import Call, Reply
from palace.protocol import jsonrpc, pace
from palace.protocol.budget import HTTP, party_of_token
from palace.protocol.errors import (
    Forbidden,
    JournalFailed,
    OutcomeUnknown,
    PalaceError,
    StoreUnavailable,
    TooLarge,
)
from palace.protocol.lifecycle import EngineState
from palace.protocol.resolver import Tree
from palace.protocol.workspaces import TOKEN_DIGITS, Namespace, digest_of
from palace.transport import http
from tests.broker.http.test_http import home, open_web
from tests.broker.test_rights import USER
from tests.support.brokers.http import Answer, Caller
from tests.support.brokers.owner import Running, until
from tests.support.engines.gated import GatedEngine
from tests.support.machines.needs import need_root

__all__ = ["home"]  # a fixture

SEARCH, NAMED = "/v1/search", "/v1/namespaces/team:a"
Ask = Callable[..., Awaitable[Answer]]


@dataclass
class Answering(GatedEngine):
    """Answers an operation with `told`, or by `problem`; one of `held` waits for its gate."""

    told: dict[str, Any] = field(default_factory=lambda: {"status": 200, "body": {"memories": []}})
    problem: PalaceError | dict[str, Any] | None = None
    held: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def call(self, call: Call) -> Reply:
        super().call(call)
        self.asked.append(call.request.name)
        if call.request.name in self.held:
            assert self.gate(call.request.name).wait(30)
        self.done.append(call.request.name)
        if self.problem is None:
            content = [{"type": "text", "text": json.dumps(self.told)}]
            return Reply(payload=jsonrpc.encode(jsonrpc.result(1, {"content": content})))
        reply = {"jsonrpc": "2.0", "id": 1, "error": self.problem}
        if isinstance(self.problem, PalaceError):
            reply = jsonrpc.failure(1, self.problem)
        return Reply(payload=jsonrpc.encode(reply))


@pytest.fixture
def engine() -> Answering:
    return Answering()


@pytest.fixture
async def running(home: Path, engine: Answering) -> AsyncIterator[Running]:
    async with open_web(home, engine, memory_contract="on") as running:
        await until((home.parent / "palace" / "http.sock").exists)
        yield running


async def dial(home: Path) -> Caller:
    stream: Any = await trio.open_unix_socket(str(home.parent / "palace" / "http.sock"))
    return Caller(stream, 0, "")


@pytest.fixture
async def ask(home: Path, running: Running) -> Ask:
    async def asked(method: str, path: str, body: Any = None) -> Answer:
        caller = await dial(home)
        raw = None if body is None else json.dumps(body).encode()
        try:
            return await caller.ask(method, path, body=raw, authorization="")
        finally:
            await caller.aclose()

    return asked


PROBLEMS: list[tuple[PalaceError | dict[str, Any], int, str]] = [
    (StoreUnavailable("no store"), 503, "unavailable"),
    (JournalFailed("a full disk"), 503, "unavailable"),
    (Forbidden("no right"), 403, "forbidden"),
    (TooLarge("too much"), 413, "bad_request"),
    (OutcomeUnknown("perhaps"), 500, "internal"),
    ({"code": -32000, "message": "stock's own"}, 503, "unavailable"),
]


@pytest.mark.parametrize(("problem", "status", "code"), PROBLEMS, ids=lambda one: str(one)[:20])
async def test_what_an_engine_can_not_do_is_said_in_the_contracts_words(
    engine: Answering, ask: Ask, problem: PalaceError | dict[str, Any], status: int, code: str
) -> None:
    engine.problem = problem
    told = await ask("POST", SEARCH, {"namespaces": ["team:a"]})

    assert (told.status, told.json()["code"]) == (status, code)
    assert told.json()["message"]
    assert ("retry-after" in told.headers) is (status == 503)


async def test_without_a_store_nothing_is_asked_and_health_says_so(
    running: Running, engine: Answering, ask: Ask
) -> None:
    assert (await ask("GET", "/v1/health")).json()["status"] == "ok"
    running.engine.model_pending = True
    loading = await ask("GET", "/v1/health")
    assert loading.json()["status"] == "degraded"
    assert "embedding" not in loading.json()["capabilities"]
    running.state.lifecycle.engine = EngineState.WAITING
    running.state.lifecycle.waiting = "Another program has the palace."
    told = [await ask("GET", "/v1/health"), await ask("DELETE", NAMED)]
    running.state.lifecycle.engine = EngineState.READY

    assert [one.status for one in told] == [503, 503]
    assert [one.json()["code"] for one in told] == ["unavailable"] * 2
    assert "Another program" in told[1].json()["message"]
    health = told[0].json()  # which clients read as health, too
    assert (health["status"], health["capabilities"]) == ("degraded", [])
    assert engine.asked == []


async def test_fts_and_embedding_are_announced_while_the_model_is_there(
    running: Running, engine: Answering, ask: Ask
) -> None:
    told = (await ask("GET", "/v1/health")).json()["capabilities"]
    assert told == ["embedding", "fts", "ttl", "pin", "propagation"]
    running.engine.model_pending = True
    assert (await ask("GET", "/v1/health")).json()["capabilities"] == told[2:]


async def test_many_connections_of_a_program_are_no_strangers_at_the_socket(
    home: Path, running: Running, engine: Answering
) -> None:
    """Whoever could connect is the owner's: none has to go since others have not asked yet."""
    callers = [await dial(home) for _ in range(STRANGERS_MAX + 2)]
    await until(lambda: running.state.connections.open == len(callers))
    for caller in callers:
        assert (await caller.ask("GET", "/v1/health", authorization="")).status == 200
        await caller.aclose()


FILLS = """
import socket, sys
body = b'{"namespaces": ["team:a"]}'
held = []
for _ in range(int(sys.argv[2])):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
    head = f"POST /v1/search HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n"
    held[-1].sendall(head.encode() + body)
sys.stdin.read()
"""


async def test_a_program_that_fills_the_socket_keeps_no_other_out(
    home: Path, engine: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where all of its connections are at work."""
    monkeypatch.setattr(listener, "SOCKET_CONNECTIONS_MAX", 4)
    engine.held = {"palace_v1_search"}
    async with open_web(home, engine, memory_contract="on") as running:
        path = home.parent / "palace" / "http.sock"
        await until(path.exists)
        async with trio.open_nursery() as nursery:
            fills = [sys.executable, "-c", FILLS, str(path), "4"]
            start = partial(trio.run_process, fills, stdin=subprocess.PIPE)
            program = await nursery.start(start)
            await until(lambda: len(list(running.state.sessions)) == 4)
            (places,) = running.state.telemetry.budgets_named("http_socket")
            assert (places.held, places.shed) == (4, 0)
            callers = [await dial(home) for _ in range(2)]
            for caller in callers:
                assert (await caller.ask("GET", "/v1/health", authorization="")).status == 200
            assert (places.held, places.shed) == (4, 2)
            assert places.last_shed == f"pid {program.pid}"
            assert running.state.telemetry.http is not None
            assert running.state.telemetry.http.refused == 0
            engine.gate("palace_v1_search").set()
            await program.stdin.aclose()
        for caller in callers:
            await caller.aclose()
        await until(lambda: places.held == 0)


async def test_whoever_asks_at_the_socket_or_shows_a_token_is_a_party(
    home: Path, running: Running, engine: Answering
) -> None:
    """So that no program's many requests are taken for another's."""
    engine.held = {"palace_v1_search"}
    tokens = ["a" * TOKEN_DIGITS, "b" * TOKEN_DIGITS]
    digests = [digest_of(token) for token in tokens]
    engine.tree = Tree(plugins=frozenset(digests))
    body = json.dumps({"namespaces": ["team:a"]}).encode()
    callers = [await dial(home) for _ in range(3)] + [await Caller.open(home)]
    for caller, shown in zip(callers, ("", *tokens, None), strict=True):
        more = {} if shown is None else {"authorization": shown and f"Bearer {shown}"}
        await caller.begin("POST", SEARCH, body=body, **more)
    await until(lambda: len(list(running.state.sessions)) == 4)
    parties = {session.party for session in running.state.sessions}
    assert parties == {f"pid {os.getpid()}", HTTP, *(party_of_token(one) for one in digests)}
    engine.gate("palace_v1_search").set()
    for caller in callers:
        assert (await caller.answer()).status == 200
        await caller.aclose()


async def test_where_nobody_knows_whose_namespaces_there_are_none_is_touched(
    engine: Answering, ask: Ask
) -> None:
    engine.tree = None  # its journal is off, or damaged
    told = [await ask("GET", "/v1/health"), await ask("DELETE", NAMED)]

    assert [one.status for one in told] == [503, 503]
    assert engine.asked == []


async def test_who_hangs_up_gives_up_a_search_and_not_a_change(
    home: Path, running: Running, engine: Answering
) -> None:
    engine.held = {"palace_v1_put_namespace", "palace_v1_search"}
    searched = json.dumps({"namespaces": ["team:a"]}).encode()
    # As many searches as run beside each other, one more that waits for its turn, and a change.
    many = running.state.services.config.readers + 1
    callers = [await dial(home) for _ in range(many + 1)]
    for caller in callers[:many]:
        await caller.begin("POST", SEARCH, body=searched, authorization="")
    await until(lambda: running.state.scheduler.admission.waiting == 1)
    await callers[-1].begin("PUT", NAMED, body=b"{}", authorization="")
    await until(lambda: "palace_v1_put_namespace" in engine.asked)
    for caller in callers:
        await caller.aclose()
    await until(lambda: not running.state.scheduler.admission.waiting)
    for name in engine.held:
        engine.gate(name).set()

    await until(lambda: not running.state.sessions)
    assert sorted(engine.done) == ["palace_v1_put_namespace"] + ["palace_v1_search"] * (many - 1)


async def test_each_operation_is_a_call_of_a_session_of_its_own(
    running: Running, engine: Answering, ask: Ask
) -> None:
    engine.told = {"status": 204}
    for _ in range(2):
        gone = await ask("DELETE", NAMED)
        assert (gone.status, gone.body) == (204, b"")
        assert "content-length" not in gone.headers
    assert engine.parties == [f"pid {os.getpid()}"] * 2
    assert [one is not None and one.plugin for one in engine.principals] == [True, True]
    await until(lambda: not running.state.sessions)


async def test_who_sends_nothing_or_half_is_turned_out(
    home: Path, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LOGIN_S", 0.2)
    monkeypatch.setattr(exchange, "BODY_S", 0.2)
    silent, half, slow = [await dial(home) for _ in range(3)]
    await half.stream.send_all(b"GET /v1/health HTTP/1.1\r\nhost: ")
    await slow.begin("PUT", NAMED, body=b"{", content_length="9", authorization="")

    assert await silent.ended()
    assert await half.ended()
    told = await slow.answer()
    assert (told.status, told.json()["code"]) == (408, "bad_request")
    for caller in (silent, half, slow):
        await caller.aclose()


AS_ANOTHER = """
import os, socket, sys
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
    sock.sendall(b"GET /v1/health HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
    print("answered" if sock.recv(100) else "hung up")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("allowed", [False, True])
async def test_another_user_is_kept_out_by_the_file_and_by_the_kernels_word(
    home: Path, *, allowed: bool
) -> None:
    """Not even one whom allow_uids lets in at the other socket, nor where the mode is changed."""
    need_root()
    root = home.parent / "palace"
    settings: dict[str, Any] = {"allow_uids": (USER,) if allowed else ()}
    async with open_web(home, Answering(), memory_contract="on", **settings) as running:
        path = root / "http.sock"
        await until(path.exists)
        for directory in (home.parent, root):
            directory.chmod(0o711)
        argv = [sys.executable, "-c", AS_ANOTHER.format(uid=USER), str(path)]
        said = []
        for mode in (0o600, 0o666):
            if mode != 0o600:
                path.chmod(mode)
            ended = await trio.run_process(argv, capture_stdout=True)
            said.append(ended.stdout.decode().strip())

        assert said[0] == "PermissionError"
        assert said[1] in ("hung up", "ConnectionResetError", "BrokenPipeError")
        assert running.engine.begun == []


async def test_a_path_without_a_segment_is_none(ask: Ask) -> None:
    """As it came it begins with `/v1/`, and as it is written it has one segment."""
    for path in ("/v1%2Fhealth", "/v1%2fsearch", "/v1/"):
        told = await ask("GET", path)
        assert (told.status, told.json()["code"]) == (404, "not_found"), path


async def test_what_is_too_long_is_not_laid_to_a_setting(home: Path, running: Running) -> None:
    caller, length = await dial(home), str(contract.BODY_BYTES_MAX + 1)
    told = await caller.ask("POST", SEARCH, body=b"{", content_length=length, authorization="")
    await caller.aclose()

    assert told.status == 413
    assert str(contract.BODY_BYTES_MAX) in told.json()["message"]
    assert "palace.toml" not in told.json()["message"]


@pytest.mark.parametrize("size", [1, 100_000])
async def test_an_answer_is_utf_8_and_a_long_one_is_made_beside_the_loop(
    engine: Answering, ask: Ask, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a surrogate pair, which a client may have stored, is no reason to fail."""
    made_by = []
    told = contract._told

    def noted(payload: bytes) -> tuple[int, bytes]:
        made_by.append(threading.current_thread() is threading.main_thread())
        return told(payload)

    monkeypatch.setattr(contract, "_told", noted)
    memory = {"content": "\u00e9" * size, "propagation": {"k": "\ud800"}}
    engine.told = {"status": 200, "body": {"memories": [memory]}}
    answer = await ask("POST", SEARCH, {"namespaces": ["team:a"]})

    assert answer.json()["memories"] == [memory]
    assert answer.body.count("\u00e9".encode()) == size
    assert made_by == [size == 1]


@pytest.mark.parametrize("tree", [None, Tree(spaces={"a:b": Namespace(name="plugin:0:a:b")})])
async def test_what_there_is_or_may_be_is_served_without_a_token(
    home: Path, engine: Answering, tree: Tree | None
) -> None:
    """A register that can't be read is told of (503); what plugins have left can be deleted."""
    root, engine.tree = home.parent / "palace", None
    async with open_web(home, engine) as running:
        assert running.state.services.config.memory_contract == "auto"
        caller = await Caller.open(home)
        assert (await caller.ask("GET", "/v1/health")).status == 404, "there is no register"
        await caller.aclose()
        engine.tree = tree
        if tree is None:
            (root / "palace.sqlite3").write_bytes(b"damaged")
        await until((root / "http.sock").exists)
        caller = await dial(home)
        told = await caller.ask("DELETE", NAMED, authorization="")
        await caller.aclose()
        caller = await Caller.open(home)
        by_token = await caller.ask("DELETE", NAMED)
        assert told.status == by_token.status == (503 if tree is None else 200)
        await caller.aclose()


async def test_nobody_waits_at_the_socket_for_others_failures(
    home: Path, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EACH_S", "MOST_S"):
        monkeypatch.setattr(pace, name, 3600.0)
    for authorization in ("Bearer nonsense", ""):
        caller = await dial(home)
        with trio.fail_after(5):
            told = await caller.ask("GET", "/v1/health", authorization=authorization)
        assert told.status == (401 if authorization else 200)
        if authorization:
            await caller.ended()  # and its failure is noted
        await caller.aclose()
