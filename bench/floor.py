"""The floors: what a shim costs that does nothing, and what answers it.

`pump` relays bytes between stdio and a socket, `answer` answers on stdio by itself, `serve` is the
server behind `pump`.  Every line gets the same constant answer.  Like palace's own shim this file
is installed as a module, so that it runs from bytecode, and imports only what it needs.
"""

import os
import select
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket  # `socket` would cost 7 ms

ANSWER = b'{"jsonrpc": "2.0", "id": 1, "result": {}}\n'
CHUNK = 65_536  # from 128 KiB on malloc maps and unmaps memory at each read: 13 us


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def pump() -> None:
    """Relay stdin to the socket named by the first argument, and back, until either ends."""
    sock = socket(AF_UNIX, SOCK_STREAM)
    sock.connect(sys.argv[1])
    there = sock.fileno()
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(there, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            data = os.read(fd, CHUNK)
            if not data:
                return
            write_all(there if fd == 0 else 1, data)


def answer() -> None:
    """Answer each line of stdin."""
    while data := os.read(0, CHUNK):
        if data.endswith(b"\n"):
            write_all(1, ANSWER)


def serve() -> None:
    """Answer each line of every connection to the socket named by the first argument."""
    listener = socket(AF_UNIX, SOCK_STREAM)
    listener.bind(sys.argv[1])
    listener.listen()
    peers: dict[int, socket] = {}
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                # `accept` is what the module `socket` adds to it.
                accepted, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
                peers[accepted] = socket(fileno=accepted)
                poll.register(accepted, select.POLLIN)
                continue
            data = peers[fd].recv(CHUNK)
            if data.endswith(b"\n"):
                peers[fd].sendall(ANSWER)
            elif not data:
                poll.unregister(fd)
                peers.pop(fd).close()
