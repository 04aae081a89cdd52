"""What an engine answers through its journal."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from palace.engine.api import Call, DurableCallback, Reply
from palace.engine.durability import refusals
from palace.engine.durability.calls import DurableCalls
from palace.engine.stores.candidates import NAME as CANDIDATES
from palace.engine.stores.register import NAME as REGISTER
from palace.journal.purge import PURGED_REPLY
from palace.journal.record import JsonObject
from palace.protocol import jsonrpc
from palace.protocol.errors import (
    Forbidden,
    InvalidMemory,
    PalaceError,
    StoreUnavailable,
)
from palace.protocol.policy import ALL, DEFAULT, shows_candidates, shows_own
from palace.protocol.principals import OWNER, UNKNOWN_PRINCIPAL, is_confined, refusal_of
from palace.protocol.request import translated
from palace.protocol.resolver import Tree
from palace.protocol.tools import (
    ACCEPTING,
    CANDIDATE_TOOLS,
    FEDERATION_TOOLS,
    FILE_TEXTS,
    MOVING_TOOLS,
    OWN_TOOLS,
    OWNER_TOOLS,
    SHOW_DRAWERS,
    Kind,
)

if TYPE_CHECKING:
    from palace.engine.durability.own_tools import OwnTools

SEARCHES = frozenset({"embedding", "fts"})  # all backends that have memories keep an index of words
# The owner's that are about memories, and own_tools' therefore.
_OWN_TOOLS = frozenset({"palace_sweep", *MOVING_TOOLS})


class JournalledEngine:
    """What an engine answers through its journal; `_memory` is None while there is none.

    For engines to inherit from (palace/engine/api.py has the contract).
    """

    _memory: DurableCalls | None = None
    _leaves: bool = False

    def remember(self, memory: DurableCalls) -> None:
        """Answer through a journal that has been opened; nothing is taken back before this."""
        self._memory = memory
        if self._leaves:  # it was told before there was a journal to say it in
            memory.journal.leave()

    def workspaces(self) -> Tree | None:
        memory = self._memory
        if memory is None or REGISTER in memory.health.left_names:
            return None
        if memory.owner is None:
            return Tree()
        return memory.owner.register.tree()

    def pulls(self) -> bool:
        memory = self._memory
        if memory is None or CANDIDATES in memory.health.left_names:
            return False
        return memory.owner is not None and memory.stores.candidates.has_remotes()

    def searches(self) -> frozenset[str]:
        memory = self._memory
        return SEARCHES if memory is not None and not memory.health.left else frozenset()

    def not_permitted(self, call: Call) -> Forbidden | None:
        """Say why whoever calls may not, as the tree is now."""
        is_owner = call.principal == OWNER
        if is_owner and call.tool.kind is Kind.QUERY:
            return None  # at once: this is asked at each call
        tree = self.workspaces()
        if is_owner:
            return self._reserved(tree or Tree(), call)
        if call.principal is None or tree is None:
            return Forbidden(UNKNOWN_PRINCIPAL)
        text = refusal_of(tree, call.principal, call.request.name)
        if text:
            return Forbidden(text)
        return None if is_confined(tree, call.principal) else self._reserved(tree, call)

    def refuse(self, call: Call, problem: PalaceError) -> Reply:
        """Return the reply to a call that may not run now."""
        memory = self._memory
        verdict = refusals.unjournalled(call) if memory is None else memory.verdict_to_tell(call)
        return refusals.turned_away(call, problem, verdict)

    def _reserved(self, tree: Tree, call: Call) -> Forbidden | None:
        """Say why a plain tool may not write what only the gate may."""
        if not tree.has_memories or call.tool.kind is Kind.QUERY:
            return None
        return _kept_for_the_gate(call.request.name, call.request.arguments)

    def answer_own(self, call: Call) -> JsonObject | None:
        """Return the reply to a call of palace's own tools, or of a confined session; else None.

        Where there is no workspace there are no tools for them: stock says so.
        """
        name, principal = call.request.name, call.principal
        if name in OWNER_TOOLS:
            return self._answer_owner(call)
        if name in CANDIDATE_TOOLS:
            return self._answer_candidates(call)
        if principal is None or (principal == OWNER and name not in OWN_TOOLS):
            return None
        tree = self.workspaces()
        if self._memory is None or tree is None:
            return None
        if not is_confined(tree, principal) and (
            name not in OWN_TOOLS or not shows_own(self._memory.policy.own_tools, tree)
        ):
            return None
        own = self._memory.own_tools()
        if own is None:
            return None
        return own.answer(principal, call.request, read_only=call.read_only)

    def cleanly(self, call: Call, answer: Callable[[Call], Reply]) -> Reply:
        """Answer a call as the owner lets it be filed: where they said so, without secrets."""
        policy = self._memory.policy if self._memory is not None else DEFAULT
        if policy.redact != ALL or call.request.name not in FILE_TEXTS:
            return answer(call)
        from palace.memory.redact import redacted_values

        try:
            message = {**call.message, "params": redacted_values(call.message["params"])}
        except InvalidMemory as problem:
            return self.refuse(call, problem)
        return answer(attrs.evolve(call, request=translated(call.request, message)))

    def _answer_candidates(self, call: Call) -> JsonObject | None:
        """Return the reply to a call of an agent's about candidates; None where there are none."""
        if self._memory is None or not self._has_candidate_tools():
            return None
        tools = self._memory.candidate_tools(self._file)
        return tools.answer(call.request, read_only=call.read_only)

    def _has_candidate_tools(self) -> bool:
        own_tools = (self._memory.policy if self._memory is not None else DEFAULT).own_tools
        return shows_candidates(own_tools, pulls=self.pulls())

    def to_embed(self, call: Call) -> JsonObject | None:
        """Return the message of stock's by which a call of lane LARGE files its text.

        That is its own, but for a candidate's text; None where nothing is known of what is filed.
        """
        name, memory = call.request.name, self._memory
        if name not in ACCEPTING:
            return call.message
        is_hidden = name in CANDIDATE_TOOLS and not self._has_candidate_tools()
        if memory is None or is_hidden or self.not_permitted(call) is not None:
            return None
        decisions = memory.candidate_tools(self._file).decisions
        filing = decisions.foreseen(call.request.arguments)
        if filing is None:
            return None
        return {"params": {"name": filing.tool, "arguments": self._clean(filing.arguments)}}

    def _file(self, tool: str, arguments: JsonObject) -> JsonObject:
        """File what was accepted as an agent of the owner's would, within this thread's call."""
        tree = self.workspaces()
        problem = _kept_for_the_gate(tool, arguments) if tree and tree.has_memories else None
        if problem is not None:
            raise problem
        return self.file({"name": tool, "arguments": self._clean(arguments)})

    def file(self, params: JsonObject) -> JsonObject:
        """Carry a call of stock's out within the one that this thread runs; return its reply."""
        raise NotImplementedError

    def _clean(self, arguments: JsonObject) -> JsonObject:
        """Return what is accepted as the owner lets texts be filed."""
        if self._memory is None or self._memory.policy.redact != ALL:
            return arguments
        from palace.memory.redact import redacted_values

        return {name: redacted_values(value) for name, value in arguments.items()}

    def showing(self, call: Call) -> "OwnTools | None":
        """Return what knows memories, for a tool of stock's that shows some; None where none is."""
        tree = self.workspaces() if call.request.name in SHOW_DRAWERS else None
        if self._memory is None or tree is None or not tree.has_memories:
            return None
        return self._memory.own_tools()

    def _answer_owner(self, call: Call) -> JsonObject:
        is_own = call.request.name in _OWN_TOOLS
        own = self._memory.own_tools() if is_own and self._memory else None
        if own is not None:
            return own.answer(OWNER, call.request, read_only=call.read_only)
        if call.request.name in FEDERATION_TOOLS and self._memory is not None:
            federation = self._memory.federation(self._file)
            return federation.answer(call.request, read_only=call.read_only)
        if self._memory is not None and self._memory.owner is not None:
            return self._memory.owner.answer(call.request, read_only=call.read_only)
        text = (
            "Workspaces are kept by palace's journal, and this palace has none open: "
            "palace status says why. To begin one: palace config set journal=on"
        )
        return jsonrpc.failure(call.request.id, StoreUnavailable(text))

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        assert self._memory is not None, "a reply has a seq only where there is a journal"
        self._memory.when_durable(seq, callback)

    def acknowledge(self, session: str, upto: int) -> None:
        if self._memory is not None:
            self._memory.journal.acknowledge(session, upto)

    def recorded(self, session: str, ordinal: int, workspace: str) -> bytes | None:
        text = self._memory.journal.reply(session, ordinal) if self._memory is not None else None
        if self._memory is None or text is None or text == PURGED_REPLY:
            return None
        if self._memory.journal.reply_for(session, ordinal) != workspace:
            return None
        return text.encode("utf-8", "surrogatepass") or None

    def resumes(self) -> bool:
        return self._memory is not None

    def end_session(self, session: str) -> None:
        if self._memory is not None:
            self._memory.journal.end_session(session)

    def leave(self) -> None:
        self._leaves = True
        if self._memory is not None:
            self._memory.journal.leave()

    def adopt(self) -> int:
        return self._memory.adopt() if self._memory is not None else 0

    def adopts(self) -> bool:
        adoption = self._memory.adoption if self._memory is not None else None
        return adoption is not None and adoption.is_under_way

    def is_in_place(self) -> bool:
        return self._memory is None or self._memory.journal.is_in_place()

    def save(self, target: str) -> bool:
        return self._memory is not None and self._memory.journal.save_to(target) > 0


def _kept_for_the_gate(tool: str, arguments: Mapping[str, object]) -> Forbidden | None:
    """Say why a plain tool may not write where memories of namespaces are."""
    from palace.memory.reserved import refused_write

    text = refused_write(tool, arguments)
    return Forbidden(text) if text else None
