"""What the contenders are asked: the same texts and questions for all, never the same one twice."""

import json
from collections.abc import Iterator

from bench.lean import NO_OP, PING, line

WORDS = [
    "nightly",
    "job",
    "moved",
    "shard",
    "index",
    "grew",
    "cache",
    "token",
    "ledger",
    "broker",
    "palace",
    "drawer",
    "socket",
    "replay",
    "commit",
]
KG_QUERY = line("tools/call", '{"name":"mempalace_kg_query","arguments":{"entity":"nobody"}}')


def note(number: int, words: int) -> str:
    """Return a text of so many words that no other number gives."""
    start = [f"note{number}", f"seed{number * 7919}"]
    rest = [WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(words - 2)]
    return " ".join(start + rest)


def call(name: str, **arguments: object) -> bytes:
    params = {"name": f"mempalace_{name}", "arguments": arguments}
    return line("tools/call", json.dumps(params))


def adds(first: int, words: int) -> Iterator[bytes]:
    """Yield requests that file a drawer each; a client needs a `first` of its own."""
    for number in range(first, first + 1_000_000):
        yield call("add_drawer", wing="bench", room="bench", content=note(number, words))


def searches(first: int) -> Iterator[bytes]:
    for number in range(first, first + 1_000_000):
        yield call("search", query=f"which {WORDS[number % len(WORDS)]} was it, number {number}?")


def mixture(first: int) -> Iterator[bytes]:
    """Yield requests of all kinds: of 1,000, 5 file a drawer and 10 search."""
    filing, asking = adds(first, 20), searches(first)
    while True:
        for place in range(1000):
            if place % 200 == 0:
                yield next(filing)
            elif place % 100 == 50:
                yield next(asking)
            else:
                yield (NO_OP, KG_QUERY, PING)[place % 3]


class Numbers:
    """Hands out ranges of numbers, a million each, so that nothing is asked twice in a run."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> int:
        self._next += 1_000_000
        return self._next
