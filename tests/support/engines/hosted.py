"""The real engine in a process of its own, since importing it rewires stdout for good."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from palace.engine.api import Call, DurableCallback, Reply
from palace.engine.embedding.supply import ModelState
from palace.protocol.jsonrpc import Catalogue

SERVER = """
import contextlib, functools, importlib, json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
sys.setswitchinterval(0.00005)  # so that threads meet in many ways
out = os.fdopen(os.dup(1), "w")
from palace.ownership import lock
from palace.ownership.data_locks import take_other_locks
from palace.ownership.epoch import take_epoch
from palace.ownership.keys import ANY_SEQ
from palace.protocol.keyring import Key, Keyring
from palace.engine.api import Call
from palace.protocol.principals import Principal
from palace.protocol.request import tool_call
from palace.journal.record import Stamp
from palace.settings.config import load_config
from palace.engine.hosting.mempalace import MempalaceEngine
from palace.engine.hosting.turns import Turns
from palace.kernel.kernel import Kernel
from palace.settings.paths import Paths
kernel, paths = Kernel(), Paths(sys.argv[1])
lock.check_directory(paths, kernel, os.environ)
owner = lock.take_lock(paths, kernel)
config = load_config(paths, os.environ, kernel)
take_other_locks(owner, config, os.environ, kernel)
take_epoch(owner, kernel)
keys = Keyring([Key(b"t" * 32)], ANY_SEQ)
who = {"writer": owner.incarnation, "origin": owner.palace_id}
stamp = Stamp(epoch=owner.epoch, keys=keys, **who)
engine = MempalaceEngine(paths, config, os.environ, kernel, stamp)
def made(message, who, **more):
    principal = who and Principal(**who)
    return Call(request=tool_call(message), principal=principal, **more)
def answer(call):
    reply = engine.call(call)
    return [reply.payload.decode() if reply.payload is not None else None, reply.outdated]
def call_together(calls):
    batch = engine.batch([call["message"] for call in calls])
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: answer(made(batch=batch, **call)), calls))
def call_apart(calls):
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: answer(made(**call)), calls))
def call_between(call, others):
    # Answer a call, and others that come when it yields for the third time.  Tell how often it had
    # yielded when they were answered, and how often in all.
    turns, ready, yielded, seen = engine._state.turns, threading.Event(), [], []
    stock = Turns.others_first
    @contextlib.contextmanager
    def others_first(self, lock, party):
        yielded.append(threading.get_ident())
        with stock(self, lock, party):
            if len(yielded) == 3:
                ready.set()
                while others and not (seen or turns.waiting or turns._holder):
                    time.sleep(0.001)
            yield
    Turns.others_first = others_first
    try:
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(lambda: answer(made(**call)))
            while not running.done() and not ready.wait(0.05):
                continue
            for other in others if ready.is_set() else []:
                seen.append([call_together([other])[0], len(yielded)])
            return [running.result(), seen, len(yielded)]
    finally:
        Turns.others_first = stock
def call_before(call, place, others):
    # Answer a call, and others in the moment in which it first comes to a function of stock's.
    module, _, name = place.rpartition(".")
    owner, seen = importlib.import_module(module), []
    stock = getattr(owner, name)
    def first(*args, **options):
        threads = ThreadPoolExecutor(max(1, len(others)))
        asked = [threads.submit(call_together, [other]) for other in others if not seen]
        seen.extend([future.result(20)[0] for future in asked])
        return stock(*args, **options)
    setattr(owner, name, first)
    try:
        return [answer(made(**call)), seen]
    finally:
        setattr(owner, name, stock)
def watch_embedding():
    # Count from now on the texts that are embedded, and those of them in the turn of a change.
    from palace.engine.embedding import inference
    stock = inference.forward
    @functools.wraps(stock)
    def watched(model, documents, *rest):
        holder = engine._state.turns._holder
        in_turn = holder is not None and holder.mark is threading.current_thread()
        embedded["in_turn" if in_turn else "ahead"] += len(documents)
        return stock(model, documents, *rest)
    inference.forward = watched
embedded = {"ahead": 0, "in_turn": 0}
def refuse(where):
    # Let the model or the store refuse whatever holds the word poison, or let stock close the store
    # whenever something is embedded, which it does for a reader who finds it changed.
    from chromadb.api.rust import RustBindingsAPI
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2
    from palace.engine.embedding import inference
    places = {"store": (RustBindingsAPI, "_upsert")}
    owner, name = places.get(where, (inference, "forward"))
    stock = getattr(owner, name)
    @functools.wraps(stock)
    def refusing(*args, **options):
        if where == "closing":
            sys.modules["mempalace.mcp_server"]._force_chroma_cache_reset()
        elif "poison" in str(args) + str(options):
            raise ValueError("poison")
        return stock(*args, **options)
    setattr(owner, name, refusing)
def turns():
    # Return how often a reader took stock's lock since the last time.
    lock = sys.modules["mempalace.mcp_server"]._HTTP_REQUEST_LOCK
    if not hasattr(lock, "turns"):
        stock = lock.acquire_read
        def counting():
            lock.turns += 1
            stock()
        lock.acquire_read = counting
    count, lock.turns = getattr(lock, "turns", 0), 0
    return count
for line in sys.stdin:
    name, arguments = json.loads(line)
    if name == "call":
        value = answer(made(**arguments))
    elif name == "refuse":
        value = refuse(**arguments)
    elif name == "turns":
        value = turns()
    elif name == "watch_embedding":
        value = watch_embedding()
    elif name == "embedded":
        value = embedded
    elif name == "call_between":
        value = call_between(**arguments)
    elif name == "call_before":
        value = call_before(**arguments)
    elif name == "call_apart":
        value = call_apart(**arguments)
    elif name == "call_together":
        value = call_together(**arguments)
    else:
        value = getattr(engine, name)(**arguments)
    if name == "load":
        value = value.to_json().decode()
    print(json.dumps(value), file=out, flush=True)
"""


def _plain(call: Call) -> dict[str, Any]:
    """Return a call as JSON; its batch is made on the other side."""
    return {
        "message": call.message,
        "session": call.session,
        "ordinal": call.ordinal,
        "read_only": call.read_only,
        "maybe_ran": call.maybe_ran,
        "epoch": call.epoch,
        "party": call.party,
        "who": None if call.principal is None else attrs.asdict(call.principal),
    }


def _reply(payload: str | None, outdated: bool) -> Reply:
    return Reply(payload=None if payload is None else payload.encode(), outdated=outdated)


class HostedEngine:
    """Speaks to a real `MempalaceEngine` over pipes; the same methods; end it."""

    def __init__(self, home: Path, palace: Path, environ: dict[str, str] | None = None) -> None:
        palace.parent.mkdir(parents=True, exist_ok=True)
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("MEMPAL", "XDG_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER, str(palace)],
            env=kept | {"HOME": str(home)} | (environ or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _ask(self, name: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def load(self) -> Catalogue:
        return Catalogue.from_json(self._ask("load"))

    def call(self, call: Call) -> Reply:
        return _reply(*self._ask("call", **_plain(call)))

    def refuse(self, where: str) -> None:
        """Let the `model` or the `store` refuse what holds the word poison; before `load`.

        `closing` lets stock close the store whenever something is embedded.
        """
        self._ask("refuse", where=where)

    def call_together(self, calls: Sequence[Call]) -> list[Reply]:
        """Answer calls as one batch, each in a thread of its own."""
        answers = self._ask("call_together", calls=[_plain(call) for call in calls])
        return [_reply(*answer) for answer in answers]

    def call_apart(self, calls: Sequence[Call]) -> list[Reply]:
        """Answer calls at once, each in a thread of its own and in no batch."""
        answers = self._ask("call_apart", calls=[_plain(call) for call in calls])
        return [_reply(*answer) for answer in answers]

    def call_between(self, call: Call, others: Sequence[Call]) -> tuple[Reply, list[Any], int]:
        """Answer a call, and others that come when it yields for the third time.

        Returns each other's reply with how often the call had yielded by then, and in all.
        """
        arguments = {"call": _plain(call), "others": [_plain(other) for other in others]}
        last, seen, turns = self._ask("call_between", **arguments)
        return _reply(*last), [(_reply(*answer), by_then) for answer, by_then in seen], turns

    def call_before(
        self, call: Call, place: str, others: Sequence[Call]
    ) -> tuple[Reply, list[Reply]]:
        """Answer a call, and others in the moment in which it first comes to a function of stock's.

        One that would have to wait for the call fails it after 20 seconds.
        """
        asked = [_plain(other) for other in others]
        last, seen = self._ask("call_before", call=_plain(call), place=place, others=asked)
        return _reply(*last), [_reply(*answer) for answer in seen]

    def turns(self) -> int:
        """Return how often a reader took stock's lock since this was asked the last time."""
        return int(self._ask("turns"))

    def watch_embedding(self) -> None:
        """Count the texts that are embedded from now on; see `embedded`."""
        self._ask("watch_embedding")

    def embedded(self) -> dict[str, int]:
        """Return how many texts were embedded `in_turn`, in the turn of a change, and `ahead`."""
        return dict(self._ask("embedded"))

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        raise NotImplementedError("a callback doesn't cross a pipe")

    def acknowledge(self, session: str, upto: int) -> None:
        self._ask("acknowledge", session=session, upto=upto)

    def end_session(self, session: str) -> None:
        self._ask("end_session", session=session)

    def status(self) -> dict[str, Any]:
        return dict(self._ask("status"))

    def search_fingerprint(self) -> str:
        return str(self._ask("search_fingerprint"))

    def resumes(self) -> bool:
        return True

    def put_back_s(self, party: str) -> float:
        return 0.0

    def leave(self) -> None:
        self._ask("leave")

    def adopts(self) -> bool:
        return bool(self._ask("adopts"))

    def is_in_place(self) -> bool:
        return True

    def outlives(self) -> str:
        return ""

    def model(self) -> ModelState:
        return ModelState()

    def searches(self) -> frozenset[str]:
        return frozenset({"embedding", "fts"})

    def progress(self) -> int:
        return int(self._ask("progress"))

    def replaced(self) -> str:
        return str(self._ask("replaced"))

    def loading_text(self) -> str:
        return str(self._ask("loading_text"))

    def close(self) -> None:
        self._ask("close")

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
