"""A broker whose tables another palace has: who is sent there, and what is said of their lines."""

import json
from pathlib import Path

import pytest
import trio

from palace.engine.api import Call, Reply
from palace.ownership.guest_file import GuestFile
from palace.ownership.owners import way_path
from palace.protocol import wire
from palace.protocol.errors import StoreOwned
from tests.support.brokers.owner import open_broker, until
from tests.support.engines.gated import GatedEngine

pytestmark = pytest.mark.trio

OWNER = "a" * 32


class OwnedEngine(GatedEngine):
    """Its tables are another palace's."""

    def load(self) -> None:  # type: ignore[override]
        assert self.may_load.wait(30)
        raise StoreOwned("The tables are another palace's.", owner={"palace": OWNER})


class AskingEngine(GatedEngine):
    """Keeps which lines it was told to be another palace's."""

    def call(self, call: Call) -> Reply:
        if call.elsewhere:
            self.begun.append(f"elsewhere {call.ordinal}")
        return super().call(call)


@pytest.fixture
def root(short_dir: Path) -> Path:
    found = short_dir / "palace"
    found.mkdir(mode=0o700)
    return found


def way_at(directory: Path) -> str:
    directory.mkdir(exist_ok=True)
    texts = {"name": "b", "palace": "/srv/p", "token": "t", "fingerprint": "f"}
    made = GuestFile(["wss://db:7253"], palace_id=OWNER, **texts)
    Path(way_path(str(directory), OWNER)).write_bytes(made.encode())
    return str(directory)


async def test_clients_are_sent_there_with_all_that_did_not_run_here(
    root: Path, short_dir: Path
) -> None:
    engine = OwnedEngine()
    engine.may_load.clear()
    async with open_broker(root, engine) as running:
        running.state.services.owners_directory = way_at(short_dir / "ways")
        shim = await running.session(resend="0:1,1:0", next="2")
        for number in range(3):
            shim.call("add_drawer", number)
        await until(lambda: running.state.scheduler.admission.waiting == 3)
        engine.may_load.set()
        kind, fields = await shim.header()
        with trio.fail_after(10):
            await running.ended.wait()

    assert (kind, fields["reason"], fields["away"]) == (wire.GOODBYE, "away", OWNER)
    assert (fields["read_upto"], fields["unrun"]) == ("2", "1,2"), "0 may have run elsewhere before"
    assert running.code == 70, "whatever starts it, may start it again"


async def test_without_a_way_they_are_told_whose_the_tables_are(root: Path) -> None:
    async with open_broker(root, OwnedEngine()) as running:
        shim = await running.session()
        shim.call("add_drawer", 0)
        _, reply = (await shim.replies(1)).popitem()

    assert reply["error"]["data"] == {
        "palace": "store_owned",
        "retry": "same_request",
        "owner": {"palace": OWNER},
    }


async def test_of_what_another_palace_may_have_carried_out_its_journal_is_not_asked(
    root: Path,
) -> None:
    async with open_broker(root, AskingEngine()) as running:
        shim = await running.session(resend="0:1,1:1,2:0", elsewhere="1", next="3")
        for number in range(3):
            shim.call("search" if number == 0 else "add_drawer", number)
        replies = await shim.replies(3)

    assert running.engine.begun == ["mempalace_search", "elsewhere 1", "mempalace_add_drawer"]
    assert replies[1]["error"]["data"]["palace"] == "outcome_unknown"


@pytest.mark.parametrize("elsewhere", ["x", "-1", "1,,2", "9" * 5000])
async def test_a_hello_that_makes_no_sense_of_it_is_refused(root: Path, elsewhere: str) -> None:
    async with open_broker(root) as running:
        shim = running.connect()
        fields = {"session": "s", "next": "0", "elsewhere": elsewhere}
        shim.stream.send_soon(wire.encode_header(wire.HELLO, fields))
        kind, said = await shim.header()

    assert (kind, said["code"]) == (wire.REFUSED, "wire")
    assert json.dumps(said)
