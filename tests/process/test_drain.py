"""A broker that is told to go while a long call runs: the next one goes on with it."""

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from palace.protocol.resend import CRASHES_MAX
from tests.support.faults.killing import Failpoints, is_deep
from tests.support.processes.brokers import (
    call_line,
    code_of,
    make_palace,
    status_of,
    text_of,
    wait_gone,
)
from tests.support.processes.clients import Site, wait_until

# Each of its rounds is the life of a broker with an engine.
LIVES = CRASHES_MAX + 1 if is_deep() else CRASHES_MAX

pytestmark = [pytest.mark.process, pytest.mark.engine]

FILES = 8


def project(root: Path) -> Path:
    for number in range(FILES):
        words = " ".join(f"word{number}of{place}" for place in range(150))
        (root / f"note{number}.md").write_text(f"# Note {number}\n\n{words}\n")
    return root


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_mine_is_repeated_however_its_broker_was_ended(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    make_palace(site, "grace_s = 0\n")
    notes = tmp_path / "notes"
    notes.mkdir()
    with site.shim() as client:
        client.tool("status")
        client.send(call_line("mine", "mine", source=str(project(notes)), wing="notes"))
        wait_until(lambda: status_of(site)["lanes"]["bulk"]["running"] == 1, what="mine runs")
        wait_gone(site.kill_broker(number))
        reply = json.loads(client.receive(180))

        assert (reply["id"], code_of(reply)) == ("mine", 0), reply
        assert text_of(reply)["success"], reply
        drawers = client.tool("list_drawers", wing="notes", limit=100)["drawers"]
        assert len({drawer["drawer_id"] for drawer in drawers}) == len(drawers)
        pieces = Counter(re.search(r"word(\d+)of", str(drawer))[1] for drawer in drawers)  # type: ignore[index]
        assert len(pieces) == FILES
        assert len(set(pieces.values())) == 1, pieces  # of each note as many, none twice
        assert status_of(site)["epoch"] == 2


def leaves(site: Site) -> int:
    """Return how many owners have noted in the journal that they were told to leave."""
    files = (site.palace / "journal").glob("*.jsonl")
    return sum(path.read_bytes().count(b'"action":"leave"') for path in files)


def test_a_call_that_brokers_are_told_to_leave_in_the_middle_of_is_not_suspected(
    site: Site, tmp_path: Path
) -> None:
    """The second signal ends a broker at once; so many crashes would quarantine the call."""
    make_palace(site, "")
    failpoints = Failpoints(site, tmp_path / "kills")
    with site.shim() as client:
        client.tool("add_drawer", wing="other", room="r", content="so that the collection exists")
        failpoints.hold("apply")
        client.send(call_line("cut", "add_drawer", wing="w", room="r", content="cut off"))
        for life in range(1, LIVES + 1):
            wait_until(lambda: not failpoints.left(), what="its change is journalled, not applied")
            pid = site.kill_broker(signal.SIGTERM)
            wait_until(lambda life=life: leaves(site) == life, what="the journal is told")
            if life < LIVES:
                failpoints.hold("apply")
            os.kill(pid, signal.SIGTERM)
            wait_gone(pid)
        reply = json.loads(client.receive(180))

        assert (reply["id"], code_of(reply)) == ("cut", 0), reply
        assert client.tool("list_drawers", wing="w")["total"] == 1
        assert status_of(site)["journal"]["quarantined"] == 0
