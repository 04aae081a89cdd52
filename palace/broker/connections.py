"""What a fresh connection is: a session's HELLO, a control question, or a stranger."""

import json
import logging
import os
import socket

import trio

from palace.broker.desk import Desk
from palace.broker.requests import serve_lines
from palace.broker.session import Session
from palace.broker.status import status_of
from palace.host import peer_of
from palace.protocol import wire
from palace.protocol.errors import WireError
from palace.protocol.lifecycle import Reason
from palace.transport.unix import LineStream

HELLO_S = 5.0
LINE_MARGIN = 1024

logger = logging.getLogger("palace.broker")


async def serve_connection(desk: Desk, sock: socket.socket, *, direct: bool = False) -> None:
    """Serve one accepted socket to its end and close it."""
    desk.counters.connections += 1
    desk.open_connections += 1
    limit = desk.config.line_bytes_max + LINE_MARGIN
    stream = LineStream(sock, line_bytes_max=limit)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.flush_forever)
            await _serve_stream(desk, stream, sock)
            await stream.flushed()
            nursery.cancel_scope.cancel()
    finally:
        desk.open_connections -= 1
        stream.close()
        if direct:
            desk.stop(Reason.DIRECT, text="its client has left")


async def _serve_stream(desk: Desk, stream: LineStream, sock: socket.socket) -> None:
    try:
        if desk.open_connections > desk.connections_max:
            raise _Refusal("busy", f"{desk.connections_max} connections are open")
        pid, uid = peer_of(sock)
        _check_peer(desk, uid)
        lines = await _first_line(stream)
        if not lines:
            return
        version, kind, fields = wire.decode_header(lines[0])
        _check_version(version)
        if kind == wire.CONTROL:
            await _serve_control(desk, stream, fields)
        elif kind == wire.HELLO:
            session = _open_session(desk, stream, fields, pid=pid)
            await _serve_session(desk, session, stream, lines[1:])
        else:
            raise WireError(f"a connection begins with hello, not {kind!r}")
    except _Refusal as refusal:
        desk.counters.refused += 1
        header = wire.encode_header(wire.REFUSED, {"code": refusal.code, "text": refusal.text})
        stream.send_soon(header)
    except WireError as error:
        logger.warning("refused a connection: %s", error)
        desk.counters.refused += 1
        desk.last_error = error.message
        stream.send_soon(wire.encode_header(wire.REFUSED, {"code": "wire", "text": error.message}))
    except Exception as error:
        # The session boundary: a fault in serving one client must not end the others'.
        logger.exception("a connection failed")
        desk.last_error = repr(error)


class _Refusal(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


async def _first_line(stream: LineStream) -> list[bytes]:
    with trio.move_on_after(HELLO_S):
        return await stream.receive_lines()
    raise _Refusal("silent", f"no hello came within {HELLO_S:.0f} s")


def _check_peer(desk: Desk, uid: int) -> None:
    if uid not in {0, os.geteuid(), *desk.config.allow_uids}:
        raise _Refusal(
            "forbidden",
            f"uid {uid} may not use this palace. Its owner can allow it: "
            f"allow_uids = [{uid}] in {desk.owner.paths.settings}",
        )


def _check_version(version: int) -> None:
    if version != wire.VERSION:
        raise _Refusal(
            "version_mismatch",
            f"the broker speaks protocol {wire.VERSION}, the client {version}: upgrade the older "
            "(pip install --upgrade palace-broker)",
        )


def _open_session(desk: Desk, stream: LineStream, fields: dict[str, str], *, pid: int) -> Session:
    """Check a HELLO, bind the session to this connection, and send WELCOME."""
    expected = fields.get("palace_id", "")
    if expected and expected != desk.owner.palace_id:
        raise _Refusal(
            "wrong_palace",
            f"this broker serves palace {desk.owner.palace_id}, the client wants {expected}",
        )
    if desk.lifecycle.drain is not None:
        raise _Refusal("draining", "the broker is leaving")
    ident = fields.get("session", "")
    session = desk.sessions.get(ident)
    if session is None:
        if not ident:
            raise WireError("a hello names its session")
        if len(desk.sessions) >= desk.config.sessions_max:
            text = f"{desk.config.sessions_max} sessions are open (sessions_max in palace.toml)"
            raise _Refusal("busy", text)
        session = Session(
            id=ident, pid=pid, read_only=False, client="", since_s=trio.current_time()
        )
        desk.sessions[ident] = session
    _resume(session, fields)
    session.connect(stream)
    desk.lifecycle.active(trio.current_time())
    desk.host.trace("A.hello", session=ident)  # before its shim can read the welcome
    session.header(wire.WELCOME, _welcome(desk))
    return session


def _resume(session: Session, fields: dict[str, str]) -> None:
    session.read_only = fields.get("read_only", "") == "1"
    session.client = fields.get("client", session.client)
    session.resend = wire.decode_resend(fields.get("resend", ""))
    session.next_ordinal = _number(fields, "next")
    session.epoch = _number(fields, "epoch")


def _number(fields: dict[str, str], name: str) -> int:
    try:
        return int(fields.get(name, "0"))
    except ValueError:
        raise WireError(f"hello's {name} is no number: {fields[name][:40]!r}") from None


def _welcome(desk: Desk) -> dict[str, str]:
    return {
        "epoch": str(desk.owner.epoch),
        "incarnation": desk.owner.incarnation,
        "palace_id": desk.owner.palace_id,
        "engine": desk.lifecycle.engine.value,
        "line_bytes_max": str(desk.config.line_bytes_max),
        "mode": desk.mode,
    }


async def _serve_session(
    desk: Desk, session: Session, stream: LineStream, lines: list[bytes]
) -> None:
    """Handle what came with the HELLO, then the rest; let admitted work end before hanging up."""
    stream.unread(lines)
    try:
        await serve_lines(desk, session, stream)
        if session.stream is not stream:  # the session goes on over another connection
            return
        # A client that has said its last word still gets the replies to what it asked.
        session.finishing = True
        settled = session.settled
        session.note_settled()
        await settled.wait()
        await stream.flushed()
    finally:
        if session.stream is stream:
            session.stream = None
            session.lost_s = trio.current_time()
            if not session.jobs and not session.undelivered:
                desk.leave(session)


async def _serve_control(desk: Desk, stream: LineStream, fields: dict[str, str]) -> None:
    ask = fields.get("ask", "")
    if ask == "status":
        body = json.dumps(status_of(desk)).encode()
        stream.send_soon(wire.encode_header(wire.ANSWER, {}) + body + b"\n")
    elif ask == "stop":
        stream.send_soon(wire.encode_header(wire.ANSWER, {"epoch": str(desk.owner.epoch)}))
        now = fields.get("now", "") == "1"
        await stream.flushed()
        # The process's end is the rest of the answer: the kernel hangs up for it.
        desk.mourners.append(stream.detach())
        desk.stop(Reason.STOP, grace_s=0.0 if now else None, text="palace stop")
    else:
        raise WireError(f"unknown control question {ask[:40]!r}")
