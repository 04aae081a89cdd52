"""Bytes at the HTTP port of a broker: requests that are nearly right, pipelined, or none at all."""

import json

import h11
import trio

from tests.security.resident import Resident, all_of, meet
from tests.security.source import Source

DRIVES = (
    "palace.transport.http",
    "palace.broker.http.app",
    "palace.broker.http.exchange",
    "palace.broker.http.modern",
    "palace.broker.http.sessions",
    "palace.transport.pending",
)
PATHS = ("/mcp", "/mcp", "/metrics", "/healthz", "/", "/mcp?x=1", "//mcp", "/mcp/../metrics", "*")
METHODS = ("POST", "POST", "GET", "DELETE", "PUT", "OPTIONS", "CONNECT", "PRI", "X" * 300, "post")
HEADERS = (
    *("accept: application/json", "accept: text/event-stream", "accept: x/y", "accept: */*;q=0"),
    *(
        "origin: http://evil.example",
        "origin: http://localhost",
        "origin: null",
        "origin: http://[",
    ),
    *("mcp-session-id: x", "mcp-protocol-version: 1999-01-01", "mcp-protocol-version: 2025-06-18"),
    *("palace-read-only: 1", "palace-read-only: maybe", "user-agent: \xe9", "expect: 100-continue"),
    *("upgrade: websocket", "connection: upgrade", "upgrade: h2c", "http2-settings: AAMAAABkAAQ"),
    *("transfer-encoding: chunked", "content-length: 0", "content-length: 99999999999999999999999"),
    *("content-length: -1", "content-length: +5", "content-length: \xb2", "connection: close"),
    *("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13", "host: evil:1"),
    *("mcp-protocol-version: 2026-07-28", "mcp-method: tools/list", "mcp-method: tools/call"),
    *("mcp-name: mempalace_status", "mcp-name: =?base64?bWVtcGFsYWNlX3N0YXR1cw==?="),
    *("authorization: Bearer x", "x: \x01", "x :y", " folded", "a" * 20_000 + ": b", "empty:"),
)


def _modern(method: str, more: str = "") -> str:
    """Return a request of the newer era."""
    meta = (
        '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        '"io.modelcontextprotocol/clientCapabilities":{}}'
    )
    head = f'{{"jsonrpc":"2.0","id":1,"method":"tools/{method}","params":'
    return f"{head}{{{more}{meta}}}}}"


BODIES = (
    *("", "{}", "[]", "null", "{", '{"jsonrpc":"2.0","id":1,"method":"ping"}', "[" * 3000, " \n"),
    *('{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}', '{"method":"notifications/x"}'),
    *(
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"mempalace_status"}}',
        "\ud800",
    ),
    *('{"id":{},"method":"tools/call","params":{"name":"mempalace_add_drawer","arguments":[]}}',),
    *(_modern("list"), _modern("call", '"name":"mempalace_status",')),
    *('{"id":1,"method":"tools/list"}', '{"id":' + "[" * 950 + "]" * 950 + ',"method":"x"}'),
)


def one(data: bytes) -> None:
    source = Source(data)

    async def client(broker: Resident) -> None:
        pieces = [_request(source, broker) for _ in range(1 + source.below(3))]
        answer = await _ask(broker, pieces, cut=source.byte() % 4 == 0)
        _check(answer, [piece.split(b" ", 1)[0] for piece in pieces])

    meet(client)


def _request(source: Source, broker: Resident) -> bytes:
    if source.byte() % 8 == 0:
        return source.raw()
    rows = [f"{source.pick(METHODS)} {source.pick(PATHS)} HTTP/1.{source.pick('1101')}"]
    if source.byte() % 8:
        rows.append(f"host: 127.0.0.1:{broker.port}")
    if source.byte() % 4:
        rows.append(f"authorization: Bearer {broker.token}")
    body = source.pick(BODIES).encode("utf-8", "surrogatepass")
    if source.byte() % 4 == 0:
        body = source.raw()
    if source.byte() % 4:
        rows.append(f"content-length: {len(body)}")
    rows += [source.pick(HEADERS) for _ in range(source.below(4))]
    end = source.pick(("\r\n", "\r\n", "\r\n", "\n"))
    return end.join([*rows, "", ""]).encode("latin-1") + body


async def _ask(broker: Resident, pieces: list[bytes], *, cut: bool) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", broker.port)
    async with stream:
        try:
            for piece in pieces:
                await stream.send_all(piece)
            if cut:
                return b""
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # it was refused before it was sent whole
        return await all_of(stream)


def _check(answer: bytes, methods: list[bytes]) -> None:
    """What comes back is HTTP, whatever was asked, and no fault of the broker's."""
    client = h11.Connection(h11.CLIENT)
    method = methods[0] if methods[0].isalpha() and methods[0].isupper() else b"GET"
    if method in (b"CONNECT", b"HEAD"):
        return
    client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    body = b""
    while True:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError:
            return  # nothing came, or less than all: the client is held to have hung up
        if isinstance(event, h11.InformationalResponse):
            continue
        if isinstance(event, h11.Response):
            # 501 is the client's fault, too: a transfer coding that HTTP/1.1 needn't know.
            assert event.status_code < 500 or event.status_code == 501, answer[:300]
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            break
    if body.startswith(b"{"):
        json.loads(body)
