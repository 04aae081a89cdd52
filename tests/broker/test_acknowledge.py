"""What a shim says between its client's lines: acks, and what is none."""

from pathlib import Path
from typing import ClassVar

import pytest
import trio

from palace.protocol import wire
from tests.support.brokers.owner import Running, Shim, open_broker, until
from tests.support.engines.gated import GatedEngine

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


def acknowledge(shim: Shim, upto: int) -> None:
    shim.stream.send_soon(wire.encode_header(wire.ACK, {"upto": str(upto)}))


async def settled(shim: Shim) -> int:
    """Ask something; return the ordinal under which it is answered."""
    shim.say(PING)
    return (await shim.reply())[0]


async def test_an_ack_is_noted_takes_no_ordinal_and_never_goes_back(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        session = running.state.sessions["s"]
        assert [await settled(shim) for _ in range(3)] == [0, 1, 2]

        acknowledge(shim, 2)
        assert await settled(shim) == 3
        assert session.machine.acknowledged == 2
        acknowledge(shim, 1)
        acknowledge(shim, 4)
        assert await settled(shim) == 4
        assert session.machine.acknowledged == 4
        assert session.requests == 5


async def test_an_ack_that_comes_with_the_hello_is_noted(root: Path) -> None:
    async with open_broker(root) as running:
        shim = running.connect()
        hello = wire.encode_header(wire.HELLO, {"session": "s", "next": "70"})
        shim.stream.send_soon(hello + wire.encode_header(wire.ACK, {"upto": "70"}))
        assert (await shim.header())[0] == wire.WELCOME

        assert await settled(shim) == 70
        assert running.state.sessions["s"].machine.acknowledged == 70


async def refused(running: Running, line: bytes) -> str:
    """Say something; return the text of the refusal, after which the broker hangs up."""
    shim = await running.session()
    assert await settled(shim) == 0
    shim.stream.send_soon(line + b"\n")
    with trio.fail_after(20):  # a broker that takes it says nothing
        kind, fields = await shim.header()
        assert (kind, fields["code"]) == (wire.REFUSED, "wire")
        assert await shim.line() == b""
    return fields["text"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"palace/1 ack", "no number"),
        (b"palace/1 ack upto=", "no number"),
        (b"palace/1 ack upto=many", "no number"),
        (b"palace/1 ack upto=-5", "no number"),
        (b"palace/1 ack upto=" + b"9" * 5000, "no number"),
        (b"palace/1 ack upto=2", "only 1 lines came"),
        (b"palace/1 ack upto", "broken"),
        (b"palace/", "broken"),
        (b"palace/1 goodbye upto=1", "goodbye"),
    ],
)
async def test_a_broken_ack_ends_its_connection_alone(root: Path, line: bytes, words: str) -> None:
    async with open_broker(root) as running:
        other = await running.session("other")
        assert words in await refused(running, line)

        again = await running.session("s", next="1")
        assert await settled(again) == 1
        assert await settled(other) == 0
        assert running.state.lifecycle.drain is None


class Remembering(GatedEngine):
    """An engine that notes which sessions it was told to forget."""

    forgotten: ClassVar[list[str]] = []

    def end_session(self, session: str) -> None:
        self.forgotten.append(session)


async def test_outcomes_are_forgotten_with_a_farewell_and_not_with_a_connection(
    root: Path,
) -> None:
    Remembering.forgotten.clear()  # the class outlives a test that runs twice in one process
    async with open_broker(root, Remembering()) as running:
        for name, upto in (("settled", 1), ("torn off", 0)):
            shim = await running.session(name)
            await settled(shim)
            acknowledge(shim, upto)
            shim.close()
            await until(lambda: not running.state.sessions)

        assert Remembering.forgotten == ["settled"]
