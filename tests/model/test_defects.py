"""What the model found broken in the product, shown on the product itself.

Each test is the shortest counterexample (`python -m tests.model.mutants NAME` prints it) played
with real sockets and a real journal; tests/README.md lists them.  An expected failure would be a
defect that is still there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from palace.engine.api import Call, DurableCallback, Reply
from palace.engine.durability.calls import DurableCalls
from palace.engine.durability.groups import CallGroups
from palace.engine.stores.projection import Change
from palace.journal.journal import Journal
from palace.journal.record import STATE, Stamp
from palace.kernel.kernel import Kernel
from palace.protocol.lifecycle import Reason
from palace.protocol.request import tool_call
from tests.support.brokers.owner import open_broker, until
from tests.support.engines.gated import GatedEngine

ADD = {"name": "mempalace_add_drawer", "arguments": {"name": "first"}}
LINE = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ADD}


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


class _Store:
    """A projection that keeps nothing: what counts is how often a change is made."""

    name = "store"

    def applied(self, changes: Any) -> None:
        return


@dataclass
class JournalledEngine(GatedEngine):
    """The gated engine behind the real journal."""

    memory: Any = None

    def call(self, call: Call) -> Reply:
        def dispatch() -> Reply:
            change = Change("drawer", call.key, None, {"text": "."})
            return self.memory.groups.change(
                _Store(), [change], lambda: GatedEngine.call(self, plain)
            )

        plain = attrs.evolve(call, maybe_ran=False)
        return self.memory.answer(call, dispatch)

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        self.memory.when_durable(seq, callback)

    def end_session(self, session: str) -> None:
        self.memory.journal.end_session(session)

    def acknowledge(self, session: str, upto: int) -> None:
        self.memory.journal.acknowledge(session, upto)


def journalled(directory: Path, epoch: int) -> JournalledEngine:
    directory.parent.mkdir(exist_ok=True)
    stamp = Stamp(epoch=epoch, writer=f"owner {epoch}")
    journal = Journal.open(str(directory), Kernel(), stamp)
    engine = JournalledEngine()
    engine.memory = DurableCalls.__new__(DurableCalls)  # the stores are the gated engine's list
    engine.memory.journal, engine.memory.groups = journal, CallGroups(journal)
    return engine


def count(engine: GatedEngine) -> int:
    return engine.written.count("first")


async def test_an_abandoned_greeting_forgets_no_outcome(root: Path, tmp_path: Path) -> None:
    """Mutant end_on_any_eof: the change of a resent line is made twice (I8)."""
    first = journalled(tmp_path / "j" / "journal", 1)
    first.call(
        Call(request=tool_call(LINE), session="s", ordinal=0)
    )  # carried out; its reply is lost
    assert count(first) == 1
    first.memory.journal.close()

    second = journalled(tmp_path / "j" / "journal", 2)
    async with open_broker(root, second) as running:
        # The shim greets, gives up waiting for the answer, and greets again.
        given_up = running.connect()
        given_up.hello("s", resend="0:1", next="1", epoch="1")
        given_up.close()
        await until(
            lambda: running.state.telemetry.counters.connections and not running.state.sessions
        )
        other = await running.session("t")
        other.call("add_drawer", name="other")  # any append makes the journal's memory forget
        assert (await other.reply())[0] == 0

        shim = await running.session("s", resend="0:1", next="1", epoch="1")
        shim.say(LINE)
        assert (await shim.reply())[0] == 0

    assert count(second) == 0, "carried out a second time"


async def test_a_new_journal_does_not_vouch_for_what_was_before_it(
    root: Path, tmp_path: Path
) -> None:
    """Mutant adopts_blindly: an owner without a journal died; the next one has a journal (I8)."""
    (tmp_path / "j").mkdir()
    Journal.note_pause(str(tmp_path / "j" / "journal"), Kernel())
    engine = journalled(tmp_path / "j" / "journal", 2)
    engine.memory.journal.sync(engine.memory.journal.close_key("", STATE))  # adopted
    async with open_broker(root, engine) as running:
        # Epoch 1 had no journal, and may have carried the line out before it died.
        shim = await running.session("s", resend="0:1", next="1", epoch="1")
        shim.say(LINE)
        _, reply = await shim.reply()

    assert count(engine) == 0, "carried out, perhaps for the second time"
    assert "may or may not" in reply["error"]["message"]


async def test_a_poll_that_was_not_begun_holds_no_drain_up(root: Path) -> None:
    """Scope "stop": the drain starts the poll, waits for it, and calls its outcome unknown."""
    engine = GatedEngine()
    async with open_broker(root, engine, grace_s=20.0) as running:
        shim = await running.session()
        shim.call("add_drawer", 1, name="change", hold="change")
        shim.call("event_wait", 2, name="poll", hold="poll")
        await until(lambda: running.state.scheduler.admission.waiting == 1)
        running.state.leaving.stop(Reason.STOP)
        engine.gate("change").set()
        with trio.move_on_after(3.0):
            await running.ended.wait()
        waited_for = not running.ended.is_set()
        engine.gate("poll").set()
        await running.ended.wait()

    assert not waited_for
    assert "poll" not in engine.begun
