"""palace's own tools, for sessions of a palace with workspaces; and stock's, for confined ones.

So are the memory contract's operations, for whoever asks over HTTP (palace/memory/operations.py).

The caller is known from the session, never from an argument.  Memories go through the gate
(palace/memory/gate.py), within the call's group and its turn: what it stores and what it audits is
there together or not at all, and the tree by which it decides can't change meanwhile.
"""

import itertools
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import attrs

from palace.engine.durability.groups import CallGroups
from palace.engine.durability.spaces import RegisteredSpaces
from palace.engine.stores.register import AUDIT, NAMESPACE, Register
from palace.kernel.kernel import Kernel
from palace.kernel.wall import wall_s
from palace.memory import confined
from palace.memory.expiry import written
from palace.memory.gate import Decree, Gate, MemoryStore, OtherStore
from palace.memory.held import HeldStore, id_of
from palace.memory.memory import NAMESPACE as IN_NAMESPACE
from palace.memory.memory import Memory
from palace.memory.moving import Moving
from palace.memory.redact import redacted_values
from palace.memory.shown import shown, shown_row
from palace.protocol import jsonrpc
from palace.protocol.delegating import TASK_TOOLS, Speaker
from palace.protocol.errors import (
    Forbidden,
    InvalidMemory,
    PalaceError,
    PluginUnavailable,
    StoreUnavailable,
)
from palace.protocol.policy import DEFAULT, OFF, Policy
from palace.protocol.principals import Principal, is_confined
from palace.protocol.request import ToolCall, translated
from palace.protocol.resolver import everything, is_there, over, readable, writable
from palace.protocol.tools import (
    BASIC_TOOLS,
    CONTRACT_TOOLS,
    FILE_TEXTS,
    MOVING_TOOLS,
    STANDS_FOR,
    Kind,
    Lane,
)
from palace.protocol.workspaces import LIFE_BYTES

if TYPE_CHECKING:
    from palace.plugin.elsewhere import Elsewhere

Json = dict[str, object]
ID_BYTES = 16
SWEEP, DROP = "palace_sweep", "palace_memory_drop"
DROP_S = 5.0  # after which no further namespace is asked for in the same call
NOTHING_ENDED_S = -1.0  # when no memory had been over yet
SHOWN_MAX = 20
SWEPT_MAX = 64  # records of memories, or namespaces, in one turn
_REGISTERED = frozenset(CONTRACT_TOOLS) - set(STANDS_FOR)  # which need no drawers

logger = logging.getLogger("palace.engine")


class OpenStore(MemoryStore, Protocol):
    """Memories as an engine keeps them."""

    def refusal(self, call: ToolCall) -> Json | None:
        """Return the reply to a call that the engine can't carry out now, None where it can."""
        ...

    def held(self, call: ToolCall) -> AbstractContextManager[None]:
        """Hold the store for a call, as the engine holds it for its own."""
        ...

    def look(self, idents: Sequence[str]) -> Mapping[str, Memory]:
        """Return the memories among drawers, by the ids that are asked for; holds it itself."""
        ...

    def tasks(self, call: ToolCall, speaker: Speaker) -> Json:
        """Return what one of `protocol.delegating.TASK_TOOLS` tells; holds nothing."""
        ...


@attrs.frozen(eq=False)
class OwnTools:
    """Answers calls of `protocol.tools.OWN_TOOLS` for one palace; threads share one."""

    register: Register
    groups: CallGroups
    kernel: Kernel
    store: OpenStore
    policy: Policy = DEFAULT
    clock: Callable[[], float] = wall_s
    elsewhere: "Elsewhere | None" = None  # None: no server holds namespaces in this one's place
    server: "Elsewhere | None" = None  # the same, or one that is prepared for it

    def answer(self, principal: Principal, call: ToolCall, *, read_only: bool) -> Json:
        """Return the reply to a call as JSON-RPC; where it failed, what it did is taken back.

        A call of stock's tools has to be a confined session's.
        """
        try:
            if read_only and call.tool.kind is not Kind.QUERY:
                raise Forbidden(f"{call.name} changes the palace, and this session may only read.")
            names = _RIGHTS.get(call.name)
            if names is not None:
                told = self._names(principal, names)
            else:
                refused = self.store.refusal(call) if call.name not in _REGISTERED else None
                if refused is not None:
                    return refused
                is_task = call.name in TASK_TOOLS
                told = (self._tasks if is_task else self._pass)(principal, call)
        except InvalidMemory as problem:
            text = f"{call.name} did nothing: {problem.message}."
            return jsonrpc.failure(call.id, InvalidMemory(text))
        except PalaceError as problem:
            self._take_back(problem.message)
            return jsonrpc.failure(call.id, problem)
        except (sqlite3.Error, OSError) as error:
            logger.error("%s failed: %s", call.name, type(error).__name__)  # noqa: TRY400
            text = f"{call.name} failed: a store can't be read or written. See palace doctor."
            self._take_back(text)
            return jsonrpc.failure(call.id, StoreUnavailable(text))
        except BaseException:
            self._take_back(f"{call.name} failed. Nothing was changed; see the broker's log.")
            raise
        indent = 2 if call.name in BASIC_TOOLS else None  # as stock writes it
        content = [{"type": "text", "text": json.dumps(told, indent=indent, ensure_ascii=False)}]
        return jsonrpc.result(call.id, {"content": content})

    def marked(self, reply: Json) -> Json:
        """Return the reply of a tool of stock's with the memories in it as they may be shown."""
        result = reply.get("result")
        content = result.get("content") if isinstance(result, dict) else None
        if isinstance(content, list) and content and isinstance(content[0], dict):
            text = content[0].get("text")
            if isinstance(text, str):
                content[0]["text"] = shown(text, self._look, self.clock(), self.policy.wrap)
        return reply

    def _look(self, idents: Sequence[str]) -> Mapping[str, Memory]:
        """Return the memories among drawers; what is over with its namespace is none any more."""
        return {
            ident: memory
            for ident, memory in self.store.look(idents).items()
            if self._is_here(memory.namespace)
        }

    def _is_here(self, namespace: str) -> bool:
        """Tell whether a namespace is there, and what is stored here of it is no copy left."""
        if self.elsewhere is not None and self.elsewhere.holds(namespace):
            return False
        return is_there(self.register.tree(), namespace, self.clock())

    def marked_row(self, ident: str, text: str, metadata: Mapping[str, object]) -> str | None:
        """Return a record's text as it may be shown, None where it may not."""
        namespace = str(metadata.get(IN_NAMESPACE) or "")
        if not self._is_here(namespace):
            return None
        return shown_row(ident, text, metadata, self.clock(), self.policy.wrap)

    def _names(self, principal: Principal, names: "Callable[..., Iterable[str]]") -> Json:
        tree = self.register.tree()
        found = names(tree, principal.workspace) if principal.workspace else everything(tree)
        return {
            "workspace": principal.workspace,
            "namespaces": [{"name": name, "kind": name.partition(":")[0]} for name in found],
        }

    def _tasks(self, principal: Principal, call: ToolCall) -> Json:
        """Let a call speak of tasks, as whom it may; what a confined one says has no secrets."""
        tree = self.register.tree()
        confined = is_confined(tree, principal)
        speaker = Speaker(tree=tree, workspace=principal.workspace, confined=confined)
        if confined and self.policy.redact != OFF and call.name in FILE_TEXTS:
            message = {**call.message, "params": redacted_values(call.message["params"])}
            call = translated(call, message)
        return self.store.tasks(call, speaker)

    def _pass(self, principal: Principal, call: ToolCall) -> Json:
        """Let a call through the gate."""
        # One that waits for a server must hold nothing meanwhile.
        is_apart = call.tool.lane is Lane.REMOTE
        if call.name == DROP:
            return self._drop(call)
        held = nullcontext() if is_apart else self.store.held(call)
        with held, self.groups.for_memories():
            now_s = self.clock()
            gate = Gate(
                tree=self.register.tree(),  # here, and not before: it may have changed till now
                principal=principal,
                store=HeldStore(store=self.store, call=call) if is_apart else self.store,
                audit=self._audit,
                new_id=self._new_id(call),
                now_s=now_s,
                at=written(datetime.fromtimestamp(now_s, UTC)),
                policy=self.policy,
                elsewhere=self._elsewhere(call),
            )
            if call.name == SWEEP:
                return self._sweep(gate)
            if call.name in CONTRACT_TOOLS:
                return self._operate(gate, call)
            if call.name in MOVING_TOOLS:
                return Moving(gate=gate, server=self.server).answer(call.name, call.arguments)
            if call.name in BASIC_TOOLS:
                told = confined.answer(gate, call.name, call.arguments)
                return {**told, "warnings": gate.warnings} if gate.warnings else told
            return _GATED[call.name](gate, call.arguments)

    def _elsewhere(self, call: ToolCall) -> OtherStore | None:
        if self.elsewhere is None or call.name == SWEEP:  # what is over there is the server's
            return None
        return self.elsewhere if call.tool.lane is Lane.REMOTE else self.elsewhere.out_of_reach

    def _new_id(self, call: ToolCall) -> Callable[[], str]:
        """Return what makes ids: for a server, of what the call is known by over deaths.

        A call that is sent again then stores the same memory again, and no second one.
        """
        group = self.groups.current()
        if self.elsewhere is None or call.tool.lane is not Lane.REMOTE or group is None:
            return lambda: self.kernel.token(ID_BYTES)
        numbers = itertools.count()
        return lambda: id_of(group.key, next(numbers))

    def _operate(self, gate: Gate, call: ToolCall) -> Json:
        from palace.memory.operations import Operations  # imports pydantic, for this alone

        operations = Operations(
            gate=gate,
            spaces=RegisteredSpaces(register=self.register, groups=self.groups, at=gate.at),
            new_id=lambda: str(UUID(self.kernel.token(ID_BYTES), version=4)),
            new_life=lambda: self.kernel.token(LIFE_BYTES),
        )
        return operations.answer(call.name, call.arguments)

    def _sweep(self, gate: Gate) -> Json:
        """Forget a part of what is over; namespaces that end have ended once they are empty.

        The answer says `more` where nothing was forgotten and there are further namespaces, and
        `server` where a server has to forget some, too (`_drop`): until then they haven't ended.
        """
        ending = sorted(over(gate.tree, gate.now_s), key=self._is_at_server)
        part = ending[:SWEPT_MAX]
        told: Json = {"server": True} if any(map(self._is_at_server, ending)) else {}
        swept = gate.sweep(part, SWEPT_MAX)
        if not swept:
            here = [name for name in part if not self._is_at_server(name)]
            for name in here:
                self.register.put(self.groups, NAMESPACE, name, None)
            if here and len(part) < len(ending):
                told["more"] = True
        return {"forgotten": swept, **told}

    def _is_at_server(self, name: str) -> bool:
        return self.server is not None and self.server.holds(name)

    def _drop(self, call: ToolCall) -> Json:
        """Have the server forget namespaces that end; one that is empty here, too, has ended then.

        Answers how many have ended, which have not, and why the server didn't forget them.
        """
        ended, why, server = 0, "", self.server
        now_s = self.clock()
        left = list(filter(self._is_at_server, over(self.register.tree(), now_s)))
        until_s = server.client.clock() + DROP_S if server is not None else 0.0
        for name in tuple(left):
            assert server is not None, "it holds it"
            if server.client.clock() >= until_s:
                break
            try:
                server.drop(name)
            except PluginUnavailable as problem:  # nor would it answer for the others
                why = problem.message
                break
            except (Forbidden, InvalidMemory) as problem:
                why = problem.message
                continue
            with self.store.held(call), self.groups.for_memories():
                if self.store.over([name], NOTHING_ENDED_S, 1):
                    continue  # it is swept first
                self.register.put(self.groups, NAMESPACE, name, None)
            left.remove(name)
            ended += 1
        return {"ended": ended, "left": left[:SHOWN_MAX], "why": why}

    def _audit(self, decree: Decree) -> None:
        ident = self.kernel.token(ID_BYTES)
        row = {"id": ident, **attrs.asdict(decree)}
        self.register.put(self.groups, AUDIT, ident, row)

    def _take_back(self, why: str) -> None:
        group = self.groups.current()
        if group is not None and group.changed:
            self.groups.fail(why)


_RIGHTS: Mapping[str, Callable[..., Iterable[str]]] = {
    "palace_list_readable_namespaces": readable,
    "palace_list_writable_namespaces": writable,
}
_GATED: Mapping[str, Callable[[Gate, Mapping[str, object]], Json]] = {
    "palace_commit_memory": Gate.commit,
    "palace_commit_summary": Gate.commit_summary,
    "palace_search_memory": Gate.search,
    "palace_forget_memory": Gate.forget,
}
