"""A real shim against a broker that the test plays: what it relays, keeps, resends and refuses."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.ledger import DEATHS_MAX
from palace.protocol.proof import proof_of
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from palace.shim import relay
from tests.broker.http.test_modern import enveloped
from tests.support.brokers.http import request
from tests.support.brokers.scripted import Connection, ScriptedBroker, call, start_shim

DISCOVER = json.dumps(enveloped(request("server/discover", "d"))).encode() + b"\n"
# Says on stderr when it writes to its client, and when it begins to look for a broker.
TELLING_SHIM = """
import sys
from palace.client.connector import Connector
from palace.shim import relay

def telling(owner, name, text):
    real = getattr(owner, name)
    def call(*arguments):
        print(text, file=sys.stderr, flush=True)
        return real(*arguments)
    setattr(owner, name, call)

telling(relay.Relay, "_write", "said")
telling(Connector, "begin", "looks")
sys.exit(relay.main([]))
"""


@pytest.fixture
def palace(short_dir: Path) -> Path:
    return short_dir / "palace"


def test_lines_go_unchanged_and_replies_come_back_without_their_ordinal(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        hello = served.hello()
        served.welcome()
        shim.send(b'  {"id": 1,\t"weird":  true}  \n\n   \nsecond\n')
        assert served.line() == b'  {"id": 1,\t"weird":  true}  '
        assert served.line() == b"second"
        served.reply(1, b'{"odd": "spacing"  }')
        served.reply(0, b"not even json")

        assert shim.receive() == b'{"odd": "spacing"  }'
        assert shim.receive() == b"not even json"

    assert (hello["next"], "resend" in hello) == ("0", False)
    assert hello["session"] == wire.session_name(proof_of(hello["secret"]))


def test_a_second_reply_and_a_silent_settlement_give_the_client_nothing(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        shim.send(call(1) + call(2) + call(3))
        for _ in range(3):
            served.line()
        served.reply(0, None)
        served.answer(1, 2, "once")
        served.answer(1, 2, "twice")
        served.answer(2, 3, "end")

        assert json.loads(shim.receive())["result"] == "once"
        assert json.loads(shim.receive())["result"] == "end"


def test_the_next_broker_is_told_whom_the_session_acts_as(palace: Path) -> None:
    with start_shim(palace, palace) as shim:
        with ScriptedBroker(palace) as broker:
            served = broker.accept()
            first = served.hello()
            served.welcome(epoch="4")
            shim.send(call(1))
            served.line()
            served.header(wire.WORKSPACE, name="coder")
            served.answer(0, 1, "done")
            shim.receive()
            next_broker = broker.succeed()
            shim.send(call(2))
            served.line()
            served.close()
            with next_broker as heir:
                again = heir.accept()
                hello = again.hello()
                again.welcome(epoch="5")
                again.message()
                again.header(wire.WORKSPACE, name="")
                again.answer(1, 2, "done")
                assert json.loads(shim.receive())["result"] == "done"

    assert "workspace" not in first
    assert hello["workspace"] == "coder"


def test_a_session_that_has_claimed_a_task_comes_to_the_next_broker_by_itself(
    palace: Path,
) -> None:
    with start_shim(palace, palace) as shim:
        with ScriptedBroker(palace) as broker:
            served = broker.accept()
            assert "claims" not in served.hello()
            served.welcome(epoch="4")
            shim.send(call(1))
            served.line()
            served.header(wire.CLAIMS, events="evt_1,evt_2")
            served.answer(0, 1, "done")
            shim.receive()
            next_broker = broker.succeed()
            served.close()
            with next_broker as heir:
                again = heir.accept()  # its client has asked for nothing
                assert again.hello()["claims"] == "evt_1,evt_2"
                again.welcome(epoch="5")


def test_a_claimed_task_starts_no_broker_for_ever(palace: Path) -> None:
    """Each may die in opening the palace, and nobody has asked for anything."""
    with start_shim(palace, palace) as shim, ExitStack() as stack:
        broker = stack.enter_context(ScriptedBroker(palace))
        served = broker.accept()
        served.welcome(epoch="4")
        shim.send(call(1))
        served.line()
        served.header(wire.CLAIMS, events="evt_1")
        served.answer(0, 1, "done")
        shim.receive()
        for epoch in range(5, 8):
            heir = stack.enter_context(broker.succeed())
            served.close()
            served = heir.accept()
            served.welcome(epoch=str(epoch))
            broker = heir
        last = stack.enter_context(broker.succeed())
        served.close()
        assert not last.is_dialled(0.5)
        shim.send(call(2))  # a client that asks is served as ever
        again = last.accept()
        assert again.hello()["claims"] == "evt_1"
        again.welcome(epoch="8")
        assert again.message()["id"] == 2


def test_a_broker_that_dies_is_succeeded_and_told_what_may_have_run(palace: Path) -> None:
    with start_shim(palace, palace) as shim:
        with ScriptedBroker(palace) as broker:
            served = broker.accept()
            session = served.hello()["session"]
            served.welcome(epoch="4")
            shim.send(call(1) + call(2))
            served.line()
            served.line()
            served.answer(0, 1, "done")
            shim.receive()
            next_broker = broker.succeed()
            served.close()
            with next_broker as broker2:
                again = broker2.accept()
                hello = again.hello()
                again.welcome(epoch="5")
                assert again.message()["id"] == 2
                again.answer(1, 2, "answered by the next")
                assert json.loads(shim.receive())["result"] == "answered by the next"

    assert hello["session"] == session
    assert (hello["resend"], hello["next"]) == ("1:1", "2")


def test_after_a_goodbye_the_shim_dials_only_when_its_client_asks(palace: Path) -> None:
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        served = broker.accept()
        served.hello()
        served.welcome()
        shim.send(call(1) + call(2) + call(3))
        for _ in range(3):
            served.line()
        served.header(wire.GOODBYE, reason="stop", read_upto="1", unrun="1")
        served.answer(0, 1, "finished")
        assert json.loads(shim.receive())["result"] == "finished"
        served.close()

        again = broker.accept()
        hello = again.hello()

        assert hello["resend"] == "1:0,2:0"
        again.welcome()
        assert [again.message()["id"], again.message()["id"]] == [2, 3]
        again.answer(1, 2, "a")
        again.answer(2, 3, "b")
        shim.receive()
        shim.receive()
        again.header(wire.GOODBYE, reason="idle", read_upto="2", unrun="")
        again.close()
        shim.send(b'{"jsonrpc": "2.0", "id": 9, "method": "ping"}\n')
        assert json.loads(shim.receive()) == {"jsonrpc": "2.0", "id": 9, "result": {}}
        shim.send(call(4))
        third = broker.accept()
        assert third.hello()["next"] == "5"
        third.welcome()
        assert third.message()["id"] == 4
        third.answer(4, 4, "c")
        shim.receive()


def test_a_line_that_crosses_the_goodbye_is_sent_to_the_next_owner(palace: Path) -> None:
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        served = broker.accept()
        served.hello()
        served.welcome()
        shim.send(call(1))
        served.line()
        served.header(wire.GOODBYE, reason="idle", read_upto="-1", unrun="")
        served.close()

        again = broker.accept()

        assert again.hello()["resend"] == "0:0"
        again.welcome()
        again.answer(0, 1, "x")
        shim.receive()


def test_what_is_asked_after_the_goodbye_is_never_sent_to_the_leaving_owner(palace: Path) -> None:
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        served = broker.accept()
        served.hello()
        served.welcome()
        shim.send(call(1))
        served.line()
        served.header(wire.GOODBYE, reason="stop", read_upto="0", unrun="")
        served.answer(0, 1, "last")
        shim.receive()
        shim.send(call(2) + b'{"jsonrpc": "2.0", "id": 3, "method": "ping"}\n')
        assert json.loads(shim.receive())["id"] == 3  # by the shim itself
        served.close()
        again = broker.accept()

        assert again.hello()["resend"] == "1:0"
        again.welcome()
        assert again.message()["id"] == 2
        again.answer(1, 2, "x")
        shim.receive()


@pytest.mark.parametrize("told", [True, False])  # an older broker doesn't say who died
def test_a_query_that_kills_every_owner_is_given_up_and_the_session_goes_on(
    palace: Path, told: bool
) -> None:
    def welcome(served: Connection, epoch: int) -> None:
        died = {"died": str(epoch - 1)} if told else {}
        served.welcome(epoch=str(epoch), **died)

    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        shim.send(call("poison", "mempalace_search"))
        for epoch in range(1, DEATHS_MAX + 1):
            served = broker.accept()
            served.hello()
            welcome(served, epoch)
            assert served.message()["id"] == "poison"
            served.close()
        again = broker.accept()
        assert again.hello()["resend"] == "0:1"
        welcome(again, DEATHS_MAX + 1)
        reply = json.loads(shim.receive())
        shim.send(call("next"))
        assert again.client_line() == b"", "both sides count the line that was promised"
        assert again.message()["id"] == "next"
        again.answer(1, "next", "fine")
        shim.receive()

    assert (reply["id"], reply["error"]["code"]) == ("poison", -31045)
    assert "broker.log" in reply["error"]["message"]


@pytest.mark.parametrize(
    ("epoch", "died"),
    [
        (lambda _number: 1, lambda _epoch: 0),  # a tunnel breaks, a limit cuts it off
        (lambda number: number + 1, lambda _epoch: 0),  # and it was stopped meanwhile
        (lambda number: 2 * number + 1, lambda epoch: epoch - 1),  # another one has died since
    ],
)
def test_a_lost_connection_is_no_death_of_the_broker(
    palace: Path, epoch: Callable[[int], int], died: Callable[[int], int]
) -> None:
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        for number in range(DEATHS_MAX + 2):
            served = broker.accept()
            served.hello()
            served.welcome(epoch=str(epoch(number)), died=str(died(epoch(number))))
            if not number:
                shim.send(call("patient", "mempalace_search"))
            assert served.message()["id"] == "patient"
            if number <= DEATHS_MAX:
                served.close()
        served.answer(0, "patient", "found")

        assert json.loads(shim.receive())["result"] == "found"


def test_brokers_that_left_were_not_ended_by_what_they_had_to_answer(palace: Path) -> None:
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        shim.send(call("patient", "mempalace_search"))
        for epoch in range(1, DEATHS_MAX + 3):
            served = broker.accept()
            served.hello()
            served.welcome(epoch=str(epoch))  # an older one, which doesn't say who died
            assert served.message()["id"] == "patient"
            if epoch <= DEATHS_MAX + 1:
                served.header(wire.GOODBYE, reason="stop", read_upto="0", unrun="")
                served.close()
        served.answer(0, "patient", "found")

        assert json.loads(shim.receive())["result"] == "found"


def test_a_broker_that_talks_nonsense_is_as_good_as_dead(palace: Path) -> None:
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        for nonsense in (b"what?\n", b"palace/1 goodbye read_upto=x\n"):
            shim.send(call(1))
            served = broker.accept()
            served.hello()
            served.welcome()
            served.line()
            served._sock.sendall(nonsense)
            again = broker.accept()
            hello = again.hello()
            assert hello["resend"].endswith(":1")
            again.welcome()
            again.reply(int(hello["resend"].split(":")[0]), b"{}")
            shim.receive()
            again.header(wire.GOODBYE, reason="idle", read_upto="9", unrun="")
            again.close()


def test_what_the_shim_answers_before_the_welcome_shifts_no_ordinal(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        hello = served.hello()
        shim.send(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n' + call(2))
        assert json.loads(shim.receive())["id"] == 1  # by the shim itself, meanwhile
        served.welcome()

        assert hello["next"] == "0"
        assert served.line() == b""
        assert served.message()["id"] == 2
        served.reply(0, None)
        served.answer(1, 2, "mine")
        assert json.loads(shim.receive())["result"] == "mine"


def test_who_may_not_spawn_waits_for_others_to_replace_a_dead_owner(palace: Path) -> None:
    with start_shim(palace, palace) as shim:
        with ScriptedBroker(palace) as first:
            served = first.accept()
            served.hello()
            served.welcome()
            shim.send(call(1, "mempalace_search"))
            served.line()
        with ScriptedBroker(palace) as second:
            again = second.accept()
            again.hello()
            again.welcome(epoch="2")
            again.answer(0, 1, "by the next")

            assert json.loads(shim.receive())["result"] == "by the next"


def test_an_owner_of_an_older_epoch_is_not_believed(palace: Path) -> None:
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        served = broker.accept()
        served.hello()
        served.welcome(epoch="7")
        shim.send(call(1))
        served.line()
        served.close()
        old = broker.accept()
        old.hello()
        old.welcome(epoch="6")

        reply = json.loads(shim.receive())

    assert reply["id"] == 1
    assert reply["error"]["data"]["palace"] == "outcome_unknown"


def test_another_palace_is_refused_by_its_identity(palace: Path) -> None:
    with ScriptedBroker(palace) as broker:
        (palace / "palace_id").write_text("a" * 32 + "\n")
        with start_shim(palace, palace) as shim:
            shim.send(call("x"))
            for _ in range(2):  # at its start, and for the call
                served = broker.accept()
                assert served.hello()["palace_id"] == "a" * 32
                served.welcome(palace_id="b" * 32)
            reply = json.loads(shim.receive())

    assert reply["id"] == "x"
    assert reply["error"]["data"]["refused"] == "wrong_palace"
    assert "b" * 32 in reply["error"]["message"]


def test_a_stranger_behind_the_socket_is_named_as_such(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        shim.send(call(1))
        for _ in range(2):
            served = broker.accept()
            served.hello()
            served._sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        assert "no palace broker" in json.loads(shim.receive())["error"]["message"]


def test_a_refusal_reaches_the_client_in_the_brokers_words(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        shim.send(call(1))
        for _ in range(2):
            served = broker.accept()
            served.hello()
            served.header(wire.REFUSED, code="forbidden", text="uid 7 may not use this palace.")

        assert "may not use this palace" in json.loads(shim.receive())["error"]["message"]


def test_without_a_broker_the_snapshot_answers_and_calls_say_why_not(palace: Path) -> None:
    palace.mkdir(mode=0o700)
    with start_shim(palace, palace) as shim:
        version = shim.initialize()["result"]["serverInfo"]["version"]
        tools = shim.request("tools/list")["result"]["tools"]
        pong = shim.request("ping")
        shim.send(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        error = shim.call("mempalace_search", query="x")["error"]

    assert (version, len(tools), pong["result"]) == ("3.11.0", 47, {})
    assert error["code"] == -31053
    assert "PALACE_NO_SPAWN" in error["message"]


def test_which_versions_are_spoken_is_said_before_anything_else_is_done(palace: Path) -> None:
    """Also where other lines came with the question: they are answered in their turn."""
    ping = json.dumps(request("ping", 2)).encode() + b"\n"
    lines = [call(1), DISCOVER, ping]
    environ = {"HOME": str(palace), "MEMPALACE_PATH": str(palace), "PALACE_NO_SPAWN": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", TELLING_SHIM],
        input=b"".join(lines),
        env=environ,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.decode().split("\n")[:2] == ["said", "looks"]
    first, *others = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["id"] == "d"
    assert first["result"]["supportedVersions"]
    assert {reply["id"]: "result" in reply for reply in others} == {1: False, 2: True}


def test_an_early_question_shifts_no_ordinal(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        shim.send(DISCOVER)
        served = broker.accept()
        is_early = served.hello()["next"] == "1"
        served.welcome()
        if not is_early:  # it came after the shim's first look
            served.line()
            served.reply(0, b'{"id": "d"}')
        assert json.loads(shim.receive())["id"] == "d"

        shim.send(call(1))
        assert served.line() == call(1).strip()
        served.answer(1, 1, "once")
        assert json.loads(shim.receive())["result"] == "once"


def test_the_snapshot_hides_from_a_read_only_session_what_it_may_not_do(palace: Path) -> None:
    palace.mkdir(mode=0o700)
    with start_shim(palace, palace, MEMPALACE_MCP_READ_ONLY="1") as shim:
        names = {tool["name"] for tool in shim.request("tools/list")["result"]["tools"]}

    assert "mempalace_search" in names
    assert "mempalace_add_drawer" not in names


def test_a_named_broker_is_used_as_it_stands_and_nothing_else(palace: Path) -> None:
    environ = {"MEMPALACE_BROKER": f"unix:{palace}/elsewhere.sock", "PALACE_NO_SPAWN": ""}
    with ScriptedBroker(palace, "elsewhere.sock") as broker:
        with start_shim(palace, palace, **environ) as shim:
            served = broker.accept()
            served.hello()
            served.welcome()
            shim.send(call(1))
            served.line()
            served.answer(0, 1, "from there")
            assert json.loads(shim.receive())["result"] == "from there"
    with start_shim(palace, palace, **environ) as shim:
        error = shim.call("mempalace_search", query="x")["error"]
    with start_shim(palace, palace, MEMPALACE_BROKER="tcp://host") as shim:
        scheme = shim.call("mempalace_search", query="x")["error"]

    assert "as it stands" in error["message"]
    assert "unix:PATH" in scheme["message"]
    assert not (palace / "broker.lock").exists()


@pytest.mark.parametrize("ident_first", [True, False])
def test_a_line_that_is_too_long_is_refused_with_its_id_and_the_session_goes_on(
    palace: Path, ident_first: bool
) -> None:
    text = "x" * 200_000
    head, tail = ('{"id": "big", "a": "', '"}') if ident_first else ('{"a": "', '", "id": "big"}')
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome(line_bytes_max="100000")
        shim.send(f"{head}{text}{tail}\n".encode())
        refused = json.loads(shim.receive())
        shim.send(call(2))
        assert served.message()["id"] == 2
        served.answer(0, 2, "fine")

        assert (refused["id"], refused["error"]["code"]) == ("big", -31043)
        assert json.loads(shim.receive())["result"] == "fine"


def test_half_a_line_before_the_end_is_answered_and_the_shim_leaves(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        shim.send(call(1) + call(2).rstrip())
        assert shim.process.stdin is not None
        shim.process.stdin.close()
        assert [served.message()["id"], served.message()["id"]] == [1, 2]
        assert served.client_line() == b""
        assert served.acks == [0], "its farewell: nothing is settled yet"
        served.answer(0, 1, "a")
        served.answer(1, 2, "b")

        assert json.loads(shim.receive())["result"] == "a"
        assert json.loads(shim.receive())["result"] == "b"
        assert shim.process.wait(20) == 0


def test_a_client_that_is_gone_is_not_waited_for(palace: Path) -> None:
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        shim.send(call(1, "mempalace_mine"))
        served.line()
        assert shim.process.stdin is not None
        assert shim.process.stdout is not None
        shim.process.stdin.close()
        shim.process.stdout.close()

        assert shim.process.wait(20) == 0


def test_a_flood_in_both_directions_does_not_lock_up(palace: Path) -> None:
    count, text = 400, "y" * 20_000
    with ScriptedBroker(palace) as broker, start_shim(palace, palace) as shim:
        served = broker.accept()
        served.hello()
        served.welcome()
        sending = threading.Thread(
            target=lambda: shim.send(b"".join(call(n, text=text) for n in range(count)))
        )
        sending.start()
        answering = threading.Thread(target=_answer_all, args=(served, count, text))
        answering.start()
        received = [json.loads(shim.receive())["id"] for _ in range(count)]
        sending.join()
        answering.join()

        assert received == list(range(count))


def _answer_all(served: Connection, count: int, text: str) -> None:
    for ordinal in range(count):
        assert served.message()["id"] == ordinal
        served.answer(ordinal, ordinal, text)


def test_unknown_arguments_and_help(palace: Path) -> None:
    palace.mkdir(mode=0o700)
    with start_shim(palace, palace, "--nonsense") as shim:
        assert shim.process.wait(20) == 78
        assert shim.process.stderr is not None
        assert b"usage: palace shim" in shim.process.stderr.read()
    with start_shim(palace, palace, "--help") as shim:
        assert shim.receive().startswith(b"usage: palace shim")
        assert shim.process.wait(20) == 0


@pytest.mark.parametrize("limit", ["LEDGER_LINES_MAX", "LEDGER_BYTES_MAX"])
def test_a_client_is_read_no_further_at_either_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(relay, limit, 3)
    made = relay.Relay(Site(Kernel(), Paths("/p"), ShimEnvironment({"HOME": "/h"})))

    for line in (b"", b"", b"") if limit == "LEDGER_LINES_MAX" else (b"abc",):
        assert made._has_room()
        made._ledger.accept(line)

    assert not made._has_room()
    made._ledger.settle(0)
    assert made._has_room()
