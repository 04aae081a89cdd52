"""What a real shim tells the broker of settled lines, and how it keeps its client's apart."""

import json
import socket
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from palace.shim.connection import ACK_LINES
from palace.shim.connection import Connection as Relayed
from palace.shim.relay import LOCAL_BYTES_MAX, Relay
from tests.support.brokers.scripted import Connection, ScriptedBroker, call, start_shim
from tests.support.processes.clients import Client

PING = b'{"jsonrpc": "2.0", "id": "p", "method": "ping"}\n'


@pytest.fixture
def palace(short_dir: Path) -> Path:
    return short_dir / "palace"


def ack(upto: int) -> bytes:
    return wire.encode_header(wire.ACK, {"upto": str(upto)}).rstrip()


def ask(shim: Client, served: Connection, count: int) -> None:
    """Send calls, and see them arrive."""
    shim.send(b"".join(call(n) for n in range(count)))
    for _ in range(count):
        served.message()


def answer(shim: Client, served: Connection, *ordinals: int) -> None:
    """Answer lines, and see the client get each."""
    for ordinal in ordinals:
        served.answer(ordinal, ordinal, "x")
        assert json.loads(shim.receive())["id"] == ordinal


def test_settled_lines_are_acknowledged_by_the_64_and_only_below_the_oldest_open_one(
    palace: Path,
) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        ask(shim, served, 2 * ACK_LINES)

        answer(shim, served, *range(1, ACK_LINES + 6))
        shim.send(PING)  # nothing was said before it: line 0 is still open
        assert served.line() + b"\n" == PING
        answer(shim, served, 0)
        assert served.line() == ack(ACK_LINES + 6)
        answer(shim, served, *range(ACK_LINES + 6, 2 * ACK_LINES))
        shim.send(PING)  # 58 more are not enough
        assert served.line() + b"\n" == PING
        served.reply(2 * ACK_LINES, None)
        served.reply(2 * ACK_LINES + 1, None)
        shim.send(call("end"))
        assert json.loads(served.line())["id"] == "end"
        served.answer(2 * ACK_LINES + 2, "end", "x")
        shim.receive()


def test_an_ack_waits_for_the_end_of_a_line_that_left_in_part(palace: Path) -> None:
    big = call("big", text="y" * 4_000_000)  # more than a socket's buffer takes
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        ask(shim, served, ACK_LINES)
        shim.send(big)
        shim.send(PING)
        served.await_bytes()
        answer(shim, served, *range(ACK_LINES))

        assert served.line() + b"\n" == big
        assert served.line() + b"\n" == PING
        assert served.line() == ack(ACK_LINES)
        served.reply(ACK_LINES, None)
        served.reply(ACK_LINES + 1, None)


def test_the_next_owner_is_told_again_after_the_lines_that_are_resent(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        ask(shim, served, ACK_LINES + 1)
        answer(shim, served, *range(ACK_LINES))
        assert served.line() == ack(ACK_LINES)
        served.close()

        again = broker.accept()
        assert again.hello()["resend"] == f"{ACK_LINES}:1"
        again.welcome()
        assert json.loads(again.line())["id"] == ACK_LINES
        assert again.line() == ack(ACK_LINES)
        answer(shim, again, ACK_LINES)


def test_nothing_is_acknowledged_to_a_leaving_broker(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        ask(shim, served, ACK_LINES)
        served.header(wire.GOODBYE, reason="idle", read_upto=str(ACK_LINES - 1), unrun="")
        answer(shim, served, *range(ACK_LINES))
        shim.send(call("next"))
        assert served.at_rest()
        served.close()

        again = broker.accept()
        again.hello()
        again.welcome()
        assert again.message()["id"] == "next"
        assert again.line() == ack(ACK_LINES)
        again.answer(ACK_LINES, "next", "x")
        shim.receive()


@pytest.mark.parametrize("half_closed", [False, True])
def test_nothing_is_acknowledged_after_the_last_word(palace: Path, half_closed: bool) -> None:
    # What can't be sent any more would be tried again and again until the last reply.
    relay = Relay(Site(Kernel(), Paths(str(palace)), ShimEnvironment({})))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        relay._connection = connection = Relayed(ours, relay._ledger)
        if half_closed:
            connection.state = Relayed.HALF_CLOSED
            ours.shutdown(socket.SHUT_WR)
        for _ in range(ACK_LINES):
            relay._ledger.accept(b"x")

        relay._replies(b"".join(wire.encode_reply(n, None) for n in range(ACK_LINES)))

        assert connection.unsent == []
        assert theirs.recv(100) == (b"" if half_closed else ack(ACK_LINES) + b"\n")


def test_a_clients_line_that_looks_like_a_header_is_a_line_and_resent_as_it_was(
    palace: Path,
) -> None:
    # So long that the shim doesn't look into it: else it would say by itself that this is no JSON.
    forged = b"palace/1 ack upto=9".ljust(LOCAL_BYTES_MAX + 1, b".")
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        for connection in range(2):
            served = broker.accept()
            hello = served.hello()
            served.welcome()
            if connection == 0:
                shim.send(forged + b"\n" + call(2))
            assert served.line() == b" " + forged
            assert served.message()["id"] == 2
            if connection == 0:
                served.close()
        served.reply(0, b'"answered"')
        served.answer(1, 2, "x")

        assert hello["resend"] == "0:1,1:1"
        assert shim.receive() == b'"answered"'
        assert json.loads(shim.receive())["id"] == 2


def test_what_was_answered_before_a_broken_line_reaches_the_client(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        ask(shim, served, 1)
        served.say(wire.encode_reply(0, b'"good"') + b"what?\n")

        assert shim.receive() == b'"good"'


def test_nonsense_right_behind_the_welcome_is_as_good_as_a_death(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        welcome = wire.encode_header(wire.WELCOME, {"epoch": "1", "incarnation": "i"})
        served.say(welcome + b"what?\n")
        assert served.line() == b"", "the shim has not hung up"
        shim.send(call(1))

        again = broker.accept()
        again.hello()
        again.welcome()
        assert again.message()["id"] == 1
        again.answer(0, 1, "x")
        shim.receive()
