"""A load on one palace through several shims, and a tally of what was promised to each client."""

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import Client, Site, wait_until
from tests.support.processes import OUTCOME_UNKNOWN, code_of, text_of

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
    queries: int = 0
    turns: int = 0

    @property
    def replies(self) -> int:
        changes = len(self.drawers) + len(self.facts) + len(self.entries) + len(self.unknown)
        return changes + self.queries

    def said(self, tool: str, nonce: str, reply: dict[str, Any]) -> None:
        """Note one reply."""
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

    def _said_search(self, nonce: str, answer: dict[str, Any]) -> None:
        if "error" in answer or not answer.get("results"):
            self.unexpected.append(("search", nonce, answer))
        self.queries += 1


class Load:
    """Clients that change and ask without a pause, each in a thread, from `start` to `end`."""

    def __init__(self, site: Site, clients: int) -> None:
        self.clients = [site.shim() for _ in range(clients)]
        self.tallies = [Tally(number=number) for number in range(clients)]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=pair, daemon=True)
            for pair in zip(self.clients, self.tallies, strict=True)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each client end its turn, and wait for it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client waits for a reply for ever"

    def replies(self) -> int:
        return sum(tally.replies for tally in self.tallies)

    def wait_for_replies(self, more: int) -> None:
        wanted = self.replies() + more
        wait_until(lambda: self.replies() >= wanted or self.failed(), 90, f"{more} replies more")

    def wait_for_turns(self, more: int) -> None:
        """Wait until every client has had some whole turns."""
        wanted = [tally.turns + more for tally in self.tallies]

        def had() -> bool:
            pairs = zip(self.tallies, wanted, strict=True)
            return all(tally.turns >= turns for tally, turns in pairs) or self.failed()

        wait_until(had, 90, f"{more} turns of each client")

    def failed(self) -> bool:
        return any(tally.unexpected for tally in self.tallies)

    def _work(self, client: Client, tally: Tally) -> None:
        try:
            for turn in itertools.count():
                if self._stopping.is_set():
                    return
                self._turn(client, tally, f"n{tally.number}x{turn}z")
                tally.turns += 1
        except Exception as problem:
            tally.unexpected.append(problem)

    def _turn(self, client: Client, tally: Tally, nonce: str) -> None:
        who = f"worker{tally.number}"
        changes = {
            "add_drawer": {"wing": WING, "room": who, "content": f"a drawer, nonce {nonce}"},
            "kg_add": {"subject": who, "predicate": "did", "object": nonce},
            "search": {"query": f"nonce {nonce}", "wing": WING},
            "diary_write": {"agent_name": who, "entry": f"an entry, nonce {nonce}"},
        }
        for tool, arguments in changes.items():
            tally.said(tool, nonce, client.call(f"mempalace_{tool}", **arguments))


def nonces_in(texts: list[str]) -> Counter[str]:
    """Count the nonces in stored texts, each once for each text."""
    words = (text.replace("\n", " ").split() for text in texts)
    return Counter(
        word
        for row in words
        for word in set(row)
        if word.startswith("n") and "x" in word and word.endswith("z")
    )
