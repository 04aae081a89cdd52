"""Bytes at a broker's own socket: HELLO, a session's lines, control questions, or neither."""

import json
from contextlib import suppress

import trio

from palace.protocol import wire
from palace.protocol.errors import WireError
from tests.security.resident import Resident, all_of, meet
from tests.security.source import Source

DRIVES = (
    "palace.broker.connections",
    "palace.broker.session",
    "palace.broker.requests",
    "palace.transport.unix",
)
STARTS = (
    *(
        b"palace/1 hello session=s",
        b"palace/1 hello session=s next=0 secret=x",
        b"palace/1 control ask=",
    ),
    *(
        b"palace/2 hello session=s",
        b"palace/0 hello session=s",
        b"GET / HTTP/1.1",
        b"palace/1 goodbye",
    ),
)
FIELDS = (
    *(
        b" next=0",
        b" next=7",
        b" resend=0:1,1:0",
        b" resend=3:1,5:1 next=9",
        b" read_only=1",
        b" client=x",
    ),
    *(
        b" palace_id=x",
        b" cwd=/",
        b" place=x",
        b" epoch=99999999999999999999",
        b" secret=%FF%00",
        b" a",
    ),
    *(b"status", b"adopt", b"nothing", b" session=" + b"s" * 200, b" client=%0A%1B"),
)
LINES = (
    *(
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b"[]",
        b"",
        b" ",
        b"{",
        b"null",
        b"palace/1 ack upto=0",
    ),
    *(
        b"palace/1 ack upto=1",
        b"palace/1 ack upto=999",
        b"palace/1 ack",
        b"palace/1 x",
        b"\xff\xfe",
    ),
    *(
        b'{"id":2,"method":"tools/call","params":{"name":"mempalace_add_drawer","arguments":{"name":"x"}}}',
    ),
    *(
        b'{"id":2,"method":"tools/call","params":{"name":"mempalace_search","arguments":{"query":1}}}',
    ),
    *(
        b'{"id":2,"method":"tools/call","params":{"name":"mempalace_mine","arguments":{"source":"/"}}}',
    ),
    *(
        b'{"method":"notifications/cancelled","params":{"requestId":2}}',
        b'{"id":1,"method":"tools/list"}',
    ),
    *(
        b'{"id":1,"method":"initialize","params":{"clientInfo":{"name":"\\u001b[2J","version":[]}}}',
    ),
)
NESTED = (100, 900, 950, 970, 980, 985, 990, 1200)


def one(data: bytes) -> None:
    source = Source(data)
    if source.byte() % 8 == 0:
        sent = source.rest()
    else:
        first = source.pick(STARTS) + b"".join(source.pick(FIELDS) for _ in range(source.below(4)))
        lines = [_line(source) for _ in range(source.below(12))]
        sent = b"\n".join([first, *lines, b""])
    if _ends(sent):
        return

    async def client(broker: Resident) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(broker.dial()))
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(sent)
                await stream.send_eof()
            _check(await all_of(stream))

    meet(client)


def _line(source: Source) -> bytes:
    kind = source.below(6)
    if kind == 0:
        return source.raw()
    if kind == 1:
        depth = source.pick(NESTED)
        nested = b"[" * depth + b"]" * depth
        where = source.pick((b'{"id":%b,"method":"ping"}', b'{"id":1,"method":%b}', b"%b"))
        if source.byte() % 2:
            where = b'{"id":%b,"method":"tools/call","params":{"name":"mempalace_status"}}'
        return where % nested
    return source.pick(LINES)


def _ends(sent: bytes) -> bool:
    """Tell whether this would have the broker leave, as its owner may ask it to."""
    try:
        _, kind, fields = wire.decode_header(sent.split(b"\n", 1)[0])
    except WireError:
        return False
    return kind == wire.CONTROL and fields.get("ask") in ("stop", "upgrade")


def _check(answer: bytes) -> None:
    """What comes back is the protocol's, line by line, to its end."""
    *lines, rest = answer.split(b"\n")
    assert rest == b""
    headed = False
    for line in lines:
        if line.startswith(wire.PREFIX):
            wire.decode_header(line.split(b"{")[0])
            headed = True
        elif headed and not line.startswith(b"{"):
            _, payload = wire.decode_reply(line)
            if payload:
                json.loads(payload)
