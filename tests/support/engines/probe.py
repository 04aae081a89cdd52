"""The real engine in a process of its own, to be asked for more than calls.

As a program (`python -P tests/support/engines/probe.py PALACE`) it hosts the engine and answers
lines of JSON; `Probe` starts it and asks.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from palace.engine.api import Call
from palace.engine.stores.drawers import payload
from palace.engine.stores.projection import same
from palace.journal.record import Stamp
from palace.journal.replay import replay
from palace.protocol.keyring import Key, Keyring
from palace.protocol.request import tool_call
from palace.settings.paths import Paths

Arguments = dict[str, Any]


def encode(method: str, ident: int, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
    return json.dumps(message).encode()


class _Words(logging.Handler):
    """Keeps what is logged; a message with a path or an id in it is judged by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


class _Server:
    """One method for each request."""

    def __init__(self, root: str) -> None:
        from palace.engine.hosting.mempalace import MempalaceEngine
        from palace.kernel.kernel import Kernel
        from palace.ownership import lock
        from palace.ownership.data_locks import take_other_locks
        from palace.ownership.epoch import take_epoch
        from palace.ownership.keys import ANY_SEQ
        from palace.settings.config import adopt, load_settings

        kernel, paths = Kernel(), Paths(root)
        lock.check_directory(paths, kernel, os.environ)
        owner = lock.take_lock(paths, kernel)
        loaded = load_settings(paths, os.environ, kernel)
        config = loaded.config
        take_other_locks(owner, config, os.environ, kernel)
        take_epoch(owner, kernel)
        adopt(paths, loaded, os.environ, kernel)
        keys = Keyring([Key(b"t" * 32)], ANY_SEQ)  # in whichever home
        who = {"writer": owner.incarnation, "origin": owner.palace_id}
        stamp = Stamp(epoch=owner.epoch, keys=keys, **who)
        self._words = _Words()
        logging.getLogger("palace").addHandler(self._words)
        self._engine = MempalaceEngine(paths, config, os.environ, kernel, stamp)
        self._calls = 0

    @property
    def _memory(self) -> Any:
        assert self._engine._memory is not None
        return self._engine._memory

    @property
    def _server(self) -> Any:
        assert self._engine._server is not None
        return self._engine._server

    @property
    def _client(self) -> Any:
        return self._server._get_client()

    def _collection(self, name: str, *, create: bool = False) -> Any:
        """Return a collection that takes vectors, of whichever backend."""
        if self._server._is_chroma_backend():
            return self._client.get_collection(name, embedding_function=None)
        from mempalace.backends import registry

        backend = registry.get_backend(self._server._config.backend)
        return backend.get_collection(self._engine._paths.root, name, create=create)

    def load(self) -> Any:
        self._engine.load()
        memory = self._engine._memory
        suspects = [] if memory is None else [store.name for store in memory.recovery.suspects]
        return {"suspects": suspects, "words": self._words.lines}

    def call(self, message: Arguments) -> Any:
        reply = self._engine.call(
            Call(request=tool_call(message), session="probe", ordinal=self._calls)
        )
        self._calls += 1
        return json.loads(reply.payload or b"null")

    def make_collection(self, name: str, metadata: Any = None, configuration: Any = None) -> None:
        if not self._server._is_chroma_backend():
            self._collection(name, create=True)
            return
        self._client.get_or_create_collection(
            name, embedding_function=None, metadata=metadata, configuration=configuration
        )

    def drop_collection(self, name: str) -> None:
        if self._server._is_chroma_backend():
            self._client.delete_collection(name)
            return
        self._collection(name)._backend.delete_collection(self._engine._paths.root, name)

    def on_collection(self, collection: str, method: str, arguments: Arguments) -> Any:
        """Call a method of a backend's own collection; return the name of what it raises."""
        found = self._collection(collection, create=True)  # a table comes with its first record
        try:
            getattr(found, method)(**arguments)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def nearest(self, collection: str, arguments: Arguments) -> Any:
        """Return the ids that are found for each vector, the nearest first."""
        return self._collection(collection).query(include=[], **arguments)["ids"]

    def health(self) -> Any:
        """Return what was damaged when the palace was opened, and what became of it."""
        return self._memory.health.as_json()

    def examine(self) -> str:
        """Look at the open stores as an owner does while nobody asks."""
        return self._memory.examiner.look()

    def hold(self, point: str) -> None:
        """Let threads come to this point and no further (as `Failpoints.hold` does brokers')."""
        from palace.kernel.kernel import Kernel

        def failpoint(_kernel: Kernel, name: str) -> None:
            while name == point:
                time.sleep(9)

        Kernel.failpoint = failpoint  # type: ignore[method-assign, assignment]

    def looks_like(self) -> Any:
        """Return what is known of the open stores' files."""
        return self._memory.status()["stores"]

    def read_back(self, collection: str) -> Any:
        """Return all records of a collection as the journal would keep them."""
        members = ["documents", "metadatas", "embeddings"]
        members += ["uris"] if self._server._is_chroma_backend() else []
        rows = self._collection(collection).get(include=members)
        uris = rows.get("uris") or [None] * len(rows["ids"])
        columns = (rows["documents"], rows["metadatas"], rows["embeddings"], uris)
        return {
            ident: payload(*members) for ident, *members in zip(rows["ids"], *columns, strict=True)
        }

    def drift(self) -> Any:
        """Compare every entity with the journal, without the files, which are open here."""
        memory = self._memory
        known = replay(memory.journal.directory, memory.journal.kernel)
        differing = []
        for store in memory.stores.all:
            for kind in {*store.kinds(), *(kind for kind in known.kinds() if store.owns(kind))}:
                there = dict(store.scan(kind))
                for ident in {*there, *known.ids(kind)}:
                    entity = kind, ident
                    told = known.payload(entity) if entity in known.live else None
                    if not same(there.get(ident), told):
                        differing.append([kind, ident, there.get(ident), told])
        return differing

    def looks(self) -> Any:
        return self._memory.recovery.fingerprints()

    def roll(self) -> None:
        """Begin a new segment of the journal."""
        self._memory.journal.roll()

    def close(self) -> None:
        self._engine.close()


def serve(root: str) -> None:
    out = os.fdopen(os.dup(1), "w")  # importing mempalace rewires stdout
    server = _Server(root)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(server, name)(**arguments)), file=out, flush=True)


class Probe:
    """Asks a hosted engine; `tool` is that of a `Client`.  End it."""

    def __init__(self, environ: dict[str, str], palace: Path) -> None:
        palace.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.palace = palace
        self.ids = 0
        self._reply = b""
        with (palace.parent / "probe.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(palace)],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.opening = self.ask("load")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.end()

    def ask(self, request: str, /, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([request, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, (self.palace.parent / "probe.log").read_text()[-4000:]
        return json.loads(line)

    def send(self, line: bytes) -> None:
        """Ask for a JSON-RPC line to be answered; `receive` returns what came of it."""
        self._reply = json.dumps(self.ask("call", message=json.loads(line))).encode()

    def receive(self) -> bytes:
        return self._reply

    def call(self, name: str, **arguments: Any) -> Any:
        """Call a tool and return the whole reply."""
        self.ids += 1
        self.send(encode("tools/call", self.ids, name=f"mempalace_{name}", arguments=arguments))
        return json.loads(self.receive())

    def owner(self, name: str, /, **arguments: Any) -> Any:
        """Call one of the owner's tools, which must work; return what it says."""
        params = {"name": f"palace_{name}", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return self._said(self.ask("call", message=message))

    def tool(self, name: str, **arguments: Any) -> Any:
        """Call a tool that must work; return what it says."""
        return self._said(self.call(name, **arguments))

    @staticmethod
    def _said(reply: Any) -> Any:
        assert "result" in reply, reply
        return json.loads(reply["result"]["content"][0]["text"])

    def on_collection(self, collection: str, method: str, **arguments: Any) -> str | None:
        """Call a method of a backend's collection; return the error, if any."""
        return self.ask("on_collection", collection=collection, method=method, arguments=arguments)

    def leave(self) -> None:
        """Close the palace and end, as an owner that leaves."""
        self.ask("close")
        self.end()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


if __name__ == "__main__":
    serve(sys.argv[1])
