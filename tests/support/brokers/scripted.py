"""A broker that the test plays itself, line by line, towards a real `palace shim`."""

import json
import os
import select
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

from palace.protocol import wire
from tests.support.processes.clients import PALACE, Client

PATIENCE_S = 20.0


class ScriptedBroker:
    """Listens where a broker would; the test accepts, reads and answers.  Close it."""

    def __init__(self, palace: Path, name: str = "broker.sock") -> None:
        palace.mkdir(mode=0o700, exist_ok=True)
        self.path = palace / name
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._listener.settimeout(PATIENCE_S)
        self.connections: list[Connection] = []

    def succeed(self) -> "ScriptedBroker":
        """Take this one's place, as the next owner does: return the broker that listens there now.

        Connections of this one stay as they are; both are to be closed.
        """
        heir = ScriptedBroker(self.path.parent, "next.sock")
        heir.path.rename(self.path)
        heir.path, self.path = self.path, heir.path
        return heir

    def accept(self) -> "Connection":
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE_S)
        self.connections.append(Connection(sock))
        return self.connections[-1]

    def is_dialled(self, within_s: float) -> bool:
        """Tell whether somebody has connected, and is not accepted yet."""
        return bool(select.select([self._listener], [], [], within_s)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self._listener.close()
        self.path.unlink(missing_ok=True)


class Connection:
    """The broker's side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._has_heard = False  # whether the first line, the hello, was taken
        self.acks: list[int] = []

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self._sock.recv(1 << 20)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._has_heard = True
        return line

    def client_line(self) -> bytes:
        """Return the next line of the client; acks before it are kept in `acks`."""
        while (line := self.line()).startswith(wire.PREFIX):
            _, kind, fields = wire.decode_header(line)
            assert kind == wire.ACK
            self.acks.append(int(fields["upto"]))
        return line

    def message(self) -> Any:
        return json.loads(self.client_line())

    def await_bytes(self) -> None:
        """Wait until something came that was not read yet, and leave it there."""
        assert self._sock.recv(1, socket.MSG_PEEK)

    def at_rest(self, quiet_s: float = 0.3) -> bool:
        """Tell whether nothing comes for a while: a silence can only be waited for."""
        return not self._buffer and not select.select([self._sock], [], [], quiet_s)[0]

    def say(self, data: bytes) -> None:
        self._sock.sendall(data)

    def hello(self) -> dict[str, str]:
        _, kind, fields = wire.decode_header(self.line())
        assert kind == wire.HELLO
        return fields

    def header(self, kind: str, **fields: str) -> None:
        self._sock.sendall(wire.encode_header(kind, fields))

    def welcome(self, **fields: str) -> None:
        """Welcome the shim; its hello is read first, lest it be taken for what comes after."""
        if not self._has_heard:
            self.hello()
        self.header(wire.WELCOME, **({"epoch": "1", "incarnation": "i"} | fields))

    def reply(self, ordinal: int, payload: bytes | None) -> None:
        self._sock.sendall(wire.encode_reply(ordinal, payload))

    def answer(self, ordinal: int, ident: Any, text: str) -> None:
        self.reply(ordinal, json.dumps({"jsonrpc": "2.0", "id": ident, "result": text}).encode())

    def close(self) -> None:
        self._sock.close()


def start_shim(palace: Path, home: Path, *arguments: str, **environ: str) -> Client:
    """Start a shim that may not start a broker by itself, unless the test says otherwise."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MEMPAL", "PALACE_", "XDG_"))
    }
    mine = {"HOME": str(home), "MEMPALACE_PATH": str(palace), "PALACE_NO_SPAWN": "1"}
    argv = [*PALACE, "shim", *arguments]
    return Client(argv, kept | mine | environ, stderr=subprocess.PIPE)


def call(ident: Any, name: str = "mempalace_add_drawer", **arguments: Any) -> bytes:
    params = {"name": name, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"
