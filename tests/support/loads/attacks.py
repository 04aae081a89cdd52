"""What one client can do to all others; each attack is a process of its own, until it is ended.

usage: python -m tests.support.loads.attacks NAME PLACE

PLACE is a `Place` as JSON.  Whatever a broker takes away is taken again: an attack never gives up.
"""

import http.client
import json
import random
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from palace.protocol import wire

ROOT = Path(__file__).parents[3]
AGAIN_S = 0.05  # between two attempts
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
SETTINGS = b"\0\0\0\4\0\0\0\0\0" * 700
MIB = 1 << 20
LETTERS = "abcdefghijklmnop"


@attrs.frozen(kw_only=True)
class Place:
    """Where a broker listens; `token` is for HTTP, and strangers don't use it."""

    socket: str
    http: int
    token: str
    guests: int


def call_line(name: str, number: int = 1, **arguments: object) -> bytes:
    params = {"name": f"mempalace_{name}", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


def hello(place: Place) -> socket.socket:
    """Open a session as a shim does; the caller reads its replies, or doesn't."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(place.socket)
    sock.sendall(wire.encode_header(wire.HELLO, {"session": secrets.token_hex(16), "next": "0"}))
    return sock


def for_ever(attempt: Callable[[], None]) -> None:
    while True:
        try:
            attempt()
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(AGAIN_S)


def beside(*works: Callable[[], None]) -> None:
    """Run attempts beside each other, each for ever."""
    threads = [threading.Thread(target=for_ever, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def hung_up(sock: socket.socket) -> bool:
    """Tell whether the other end has closed a connection; what it says is thrown away."""
    sock.setblocking(False)
    try:
        return sock.recv(MIB) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def hold(connect: Callable[[], socket.socket], count: int, data: bytes = b"") -> None:
    """Keep so many connections open, and write a little to each now and then."""
    held: list[socket.socket] = []
    while True:
        for sock in [sock for sock in held if hung_up(sock)]:
            sock.close()
            held.remove(sock)
        try:
            while len(held) < count:
                held.append(connect())
        except OSError:
            pass
        for sock in held:
            try:
                sock.send(data)
            except OSError:
                continue
        time.sleep(AGAIN_S)


# Without a token.


def strangers(place: Place) -> None:
    def to_http(first: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", place.http), 5)
        sock.sendall(first)
        return sock

    def to_guests() -> socket.socket:
        return socket.create_connection(("127.0.0.1", place.guests), 5)

    beside(
        lambda: hold(to_http, 40),  # half open
        lambda: hold(lambda: to_http(b"POST /mcp HTTP/1.1\r\nx: "), 20, b"x"),  # slow
        lambda: hold(lambda: to_http(PREFACE), 24, SETTINGS),
        lambda: hold(to_guests, 80),
        lambda: wrong_token(place),
        lambda: wrong_guest(place),
    )


def wrong_token(place: Place) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", place.http, timeout=5)
    try:
        connection.request("POST", "/mcp", b"{}", {"Authorization": "Bearer " + "x" * 43})
        connection.getresponse().read()
    finally:
        connection.close()


def wrong_guest(place: Place) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    lines = ("GET /palace HTTP/1.1", "Host: x", "Authorization: Bearer " + "x" * 43, "", "")
    with (
        socket.create_connection(("127.0.0.1", place.guests), 5) as sock,
        context.wrap_socket(sock, server_hostname="x") as wrapped,
    ):
        wrapped.sendall("\r\n".join(lines).encode())
        wrapped.recv(MIB)


# With the owner's rights.


def hoarder(place: Place) -> None:
    """Open sessions of both kinds, and use none."""
    params = {"protocolVersion": "2025-06-18", "clientInfo": {"name": "hoarder", "version": "1"}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    headers = {
        "Authorization": f"Bearer {place.token}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }

    def over_http() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", place.http, timeout=30)
        try:
            for _ in range(100):
                connection.request("POST", "/mcp", json.dumps(asked), headers)
                connection.getresponse().read()
        finally:
            connection.close()
        time.sleep(1)

    beside(over_http, lambda: hold(lambda: hello(place), 200))


def deaf(place: Place) -> None:
    """Ask for much and read none of it."""
    with hello(place) as sock, sock.makefile("rb") as lines:
        lines.readline()
        sock.sendall(call_line("artifact_put", kind="note", content="z" * 4 * MIB, created_by="a"))
        reply = json.loads(lines.readline().partition(b" ")[2])
    artifact = json.loads(reply["result"]["content"][0]["text"])["artifact"]["id"]

    def ask() -> None:
        with hello(place) as sock:
            for number in range(60):
                sock.sendall(call_line("artifact_get", number, artifact_id=artifact))
            while sock.send(b"\n"):  # until it is hung up on
                time.sleep(1)

    beside(*[ask] * 4)


def mumbler(place: Place) -> None:
    """Send most of a long line on each of many connections, and end none of them."""
    half = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"' + b"x" * (30 * MIB)

    def mumble() -> None:
        with hello(place) as sock:
            sock.sendall(half)
            while sock.send(b"x"):  # until it is hung up on
                time.sleep(1)

    beside(*[mumble] * 16)


def poller(place: Place) -> None:
    """Take all long-polls, from two sessions."""

    def ask() -> None:
        with hello(place) as sock:
            for number in range(40):
                sock.sendall(call_line("event_wait", number, stream="none", timeout_ms=300_000))
            while sock.recv(MIB):
                continue

    beside(ask, ask)


def brackets(place: Place) -> None:
    """Send lines of 32 MiB that hold nothing but lists."""
    line = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[%b[]]}\n' % (b"[]," * (10 * MIB))

    def ask() -> None:
        with hello(place) as sock, sock.makefile("rb") as lines:
            lines.readline()
            while True:
                sock.sendall(line)
                if not lines.readline():
                    return

    beside(ask)


def filer(place: Place) -> None:
    """File a checkpoint of 330 items, each as long as one may be; and a long drawer beside it."""
    draw = random.Random(1)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(3, 9))) for _ in range(3000)]

    def text() -> str:
        return " ".join(draw.choices(words, k=14_500))[:99_000]

    items = [{"wing": "hostile", "room": "r", "content": text()} for _ in range(330)]

    def checkpoint() -> None:
        with hello(place) as sock:
            sock.sendall(call_line("checkpoint", items=items))
            while sock.recv(MIB):
                continue

    def drawers() -> None:
        with hello(place) as sock, sock.makefile("rb") as lines:
            lines.readline()
            while True:
                sock.sendall(call_line("add_drawer", wing="hostile", room="r", content=text()))
                if not lines.readline():
                    return

    beside(checkpoint, drawers)


def hoarder_of_replies(place: Place) -> None:
    """Change small things for ever and acknowledge no reply."""

    def ask() -> None:
        with hello(place) as sock, sock.makefile("rb") as lines:
            lines.readline()
            number = 0
            while True:
                number += 1
                name = secrets.token_hex(8)
                line = call_line("kg_add", number, subject=name, predicate="is", object="x" * 100)
                sock.sendall(line)
                if not lines.readline():
                    return

    beside(ask)


ATTACKS: dict[str, Callable[[Place], None]] = {
    attack.__name__: attack
    for attack in (strangers, hoarder, deaf, mumbler, poller, brackets, filer, hoarder_of_replies)
}


def nicely(nice: int) -> list[str]:
    """Return what begins a command that leaves others the processors."""
    return ["nice", "-n", str(nice)] if nice else []


@contextmanager
def under_attack(
    place: Place, names: Sequence[str] = tuple(ATTACKS), nice: int = 0
) -> Iterator[list[int]]:
    """Run attacks, each in a process; yield their pids, and end them."""
    argv = [*nicely(nice), sys.executable, "-m", __name__]
    told = json.dumps(attrs.asdict(place))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += (
            subprocess.Popen([*argv, name, told], cwd=ROOT, stdin=subprocess.DEVNULL)
            for name in names
        )
        yield [process.pid for process in processes]
        assert all(process.poll() is None for process in processes), "an attack gave up"
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    ATTACKS[sys.argv[1]](Place(**json.loads(sys.argv[2])))
