"""Brokers are killed while they adopt a palace of stock's and four agents write into it.

Stock's part is made straight through chromadb.  Afterwards every acknowledged change is there once,
nothing of stock's is missing, and the journal alone makes the same stores.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.journal.inspect import Gap, read_from
from palace.journal.record import ADOPT, Record
from palace.kernel.kernel import Kernel
from palace.protocol.errors import OutcomeUnknown, PalaceError, Quarantined
from tests.support.faults.killing import is_deep, is_full
from tests.support.processes.brokers import status_of, wait_gone
from tests.support.processes.clients import Site, end_brokers, wait_until
from tests.support.processes.sites import make_site
from tests.support.stores.nonces import read_stores

pytestmark = [
    pytest.mark.engine,
    pytest.mark.process,
    pytest.mark.skipif(not is_deep(), reason="takes minutes: PALACE_TEST_PROFILE=deep"),
]

FILLING = Path(__file__).parents[1] / "support" / "stores" / "filling.py"
MADE = 20_000 if is_full() else 6_000
KILLS = 4  # a shim gives a line up that five brokers ended with
PATIENCE_S = 600
QUARANTINED, UNKNOWN = Quarantined.wire_code, OutcomeUnknown.wire_code


@attrs.define(eq=False)
class Writer:
    """One agent, whose calls go on over all deaths; `acknowledged` are documents by drawer."""

    site: Site
    number: int
    ended: threading.Event
    acknowledged: dict[str, str | None] = attrs.field(factory=dict)
    unsure: set[str] = attrs.field(factory=set)
    problems: list[str] = attrs.field(factory=list)

    def run(self) -> None:
        try:
            with self.site.shim() as client:
                turn = 0
                while not self.ended.is_set():
                    turn += 1
                    self._write(client, turn)
        except Exception as error:
            self.problems.append(repr(error))

    def _write(self, client: Any, turn: int) -> None:
        text: str | None = f"Writer {self.number} says {turn}."
        own = MADE // 4
        drawer = f"drawer_made_{self.number * own + turn * 37 % own}"
        if turn % 3 == 0:
            reply, text = client.call("mempalace_delete_drawer", drawer_id=drawer), None
        elif turn % 3 == 1:
            reply = client.call("mempalace_update_drawer", drawer_id=drawer, content=text)
        else:
            reply = client.call("mempalace_add_drawer", wing="w", room="r", content=text)
        if "error" in reply:
            assert reply["error"]["code"] in (UNKNOWN, QUARANTINED), reply
            self.unsure.add(drawer)  # it was told so; nothing of it was acknowledged
            return
        said = json.loads(reply["result"]["content"][0]["text"])
        assert said["success"], said
        self.acknowledged[said["drawer_id"] if turn % 3 == 2 else drawer] = text


def adoption_of(site: Site) -> dict[str, Any] | None:
    """Return how far it is; {} where no broker knows."""
    try:
        status = status_of(site)
    except (PalaceError, OSError):
        return {}
    return status["journal"]["adoption"] if status["engine"]["state"] == "ready" else {}


def kill_while_it_adopts(site: Site, chance: random.Random) -> int:
    """Kill one broker after another; return how many were adopting."""
    killed = 0
    deadline_s = time.monotonic() + PATIENCE_S
    while killed < KILLS and time.monotonic() < deadline_s:
        if adoption_of(site) == {}:
            time.sleep(0.05)
            continue
        time.sleep(chance.uniform(0.0, 3.0))
        adoption = adoption_of(site)
        if adoption is None:
            break
        if adoption:
            pid = site.record()["pid"]
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
            wait_gone(pid)
    return killed


def documents(site: Site) -> dict[str, str]:
    return {drawer.id: drawer.document or "" for drawer in read_stores(site.palace).drawers}


def test_brokers_are_killed_while_they_adopt_and_agents_write(
    tmp_path: Path, model_home: Path
) -> None:
    site = make_site(tmp_path, model_home)
    argv = [sys.executable, "-P", str(FILLING), str(site.palace), str(MADE)]
    subprocess.run(argv, env=site.environ(), check=True, stderr=subprocess.DEVNULL)
    expected: dict[str, str | None] = dict(documents(site))
    assert len(expected) == MADE
    ended = threading.Event()
    writers = [Writer(site, number, ended) for number in range(4)]
    threads = [threading.Thread(target=writer.run) for writer in writers]
    seed = int(os.environ.get("PALACE_KILL_SEED") or random.randrange(1 << 32))
    print(f"PALACE_KILL_SEED={seed}")
    try:
        for thread in threads:
            thread.start()
        assert kill_while_it_adopts(site, random.Random(seed)) > 1
        wait_until(lambda: adoption_of(site) is None, PATIENCE_S, "all is adopted")
        ended.set()
        for thread in threads:
            thread.join()
        assert site.run("stop").returncode == 0
        for writer in writers:
            assert writer.problems == []
            assert writer.acknowledged
            expected |= writer.acknowledged
        found = documents(site)
        unsure = {drawer for writer in writers for drawer in writer.unsure}
        for drawer, text in expected.items():
            assert drawer in unsure or found.get(drawer) == text, drawer
        assert not set(found) - set(expected), "nothing is there that nobody has written"
        check_journal(site)
        before = documents(site)
        assert site.run("rebuild", timeout_s=PATIENCE_S).returncode == 0
        assert documents(site) == before
    finally:
        ended.set()
        end_brokers(tmp_path)


def check_journal(site: Site) -> None:
    assert site.run("deaths", "--clear").returncode == 0  # they were on purpose
    for arguments in (("doctor",), ("doctor", "--drift")):
        done = site.run(*arguments, timeout_s=PATIENCE_S)
        assert done.returncode == 0, done.stdout
    spoken = set()
    for found in read_from(str(site.palace / "journal"), Kernel()):
        assert not isinstance(found, Gap)
        if isinstance(found, Record) and found.kind:
            if found.action == ADOPT:
                assert found.entity not in spoken, f"{found.entity} is adopted twice"
            spoken.add(found.entity)
