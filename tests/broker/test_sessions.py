"""What a client of the broker sees: order, fairness, refusals, cancellation, two connections."""

from pathlib import Path
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from palace.engine.api import Call, Reply
from palace.protocol import jsonrpc, wire
from palace.protocol.errors import ForeignWriter
from palace.protocol.weight import VALUES_MAX
from tests.support.brokers.owner import open_broker, until
from tests.support.engines.gated import GatedEngine

OWNERS = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "palace_workspace_add", "arguments": {"id": "a"}},
}
MANY_VALUES = b'{"id":2,"method":"tools/call","params":[' + b"[]," * VALUES_MAX + b"1]}\n"


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def test_replies_carry_the_ordinal_of_their_line_whatever_the_ids(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        for ident in (7, 7, "x", None, 1.5):
            shim.call("search", ident)

        replies = await shim.replies(5)

    assert [replies[n]["id"] for n in range(5)] == [7, 7, "x", None, 1.5]


async def test_what_has_no_reply_is_settled_silently(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
        shim.say({"jsonrpc": "2.0", "id": 1, "method": "ping"})

        assert await shim.reply() == (0, None)
        assert (await shim.reply())[0] == 1


async def test_malformed_lines_are_answered_as_stock_answers_them(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        for line in (b"{", b"[" * 100_000, b"\xff\xfe", b"1" * 5000, b"[]"):
            shim.stream.send_soon(line + b"\n")

        replies = await shim.replies(5)

    assert [replies[n]["error"]["code"] for n in range(5)] == [-32700] * 4 + [-32600]
    assert all(reply["id"] is None for reply in replies.values())


async def test_a_pipelined_search_sees_the_write_before_it(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="write", hold="w")
        shim.call("search", 2, name="read")
        await until(lambda: "write" in running.engine.begun)
        other = await running.session("other")
        other.call("search", 3, name="other")
        await other.reply()

        assert running.engine.begun == ["write", "other"]
        running.engine.gate("w").set()
        assert [(await shim.reply())[0] for _ in range(2)] == [0, 1]


async def test_a_mutation_in_the_lane_is_alone(root: Path) -> None:
    async with open_broker(root) as running:
        shims = [await running.session(str(n)) for n in range(4)]
        for shim in shims:
            shim.call("add_drawer", 1, name="w", hold="w")
        await until(lambda: running.engine.begun)
        await until(lambda: running.state.scheduler.admission.waiting == 3)

        assert running.engine.begun == ["w"]
        running.engine.gate("w").set()
        for shim in shims:
            await shim.reply()
        assert running.engine.written == ["w"] * 4


async def test_a_cancelled_call_that_waits_never_runs(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="first", hold="w")
        shim.call("add_drawer", "two", name="second")
        params = {"requestId": "two", "reason": "enough"}
        shim.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

        assert sorted([await shim.reply(), await shim.reply()]) == [(1, None), (2, None)]
        running.engine.gate("w").set()
        assert (await shim.reply())[0] == 0
        assert running.engine.written == ["first"]


async def test_a_cancelled_call_that_runs_ends_without_a_reply(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="first", hold="w")
        await until(lambda: running.engine.begun)
        params = {"requestId": 1}
        shim.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        assert await shim.reply() == (0, None)
        assert await shim.reply() == (1, None)
        running.engine.gate("w").set()
        await until(lambda: not running.state.scheduler.admission.busy)
        shim.say({"jsonrpc": "2.0", "id": 2, "method": "ping"})

        assert (await shim.reply())[0] == 2
        assert running.engine.written == ["first"]


async def test_a_full_queue_is_backpressure_first_and_busy_after_a_while(root: Path) -> None:
    settings: dict[str, Any] = {"queue_depth_max": 2, "admission_wait_s": 0.2}
    async with open_broker(root, **settings) as running:
        shim = await running.session()
        shim.call("add_drawer", 0, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        for ident in (1, 2, 3):
            shim.call("add_drawer", ident)
        ordinal, refused = await shim.reply()

        assert (ordinal, refused["id"], refused["error"]["code"]) == (3, 3, -31041)
        assert "ask again" in refused["error"]["message"]
        running.engine.gate("w").set()
        assert sorted((await shim.replies(3)).keys()) == [0, 1, 2]
        assert running.state.telemetry.counters.busy == 1


async def test_a_line_that_finds_no_room_is_let_in_once_there_is_some(root: Path) -> None:
    async with open_broker(root, queue_depth_max=2, admission_wait_s=3600.0) as running:
        counters = running.state.telemetry.counters
        shim = await running.session()
        shim.call("add_drawer", 0, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        for ident in (1, 2, 3, 4):
            shim.call("add_drawer", ident)
        await until(lambda: counters.requests >= 4)
        await wait_all_tasks_blocked(0.05)
        assert counters.requests == 4, "behind the one that waits no line is read"

        running.engine.gate("w").set()
        replies = await shim.replies(5)
        assert sorted(replies) == [0, 1, 2, 3, 4]
        assert not [reply for reply in replies.values() if "error" in reply]
        assert counters.busy == 0


async def test_a_session_that_floods_delays_only_itself(root: Path) -> None:
    async with open_broker(root, session_depth_max=4, admission_wait_s=0.0) as running:
        flood = await running.session("flood")
        flood.call("add_drawer", 0, name="runs", hold="w")
        for ident in range(1, 30):
            flood.call("add_drawer", ident, name=f"f{ident}")
        await until(lambda: running.state.scheduler.admission.waiting == 4)
        quiet = await running.session("quiet")
        quiet.call("add_drawer", 1, name="quiet")
        await until(lambda: running.state.scheduler.admission.waiting == 5)
        running.engine.gate("w").set()
        await quiet.reply()
        replies = await flood.replies(30)

    assert running.engine.written.index("quiet") <= 2
    assert all("result" in reply for reply in replies.values())


async def test_a_call_that_waited_too_long_is_given_up_explicitly(root: Path) -> None:
    async with open_broker(root, queue_wait_s=0.3) as running:
        shim = await running.session()
        shim.call("add_drawer", 0, name="runs", hold="w")
        shim.call("add_drawer", 1, name="late")
        ordinal, late = await shim.reply()

        assert (ordinal, late["error"]["code"]) == (1, -31044)
        running.engine.gate("w").set()
        await shim.reply()
        assert running.engine.written == ["runs"]


async def test_what_may_have_run_is_not_run_again_unless_it_is_a_query(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session(resend="3:1,4:1,5:0,6:1", next="7")
        shim.call("add_drawer", "a", name="maybe")
        shim.call("search", "b", name="query")
        shim.call("add_drawer", "c", name="fresh")
        shim.call("reconnect", "d", name="external")
        shim.call("search", "e", name="new")

        replies = await shim.replies(5)

    assert replies[3]["error"]["code"] == replies[6]["error"]["code"] == -31045
    assert "Look before you repeat it" in replies[3]["error"]["message"]
    assert [replies[n]["id"] for n in (4, 5, 7)] == ["b", "c", "e"]
    assert running.engine.written == ["fresh"]
    assert "external" not in running.engine.begun


async def test_what_may_have_run_and_is_refused_now_is_not_told_that_nothing_was_done(
    root: Path,
) -> None:
    async with open_broker(root) as running:
        shim = await running.session(resend="0:1,1:1,2:0,3:0", next="4")
        for _ in range(2):
            shim.say(OWNERS)
            shim.stream.send_soon(MANY_VALUES)

        replies = await shim.replies(4)

    for ordinal in (0, 1):
        assert replies[ordinal]["error"]["code"] == -31045
        assert "look before you repeat it" in replies[ordinal]["error"]["message"]
        assert "othing was" not in replies[ordinal]["error"]["message"]
    assert [replies[n]["error"]["data"]["palace"] for n in (2, 3)] == ["forbidden", "too_large"]
    assert all("Nothing was done" in replies[n]["error"]["message"] for n in (2, 3))


async def test_a_second_connection_of_a_session_takes_over_without_running_twice(
    root: Path,
) -> None:
    async with open_broker(root) as running:
        first = await running.session()
        first.call("add_drawer", 1, name="once", hold="w")
        first.call("search", 2, name="query")
        await until(lambda: running.engine.begun)
        second = await running.session(resend="0:1,1:1", next="2")
        second.call("add_drawer", 1, name="once", hold="w")
        second.call("search", 2, name="query")
        assert await first.line() == b""
        running.engine.gate("w").set()

        replies = await second.replies(2)

    assert sorted(replies) == [0, 1]
    assert running.engine.written == ["once"]


async def test_a_reply_that_found_no_connection_waits_for_the_next(root: Path) -> None:
    async with open_broker(root) as running:
        first = await running.session()
        first.call("add_drawer", 1, name="once", hold="w")
        await until(lambda: running.engine.begun)
        first.close()
        session = running.state.sessions["s"]
        running.engine.gate("w").set()
        await until(lambda: not session.machine.calls)
        second = await running.session(resend="0:1", next="1")
        second.call("add_drawer", 1, name="once")

        ordinal, reply = await second.reply()

    assert (ordinal, reply["id"], "result" in reply) == (0, 1, True)
    assert running.engine.written == ["once"]


async def test_a_client_that_has_said_its_last_word_gets_its_replies(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="last", hold="w")
        await until(lambda: running.engine.begun)
        shim.stream._sock.shutdown(1)
        running.engine.gate("w").set()

        assert (await shim.reply())[0] == 0
        assert await shim.line() == b""
        assert "s" not in running.state.sessions


async def test_a_read_only_session_says_so_to_the_engine_and_others_do_not(root: Path) -> None:
    async with open_broker(root) as running:
        reader = await running.session("r", read_only="1")
        writer = await running.session("w")
        reader.call("add_drawer", 1)
        await reader.reply()
        writer.call("add_drawer", 1)
        await writer.reply()
        reader.say({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
        _, listed = await reader.reply()

    assert running.engine.read_only_calls == [True, False]
    assert "mempalace_add_drawer" not in {tool["name"] for tool in listed["result"]["tools"]}


async def test_whoever_had_the_writer_for_long_is_begun_behind_another(root: Path) -> None:
    engine = GatedEngine(put_back={"long": 60.0})
    async with open_broker(root, engine) as running:
        shims = {name: await running.session(name) for name in ("runs", "long", "short")}
        for number, (name, shim) in enumerate(shims.items()):
            session = running.state.sessions.get(name)
            assert session is not None
            session.party = name  # as if it were another process
            shim.call("delete_drawer", 1, name=name, hold="writer")
            waiting = running.state.scheduler.admission
            await until(lambda number=number, of=waiting: number == of.waiting and engine.begun)
        engine.gate("writer").set()
        for shim in shims.values():
            await shim.reply()

    assert engine.parties == ["runs", "short", "long"]


async def test_the_clients_name_is_told_to_its_shim_for_the_next_owner(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        info = {"name": "pi", "version": "1.2"}
        params = {"protocolVersion": "2025-06-18", "clientInfo": info}
        shim.say({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})

        assert await shim.header() == (wire.CLIENT, {"client": "pi 1.2"})
        assert (await shim.reply())[1]["result"]["serverInfo"]["name"] == "mempalace"


async def test_initialize_waits_for_the_engine_only_without_a_catalogue(root: Path) -> None:
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        known = await running.session("known")
        known.say({"jsonrpc": "2.0", "id": 1, "method": "initialize"})
        await known.header()
        assert (await known.reply())[0] == 0
        running.state.services.catalogue = None
        unknown = await running.session("unknown")
        unknown.say({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        unknown.say({"jsonrpc": "2.0", "id": 2, "method": "ping"})
        assert (await unknown.reply())[0] == 1
        engine.may_load.set()

        assert (await unknown.reply())[0] == 0


async def test_long_polls_do_not_hold_up_their_session(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("event_wait", 1, hold="poll")
        shim.call("add_drawer", 2)

        assert (await shim.reply())[0] == 1
        running.engine.gate("poll").set()
        assert (await shim.reply())[0] == 0


async def test_replies_that_the_kernel_will_not_take_yet_are_kept_whole(root: Path) -> None:
    text = "x" * 100_000  # all of them together are less than one client may leave unread
    async with open_broker(root) as running:
        shim = await running.session()
        for ident in range(30):
            shim.call("search", ident, name=text)
        await until(lambda: len(running.engine.begun) == 30)
        await until(lambda: not running.state.scheduler.admission.busy)

        replies = await shim.replies(30)

    assert sorted(replies) == list(range(30))
    assert all(text in str(reply) for reply in replies.values())


async def test_a_fault_of_the_engine_is_told_and_the_lane_goes_on(root: Path) -> None:
    class Faulty(GatedEngine):
        def call(self, call: Call) -> Reply:
            if call.message["id"] == "bad":
                raise RuntimeError("boom")
            return super().call(call)

    async with open_broker(root, Faulty()) as running:
        shim = await running.session()
        shim.call("add_drawer", "bad")
        shim.call("add_drawer", "good")
        replies = await shim.replies(2)

    assert replies[0]["error"]["code"] == -31045
    assert "boom" in replies[0]["error"]["message"]
    assert replies[1]["id"] == "good"


async def test_a_second_connection_ends_the_first_ones_reader(root: Path) -> None:
    async with open_broker(root, session_depth_max=1) as running:
        first = await running.session()
        for ident in range(5):
            first.call("search" if ident else "add_drawer", ident, name=f"n{ident}", hold="w")
        session = running.state.sessions["s"]
        await until(lambda: session.machine.offering == 2)
        second = await running.session(resend="0:1,1:1,2:1,3:1,4:1", next="5")
        for ident in range(5):
            second.call("search" if ident else "add_drawer", ident, name=f"n{ident}", hold="w")
        running.engine.gate("w").set()
        replies = await second.replies(5)
        second.call("search", 5, name="n5")

        assert sorted(replies) == [0, 1, 2, 3, 4]
        assert (await second.reply())[0] == 5
        assert running.engine.written == ["n0"]


async def test_while_the_engine_waits_a_copy_answers_what_changes_nothing(root: Path) -> None:
    engine = GatedEngine()
    engine.may_load.clear()
    asked: list[str] = []

    def from_a_copy(call: Call) -> Reply:
        asked.append(call.request.name)
        return Reply(payload=jsonrpc.encode(jsonrpc.result(call.request.id, "a copy's")))

    async with open_broker(root, engine) as running:
        scheduler = running.state.scheduler
        shim, writer = await running.session(), await running.session("writer")
        shim.call("search", 1)
        writer.call("add_drawer", 2, name="write")
        writer.call("search", 3)
        scheduler.begin_reading(from_a_copy)
        assert (await shim.reply())[1]["result"] == "a copy's"
        assert asked == ["mempalace_search"]

        scheduler.engine_failed(ForeignWriter("stock writes"))
        replies = await writer.replies(2)
        assert replies[0]["error"]["message"] == "stock writes"
        assert replies[1]["result"] == "a copy's"

        scheduler.failure = None
        await scheduler.end_reading()
        shim.call("search", 4, name="later")
        engine.may_load.set()
        assert (await shim.reply())[1]["result"] != "a copy's"
        assert (asked, engine.begun) == (["mempalace_search"] * 2, ["later"])
