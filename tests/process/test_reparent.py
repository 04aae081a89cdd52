"""A workspace that is moved between being told its rights and using them has the new ones."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from palace.journal.inspect import read_from
from palace.journal.record import Record
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from tests.process.test_workspaces import NOT_YOURS, OWNERS_SHIM, change, namespaces, shim_in
from tests.support.loads.light import storm_site
from tests.support.processes.clients import Client, Site, wait_until

pytestmark = pytest.mark.process

PAIRS = 1000  # of being told and storing, of all agents together
AGENTS = 2
ENDS = 30


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


def test_nothing_is_stored_in_a_namespace_once_it_ends(short_dir: Path) -> None:
    """Its owner gives it up, with all that is in it, while its members go on storing."""
    site, over = storm_site(short_dir), threading.Event()
    answers: list[dict[str, Any]] = []

    def store(client: Client) -> None:
        while not over.is_set():
            given = {"content": "x", "namespace": "custom:design"}
            answers.append(client.call("palace_commit_memory", **given))

    with ExitStack() as clients:
        owner = clients.enter_context(Client(OWNERS_SHIM, site.environ()))
        change(owner, "add", id="coder", cwd=str(short_dir / "coder"))
        shims = [clients.enter_context(shim_in(site, short_dir / "coder")) for _ in range(AGENTS)]
        threads = [threading.Thread(target=store, args=[shim]) for shim in shims]
        for thread in threads:
            thread.start()
        try:
            for _ in range(ENDS):
                asked(owner, "namespace_add", name="custom:design", members=["coder"])
                stored = len(answers)
                wait_until(lambda n=stored: len(answers) > n + AGENTS, what="members store")
                asked(owner, "namespace_remove", name="custom:design", purge=True)
                while asked(owner, "sweep")["forgotten"]:
                    continue
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert site.run("stop").returncode == 0

    live = {
        entity
        for entity in replay(str(site.palace / "journal"), Kernel()).live
        if entity[0] == "memory"
    }
    kept = sum("result" in answer for answer in answers)
    print(json.dumps({"ends": ENDS, "stored": kept, "refused": len(answers) - kept}))
    assert live == set()
    assert kept > ENDS
    assert {answer["error"]["code"] for answer in answers if "error" in answer} == {NOT_YOURS}


def asked(owner: Client, what: str, **arguments: Any) -> Any:
    reply = owner.request("tools/call", name=f"palace_{what}", arguments=arguments)
    return json.loads(reply["result"]["content"][0]["text"])
