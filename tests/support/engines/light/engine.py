"""The light engine: for real processes as it is, and for the simulation's in tests/sim/engine.py.

Brokers of real processes import this file in the place of palace.engine.hosting.mempalace, so it
imports nothing of tests.  It keeps the contract of palace/engine/api.py with palace's own
`DurableCalls`, `CallGroups`, `Recovery` and checkpoints; only mempalace and Chroma are replaced, so
that an owner is ready after milliseconds.

The store is one file of lines, which is open for as long as a real store would be.  It observes
its openers, too: each line names the epoch that wrote it, and whoever opens the store while another
process has it open (an flock tells, at any instant) is noted in `overlaps` beside the palace.
"""

import errno
import fcntl
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from palace.engine.api import Call, Reply
from palace.engine.batch import Batch, PendingWrite, store_or_each
from palace.engine.durability.calls import DurableCalls
from palace.engine.durability.checkpointer import Checkpointer
from palace.engine.durability.groups import CallGroups
from palace.engine.durability.journalled import JournalledEngine
from palace.engine.durability.owner_tools import OwnerTools
from palace.engine.durability.plugin import announce, plugin_settings, problem_of
from palace.engine.durability.recovery import Recovery
from palace.engine.embedding.supply import ModelState
from palace.engine.stores.candidates import NAME as CANDIDATES
from palace.engine.stores.candidates import Candidates, open_candidates
from palace.engine.stores.files import Files
from palace.engine.stores.projection import Change, Unshared
from palace.engine.stores.register import NAME, Register, open_register
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.replay import digest_of, no_progress
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.protocol import jsonrpc
from palace.protocol.errors import EngineError, StoreUnavailable
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.tools import Lane
from palace.settings.catalogue import load_catalogue
from palace.settings.config import Config
from palace.settings.paths import Paths

STORE = "chroma.sqlite3.light"  # the watcher takes it for a store by its name
OFFERED = "chroma:mempalace_drawers"  # stock's, which other palaces may pull
KINDS = ("drawer", "entry", "tally", "memory", OFFERED)
SEGMENT_BYTES = 64 << 10  # so that storms meet new segments and checkpoints
CHECKPOINT_BYTES = 128 << 10
_64_BITS = (1 << 64) - 1
CHANGING = (Lane.WRITER, Lane.LARGE)


def installed_version(_name: str = "mempalace") -> str:
    return load_catalogue(None).engine_version


def load_error(error: BaseException) -> EngineError:
    if isinstance(error, EngineError):
        return error
    return StoreUnavailable(f"The light engine could not be loaded: {error!r}. See its log.")


class LightStore(Unshared):
    """Entities in a file of lines `[number, epoch, kind, id, payload]` (payload null: deleted).

    What it was told survives a killed process; a line that a death tore goes at the next opening.
    """

    name = "store"
    file_name = STORE
    kinds_of_all: tuple[str, ...] = KINDS
    new_lock = staticmethod(threading.RLock)

    def __init__(self, root: str, kernel: Kernel, epoch: int) -> None:
        self.path = f"{root}/{self.file_name}"
        self.lock = self.new_lock()
        self._kernel = kernel
        self._epoch = epoch
        self._fd = -1
        self._seq = 0
        self._length = 0
        self._numbers: dict[tuple[str, str], int] = {}
        self._live: dict[tuple[str, str], Any] = {}
        self._sums = [0, 0]

    # The file.

    def open(self) -> None:
        """Open the store, and drop the torn line at its end as a rollback does it."""
        self._fd = self._kernel.open_append(self.path)
        self.note_opener()
        self._kernel.truncate(self._fd, self._length)

    def note_opener(self) -> None:
        """Leave a note where another process has the store open."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # go on as a broken protocol would, and tell
            note = f"pid {os.getpid()}, epoch {self._epoch}\n".encode()
            fd = self._kernel.open_append(f"{os.path.dirname(self.path)}.overlaps")
            os.write(fd, note)
            os.close(fd)

    def close(self) -> None:
        if self._fd >= 0:
            self._kernel.close(self._fd)
            self._fd = -1

    def load(self) -> None:
        """Read the file as far as it goes."""
        self._live.clear()
        self._numbers.clear()
        self._seq = self._length = 0
        self._sums = [0, 0]
        for line in (self._kernel.read_hint(self.path, 1 << 28) or b"").splitlines(keepends=True):
            if not line.endswith(b"\n"):  # whole but for its end: what follows would be glued to it
                return
            entry = self.decode(line)
            if entry is None:
                return
            number, kind, ident, payload = entry
            self._length += len(line)
            self._note(number, (kind, ident), payload)

    def decode(self, line: bytes) -> tuple[int, str, str, Any] | None:
        """Return a line's number, kind, id and payload, None where the file is over."""
        number, _, kind, ident, payload = json.loads(line)
        return number, kind, ident, payload

    def encode(self, kind: str, ident: str, payload: Any) -> bytes:
        entry = [self._seq + 1, self._epoch, kind, ident, payload]
        return json.dumps(entry, separators=(",", ":")).encode() + b"\n"

    def append(self, line: bytes) -> None:
        """Put a line at the end; what is not taken whole raises OSError and is rolled back."""
        if self._kernel.write(self._fd, line) != len(line):
            self._kernel.truncate(self._fd, self._length)
            raise OSError(errno.ENOSPC, "the disk took a part only")
        self._length += len(line)

    def _note(self, number: int, entity: tuple[str, str], payload: Any) -> None:
        for old, sign in ((self._live.pop(entity, None), -1), (payload, 1)):
            if old is not None:
                self._sums[0] += sign
                self._sums[1] = (self._sums[1] + sign * digest_of(old)) & _64_BITS
        self._seq = number
        self._numbers[entity] = number
        if payload is not None:
            self._live[entity] = payload

    # What a projection must do.

    def kinds(self) -> tuple[str, ...]:
        return self.kinds_of_all

    def owns(self, kind: str) -> bool:
        return kind in self.kinds_of_all

    def read(self, kind: str, ids: Iterable[str]) -> dict[str, Any]:
        return {i: self._live[kind, i] for i in ids if (kind, i) in self._live}

    def scan(self, kind: str) -> Iterator[tuple[str, Any]]:
        yield from [(i, payload) for (known, i), payload in self._live.items() if known == kind]

    def ids(self, kind: str) -> list[str]:
        return [ident for known, ident in self._live if known == kind]

    def count(self, kind: str) -> int:
        return sum(known == kind for known, _ in self._live)

    def write(self, kind: str, changes: Mapping[str, Any]) -> None:
        """Take something back or write it again."""
        self.tell(kind, changes)

    def tell(self, kind: str, changes: Mapping[str, Any]) -> None:
        """Carry out what a call has changed."""
        for ident, payload in changes.items():
            self.append(self.encode(kind, ident, payload))
            self._note(self._seq + 1, (kind, ident), payload)

    def applied(self, changes: Iterable[Change]) -> None:
        return

    def fingerprint(self) -> dict[str, Any]:
        return {"seq": self._seq, "sums": list(self._sums)}

    def read_fingerprint(self) -> dict[str, Any]:
        self.load()
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
        return any(
            (b - t) & _64_BITS != (m - n) & _64_BITS
            for b, t, m, n in zip(baseline["sums"], then, self._sums, now, strict=True)
        )


def _sums(payloads: Iterable[Any]) -> list[int]:
    digests = [digest_of(payload) for payload in payloads]
    return [len(digests), sum(digests) & _64_BITS]


class LightMemories:
    """Memories of namespaces (palace/memory/gate.py) in a light store: found by a word of theirs.

    Imported late, as in the real engine: what finds secrets takes long to import.
    """

    def __init__(self, store: LightStore, durable: CallGroups) -> None:
        self._store, self._durable = store, durable

    def refusal(self, _call: Any) -> None:
        return None

    def held(self, _call: Any) -> Any:
        return nullcontext()

    def look(self, _idents: Any) -> Any:
        raise NotImplementedError("stock's tools are not here")

    def tasks(self, _call: Any, _speaker: Any) -> Any:
        raise NotImplementedError("there is no log of events here")

    def get(self, ident: str) -> Any:
        from palace.memory.memory import Memory

        found = self._store.read("memory", [ident]).get(ident)
        return None if found is None else Memory(**found, rows=(ident,))

    def put(self, memory: Any, _old: Any) -> int:
        names = (name for name in type(memory).__slots__ if name not in ("rows", "__weakref__"))
        self._change(memory.id, {name: getattr(memory, name) for name in names})
        return 1

    def delete(self, memories: Any) -> None:
        for memory in memories:
            self._change(memory.id, None)

    def over(self, namespaces: Any, now_s: float, most: int) -> list[Any]:
        found = [self.get(ident) for ident in self._store.ids("memory")]
        return [one for one in found if one.until <= now_s or one.namespace in namespaces][:most]

    def find(self, wanted: Any) -> list[Any]:
        words = wanted.query.lower().split() if wanted.by_words else [wanted.query]

        def held(one: Any) -> int:
            text = one.content.lower() if wanted.by_words else one.content
            return sum(word in text for word in words)

        found = [one for one in self._wanted(wanted) if not words or held(one)]
        found.sort(key=lambda one: (held(one), one.created_at, one.id), reverse=True)
        return found[: wanted.limit]

    def tally(self, wanted: Any) -> Any:
        return Counter((one.namespace, one.kind) for one in self._wanted(wanted))

    def idents(self, namespace: str) -> list[str]:
        memories = map(self.get, self._store.ids("memory"))
        return [one.id for one in memories if one.namespace == namespace]

    def _wanted(self, wanted: Any) -> list[Any]:
        found = [self.get(ident) for ident in self._store.ids("memory")]
        return [
            memory
            for memory in found
            if wanted.namespaces is None or memory.namespace in wanted.namespaces
            if not wanted.kinds or memory.kind in wanted.kinds
            if memory.until > wanted.now_s and wanted.since <= memory.created_at
            if not wanted.before or memory.created_at < wanted.before
        ]

    def _change(self, ident: str, after: Any) -> None:
        store = self._store
        with store.lock:
            change = Change("memory", ident, store.read("memory", [ident]).get(ident), after)
            self._durable.change(store, [change], lambda: store.tell("memory", {ident: after}))


class LightStores:
    """What `DurableCalls` asks of all stores together."""

    milvus = None  # no store of it has anything open that is to be left

    def __init__(
        self,
        light: LightStore,
        files: Files,
        register: Register | None,
        candidates: Candidates | None,
    ) -> None:
        self.light = light
        self.files = files
        self.register = register
        self.candidates = candidates

    @property
    def all(self) -> tuple[Any, ...]:
        own = (self.register, self.candidates)
        return (self.files, self.light, *(store for store in own if store is not None))

    @property
    def beside(self) -> tuple[()]:
        return ()

    @property
    def kept_whole(self) -> tuple[Files]:
        return (self.files,)


class MempalaceEngine(JournalledEngine):
    """Stands where the real one does; what a subclass may have otherwise is named first."""

    store_class = LightStore
    segment_bytes = SEGMENT_BYTES
    checkpoint_bytes = CHECKPOINT_BYTES
    token_bytes = 6
    entry_kind = "entry"
    has_register = True

    def catalogue(self) -> Catalogue:
        return load_catalogue(None)

    def drawer(self, arguments: dict[str, Any], part: int) -> dict[str, Any]:
        of = {"part": part, "of": arguments["parts"]}
        return {"who": arguments["who"], "nonce": arguments["nonce"], **of}

    def entry(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"who": arguments["agent_name"], "nonce": arguments["nonce"]}

    def __init__(
        self,
        paths: Paths,
        config: Config,
        _environ: Mapping[str, str],
        kernel: Kernel,
        stamp: Stamp,
        _ownership: Ownership | None = None,
    ) -> None:
        self._paths = paths
        self._kernel = kernel
        self._stamp = stamp
        self._dual = config.journal == "dual"
        self._config = config
        self._progress = 0
        self._here = threading.local()
        self._turns = threading.Lock()
        light = self.store_class(paths.root, kernel, stamp.epoch)
        register = open_register(paths, kernel) if self.has_register else None
        candidates = open_candidates(paths, kernel) if self.has_register else None
        self._stores = LightStores(light, Files(paths.root, kernel), register, candidates)

    def load(self) -> Catalogue:
        journal = Journal.open(
            self._paths.journal, self._kernel, self._stamp, segment_bytes=self.segment_bytes
        )
        stores = self._stores
        recovery = Recovery(
            journal=journal,
            projections=stores.all,
            progress=no_progress,
            dual=self._dual,
            own=frozenset({NAME, CANDIDATES}),
        )
        recovery.scan()
        stores.light.open()
        checkpointer = Checkpointer(journal=journal, bytes_min=self.checkpoint_bytes, first_s=0.0)
        groups = CallGroups(journal)
        memory = DurableCalls(journal, stores, groups, recovery, checkpointer)  # type: ignore[arg-type]
        if stores.register is not None:
            stores.register.epoch = self._stamp.epoch
            memory.owner = OwnerTools(stores.register, groups, self._kernel)
            memory.open_store = lambda: LightMemories(stores.light, groups)
            memory.plugin = plugin_settings(self._config)
            memory.plugin_problem = problem_of(self._config)
            announce(self._config)
        self.remember(memory)
        memory.recover(one_go=0)
        memory.go_on_adopting()
        return self.catalogue()

    def loading_text(self) -> str:
        return "loading"

    def call(self, call: Call) -> Reply:
        assert self._memory is not None, "load() comes first"
        memory = self._memory
        problem = self.not_permitted(call)
        if problem is not None:
            return self.refuse(call, problem)
        with self._turn_of(call) if call.batch is None else call.batch.member():
            self._here.batch = call.batch
            return memory.answer(call, lambda: self._dispatch(memory.groups, call))

    def _turn_of(self, call: Call) -> Any:
        """Let changes of the lanes that run beside each other have turns, as the real engine does.

        Those of a batch need none: each of them changes what no other one does.
        """
        return self._turns if self.has_register and call.tool.lane in CHANGING else nullcontext()

    def batch(self, messages: Sequence[dict[str, Any]]) -> Batch[Any]:
        return Batch(messages, lambda puts: store_or_each(puts, self._store))

    def status(self) -> dict[str, Any]:
        return self._memory.status() if self._memory is not None else {"journal": "on"}

    def search_fingerprint(self) -> str:
        return "light"

    def put_back_s(self, party: str) -> float:
        return 0.0

    def outlives(self) -> str:
        return ""

    def model(self) -> ModelState:
        return ModelState()

    def progress(self) -> int:
        return self._progress

    def replaced(self) -> str:
        return ""

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None
            self._stores.light.close()

    # The tools.

    def _dispatch(self, durable: CallGroups, call: Call) -> Reply:
        own = self.answer_own(call)
        if own is not None:
            return Reply(payload=jsonrpc.encode(own))
        params = call.message["params"]
        told = self.run_tool(
            params["name"].removeprefix("mempalace_"), durable, params["arguments"]
        )
        result = {"content": [{"type": "text", "text": json.dumps(told)}]}
        reply = {"jsonrpc": "2.0", "id": call.message.get("id"), "result": result}
        return Reply(payload=jsonrpc.encode(reply))

    def file(self, params: dict[str, Any]) -> dict[str, Any]:
        """File a drawer that was accepted from another palace."""
        assert self._memory is not None, "load() comes first"
        made = self.run_tool("add_drawer", self._memory.groups, params["arguments"])
        return jsonrpc.result(0, {"content": [{"type": "text", "text": json.dumps(made)}]})

    def run_tool(self, name: str, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self, f"_{name}")(durable, arguments)
        except Exception as error:  # as stock's tools say it; what was made so far stays
            return self.failed(error, arguments)
        return answer

    def failed(self, error: Exception, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {"success": False, "error": repr(error)}

    def _change(self, durable: CallGroups, kind: str, ident: str, after: Any) -> None:
        """Make one storage operation as a seam does it."""
        store = self._stores.light
        with store.lock:
            before = store.read(kind, [ident]).get(ident)
            change = Change(kind, ident, before, after)
            durable.change(store, [change], lambda: store.tell(kind, {ident: after}))
        self._progress += 1

    def _add_drawer(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """File a drawer in parts under ids of its own, and count it in its author's tally.

        One with a `content` is filed as stock has drawers, each time anew.
        """
        if "content" in arguments:
            return self._file_offered(durable, arguments)
        who = arguments["who"]
        ids = [self._kernel.token(self.token_bytes) for _ in range(arguments["parts"])]
        for part, ident in enumerate(ids):
            self._change(durable, "drawer", ident, self.drawer(arguments, part))
        tally = self._stores.light.read("tally", [who]).get(who, {"count": 0})
        self._change(durable, "tally", who, {"count": tally["count"] + 1})
        return {"success": True, "ids": ids}

    def _file_offered(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        ident = f"drawer_{self._kernel.token(self.token_bytes)}"
        metadata = {name: value for name, value in arguments.items() if name != "content"}
        payload = {"document": arguments["content"], "metadata": metadata, "vector": ""}
        self._change(durable, OFFERED, ident, payload)
        return {"success": True, "drawer_id": ident}

    def _diary_write(self, durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """File an entry, together with whoever else does."""
        body = self.entry(arguments)
        ident, group = self._kernel.token(self.token_bytes), durable.current()
        if self._here.batch is None or group is None:
            self._change(durable, self.entry_kind, ident, body)
        else:
            self._here.batch.put((ident, body, group))
        return {"success": True}

    def _store(self, puts: Sequence[PendingWrite[Any]]) -> None:
        """Store the entries of several calls at once."""
        assert self._memory is not None, "load() comes first"
        store, durable, kind = self._stores.light, self._memory.groups, self.entry_kind
        bodies = {put.write[0]: put.write[1] for put in puts}
        changes = [Change(kind, ident, None, body) for ident, body in bodies.items()]
        with store.lock, durable.on_behalf({put.write[0]: put.write[2] for put in puts}):
            durable.change(store, changes, lambda: store.tell(kind, bodies))

    def _get_drawer(self, _durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        tally = self._stores.light.read("tally", [arguments["who"]])
        return {"success": True, "count": tally.get(arguments["who"], {"count": 0})["count"]}

    def _hook_settings(self, _durable: CallGroups, arguments: dict[str, Any]) -> dict[str, Any]:
        """Do something outside of the palace, which can't be taken back."""
        fd = self._kernel.open_append(f"{self._paths.root}.effects")
        os.write(fd, f"{arguments['nonce']}\n".encode())
        os.close(fd)
        return {"success": True}
