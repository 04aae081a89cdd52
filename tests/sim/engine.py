"""The light engine in a simulated process, on a disk whose power may go.

All that both have in common is in tests/support/engines/light/engine.py.  The store behaves like
Chroma's in what matters: it numbers what it is told, is not durable by itself, and a power cut
takes its newest lines.
"""

import errno
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from palace.engine.durability.groups import CallGroups
from palace.journal.record import Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.protocol.errors import StoreUnavailable
from palace.protocol.jsonrpc import Catalogue
from palace.settings.config import Config
from palace.settings.paths import Paths
from tests.sim.kernel import alive, the_machine
from tests.sim.threads import RLock, current_fiber, the_world
from tests.support.engines.light.engine import LightStore, MempalaceEngine


class SimStore(LightStore):
    """Entities in a file of lines `[number, kind, id, payload]`, durable once it is synced."""

    file_name = "store.jsonl"
    kinds_of_all = ("drawer", "diary", "tally", "file-line")

    @staticmethod
    def new_lock() -> threading.RLock:
        return RLock()  # type: ignore[return-value]

    def open(self) -> None:
        """Open the store: from here on this process is the one that has it."""
        check_right_to_open("opens")
        the_world().notes["db"].add(current_fiber().process)
        super().open()
        if not the_world().notes["lazy_store"]:
            self._kernel.sync(self._fd)  # what a killed owner wrote and nobody has synced yet

    def note_opener(self) -> None:
        return  # `check_right_to_open` sees more than a lock would

    def close(self) -> None:
        """Close it, as durable as stores are when they are closed."""
        check_right_to_open("still has")
        if self._fd >= 0:
            self._kernel.sync(self._fd)
        super().close()
        the_world().notes["db"].discard(current_fiber().process)

    def decode(self, line: bytes) -> tuple[int, str, str, Any] | None:
        try:
            number, kind, ident, payload = json.loads(line)
        except ValueError:  # a power cut may leave anything at the end
            return None
        return number, kind, ident, payload

    def encode(self, kind: str, ident: str, payload: Any) -> bytes:
        return json.dumps([self._seq + 1, kind, ident, payload]).encode() + b"\n"

    def write(self, kind: str, changes: Mapping[str, Any]) -> None:
        """Take something back or write it again: a sound store has no errors then."""
        process = alive()
        process.spared = not the_world().notes["brittle_store"]
        try:
            self.tell(kind, changes)
        finally:
            process.spared = False

    def tell(self, kind: str, changes: Mapping[str, Any]) -> None:
        check_right_to_open("writes to")
        super().tell(kind, changes)

    def append(self, line: bytes) -> None:
        length = self._length
        try:
            if self._kernel.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, "the disk took a part only")
            self._length += len(line)
            if not the_world().notes["lazy_store"]:
                self._kernel.sync(self._fd)
        except OSError:
            if not the_world().notes["brittle_store"]:
                self._length = length
                roll_back(self._fd, length)
            raise

    def on_disk(self) -> dict[tuple[str, str], Any]:
        """Return what the file holds."""
        if os.path.exists(self.path):
            self.load()
        return self._live


def roll_back(fd: int, length: int) -> None:
    """Undo a write as a database does, which needs no room and can't fail."""
    alive()
    os.ftruncate(fd, length)
    the_machine().disk.truncated(fd, length)


def check_right_to_open(does: str) -> None:
    """I1 and I2: one process has the store open, and it is the one that holds the lock."""
    world, machine, process = the_world(), the_machine(), alive()
    others = [other for other in world.notes["db"] if other is not process and not other.dead]
    if others:
        world.violated(f"I1: {process!r} {does} the store, which {others} has open")
    if machine.holder(machine.lock) is not process:
        world.violated(f"I2: {process!r} {does} the store without the lock")


class SimEngine(MempalaceEngine):
    """Stands where `MempalaceEngine` does."""

    store_class = SimStore
    segment_bytes = 6000
    checkpoint_bytes = 12_000
    token_bytes = 4
    entry_kind = "drawer"
    has_register = False  # SQLite knows no simulated disk

    def __init__(
        self,
        paths: Paths,
        config: Config,
        environ: Mapping[str, str],
        kernel: Kernel,
        stamp: Stamp,
        ownership: Ownership | None = None,
    ) -> None:
        super().__init__(paths, config, environ, kernel, stamp, ownership)
        self._version = the_world().notes["version"]

    def catalogue(self) -> Catalogue:
        return CATALOGUE

    def drawer(self, arguments: dict[str, Any], part: int) -> dict[str, Any]:
        body = {"who": arguments["who"], "nonce": arguments["nonce"]}
        return {**body, "part": part, "text": arguments["text"]}

    def entry(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"who": arguments["agent_name"], "nonce": arguments["nonce"], "part": 0}

    def load(self) -> Catalogue:
        world = the_world()
        world.sleep(world.rng.expovariate(world.notes["loads_per_s"]))
        if world.notes["load_fails"]():
            raise StoreUnavailable("The store can't be opened, says the simulation. Try again.")
        return super().load()

    def status(self) -> dict[str, Any]:
        return {"journal": "on"}

    def replaced(self) -> str:
        now = the_world().notes["version"]
        return "" if now == self._version else f"mempalace {self._version} -> {now}"

    def close(self) -> None:
        if self._memory is not None:
            world = the_world()
            world.sleep(world.rng.expovariate(20))
        super().close()

    # The tools.

    def run_tool(self, name: str, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        self._progress += 1
        asked = {"tool": name, **arguments}
        the_world().notes["before_call"](current_fiber().process, asked)
        answer = super().run_tool(name, durable, arguments)
        self._progress += 1
        return answer

    def failed(self, error: Exception, arguments: dict[str, Any]) -> dict[str, Any]:
        the_world().notes["torn"].add(arguments["nonce"])
        return super().failed(error, arguments)

    def _update_drawer(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """Append to its author's diary."""
        who = arguments["who"]
        diary = self._stores.light.read("diary", [who]).get(who, {"entries": []})
        self._change(durable, "diary", who, {"entries": [*diary["entries"], arguments["nonce"]]})
        return {"success": True}

    def _delete_drawer(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        self._change(durable, "drawer", arguments["id"], None)
        return {"success": True}

    def _get_drawer(self, _durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        who, store = arguments["who"], self._stores.light
        drawers = [body["nonce"] for _, body in store.scan("drawer") if body["who"] == who]
        return {
            "drawers": sorted(set(drawers)),
            "diary": store.read("diary", [who]).get(who, {"entries": []})["entries"],
        }

    def _hook_settings(self, _durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """Do something outside of the palace, which can't be taken back."""
        the_world().notes["effects"].append(arguments["nonce"])
        return {"success": True}

    def _event_wait(self, _durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        the_world().sleep(arguments["seconds"])
        return {"success": True}

    def _mine(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """A call of units: each file's line is filed under the file's own name."""
        for number in range(arguments["files"]):
            ident = f"{arguments['who']}:{arguments['nonce']}:{number}"
            self._change(durable, "file-line", ident, {"nonce": arguments["nonce"]})
            durable.at_boundary()
            the_world().sleep(0.01)
        return {"success": True}


CATALOGUE = Catalogue(
    engine_version="3.11.9",
    protocol_versions=("2025-06-18",),
    tools=({"name": "mempalace_add_drawer"},),
    read_only_refused=frozenset({"mempalace_add_drawer"}),
)


def store_on_disk(root: str) -> dict[tuple[str, str], Any]:
    """Return what the store's file holds, for who judges afterwards."""
    return SimStore(root, Kernel(), 0).on_disk()
