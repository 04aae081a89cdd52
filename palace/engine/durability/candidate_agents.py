"""Agents' tools for candidates: what other palaces know, and what is to become of it here.

All that a candidate says is another palace's text.  It is told as one quotation, behind a prefix
that says so, and in no other field; what is decided upon names it by its digest, so that it is what
was read.
"""

from collections.abc import Callable, Mapping

import attrs

from palace.engine.durability.answering import answered
from palace.engine.durability.candidate_filing import Decisions, named_in
from palace.engine.durability.candidate_pages import page, told, wanted_in
from palace.memory.quoting import quoted
from palace.protocol.decoding import is_number
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import AGENTS_LIMIT, AGENTS_LIMIT_MAX, DRAWER, UNDECIDED
from palace.protocol.request import ToolCall

Json = dict[str, object]
_OF_A_FACT = ("subject", "predicate", "object")
_SPAN = ("valid_from", "valid_to")


@attrs.frozen(eq=False)
class AgentTools:
    """Answers calls of `protocol.tools.CANDIDATE_TOOLS` for one palace; threads share one."""

    decisions: Decisions

    def answer(self, call: ToolCall, *, read_only: bool) -> Json:
        """Return the reply to a call as JSON-RPC; raises nothing for what was asked."""
        answer, decisions = self._answers[call.name], self.decisions
        path = decisions.candidates.path
        return answered(call, answer, decisions.groups, path, read_only=read_only)

    @property
    def _answers(self) -> Mapping[str, Callable[[Mapping[str, object]], Json]]:
        return {
            "palace_search_candidates": self._search,
            "palace_accept_candidate": self.decisions.accept,
            "palace_dismiss_candidate": self.decisions.dismiss,
        }

    def _search(self, arguments: Mapping[str, object]) -> Json:
        """Return a page of candidates, or one of them with the whole of its text."""
        candidates = self.decisions.candidates
        if arguments.get("key") is not None:
            found = told(*named_in(candidates, arguments), whole=True)
            return {"candidates": [_quotation(found)], "next": ""}
        limit = arguments.get("limit", AGENTS_LIMIT)
        if not is_number(limit, AGENTS_LIMIT_MAX) or not isinstance(limit, int) or limit < 1:
            raise RemoteRefused(f"limit is a number from 1 to {AGENTS_LIMIT_MAX}.")
        wanted = wanted_in(arguments, otherwise=UNDECIDED, limit=limit)
        listed, behind = page(candidates, wanted)
        return {"candidates": [_quotation(one) for one in listed], "next": behind}


def _quotation(one: Mapping[str, object]) -> Json:
    """Return a candidate as an agent is told of it."""
    says = one["says"]
    assert isinstance(says, dict)
    return {
        "key": one["key"],
        "status": one["status"],
        "kind": one["kind"],
        "quote": quoted(_text(one["kind"], says), str(one["key"]), str(one["remote"])),
        "cut": one["cut"],
        "digest": one["digest"],
        "local": one["local"],
    }


def _text(kind: object, says: Mapping[str, str]) -> str:
    if not says:
        return ""
    if kind == DRAWER:
        return f"{says['wing']}/{says['room']}\n{says['text']}"
    span = [f"{name} {says[name]}" for name in _SPAN if name in says]
    return "\n".join((*(says[name] for name in _OF_A_FACT), *span))
