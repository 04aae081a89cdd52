"""Many clients that each ask one thing after the other, by the contract or by shims.

usage: python -m bench.contract_load SPEC

SPEC is JSON: `way` (contract or mcp), `clients`, `socket`, `token`, `namespace`, `argv`, `environ`,
`log`.  It says `ready` once all of them are connected, begins when it is told for how many seconds,
and prints what they found as JSON.  A process of its own: what it computes slows no honest client
that is measured meanwhile more than any other process would.
"""

import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from bench.lean import CHUNK, Broken, Lean, line
from bench.work import note

CONTRACT, MCP = "contract", "mcp"
COMMIT, SEARCH, LIST = "commit", "search", "list"
KINDS = (COMMIT, SEARCH, LIST)
ANSWER_S = 120.0
ORDER = (COMMIT, LIST, LIST, LIST, SEARCH, LIST, LIST, LIST, LIST, LIST)
WORDS = 20

Asked = tuple[str, bytes]  # the kind of call, and its bytes


class Talks(Protocol):
    """One client: `fileno` becomes readable with its answers."""

    def fileno(self) -> int: ...

    def send(self, raw: bytes) -> None: ...

    def receive(self) -> bytes: ...

    def is_whole(self, answer: bytes) -> bool: ...

    def is_refused(self, answer: bytes) -> bool: ...

    def requests(self, first: int) -> Iterator[Asked]: ...


def calls(first: int, namespace: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the arguments of calls in their order: the same ones, whichever way they go."""
    number = first
    while True:
        for place, kind in enumerate(ORDER):
            if kind == COMMIT:
                number += 1
                yield kind, {"content": note(number, WORDS), "kind": "fact", "source": "agent"}
            elif kind == SEARCH:
                yield kind, {"namespaces": [namespace], "query": note(number + place, 5)}
            else:
                yield kind, {"namespaces": [namespace], "limit": 5}


@attrs.frozen(eq=False)
class ContractTalks:
    """A connection to http.sock that is kept."""

    sock: socket.socket
    token: str
    namespace: str

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def receive(self) -> bytes:
        return self.sock.recv(CHUNK)

    def is_whole(self, answer: bytes) -> bool:
        head, found, body = answer.partition(b"\r\n\r\n")
        if not found:
            return False
        for one in head.lower().split(b"\r\n"):
            if one.startswith(b"content-length:"):
                return len(body) >= int(one.partition(b":")[2])
        raise Broken(f"an answer without a length: {head[:200]!r}")

    def is_refused(self, answer: bytes) -> bool:
        return answer.split(b" ", 2)[1] not in (b"200", b"201")

    def requests(self, first: int) -> Iterator[Asked]:
        for kind, body in calls(first, self.namespace):
            where = f"namespaces/{self.namespace}/memories" if kind == COMMIT else "search"
            raw = json.dumps(body).encode()
            head = (
                f"POST /v1/{where} HTTP/1.1\r\nhost: localhost\r\n"
                f"authorization: Bearer {self.token}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(raw)}\r\n\r\n"
            )
            yield kind, head.encode() + raw


@attrs.frozen(eq=False)
class ShimTalks:
    """A `palace shim`, and the pipes to it."""

    shim: Lean
    namespace: str

    def fileno(self) -> int:
        return self.shim.into

    def send(self, raw: bytes) -> None:
        os.write(self.shim.out, raw)

    def receive(self) -> bytes:
        return os.read(self.shim.into, CHUNK)

    def is_whole(self, answer: bytes) -> bool:
        return answer.endswith(b"\n")

    def is_refused(self, answer: bytes) -> bool:
        return b'"error"' in answer

    def requests(self, first: int) -> Iterator[Asked]:
        for kind, body in calls(first, self.namespace):
            if kind == COMMIT:
                body["namespace"] = self.namespace
                del body["source"]
            name = "palace_commit_memory" if kind == COMMIT else "palace_search_memory"
            told = json.dumps({"name": name, "arguments": body})
            yield kind, line("tools/call", told)


def connected(spec: Mapping[str, Any]) -> list[Talks]:
    if spec["way"] == MCP:
        shims = [
            Lean(spec["argv"], spec["environ"], Path(spec["log"])) for _ in range(spec["clients"])
        ]
        for shim in shims:
            shim.initialize()
        return [ShimTalks(shim, spec["namespace"]) for shim in shims]
    found: list[Talks] = []
    for _ in range(spec["clients"]):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(spec["socket"])
        found.append(ContractTalks(sock, spec["token"], spec["namespace"]))
    return found


@attrs.define(eq=False)
class Busy:
    """A client at work: what it has asked, since when, and what has come of the answer."""

    talks: Talks
    asked: Iterator[Asked]
    kind: str = ""
    since_s: float = 0.0
    answer: bytes = b""

    def ask(self) -> None:
        self.kind, raw = next(self.asked)
        self.answer, self.since_s = b"", time.perf_counter()
        self.talks.send(raw)


@attrs.define
class Load:
    """What all of them found; `within` counts the answers that came in time."""

    taken_ms: dict[str, list[float]] = attrs.field(factory=lambda: {kind: [] for kind in KINDS})
    within: int = 0
    refused: list[str] = attrs.field(factory=list)

    def note(self, one: Busy, *, in_time: bool) -> None:
        if one.talks.is_refused(one.answer):
            self.refused.append(one.answer[-200:].decode(errors="replace"))
            return
        self.taken_ms[one.kind].append((time.perf_counter() - one.since_s) * 1e3)
        self.within += in_time


def work(clients: list[Talks], seconds: float, first: int) -> Load:
    """Let all ask for so many seconds, and wait for what is under way then."""
    load, waiting = Load(), selectors.DefaultSelector()
    for number, talks in enumerate(clients):
        busy = Busy(talks, talks.requests(first + number * 10_000))
        waiting.register(talks, selectors.EVENT_READ, busy)
        busy.ask()
    until_s, left = time.perf_counter() + seconds, len(clients)
    while left:
        ready = waiting.select(ANSWER_S)
        if not ready:
            raise Broken(f"{left} clients had no answer within {ANSWER_S:g} s")
        for key, _ in ready:
            one: Busy = key.data
            piece = one.talks.receive()
            if not piece:
                raise Broken("a client was hung up on")
            one.answer += piece
            if not one.talks.is_whole(one.answer):
                continue
            in_time = time.perf_counter() < until_s
            is_refused = one.talks.is_refused(one.answer)
            load.note(one, in_time=in_time)
            if in_time and not is_refused:  # which ends a connection of the contract's
                one.ask()
            else:
                waiting.unregister(one.talks)
                left -= 1
    return load


def main() -> int:
    spec = json.loads(sys.argv[1])
    clients = connected(spec)
    try:
        print("ready", flush=True)
        seconds = float(sys.stdin.readline())
        load = work(clients, seconds, spec["first"])
        print(json.dumps(attrs.asdict(load) | {"seconds": seconds}), flush=True)
    finally:
        for talks in clients:
            if isinstance(talks, ShimTalks):
                talks.shim.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
