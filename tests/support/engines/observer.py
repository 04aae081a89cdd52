"""A hosted engine whose every call is held against its journal and its raw stores at once."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from palace.journal.inspect import read_from
from palace.journal.record import ENTITIES, Record
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from tests.support.engines.probe import Probe
from tests.support.faults.killing import journalled, stored
from tests.support.stores.nonces import read_stores

FILE = "file"  # stock's small files: looked at when a palace is opened and closed


def records_since(palace: Path, seq: int) -> list[Record]:
    found = read_from(str(palace / "journal"), Kernel(), seq)
    records = [record for record in found if isinstance(record, Record)]
    assert [record.seq for record in records] == list(range(seq, seq + len(records)))
    return records


def payloads(palace: Path, kind: str) -> dict[str, Any]:
    """Return a kind's live entities as the journal knows them, vectors included."""
    return dict(replay(str(palace / "journal"), Kernel()).payloads(kind))


class Observer:
    """Speaks like a `Client`; notes by tool what its calls have journalled, and what is wrong."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.ids = 0
        self.kinds: dict[str, set[str]] = defaultdict(set)
        self.wrong: dict[str, list[Any]] = defaultdict(list)
        self.calls: dict[str, int] = defaultdict(int)
        self._next = 1 + replay(str(probe.palace / "journal"), Kernel()).seq

    def send(self, line: bytes) -> None:
        name = json.loads(line)["params"]["name"]
        self.probe.send(line)
        records = records_since(self.probe.palace, self._next)
        self._next += len(records)
        self.calls[name] += 1
        self.kinds[name] |= {record.kind for record in records if record.action in ENTITIES}
        self.wrong[name] += self._differences()

    def receive(self) -> bytes:
        return self.probe.receive()

    def tool(self, name: str, **arguments: Any) -> Any:
        self.ids += 1
        params = {"name": f"mempalace_{name}", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": self.ids, "method": "tools/call", "params": params}
        self.send(json.dumps(message).encode())
        reply = json.loads(self.receive())
        assert "result" in reply, reply
        return json.loads(reply["result"]["content"][0]["text"])

    def _differences(self) -> list[Any]:
        """Hold the journal against the files, and against what Chroma says of its vectors."""
        told, there = journalled(self.probe.palace), stored(read_stores(self.probe.palace))
        raw = [key for key in {*told, *there} if told.get(key) != there.get(key)]
        return raw + [entry for entry in self.probe.ask("drift") if entry[0] != FILE]
