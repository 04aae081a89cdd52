"""What an attacker says to a broker, by whatever way it has; each attack is a function.

Standard library only, and nothing of this tree: processes of other users, and in containers, are
given this file's text, and run `serve` with it.
"""

import encodings.idna  # noqa: F401 - for addresses: another user may not be able to read it later
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable

Connect = Callable[[], socket.socket]
Facts = dict[str, str]

HUGE = "9" * 4300  # int() reads it, and str() refuses what comes after it
ESCAPE = "\x1b]0;OWNED\x07\x1b[31m\r"
PING = json.dumps({"jsonrpc": "2.0", "id": "the end", "method": "ping"}).encode()
ANSWER_S = 120
SILENT, SESSIONS, POLLS = 80, 20, 5
LISTS, SHORT = 10 << 20, 5000  # as many as a line may hold
ITEMS = 16  # of a checkpoint that is done in parts

held: list[socket.socket] = []


def hello(session: str, **fields: str) -> bytes:
    said = {"session": session, "secret": "mine", "next": "0"} | fields
    return b"palace/1 hello " + " ".join(f"{name}={said[name]}" for name in said).encode()


def call(tool: str, **arguments: object) -> bytes:
    params = {"name": f"mempalace_{tool}", "arguments": arguments}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return json.dumps(asked).encode()


def said(connect: Connect, *lines: bytes, replies: int = 0) -> list[str]:
    """Say lines on a connection of its own, and a ping; return what is answered up to its reply.

    And up to so many `replies` with it, of calls that may take longer than the ping.
    """
    sock = connect()
    sock.settimeout(ANSWER_S)
    try:
        for line in (*lines, PING):
            sock.sendall(line + b"\n")
    except OSError:
        pass  # it was hung up on, and what it was told is still there
    answers = []
    try:
        for answer in sock.makefile("rb"):
            answers.append(answer.decode("utf-8", "replace"))
            ended = any('"the end"' in one for one in answers)
            if ended and sum(one[:1].isdigit() for one in answers) > replies:
                break
    except ConnectionError:
        pass
    finally:
        sock.close()
    return answers


def bounds(connect: Connect, _facts: Facts) -> Iterable[object]:
    """Numbers, texts and lists without a bound, before a session and in one."""
    for first in (
        hello("b", next=HUGE),
        hello("b", epoch=HUGE),
        hello("b", resend=f"{HUGE}:1"),
        hello("b" * 100_000),
        b"palace/1 ack upto=" + HUGE.encode(),
        b"palace/1 control ask=" + b"x" * 100_000,
        b"palace/1 \xff\xfe",
        b"\0" * 1000,
        b"GET / HTTP/1.1",
    ):
        yield said(connect, first)
    for number, line in enumerate(
        (
            b"palace/1 ack upto=" + HUGE.encode(),
            b"palace/1 ack upto=-1",
            b'{"jsonrpc": "2.0", "id": ' + HUGE.encode() + b', "method": "ping"}',
            b"[" * 200_000,
            b'{"a":' * 200_000,
            b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "\\ud800"}',
            call("search", query="x", limit=10**300),
            call("search", query="\ud800" * 100),
            call("add_drawer", wing="w" * 100_000, room="\0", content=""),
            call("no_such_tool" * 10_000),
        )
    ):
        yield said(connect, hello(f"bounds-{number}"), line)


def session(connect: Connect, facts: Facts) -> Iterable[object]:
    """The honest client's session, by its name and by what may be guessed of its secret."""
    for secret in ("", "guessed", facts["victim"]):
        taken = hello(facts["victim"], secret=secret, next="1", resend="0:1")
        yield said(connect, taken, call("search", query="x"))


def control(connect: Connect, _facts: Facts) -> Iterable[object]:
    """What the owner's commands ask, in the midst of a session."""
    for asked in (b"stop now=1", b"stop", b"upgrade", b"adopt", b"status", b"hold"):
        yield said(connect, hello("control"), b"palace/1 control ask=" + asked)


def commands(connect: Connect, _facts: Facts) -> Iterable[object]:
    """The same, as a command does it; and what changes the user's settings."""
    for asked in (b"stop now=1", b"upgrade", b"adopt", b"status"):
        yield said(connect, b"palace/1 control ask=" + asked)


def files(connect: Connect, facts: Facts) -> Iterable[object]:
    """Files of the broker's user, by paths, and by names that could become paths."""
    up = "../" * 12 + facts["made"].lstrip("/")
    if facts["roams"] != "yes":
        for path in (facts["secret"], os.path.dirname(facts["secret"]), "/lent/../" + up):
            yield said(connect, hello("files", place=""), call("mine", source=path), replies=1)
        yield said(connect, hello("files"), call("sync", apply=True))
        yield said(connect, hello("files"), call("hook_settings", silent_save=True))
    for name in (up, facts["made"], "~/" + os.path.basename(facts["made"])):
        yield said(
            connect,
            hello("files"),
            call("add_drawer", wing=name, room=name, content="n", source_file=name),
            call("diary_write", agent_name=name, entry="e", topic=name),
            call("artifact_put", kind=name, content="c", created_by=name),
            call(
                "create_tunnel", source_wing=name, source_room="r", target_wing="w", target_room="r"
            ),
            call("event_append", type="t", stream=name, room=name, from_agent=name, body="b"),
        )


def terminal(connect: Connect, _facts: Facts) -> Iterable[object]:
    """Signs that control a terminal, in all that a client names."""
    info = {"clientInfo": {"name": "n" + ESCAPE, "version": "v" + ESCAPE}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}
    yield said(
        connect,
        hello("esc%1B%5B31m%0AFORGED", client="c%1B%5D0;OWNED%07%0AFORGED"),
        json.dumps(asked).encode(),
        call("add_drawer", wing="w" + ESCAPE, room="r", content="c", source_file="f" + ESCAPE),
        call("kg_add", subject="S" + ESCAPE, predicate="likes" + ESCAPE, object="O" + ESCAPE),
        call("diary_write", agent_name="a" + ESCAPE, entry="e", topic="t" + ESCAPE),
        call(
            "event_append",
            type="t" + ESCAPE,
            stream="s" + ESCAPE,
            room="r",
            from_agent="a",
            body="b",
        ),
    )


def share(connect: Connect, _facts: Facts) -> Iterable[object]:
    """Connections that say nothing, sessions that do nothing, and long-polls; held on to."""
    for number in range(SILENT + SESSIONS + POLLS):
        try:
            held.append(connect())
            if number >= SILENT:
                held[-1].sendall(hello(f"share-{number}") + b"\n")
            if number >= SILENT + SESSIONS:
                poll = call("event_wait", stream="none", timeout_ms=300_000)
                held[-1].sendall(b"".join(poll + b"\n" for _ in range(20)))
        except OSError:  # it was hung up on, which is one way to hold this
            continue
    yield len(held)


def lines(connect: Connect, _facts: Facts) -> Iterable[object]:
    """A line that is long, and many that are short."""
    yield said(
        connect, hello("long"), b'{"id":1,"method":"ping","params":[' + b"[]," * LISTS + b"[]]}"
    )
    yield len(said(connect, hello("short"), *[PING.replace(b"the end", b"one")] * SHORT))


def writer(connect: Connect, _facts: Facts) -> Iterable[object]:
    """A long checkpoint and a long drawer, whose replies are not waited for."""
    items = [{"wing": "w", "room": "r", "content": text(number)} for number in range(ITEMS)]
    for session, line in (
        ("items", call("checkpoint", items=items)),
        ("drawer", call("add_drawer", wing="w", room="r", content=text(ITEMS))),
    ):
        held.append(connect())
        held[-1].sendall(hello(f"writer-{session}") + b"\n" + line + b"\n")
    yield len(held)


def text(number: int) -> str:
    return " ".join(f"Line {line} of item {number}, and of no other." for line in range(200))


def replies(_connect: Connect, _facts: Facts) -> Iterable[object]:
    """How many calls of those that are held have been answered by now."""
    for sock in held:
        sock.setblocking(False)
        try:
            yield sum(line[:1].isdigit() for line in sock.recv(1 << 20).split(b"\n"))
        except OSError:
            yield 0
        sock.setblocking(True)


def memories(connect: Connect, facts: Facts) -> Iterable[object]:
    """A memory of a namespace, by tools that know of none."""
    ident = facts["memory"]
    for wing in ("ns.team.lead", " NS.team.lead", "\u200bns.team.lead", "__ns.team.lead"):
        filed = {"wing": wing, "room": "memory", "content": "FORGED"}
        for line in (
            call("add_drawer", **filed),
            call("checkpoint", items=[filed]),
            call("diary_write", agent_name="a", entry="FORGED", topic="t", wing=wing),
            call("update_drawer", drawer_id=facts["drawer"], wing=wing),
        ):
            yield said(connect, hello("memories"), line, replies=1)
    for line in (
        call("update_drawer", drawer_id=ident, content="FORGED"),
        call("delete_drawer", drawer_id=ident),
        call("delete_drawers", drawer_ids=[ident]),
    ):
        yield said(connect, hello("memories"), line, replies=1)


def uninvited(_connect: Connect, facts: Facts) -> Iterable[object]:
    """HTTP and the guests' port, by whoever has no token, or one of nobody's."""
    asked = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    host = f"Host: 127.0.0.1:{facts['http']}"
    for head in (
        ("POST /mcp HTTP/1.1", host),
        ("POST /mcp HTTP/1.1", host, "Authorization: Bearer " + "x" * 43),
        ("POST /mcp HTTP/1.1", host, "Authorization: Bearer "),
        ("POST /mcp HTTP/1.1", "Host: evil.example", "Origin: http://evil.example"),
        ("GET /metrics HTTP/1.1", host),
        ("PRI * HTTP/2.0", host),
    ):
        length = f"Content-Length: {len(asked)}"
        yield answered(int(facts["http"]), "\r\n".join((*head, length, "", "")).encode() + asked)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    for shown in ((), ("Authorization: Bearer " + "x" * 43,)):
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        head = ("GET /palace HTTP/1.1", "Host: 127.0.0.1", *upgrade, key, *shown)
        data = "\r\n".join((*head, "", "")).encode()
        yield answered(int(facts["guests"]), data, context)


def answered(port: int, data: bytes, context: ssl.SSLContext | None = None) -> str:
    """Return the first line of what is answered at a port."""
    try:
        sock = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        with context.wrap_socket(sock) if context is not None else sock as sock:
            sock.sendall(data)
            return sock.recv(1 << 16).split(b"\r\n")[0].decode("latin-1")
    except OSError:
        return "hung up on"


def release(_connect: Connect, _facts: Facts) -> Iterable[object]:
    """Let go of what is held."""
    while held:
        held.pop().close()
    yield 0


ATTACKS = (
    *(bounds, session, control, commands, files, terminal, share, release),
    *(lines, writer, replies, memories, uninvited),
)


def serve(path: str) -> None:
    """Do what each line of the standard input asks for, at a socket; answer each with a line."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        return sock

    known = {attack.__name__: attack for attack in ATTACKS}
    for line in sys.stdin:
        name, facts = json.loads(line)
        try:
            done: object = list(known[name](connect, facts))
        except OSError as error:
            done = repr(error)
        print(json.dumps(done), flush=True)
