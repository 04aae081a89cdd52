"""A small engine with the real journal, and a store that is one file of lines.

It keeps the contract of palace/engine/api.py with palace's own `DurableCalls`, `CallGroups`,
`Recovery` and `Checkpointer`; only mempalace and Chroma are replaced.  The store behaves like
Chroma's in what matters: it numbers what it is told, is not durable by itself, and a power cut
takes its newest lines.
"""

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from palace.engine.api import Call, DurableCallback, Reply
from palace.engine.batch import Batch, PendingWrite, store_or_each
from palace.engine.durability.calls import DurableCalls
from palace.engine.durability.checkpointer import Checkpointer
from palace.engine.durability.groups import CallGroups
from palace.engine.durability.recovery import Recovery
from palace.engine.stores.files import Files
from palace.engine.stores.projection import Change
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.replay import digest_of
from palace.kernel.kernel import Kernel
from palace.protocol import jsonrpc
from palace.protocol.errors import StoreUnavailable
from palace.protocol.jsonrpc import Catalogue
from palace.settings.config import Config
from palace.settings.paths import Paths
from tests.sim.kernel import alive, the_machine
from tests.sim.threads import RLock, current_fiber, the_world

STORE = "store.jsonl"
KINDS = ("drawer", "diary", "tally", "file-line")
_64_BITS = (1 << 64) - 1
SEGMENT_BYTES = 6000
CHECKPOINT_BYTES = 12_000


class TinyStore:
    """Entities in a file of lines, each of which names one and its payload (null: deleted)."""

    name = "store"

    def __init__(self, root: str, kernel: Kernel) -> None:
        self.path = f"{root}/{STORE}"
        self.kernel = kernel
        self.lock: threading.RLock = RLock()  # type: ignore[assignment]
        self._fd = -1
        self._seq = 0
        self._length = 0
        self._numbers: dict[tuple[str, str], int] = {}
        self._live: dict[tuple[str, str], Any] = {}

    # The file.

    def open(self) -> None:
        """Open the store: from here on this process is the one that has it."""
        check_right_to_open("opens")
        the_world().notes["db"].add(current_fiber().process)
        self._fd = self.kernel.open_append(self.path)
        self.kernel.truncate(self._fd, self._length)  # a torn line goes, as a rollback does it
        if not the_world().notes["lazy_store"]:
            self.kernel.sync(self._fd)  # what a killed owner wrote and nobody has synced yet

    def close(self) -> None:
        """Close it, as durable as stores are when they are closed."""
        check_right_to_open("still has")
        if self._fd >= 0:
            self.kernel.sync(self._fd)
            self.kernel.close(self._fd)
            self._fd = -1
        the_world().notes["db"].discard(current_fiber().process)

    def _load(self) -> None:
        self._live.clear()
        self._numbers.clear()
        self._seq = self._length = 0
        for line in (self.kernel.read_hint(self.path, 1 << 24) or b"").splitlines(keepends=True):
            if not line.endswith(b"\n"):  # whole but for its end: what follows would be glued to it
                return
            try:
                number, kind, ident, payload = json.loads(line)
            except ValueError:
                return
            self._length += len(line)
            self._note(number, (kind, ident), payload)

    def _note(self, number: int, entity: tuple[str, str], payload: Any) -> None:
        self._seq = number
        self._numbers[entity] = number
        if payload is None:
            self._live.pop(entity, None)
        else:
            self._live[entity] = payload

    # What a projection must do.

    def kinds(self) -> tuple[str, ...]:
        return KINDS

    def owns(self, kind: str) -> bool:
        return kind in KINDS

    def read(self, kind: str, ids: Iterable[str]) -> dict[str, Any]:
        return {i: self._live[kind, i] for i in ids if (kind, i) in self._live}

    def scan(self, kind: str) -> Iterator[tuple[str, Any]]:
        yield from [(i, payload) for (known, i), payload in self._live.items() if known == kind]

    def count(self, kind: str) -> int:
        return sum(known == kind for known, _ in self._live)

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
        for ident, payload in changes.items():
            line = json.dumps([self._seq + 1, kind, ident, payload]).encode() + b"\n"
            length = self._length
            try:
                self._append(line)
            except OSError:
                if not the_world().notes["brittle_store"]:
                    self._length = length
                    roll_back(self._fd, length)
                raise
            self._note(self._seq + 1, (kind, ident), payload)

    def _append(self, line: bytes) -> None:
        if self.kernel.write(self._fd, line) != len(line):
            raise OSError(errno.ENOSPC, "the disk took a part only")
        self._length += len(line)
        if not the_world().notes["lazy_store"]:
            self.kernel.sync(self._fd)

    def applied(self, changes: Iterable[Change]) -> None:
        return

    def fingerprint(self) -> dict[str, Any]:
        return {"seq": self._seq, "sums": _sums(self._live.values())}

    def read_fingerprint(self) -> dict[str, Any]:
        self._load()
        return self.fingerprint()

    def recount(self) -> None:
        return

    def was_replaced(self, baseline: Any) -> bool:
        return self.is_older(baseline)

    def is_older(self, baseline: Any) -> bool:
        return bool(self._seq < baseline["seq"])

    def suspects(self, baseline: Any, touched: Mapping[tuple[str, str], Any]) -> bool:
        ours = {entity for entity in touched if self.owns(entity[0])}
        if self.is_older(baseline):
            return True
        if {e for e, number in self._numbers.items() if number > baseline["seq"]} - ours:
            return True
        then = _sums(touched[e].baseline for e in ours if touched[e].baseline is not None)
        now = _sums(self._live[e] for e in ours if e in self._live)
        mine = _sums(self._live.values())
        return any(
            (b - t) & _64_BITS != (m - n) & _64_BITS
            for b, t, m, n in zip(baseline["sums"], then, mine, now, strict=True)
        )


def _sums(payloads: Iterable[Any]) -> list[int]:
    digests = [digest_of(payload) for payload in payloads]
    return [len(digests), sum(digests) & _64_BITS]


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


class SimStores:
    """What `DurableCalls` asks of all stores together."""

    def __init__(self, root: str, kernel: Kernel) -> None:
        self.tiny = TinyStore(root, kernel)
        self.files = Files(root, kernel)

    @property
    def all(self) -> tuple[Any, ...]:
        return (self.files, self.tiny)

    def fingerprints(self) -> dict[str, Any]:
        return {projection.name: projection.fingerprint() for projection in self.all}


class SimEngine:
    """Stands where `MempalaceEngine` does."""

    def __init__(
        self,
        paths: Paths,
        config: Config,
        environ: Mapping[str, str],
        kernel: Kernel,
        stamp: Stamp,
    ) -> None:
        self._paths = paths
        self._config = config
        self._kernel = kernel
        self._stamp = stamp
        self._memory: DurableCalls | None = None
        self._progress = 0
        self._here = threading.local()
        self._version = the_world().notes["version"]

    def load(self) -> Catalogue:
        world = the_world()
        world.sleep(world.rng.expovariate(world.notes["loads_per_s"]))
        if world.notes["load_fails"]():
            raise StoreUnavailable("The store can't be opened, says the simulation. Try again.")
        stores = SimStores(self._paths.root, self._kernel)
        journal = Journal.open(
            self._paths.journal, self._kernel, self._stamp, segment_bytes=SEGMENT_BYTES
        )
        recovery = Recovery(journal=journal, projections=stores.all, progress=lambda _s, _f: None)
        recovery.scan()
        stores.tiny.open()
        checkpointer = Checkpointer(journal=journal, bytes_min=CHECKPOINT_BYTES)
        memory = DurableCalls(journal, stores, CallGroups(journal), recovery, checkpointer)  # type: ignore[arg-type]
        memory.recover()
        self._memory = memory
        self._stores = stores
        return CATALOGUE

    def loading_text(self) -> str:
        return "loading"

    def call(self, call: Call) -> Reply:
        assert self._memory is not None
        memory = self._memory
        with nullcontext() if call.batch is None else call.batch.member():
            self._here.batch = call.batch
            return memory.answer(call, lambda: self._dispatch(memory.groups, call))

    def batch(self, messages: Sequence[dict[str, Any]]) -> Batch[Any]:
        return Batch(messages, lambda puts: store_or_each(puts, self._store))

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        assert self._memory is not None
        self._memory.when_durable(seq, callback)

    def acknowledge(self, session: str, upto: int) -> None:
        if self._memory is not None:
            self._memory.journal.acknowledge(session, upto)

    def end_session(self, session: str) -> None:
        if self._memory is not None:
            self._memory.journal.end_session(session)

    def status(self) -> dict[str, Any]:
        return {"journal": "on"}

    def search_fingerprint(self) -> str:
        return "light"

    def progress(self) -> int:
        return self._progress

    def replaced(self) -> str:
        now = the_world().notes["version"]
        return "" if now == self._version else f"mempalace {self._version} -> {now}"

    def close(self) -> None:
        if self._memory is not None:
            world = the_world()
            world.sleep(world.rng.expovariate(20))
            self._memory.close()
            self._memory = None
            self._stores.tiny.close()

    # The tools.

    def _dispatch(self, durable: CallGroups, call: Call) -> Reply:
        params = call.message["params"]
        arguments = params["arguments"]
        tool = getattr(self, "_" + params["name"].removeprefix("mempalace_"))
        self._progress += 1
        world = the_world()
        told = {"tool": params["name"].removeprefix("mempalace_"), **arguments}
        world.notes["before_call"](current_fiber().process, told)
        try:
            told = tool(durable, arguments)
        except Exception as error:
            told = {"success": False, "error": repr(error)}
            world.notes["torn"].add(arguments["nonce"])
        self._progress += 1
        result = {"content": [{"type": "text", "text": json.dumps(told)}]}
        reply = {"jsonrpc": "2.0", "id": call.message.get("id"), "result": result}
        return Reply(payload=jsonrpc.encode(reply))

    def _change(self, durable: CallGroups, kind: str, ident: str, after: Any) -> None:
        """Make one storage operation as a seam does it."""
        store = self._stores.tiny
        with store.lock:
            before = store.read(kind, [ident]).get(ident)
            change = Change(kind, ident, before, after)
            durable.change(store, [change], lambda: store.tell(kind, {ident: after}))
        self._progress += 1

    def _add_drawer(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """File a drawer in parts under ids of its own, and count it in its author's tally."""
        who, nonce = arguments["who"], arguments["nonce"]
        ids = [self._kernel.token(4) for _ in range(arguments["parts"])]
        for number, ident in enumerate(ids):
            body = {"who": who, "nonce": nonce, "part": number, "text": arguments["text"]}
            self._change(durable, "drawer", ident, body)
        tally = self._stores.tiny.read("tally", [who]).get(who, {"count": 0})
        self._change(durable, "tally", who, {"count": tally["count"] + 1})
        return {"success": True, "ids": ids}

    def _diary_write(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """File a drawer, together with whoever else does."""
        body = {"who": arguments["agent_name"], "nonce": arguments["nonce"], "part": 0}
        ident, group = self._kernel.token(4), durable.current()
        if self._here.batch is None or group is None:
            self._change(durable, "drawer", ident, body)
        else:
            self._here.batch.put((ident, body, group))
        return {"success": True}

    def _store(self, puts: Sequence[PendingWrite[Any]]) -> None:
        """Store the drawers of several calls at once."""
        assert self._memory is not None
        store, durable = self._stores.tiny, self._memory.groups
        bodies = {put.write[0]: put.write[1] for put in puts}
        changes = [Change("drawer", ident, None, body) for ident, body in bodies.items()]
        with store.lock, durable.on_behalf({put.write[0]: put.write[2] for put in puts}):
            durable.change(store, changes, lambda: store.tell("drawer", bodies))

    def _update_drawer(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """Append to its author's diary."""
        who = arguments["who"]
        diary = self._stores.tiny.read("diary", [who]).get(who, {"entries": []})
        self._change(durable, "diary", who, {"entries": [*diary["entries"], arguments["nonce"]]})
        return {"success": True}

    def _delete_drawer(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        self._change(durable, "drawer", arguments["id"], None)
        return {"success": True}

    def _get_drawer(self, _durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        who, store = arguments["who"], self._stores.tiny
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
    store = TinyStore(root, Kernel())
    if os.path.exists(store.path):
        store._load()
    return store._live
