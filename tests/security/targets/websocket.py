"""Bytes of a guest, once TLS is done: the upgrade, then frames, of which some are none."""

import struct

import trio

from palace.protocol.wire import WEBSOCKET_PATH
from tests.security.resident import Resident, all_of, any_certificate, meet
from tests.security.source import Source

DRIVES = ("palace.transport.websocket", "palace.transport.buffered", "palace.broker.guests")
HEADERS = (
    *(
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "x: \x01",
        "a" * 9000,
    ),
    *(
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-extensions: permessage-deflate",
    ),
    *("sec-websocket-protocol: a", "sec-websocket-version: 8", "upgrade: h2c", "content-length: 5"),
    *("authorization: Bearer x", "authorization: Bearer \xff", "authorization: Basic x", "host: h"),
)
LINES = (
    *(b"palace/1 hello session=g next=0\n", b"palace/1 hello session=g secret=x next=0\n"),
    *(
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        b"palace/1 ack upto=1\n",
        b"palace/1 ack upto=9\n",
    ),
    *(
        b"palace/1 control ask=status\n",
        b"palace/1 control ask=stop\n",
        b"\n",
        b"half",
        b"{\n",
        b"\xff\n",
    ),
    *(b"palace/1 hello session=g resend=" + b"1:0," * 9 + b"\n", b"palace/9 hello session=g\n"),
)


def one(data: bytes) -> None:
    source = Source(data)

    async def client(broker: Resident) -> None:
        upgrade, is_known = _upgrade(source, broker)
        frames = b"".join(_frame(source) for _ in range(source.below(8)))
        answer = await _say(broker, upgrade, frames, cut=source.byte() % 4 == 0)
        if not is_known:
            assert b"palace/" not in answer, "nothing is said before the token was shown"
            assert not answer.startswith(b"HTTP/1.1 101"), answer[:80]

    meet(client)


def _upgrade(source: Source, broker: Resident) -> tuple[bytes, bool]:
    if source.byte() % 8 == 0:
        return source.raw(), False
    path = source.pick(
        (WEBSOCKET_PATH, WEBSOCKET_PATH, WEBSOCKET_PATH, "/", "/palace/", "//palace")
    )
    rows = [f"GET {path} HTTP/1.1", "host: x"]
    is_known = source.byte() % 4 != 0
    if is_known:
        rows.append(f"authorization: Bearer {broker.record.token}")
    if source.byte() % 8:
        rows += HEADERS[:3] + HEADERS[5:6]
    rows += [source.pick(HEADERS) for _ in range(source.below(3))]
    return "\r\n".join([*rows, "", ""]).encode("latin-1"), is_known


def _frame(source: Source) -> bytes:
    kind = source.below(8)
    if kind == 0:
        return source.raw()
    payload = source.pick(LINES) if source.byte() % 4 else source.raw()
    opcode = 2 if kind < 5 else source.byte() & 15
    first = opcode | (0x80 if source.byte() % 8 else source.byte() & 0xF0)
    size = (
        len(payload) if source.byte() % 8 else source.pick((0, 1, 125, 126, 127, 2**16, 2**63 - 1))
    )
    mask = bytes((source.byte(),) * 4)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + struct.pack("!H", size)
        if size < 2**16
        else b"\xff" + struct.pack("!Q", size)
    )
    masked = bytes(byte ^ mask[0] for byte in payload)
    return bytes([first]) + length + mask + masked


async def _say(broker: Resident, upgrade: bytes, frames: bytes, *, cut: bool) -> bytes:
    host, _, port = broker.record.endpoints[-1].removeprefix("wss://").rpartition(":")
    tcp = await trio.open_tcp_stream(host, int(port))
    tls = trio.SSLStream(tcp, any_certificate(), https_compatible=True)
    try:
        await tls.send_all(upgrade)
        await tls.send_all(frames)
        if cut:
            return b""
        await tcp.send_eof()
        return await all_of(tls)
    except trio.BrokenResourceError:
        return b""
    finally:
        await trio.aclose_forcefully(tls)
