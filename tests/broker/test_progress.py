"""What a client that asked for it is told of a call that takes long."""

from pathlib import Path
from typing import Any

import pytest
import trio

from palace.broker import progress
from palace.protocol import wire
from palace.protocol.lifecycle import Reason
from tests.support.brokers.owner import Running, Shim, open_broker, until
from tests.support.engines.gated import GatedEngine


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TELL_S", 0.05)


def ask(shim: Shim, ident: int, token: Any, **arguments: Any) -> None:
    params = {"name": "mempalace_add_drawer", "arguments": arguments}
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    shim.say({"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params | meta})


async def told(shim: Shim) -> tuple[str, str]:
    """Return the ordinal and the text of the next note."""
    kind, fields = await shim.header()
    assert kind == wire.PROGRESS
    return fields["ordinal"], fields["text"]


async def texts(shim: Shim, ordinal: str, word: str) -> None:
    """Read notes until one of a call has a word."""
    while word not in (await told_of(shim, ordinal)):
        continue


async def told_of(shim: Shim, ordinal: str) -> str:
    while True:
        number, text = await told(shim)
        if number == ordinal:
            return text


async def finish(running: Running, shim: Shim, gate: str) -> list[bytes]:
    """Let a call end; return what came up to its reply."""
    running.engine.gate(gate).set()
    lines = []
    while not (line := await shim.line())[:1].isdigit():
        lines.append(line)
    return lines


async def test_calls_that_asked_are_told_of_and_no_others(root: Path) -> None:
    async with open_broker(root) as running:
        shim, silent = await running.session("a"), await running.session("b")
        ask(silent, 1, None, hold="w")
        await until(lambda: running.engine.begun)
        ask(shim, 2, 0, hold="x")

        assert "waits for its turn (1 " in await told_of(shim, "0")
        running.engine.gate("w").set()
        assert (await silent.reply())[0] == 0
        await texts(shim, "0", "mempalace_add_drawer has been running for 0 s")
        await finish(running, shim, "x")
        with trio.move_on_after(0.3) as quiet:
            await shim.line()
        assert quiet.cancelled_caught, "nothing is said of a call that was answered"


async def test_a_client_hears_what_the_engine_is_loading(root: Path) -> None:
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        shim = await running.session()
        ask(shim, 1, "t")
        assert await told(shim) == ("0", "the palace is being opened: loading")
        engine.may_load.set()
        await finish(running, shim, "none")


async def test_a_drain_is_not_silent(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        ask(shim, 1, "t", hold="x")
        await until(lambda: running.engine.begun)
        running.state.leaving.stop(Reason.STOP)
        kind = ""
        while kind != wire.GOODBYE:
            kind, _ = await shim.header()
        await texts(shim, "0", "running")
        await finish(running, shim, "x")


@pytest.mark.parametrize("token", [True, None, 1.5, ["t"]])
async def test_what_is_no_token_asks_for_nothing(root: Path, token: Any) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        params = {"name": "mempalace_add_drawer", "arguments": {"hold": "x"}}
        params["_meta"] = {"progressToken": token}
        shim.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        await until(lambda: running.engine.begun)
        with trio.move_on_after(0.3) as quiet:
            await shim.line()
        assert quiet.cancelled_caught
        assert await finish(running, shim, "x") == []
