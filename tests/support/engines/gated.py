"""An engine without a store, for tests of the broker alone: calls last until the test ends them.

It keeps the contract of palace/engine/api.py, which tests/engine/test_contract.py checks on it and
on the real one.
"""

import json
import threading
from dataclasses import dataclass, field
from typing import Any

from palace.engine.api import Call, DurableCallback, Reply
from palace.engine.durability.refusals import refused
from palace.engine.embedding.supply import ModelState
from palace.protocol.errors import StoreUnavailable
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.principals import Principal
from palace.protocol.resend import Verdict
from palace.protocol.resolver import Tree
from palace.protocol.tools import Kind
from palace.settings.catalogue import load_catalogue

OUTDATED = {"code": -32005, "message": "outdated"}


@dataclass
class GatedEngine:
    """`add_drawer` appends to `written`; a call whose argument `hold` is named waits for it."""

    fail_load: str = ""
    written: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    read_only_calls: list[bool] = field(default_factory=list)
    beneath: list[str] = field(default_factory=list)  # what each call was held to
    clients: list[str] = field(default_factory=list)  # who made it
    parties: list[str] = field(default_factory=list)  # whose it is
    put_back: dict[str, float] = field(default_factory=dict)
    outdated: bool = False
    reopen: str = ""  # why its stores must be opened again
    stuck: bool = False
    model_pending: bool = False
    journalled: bool = False
    outlived: str = ""
    adopting: bool = False
    change: str = ""
    tree: Tree | None = field(default_factory=Tree)
    remotes: bool = False
    principals: list[Principal | None] = field(default_factory=list)  # of each call
    outcomes: dict[tuple[str, int], bytes] = field(default_factory=dict)  # an earlier owner's
    outcomes_for: str = ""  # the workspace for which those were made
    closed: bool = False
    left: int = 0  # how often it was told that its owner leaves
    may_load: threading.Event = field(default_factory=threading.Event)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _progress: int = 0

    def __post_init__(self) -> None:
        self.may_load.set()

    def gate(self, name: str) -> threading.Event:
        with self._lock:
            return self.gates.setdefault(name, threading.Event())

    def load(self) -> Catalogue:
        assert self.may_load.wait(30)
        if self.fail_load:
            raise StoreUnavailable(self.fail_load)
        return load_catalogue(None)

    def loading_text(self) -> str:
        return "loading"

    def call(self, call: Call) -> Reply:
        message, read_only = call.message, call.read_only
        if call.maybe_ran and call.tool.kind is not Kind.QUERY:
            return refused(call, Verdict.UNKNOWN)
        params = message["params"]
        arguments = params.get("arguments") or {}
        name = arguments.get("name", params["name"])
        with self._lock:
            self.begun.append(name)
            self.read_only_calls.append(read_only)
            self.beneath.append(call.request.beneath)
            self.clients.append(call.client)
            self.parties.append(call.party)
            self.principals.append(call.principal)
        if "hold" in arguments:
            assert self.gate(arguments["hold"]).wait(30)
        if self.outdated and params["name"] == "mempalace_add_drawer":
            reply = {"jsonrpc": "2.0", "id": message.get("id"), "error": OUTDATED}
            return Reply(payload=json.dumps(reply).encode(), outdated=True)
        if self.reopen:
            reply = {"jsonrpc": "2.0", "id": message.get("id"), "error": OUTDATED}
            return Reply(payload=json.dumps(reply).encode(), reopen=self.reopen)
        if params["name"] == "mempalace_add_drawer":
            with self._lock:
                self.written.append(name)
        with self._lock:
            self._progress += 1
        result = {"content": [{"type": "text", "text": json.dumps({"name": name})}]}
        reply = {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
        return Reply(payload=json.dumps(reply).encode(), stuck=self.stuck)

    def batch(self, _messages: object) -> None:
        return None

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        raise AssertionError("without a journal no reply has a seq")

    def acknowledge(self, session: str, upto: int) -> None:
        return

    def end_session(self, session: str) -> None:
        return

    def leave(self) -> None:
        self.left += 1

    def adopt(self) -> int:
        return 0

    def adopts(self) -> bool:
        return self.adopting

    def is_in_place(self) -> bool:
        return True

    def save(self, target: str) -> bool:
        return False

    def workspaces(self) -> Tree | None:
        return self.tree

    def pulls(self) -> bool:
        return self.remotes

    def status(self) -> dict[str, Any]:
        return {"journal": "off"}

    def search_fingerprint(self) -> str:
        return "light"

    def recorded(self, session: str, ordinal: int, workspace: str) -> bytes | None:
        is_theirs = workspace == self.outcomes_for
        return self.outcomes.get((session, ordinal)) if is_theirs else None

    def resumes(self) -> bool:
        return self.journalled

    def put_back_s(self, party: str) -> float:
        return self.put_back.get(party, 0.0)

    def outlives(self) -> str:
        return self.outlived

    def model(self) -> ModelState:
        return ModelState(pending=self.model_pending)

    def searches(self) -> frozenset[str]:
        return frozenset({"embedding", "fts"})

    def progress(self) -> int:
        return self._progress

    def replaced(self) -> str:
        return self.change

    def close(self) -> None:
        self.closed = True
