"""What a client may not do to the others: huge numbers, other clients' sessions."""

import itertools
import logging
import threading
from pathlib import Path

import pytest
import trio.testing

from palace.broker import connections, requests
from palace.protocol import wire
from palace.protocol.errors import TooLarge
from palace.protocol.lifecycle import Reason
from palace.protocol.proof import proof_of
from palace.protocol.request import Request, read_request
from palace.protocol.session import Phase
from palace.protocol.weight import SHORT_BYTES
from tests.support.brokers.owner import Running, Shim, open_broker, until

HUGE = "9" * 4300  # int() reads it, and str() refuses what comes after it


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def refused(running: Running, **fields: str) -> dict[str, str]:
    shim = running.connect()
    shim.hello(**{"session": "bad"} | fields)
    kind, answer = await shim.header()
    assert (kind, answer["code"]) == (wire.REFUSED, "wire")
    assert await shim.line() == b""
    shim.close()
    return answer


async def pinged(shim: Shim) -> int:
    shim.say({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    ordinal, reply = await shim.reply()
    assert reply["result"] == {}
    return ordinal


@pytest.mark.parametrize(
    "fields",
    [
        {"next": HUGE},
        {"next": str(wire.NUMBER_MAX + 1)},
        {"next": "-1"},
        {"next": "1_0"},
        {"next": "\u0661"},
        {"epoch": HUGE},
        {"resend": f"{HUGE}:1"},
        {"resend": ",".join(f"{n}:0" for n in range(wire.LIST_MAX + 1))},
        {"session": "s" * (wire.SESSION_MAX + 1)},
        {"client": "c" * (wire.TEXT_MAX + 1)},
        {"cwd": "/" * (wire.TEXT_MAX + 1)},
        {"anything": "x" * (wire.TEXT_MAX + 1)},
    ],
    ids=lambda fields: "-".join(f"{name}={value[:8]}" for name, value in fields.items()),
)
async def test_a_hello_out_of_bounds_ends_its_connection_alone(
    root: Path, fields: dict[str, str]
) -> None:
    async with open_broker(root) as running:
        other = await running.session("other")
        await refused(running, **fields)

        assert await pinged(other) == 0
        assert "bad" not in running.state.sessions
        assert running.state.lifecycle.drain is None


async def test_the_largest_number_is_served_and_said_goodbye_to(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session("far", next=str(wire.NUMBER_MAX))
        assert await pinged(shim) == wire.NUMBER_MAX


async def called(shim: Shim, **arguments: str) -> None:
    shim.call("add_drawer", 1, name="theirs", **arguments)


async def test_a_session_is_not_gone_on_with_by_its_name(root: Path) -> None:
    """Its name stands in the journal and in `palace history`."""
    async with open_broker(root) as running:
        first = await running.session("s")
        await called(first)
        assert (await first.reply())[0] == 0
        for secret in ("guessed", ""):
            other = await running.session("s", secret=secret, next="1", resend="0:1")
            await called(other)
            ordinal, reply = await other.reply()

            assert (ordinal, reply["error"]["code"]) == (0, -31045)
            assert await pinged(other) == 1
            assert await pinged(first) >= 1  # it was not hung up on
        assert running.engine.written == ["theirs"]


async def test_a_lost_session_waits_for_its_own_shim(root: Path) -> None:
    async with open_broker(root) as running:
        first = await running.session("s")
        first.call("add_drawer", 1, name="theirs", hold="w")
        await until(lambda: running.engine.begun)
        first.close()
        await until(lambda: running.state.sessions["s"].machine.phase is Phase.FINISHING)
        other = await running.session("s", secret="guessed", next="1", resend="0:1")
        await called(other)
        assert (await other.reply())[1]["error"]["code"] == -31045
        own = await running.session("s", next="1", resend="0:1")
        await called(own)
        running.engine.gate("w").set()

        assert (await own.reply())[1]["result"]
        assert running.engine.written == ["theirs"]


async def test_a_name_that_is_a_digest_is_proven_to_each_broker(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next owner has never seen its HELLO."""
    name = wire.session_name(proof_of("the secret"))
    caplog.set_level(logging.WARNING)
    async with open_broker(root) as running:
        own = await running.session(name, secret="the secret")
        assert name in running.state.sessions
        own.close()
        await until(lambda: name not in running.state.sessions)
        await running.session(name, secret="guessed")
        await running.session(name, secret="")

        assert name not in running.state.sessions
        assert "not its own" in caplog.text


async def test_an_older_shim_without_a_secret_goes_on_once_its_connection_is_lost(
    root: Path,
) -> None:
    async with open_broker(root) as running:
        first = await running.session("old", secret="")
        first.call("add_drawer", 1, name="mine", hold="w")
        await until(lambda: running.engine.begun)
        first.close()
        await until(lambda: running.state.sessions["old"].machine.phase is Phase.FINISHING)
        again = await running.session("old", secret="", next="1", resend="0:1")
        again.call("add_drawer", 1, name="mine")
        running.engine.gate("w").set()

        assert (await again.reply())[1]["result"]
        assert running.engine.written == ["mine"]


@pytest.mark.parametrize("name", ["h" + "0" * 32, "h" + "f" * 32])
def test_which_names_want_proof(name: str) -> None:
    assert wire.wants_proof(name)
    assert not any(wire.wants_proof(other) for other in (name[1:], name + "0", "g" + name[1:], "h"))
    assert not wire.wants_proof("h" + "A" * 32)


# Long lines.


async def test_a_line_of_too_many_values_is_refused_by_its_id_and_others_go_on(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.stream.send_soon(b'{"id":7,"method":"ping","params":[' + b"[]," * 150_000 + b"1]}\n")
        shim.say({"jsonrpc": "2.0", "id": 8, "method": "ping"})

        ordinal, refused = await shim.reply()
        assert (ordinal, refused["id"], refused["error"]["code"]) == (0, 7, TooLarge.wire_code)
        assert (await shim.reply())[1]["result"] == {}


async def test_a_long_line_is_not_parsed_by_the_loop(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def read(line: bytes, *, light: bool = False) -> Request:
        threads.append(threading.current_thread())
        return read_request(line, light=light)

    monkeypatch.setattr(requests, "read_request", read)
    async with open_broker(root) as running:
        shim = await running.session()
        for number, value in enumerate(("x", "x" * SHORT_BYTES, [0] * SHORT_BYTES)):
            shim.call("search", number, text=value)
            assert (await shim.reply())[1]["id"] == number

    short, text, long = threads
    assert short is text is threading.main_thread() is not long


async def test_one_partys_long_lines_leave_another_its_turn(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    may_go = threading.Event()

    def read(line: bytes, *, light: bool = False) -> Request:
        request = read_request(line, light=light)
        if not light:
            asked.append(request.message["params"]["arguments"]["name"])
            may_go.wait(30)
        return request

    monkeypatch.setattr(requests, "read_request", read)
    count = itertools.count()
    monkeypatch.setattr(
        connections, "party_of_peer", lambda _peer: "pid 1" if next(count) < 10 else "pid 2"
    )
    async with open_broker(root) as running:
        shims = [await running.session(f"s{number}") for number in range(6)]
        for shim in shims[:5]:
            shim.call("search", 1, name="one party's", more=[0] * SHORT_BYTES)
        await until(lambda: asked)
        await trio.testing.wait_all_tasks_blocked(0.05)
        shims[5].call("search", 1, name="another's", more=[0] * SHORT_BYTES)
        try:
            await until(lambda: requests._LONG_LINES.statistics().tasks_waiting == 1)
        finally:
            may_go.set()
        for shim in shims:
            await shim.reply()

    assert asked[1] == "another's"
    assert len(asked) == 6


async def test_what_was_being_parsed_at_a_goodbye_was_not_read(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        async with requests._LONG_LINES:  # another client's is being parsed
            shim.call("add_drawer", 1, name="x", more=[0] * SHORT_BYTES)
            await until(lambda: requests._LONG_LINES.statistics().tasks_waiting == 1)
            running.state.leaving.stop(Reason.STOP)
            kind, fields = await shim.header()

        assert (kind, fields["read_upto"]) == (wire.GOODBYE, "-1")
        assert running.engine.written == []


async def test_a_flood_of_short_lines_leaves_others_their_turn(root: Path) -> None:
    async with open_broker(root) as running:
        flood, other = await running.session("flood"), await running.session("other")
        flood.stream.send_soon(b"\n" * 20_000)
        other.say({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        await other.reply()

        assert running.state.sessions["flood"].machine.next_ordinal < 20_000
