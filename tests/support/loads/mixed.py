"""A load on one palace through several shims, and a tally of what was promised to each client."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.model.history import CHANGE, READ, Call
from tests.support.loads.pool import ClientPool
from tests.support.processes.brokers import OUTCOME_UNKNOWN, code_of, text_of
from tests.support.processes.clients import Client, Site, wait_until

WING = "storm"


@dataclass
class Tally:
    """What one client was told: the nonces of its changes, by kind and by outcome."""

    number: int
    drawers: dict[str, str] = field(default_factory=dict)  # acknowledged: nonce -> drawer id
    facts: set[str] = field(default_factory=set)
    entries: set[str] = field(default_factory=set)
    unknown: set[tuple[str, str]] = field(default_factory=set)  # (tool, nonce)
    unexpected: list[object] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)  # in the order of asking
    queries: int = 0
    turns: int = 0

    @property
    def replies(self) -> int:
        changes = len(self.drawers) + len(self.facts) + len(self.entries) + len(self.unknown)
        return changes + self.queries

    def said(self, tool: str, nonce: str, reply: dict[str, Any]) -> None:
        """Note one reply."""
        self.calls.append(self._call(tool, nonce, reply))
        if code_of(reply) == OUTCOME_UNKNOWN and tool != "search":
            self.unknown.add((tool, nonce))
        elif "result" not in reply:
            self.unexpected.append((tool, nonce, reply))
        elif tool == "search":
            self._said_search(nonce, text_of(reply))
        elif not text_of(reply).get("success"):
            self.unexpected.append((tool, nonce, text_of(reply)))
        elif tool == "add_drawer":
            self.drawers[nonce] = text_of(reply)["drawer_id"]
        elif tool == "kg_add":
            self.facts.add(nonce)
        else:
            self.entries.add(nonce)

    def _call(self, tool: str, nonce: str, reply: dict[str, Any]) -> Call:
        fate = "ok" if "result" in reply else "refused"
        return Call(
            session=f"client {self.number}",
            name=f"{tool} {nonce}",
            kind=READ if tool == "search" else CHANGE,
            reply="unknown" if code_of(reply) == OUTCOME_UNKNOWN else fate,
        )

    def _said_search(self, nonce: str, answer: dict[str, Any]) -> None:
        if "error" in answer or not answer.get("results"):
            self.unexpected.append(("search", nonce, answer))
        self.queries += 1


class Load(ClientPool[Client, Tally]):
    """Clients with a shim each; close those by hand."""

    def __init__(self, site: Site, clients: int) -> None:
        shims = [site.shim() for _ in range(clients)]
        self.tallies = [Tally(number=number) for number in range(clients)]
        super().__init__(shims, self.tallies, take_turns)

    def wait_for_replies(self, more: int) -> None:
        wanted = self.replies() + more
        wait_until(lambda: self.replies() >= wanted or self.failed(), 90, f"{more} replies more")

    def wait_for_turns(self, more: int) -> None:
        """Wait until every client has had some whole turns."""
        wanted = [tally.turns + more for tally in self.tallies]

        def had() -> bool:
            pairs = zip(self.tallies, wanted, strict=True)
            return all(tally.turns >= turns for tally, turns in pairs)

        wait_until(lambda: had() or self.failed(), 90, f"{more} turns of each client")


def take_turns(client: Client, tally: Tally) -> Iterator[None]:
    """Make one change of each sort, and a query, in each turn."""
    who = f"worker{tally.number}"
    for turn in itertools.count():
        nonce = f"n{tally.number}x{turn}z"
        changes = {
            "add_drawer": {"wing": WING, "room": who, "content": f"a drawer, nonce {nonce}"},
            "kg_add": {"subject": who, "predicate": "did", "object": nonce},
            "search": {"query": f"nonce {nonce}", "wing": WING},
            "diary_write": {"agent_name": who, "entry": f"an entry, nonce {nonce}"},
        }
        for tool, arguments in changes.items():
            tally.said(tool, nonce, client.call(f"mempalace_{tool}", **arguments))
        tally.turns += 1
        yield


def nonces_in(texts: list[str]) -> Counter[str]:
    """Count the nonces in stored texts, each once for each text."""
    words = (text.replace("\n", " ").split() for text in texts)
    return Counter(
        word
        for row in words
        for word in set(row)
        if word.startswith("n") and "x" in word and word.endswith("z")
    )
