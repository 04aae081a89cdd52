"""A workspace that is moved between being told its rights and using them has the new ones."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from palace.journal.inspect import read_from
from palace.journal.record import Record
from palace.kernel.kernel import Kernel
from tests.process.test_workspaces import NOT_YOURS, OWNERS_SHIM, change, namespaces, shim_in
from tests.support.loads.light import storm_site
from tests.support.processes.clients import Client, Site

pytestmark = pytest.mark.process

PAIRS = 1000  # of being told and storing, of all agents together
AGENTS = 2


class Agents:
    """Agents of one workspace that store where they have just been told that they may."""

    def __init__(self) -> None:
        self.stored = 0
        self.refused = 0
        self.unexpected: list[object] = []
        self.over = threading.Event()

    def store(self, client: Client) -> None:
        try:
            for _ in range(PAIRS // AGENTS):
                _, told = namespaces(client, "writable")
                [team] = [name for name in told if name.startswith("team:")]
                reply = client.call("palace_commit_memory", content="x", namespace=team)
                self._count(reply)
        except Exception as problem:
            self.unexpected.append(problem)
        finally:
            self.over.set()

    def _count(self, reply: dict[str, Any]) -> None:
        if "result" in reply:
            self.stored += 1
        elif reply["error"]["code"] == NOT_YOURS:
            self.refused += 1
        else:
            self.unexpected.append(reply)


def stale_in(site: Site) -> tuple[int, list[Record]]:
    """Return how often the workspace was moved, and which memories its place did not allow.

    The journal's order is that in which the calls had their turns.
    """
    parent, moves, stale = "", 0, []
    for record in read_from(str(site.palace / "journal"), Kernel()):
        if not isinstance(record, Record) or not isinstance(record.payload, dict):
            continue
        if record.id == "workspace:coder":
            parent, moves = record.payload["row"]["parent"], moves + 1
        elif record.kind == "memory" and record.payload["namespace"] != f"team:{parent}":
            stale.append(record)
    return moves, stale


def test_no_right_outlives_a_move(short_dir: Path) -> None:
    site, agents = storm_site(short_dir), Agents()
    with ExitStack() as clients:
        owner = clients.enter_context(Client(OWNERS_SHIM, site.environ()))
        for ident in ("one", "two"):
            change(owner, "add", id=ident)
        change(owner, "add", id="coder", parent="one", cwd=str(short_dir / "coder"))
        shims = [clients.enter_context(shim_in(site, short_dir / "coder")) for _ in range(AGENTS)]
        threads = [threading.Thread(target=agents.store, args=[shim]) for shim in shims]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for parent in ("two", "one"):
                change(owner, "move", id="coder", parent=parent)
        assert agents.unexpected == []
    assert site.run("stop").returncode == 0

    moves, stale = stale_in(site)
    print(json.dumps({"pairs": PAIRS, "moves": moves, "moved between": agents.refused}))
    assert stale == []
    assert agents.stored + agents.refused == PAIRS
    assert agents.refused > PAIRS // 100, "hardly any move came between"
