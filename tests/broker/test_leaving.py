"""How an owner leaves: nobody loses a reply, nothing runs twice, nothing alien is removed."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import trio
import trio.testing

from palace.broker.broker import Broker
from palace.protocol import wire
from palace.protocol.errors import JournalFailed
from palace.protocol.lifecycle import EngineState, Reason
from palace.protocol.session import Phase
from palace.settings.installation import command_for
from tests.support.brokers.owner import Running, Shim, make_state, open_broker, until
from tests.support.engines.gated import GatedEngine


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def goodbye(shim: Shim) -> dict[str, str]:
    kind, fields = await shim.header()
    assert kind == wire.GOODBYE
    return fields


def control(running: Running, **fields: str) -> Shim:
    shim = running.connect()
    shim.stream.send_soon(wire.encode_header(wire.CONTROL, fields))
    return shim


async def test_idle_sessions_are_told_and_the_names_are_gone(root: Path) -> None:
    async with open_broker(root, idle_s=0.3) as running:
        shim = await running.session()
        fields = await goodbye(shim)
        await running.ended.wait()

    assert fields == {"reason": "idle", "read_upto": "-1", "unrun": ""}
    assert running.engine.closed
    assert running.code == 0
    assert {"broker.lock", "epoch", "palace_id"} <= set(os.listdir(root))
    assert not {"broker.json", "broker.sock"} & set(os.listdir(root))


async def test_the_next_owner_says_who_died_and_not_who_left(root: Path) -> None:
    record = root / "broker.json"

    async def died() -> str:
        async with open_broker(root) as running:
            shim = running.connect()
            told = (await shim.welcome())["died"]
            record.with_suffix(".kept").write_bytes(record.read_bytes())
        return told

    assert await died() == "0"
    assert await died() == "0", "the first one has left"
    os.rename(record.with_suffix(".kept"), record)  # as if the second had been killed
    assert await died() == "2"
    assert await died() == "0"


async def test_admitted_work_is_finished_and_answered_before_the_end(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="first", hold="w")
        shim.call("add_drawer", 2, name="second")
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        running.state.leaving.stop(Reason.STOP)

        assert await goodbye(shim) == {"reason": "stop", "read_upto": "1", "unrun": ""}
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not running.engine.closed
        running.engine.gate("w").set()
        assert sorted((await shim.replies(2)).keys()) == [0, 1]
        assert await shim.line() == b""
        await running.ended.wait()

    assert running.engine.written == ["first", "second"]
    assert running.engine.closed


async def test_a_cancelled_change_that_runs_is_waited_for_before_the_store_is_closed(
    root: Path,
) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        params = {"requestId": 1}
        shim.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        await shim.replies(2)
        running.state.leaving.stop(Reason.STOP)
        await goodbye(shim)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not running.ended.is_set()
        running.engine.gate("w").set()
        await running.ended.wait()

    assert running.engine.written == ["runs"]
    assert running.engine.closed


async def test_a_line_after_the_goodbye_is_not_read(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="first", hold="w")
        await until(lambda: running.engine.begun)
        running.state.leaving.stop(Reason.STOP)
        shim.call("add_drawer", 2, name="second")
        fields = await goodbye(shim)
        running.engine.gate("w").set()
        await shim.reply()
        await running.ended.wait()

    assert fields["read_upto"] == "0"
    assert running.engine.written == ["first"]


async def test_an_upgrade_hands_unbegun_changes_back(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="runs", hold="w")
        shim.call("add_drawer", 2, name="waits")
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        running.state.leaving.stop(Reason.UPGRADE)

        fields = await goodbye(shim)
        running.engine.gate("w").set()
        assert (await shim.reply())[0] == 0
        await running.ended.wait()

    assert (fields["reason"], fields["unrun"]) == ("upgrade", "1")
    assert running.engine.written == ["runs"]


async def test_a_write_that_the_outdated_engine_refuses_is_handed_back(root: Path) -> None:
    engine = GatedEngine(outdated=True)
    async with open_broker(root, engine) as running:
        shim = await running.session()
        shim.call("add_drawer", 1)
        said = [await goodbye(shim), await goodbye(shim)]
        assert await shim.line() == b""
        await running.ended.wait()

    assert [fields["unrun"] for fields in said] == ["", "0"]
    assert engine.written == []


@pytest.mark.parametrize("tool", ["search", "add_drawer"])
async def test_a_call_whose_store_was_taken_away_is_handed_back(root: Path, tool: str) -> None:
    engine = GatedEngine(reopen="chroma.sqlite3 was removed while it was open")
    async with open_broker(root, engine) as running:
        shim = await running.session()
        shim.call(tool, 1)
        said = [await goodbye(shim), await goodbye(shim)]
        assert await shim.line() == b""
        await running.ended.wait()

    assert [(fields["reason"], fields["unrun"]) for fields in said] == [
        ("failed", ""),
        ("failed", "0"),
    ]
    assert engine.written == []
    assert engine.closed


async def test_an_engine_that_is_stuck_makes_room_and_what_waits_is_handed_back(root: Path) -> None:
    async with open_broker(root, GatedEngine(stuck=True)) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="ends", hold="w")
        shim.call("add_drawer", 2, name="waits")
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        running.engine.gate("w").set()

        fields = await goodbye(shim)
        assert (await shim.reply())[0] == 0
        await running.ended.wait()

    assert (fields["reason"], fields["unrun"]) == ("failed", "1")
    assert running.engine.written == ["ends"]


async def test_a_replaced_package_is_noticed_without_a_call(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        running.engine.change = "mempalace 3.11.0 -> 3.11.1"

        assert (await goodbye(shim))["reason"] == "upgrade"


async def test_an_engine_that_nobody_could_load_again_is_not_left_for_being_idle(
    root: Path,
) -> None:
    engine = GatedEngine(outlived="mempalace 3.11.0 -> 3.12.0")
    async with open_broker(root, engine, idle_s=0.3) as running:
        shim = await running.session()
        await trio.sleep(1.0)
        assert not running.state.leaving.begun.is_set()
        engine.outlived = ""

        assert (await goodbye(shim))["reason"] == "idle"


async def test_an_owner_with_a_call_that_runs_or_waits_is_not_idle(root: Path) -> None:
    async with open_broker(root, idle_s=60.0) as running:
        shim = await running.session()
        shim.call("search", 1, hold="query")
        await until(lambda: running.engine.begun)
        late_s = trio.current_time() + 1e6

        running.state.leaving.tick(late_s)
        assert not running.state.leaving.begun.is_set()
        running.engine.gate("query").set()
        assert (await shim.reply())[0] == 0
        await until(lambda: not running.state.scheduler.admission.busy)
        running.state.leaving.tick(late_s + 1e6)

        assert (await goodbye(shim))["reason"] == "idle"


async def test_an_engine_that_adopts_is_not_left_for_being_idle(root: Path) -> None:
    engine = GatedEngine(adopting=True)
    async with open_broker(root, engine, idle_s=0.3) as running:
        shim = await running.session()
        await trio.sleep(1.0)
        assert not running.state.leaving.begun.is_set()
        engine.adopting = False

        assert (await goodbye(shim))["reason"] == "idle"


async def test_a_long_poll_is_handed_back_instead_of_waited_for(root: Path) -> None:
    async with open_broker(root, grace_s=20.0) as running:
        shim = await running.session()
        shim.call("event_wait", 1, hold="poll")
        await until(lambda: running.engine.begun)
        running.state.leaving.stop(Reason.STOP)

        assert (await goodbye(shim))["unrun"] == "0"
        assert await shim.line() == b""
        with trio.fail_after(10):
            await running.ended.wait()


@pytest.mark.parametrize("tool", ["add_drawer", "mine", "search"])
async def test_what_the_next_owner_can_decide_is_left_to_it(
    root: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a SIGKILL: its shim hears neither a reply nor that it did not run."""
    monkeypatch.setattr("palace.broker.leaving.PATIENCE_S", 0.1)
    async with open_broker(root, GatedEngine(journalled=True), grace_s=3600.0) as running:
        shim = await running.session()
        shim.call(tool, 1, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        other = await running.session("other")
        other.call("mine", 1, name="waits")
        other.call("add_drawer", 2, name="waits, too")
        if tool != "search":
            await until(lambda: running.state.scheduler.admission.waiting)
        running.state.leaving.stop(Reason.STOP)
        said = await goodbye(shim)
        last = await shim.line()
        await running.ended.wait()

    assert (said["read_upto"], said["unrun"], last) == ("0", "", b"")
    assert not running.engine.closed


async def test_what_the_next_owner_cannot_decide_has_the_rest_of_the_grace(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palace.broker.leaving.PATIENCE_S", 0.1)
    async with open_broker(root, GatedEngine(journalled=True), grace_s=3600.0) as running:
        shim, other = await running.session(), await running.session("other")
        shim.call("hook_settings", 1, hold="w")
        other.call("search", 1, hold="q")
        await until(lambda: len(running.engine.begun) == 2)
        running.state.leaving.stop(Reason.STOP)
        await goodbye(shim)
        await goodbye(other)
        assert await other.line() == b"", "its query was left to the next owner"
        running.engine.gate("w").set()

        assert "result" in (await shim.reply())[1]
        running.engine.gate("q").set()
        await running.ended.wait()


@pytest.mark.parametrize("reason", list(Reason))
async def test_the_journal_is_told_of_a_leave_that_may_cut_something_off(
    root: Path, reason: Reason
) -> None:
    async with open_broker(root, GatedEngine(journalled=True)) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        running.state.leaving.stop(reason)
        await goodbye(shim)
        # What ended an owner that failed, or has lost its place, isn't known; nor is the journal
        # still its own then.
        expected = int(reason not in (Reason.FAILED, Reason.MOVED))
        await until(lambda: running.engine.left == expected)  # before what runs has ended
        await trio.testing.wait_all_tasks_blocked(0.05)
        running.engine.gate("w").set()
        await running.ended.wait()

    assert running.engine.left == expected
    assert running.code == (70 if reason in (Reason.FAILED, Reason.AWAY) else 0)


async def test_the_journal_is_told_of_a_leave_before_what_waits_is_begun(root: Path) -> None:
    async with open_broker(root, GatedEngine(journalled=True)) as running:
        shim = await running.session()
        shim.call("search", 1, name="runs", hold="q")
        shim.call("add_drawer", 2, name="waits")  # behind its own session's query
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        running.state.leaving.stop(Reason.STOP)
        await until(lambda: running.engine.left == 1)
        running.engine.gate("q").set()
        await running.ended.wait()

    assert running.engine.written == ["waits"]


async def test_an_engine_that_loads_is_told_of_a_leave(root: Path) -> None:
    engine = GatedEngine(journalled=True)
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        running.state.leaving.stop(Reason.STOP)
        await running.ended.wait()
        engine.may_load.set()

    assert engine.left == 1, "it may be taking something back"


@pytest.mark.parametrize("tool", ["", "search"])
async def test_a_leave_that_cuts_no_change_off_is_not_journalled(root: Path, tool: str) -> None:
    async with open_broker(root, GatedEngine(journalled=True)) as running:
        shim = await running.session()
        await until(lambda: running.state.lifecycle.engine is EngineState.READY)
        if tool:
            shim.call(tool, 1, name="runs", hold="w")
            await until(lambda: running.engine.begun)
        running.state.leaving.stop(Reason.STOP)
        await goodbye(shim)
        running.engine.gate("w").set()
        await running.ended.wait()

    assert running.engine.left == 0


async def test_a_journal_that_takes_no_record_does_not_keep_an_owner_from_leaving(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palace.broker.leaving.NOTE_S", 0.1)
    engine = Stubborn(journalled=True)
    async with open_broker(root, engine) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        running.state.leaving.stop(Reason.STOP)
        await goodbye(shim)
        running.engine.gate("w").set()
        assert (await shim.reply())[0] == 0
        await running.ended.wait()
        engine.gate("note").set()

    assert running.engine.closed


class Stubborn(GatedEngine):
    def leave(self) -> None:
        assert self.gate("note").wait(30)
        raise JournalFailed("no space is left")


async def test_on_hold_work_that_runs_is_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palace.broker.leaving.PATIENCE_S", 0.1)
    async with open_broker(root, GatedEngine(journalled=True), grace_s=3600.0) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        (root / "broker.hold").write_text(
            "2026-01-01T00:00:00Z\n"
        )  # no owner will follow for a while
        running.state.leaving.stop(Reason.STOP)
        await goodbye(shim)
        await trio.sleep(0.5)
        running.engine.gate("w").set()

        assert (await shim.reply())[0] == 0


async def test_what_outlasts_the_grace_is_told_to_be_unknown(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="runs", hold="w")
        shim.call("add_drawer", 2, name="waits")
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        running.state.leaving.stop(Reason.STOP, grace_s=0.2)
        await goodbye(shim)
        handed_back = await goodbye(shim)
        ordinal, unknown = await shim.reply()
        await running.ended.wait()

        assert handed_back["unrun"] == "1"
        assert (ordinal, unknown["error"]["code"]) == (0, -31045)
        assert not running.engine.closed


async def test_calls_that_wait_for_a_loading_engine_are_handed_back_at_once(root: Path) -> None:
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine, grace_s=20.0) as running:
        shim = await running.session()
        shim.call("search", 1)
        shim.call("add_drawer", 2)
        await until(lambda: running.state.scheduler.admission.waiting == 2)
        running.state.leaving.stop(Reason.STOP)

        assert (await goodbye(shim))["unrun"] == "0,1"
        with trio.fail_after(10):
            await running.ended.wait()


async def test_resent_lines_that_were_not_read_keep_what_was_said_of_them(root: Path) -> None:
    async with open_broker(root, session_depth_max=1) as running:
        shim = await running.session(resend="0:0,1:0,2:0,3:1,4:0", next="5")
        shim.call("add_drawer", 0, name="runs", hold="w")
        for ident in (1, 2, 3, 4):
            shim.call("add_drawer", ident)
        await until(lambda: running.state.sessions["s"].machine.offering == 2)
        running.state.leaving.stop(Reason.STOP)
        fields = await goodbye(shim)
        running.engine.gate("w").set()

    assert (fields["read_upto"], fields["unrun"]) == ("4", "2,4")


async def test_a_failed_engine_answers_every_call_and_then_makes_room(root: Path) -> None:
    engine = GatedEngine(fail_load="The model is missing. Fetch it: palace model")
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        shim = await running.session()
        shim.call("search", 1)
        await until(lambda: running.state.scheduler.admission.waiting)
        engine.may_load.set()
        replies = [await shim.reply()]
        shim.call("add_drawer", 2)
        replies.append(await shim.reply())
        assert (await goodbye(shim))["reason"] == "failed"
        await running.ended.wait()

    assert [reply["error"]["code"] for _, reply in replies] == [-31047, -31047]
    assert "palace model" in replies[0][1]["error"]["message"]
    assert running.code == 70


async def test_files_that_name_somebody_else_are_left_alone(root: Path) -> None:
    async with open_broker(root) as running:
        record = json.loads((root / "broker.json").read_text())
        (root / "broker.json").write_text(json.dumps(record | {"incarnation": "another"}))
        (root / "broker.sock").unlink()
        (root / "broker.sock").write_text("not ours")
        running.state.leaving.stop(Reason.STOP)
        await running.ended.wait()

    assert json.loads((root / "broker.json").read_text())["incarnation"] == "another"
    assert (root / "broker.sock").read_text() == "not ours"


async def test_a_palace_that_was_moved_is_left(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        root.rename(root.with_name("moved"))

        assert (await goodbye(shim))["reason"] == "moved"
        await running.ended.wait()
    root.with_name("moved").rename(root)


async def test_whoever_dials_a_leaving_broker_is_told_to_come_again(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, hold="w")
        await until(lambda: running.engine.begun)
        late = running.connect()
        late.hello("late")
        running.state.leaving.stop(Reason.STOP)

        assert (await late.header())[0] in (wire.REFUSED, wire.WELCOME)
        running.engine.gate("w").set()


async def test_stop_answers_and_hangs_up_only_with_the_process(root: Path) -> None:
    async with open_broker(root) as running:
        asking = control(running, ask="stop", now="0")

        assert (await asking.header())[0] == wire.ANSWER
        await running.ended.wait()
        assert len(running.state.leaving.open_to_the_end) == 1


async def test_status_shows_sessions_and_no_contents(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session("0123456789abcdef", client="pi 1")
        shim.call("add_drawer", 1, name="a secret", hold="w")
        await until(lambda: running.engine.begun)
        asking = control(running, ask="status")
        await asking.header()
        text = await asking.line()
        status = json.loads(text)
        running.engine.gate("w").set()
        await shim.reply()

    assert status["engine"]["state"] == "ready"
    lane = status["lanes"]["writer"]
    assert (lane["running"], lane["max"], lane["widest"], lane["p50_ms"]) == (1, 1, 1, None)
    assert status["sessions"][0]["client"] == "pi 1"
    assert status["sessions"][0]["in_flight"] == 1
    assert b"secret" not in text


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"GET / HTTP/1.1\r\n", "wire"),
        (b"palace/99 hello session=a\n", "version_mismatch"),
        (b"palace/1 hello next=0\n", "wire"),
        (b"palace/1 hello session=a next=x\n", "wire"),
        (b"palace/1 hello session=a resend=2:1,1:1\n", "wire"),
        (b"palace/1 hello session=a palace_id=other\n", "wrong_palace"),
        (b"palace/1 control ask=dance\n", "wire"),
        (b"palace/1 welcome\n", "wire"),
        (b"\n", "wire"),
    ],
)
async def test_strangers_are_refused_and_others_served(root: Path, first: bytes, code: str) -> None:
    async with open_broker(root) as running:
        stranger = running.connect()
        stranger.stream.send_soon(first)
        kind, fields = await stranger.header()
        shim = await running.session()
        shim.say({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        await shim.reply()

    assert (kind, fields["code"]) == (wire.REFUSED, code)
    assert fields["text"]


async def test_an_older_broker_names_the_command_that_upgrades_it(root: Path) -> None:
    async with open_broker(root) as running:
        younger = running.connect()
        younger.stream.send_soon(b"palace/99 hello session=a\n")
        _, fields = await younger.header()

    assert fields["text"].endswith(f"the client 99: upgrade the broker: {command_for()}")


async def test_more_sessions_than_allowed_are_refused_as_busy(root: Path) -> None:
    async with open_broker(root, sessions_max=1) as running:
        await running.session("a")
        second = running.connect()
        second.hello("b")

        kind, fields = await second.header()

    assert (kind, fields["code"]) == (wire.REFUSED, "broker_full")


async def test_unbegun_calls_of_a_lost_client_hold_no_drain_up(root: Path) -> None:
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine, grace_s=20.0) as running:
        shim = await running.session()
        shim.call("add_drawer", 1)
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        shim.close()
        await until(lambda: running.state.sessions["s"].machine.phase is Phase.FINISHING)
        running.state.leaving.stop(Reason.STOP)
        with trio.fail_after(10):
            await running.ended.wait()

    assert engine.written == []


async def test_what_may_have_run_before_is_not_said_to_be_unrun(root: Path) -> None:
    engine = GatedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        shim = await running.session(resend="0:1,1:0", next="2")
        shim.call("add_drawer", 0)
        shim.call("add_drawer", 1)
        await until(lambda: running.state.scheduler.admission.waiting == 2)
        running.state.leaving.stop(Reason.STOP)
        fields = await goodbye(shim)

    assert (fields["read_upto"], fields["unrun"]) == ("1", "1")


async def test_what_may_have_run_before_and_finds_no_room_is_not_said_to_be_unrun(
    root: Path,
) -> None:
    async with open_broker(root, session_depth_max=1) as running:
        shim = await running.session(resend="0:0,1:0,2:1", next="3")
        shim.call("add_drawer", 0, name="runs", hold="w")
        shim.call("add_drawer", 1)
        await until(lambda: running.engine.begun)
        shim.call("add_drawer", 2)
        await until(lambda: not running.state.sessions["s"].machine.awaits_resends)
        running.state.leaving.stop(Reason.STOP)
        fields = await goodbye(shim)
        running.engine.gate("w").set()

    assert fields["unrun"] == ""


async def test_a_failed_engine_does_not_deny_what_may_have_run_before(root: Path) -> None:
    engine = GatedEngine(fail_load="The model is missing. Fetch it: palace model")
    async with open_broker(root, engine) as running:
        shim = await running.session(resend="0:1,1:1,2:0", next="3")
        shim.call("add_drawer", 0)
        shim.call("search", 1)
        shim.call("add_drawer", 2)
        codes = {n: reply["error"]["code"] for n, reply in (await shim.replies(3)).items()}

    assert codes == {0: -31045, 1: -31047, 2: -31047}


async def test_no_query_overtakes_a_change_that_is_handed_back(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        other = await running.session("other")
        other.call("add_drawer", 1, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        shim.call("add_drawer", 1, name="waits")
        shim.call("search", 2)
        await until(lambda: running.state.scheduler.admission.waiting == 2)
        running.state.leaving.stop(Reason.UPGRADE)
        fields = await goodbye(shim)
        running.engine.gate("w").set()
        assert await shim.line() == b""

    assert fields["unrun"] == "0,1"


async def test_a_leaving_owner_without_descriptors_still_ends_its_work(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_listener: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="runs", hold="w")
        await until(lambda: running.engine.begun)
        monkeypatch.setattr("palace.broker.leaving.accept_nowait", refuse)
        running.state.leaving.stop(Reason.STOP)
        await goodbye(shim)
        running.engine.gate("w").set()
        assert (await shim.reply())[0] == 0
        await running.ended.wait()

    assert running.engine.closed
    assert running.code == 0


async def test_a_store_that_will_not_close_is_left_as_after_a_crash(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_engine: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(GatedEngine, "close", fail)
    async with open_broker(root) as running:
        await running.session()
        running.state.leaving.stop(Reason.STOP)
        await running.ended.wait()

    assert running.code == 0


async def test_a_signal_that_comes_as_soon_as_it_serves_is_a_stop(root: Path) -> None:
    others: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: others.append(number))
    state = make_state(root, GatedEngine())
    try:
        with trio.fail_after(30):
            code = await Broker(state).serve(on_serving=lambda: signal.raise_signal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
        state.services.kernel.close(state.services.ownership.lock_fd)

    assert (code, others) == (0, [])
    assert state.lifecycle.drain is not None
