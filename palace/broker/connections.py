"""What a fresh connection is: a session's HELLO, a control question, or a stranger."""

import json
import logging
import os
import socket

import attrs
import trio

from palace import __version__
from palace.broker.desk import Desk
from palace.broker.requests import serve_lines
from palace.broker.session import Session
from palace.broker.telemetry.redacted import described
from palace.broker.telemetry.status import status_of
from palace.kernel.kernel import peer_of
from palace.protocol import wire
from palace.protocol.errors import WireError
from palace.protocol.lifecycle import Reason
from palace.protocol.pathmap import Whereabouts
from palace.transport.lines import Lines
from palace.transport.unix import LineStream

HELLO_S = 5.0
LINE_MARGIN = 1024

logger = logging.getLogger("palace.broker")


@attrs.frozen(kw_only=True)
class Peer:
    """Who is at the other end: `uid` is None for guests, whom their token let in."""

    pid: int
    uid: int | None


GUEST = Peer(pid=0, uid=None)


async def serve_socket(desk: Desk, sock: socket.socket, *, direct: bool = False) -> None:
    """Serve one accepted AF_UNIX socket to its end and close it."""
    stream = LineStream(sock, line_bytes_max=desk.config.line_bytes_max + LINE_MARGIN)
    pid, uid = peer_of(sock)
    try:
        await serve_connection(desk, stream, Peer(pid=pid, uid=uid))
    finally:
        if direct:
            desk.stop(Reason.DIRECT, text="its client has left")


async def serve_connection(desk: Desk, stream: Lines, peer: Peer) -> None:
    """Serve one connection to its end and close it."""
    desk.counters.connections += 1
    desk.open_connections += 1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.flush_forever)
            await _serve_stream(desk, stream, peer)
            await stream.flushed()
            nursery.cancel_scope.cancel()
    finally:
        desk.open_connections -= 1
        stream.close()


async def _serve_stream(desk: Desk, stream: Lines, peer: Peer) -> None:
    try:
        if desk.open_connections > desk.connections_max:
            raise _Refusal("busy", f"{desk.connections_max} connections are open")
        _check_peer(desk, peer)
        lines = await _first_line(stream)
        if not lines:
            return
        version, kind, fields = wire.decode_header(lines[0])
        _check_version(version)
        if kind == wire.CONTROL:
            await _serve_control(desk, stream, fields)
        elif kind == wire.HELLO:
            session = _open_session(desk, stream, fields, pid=peer.pid)
            await serve_session(desk, session, stream, lines[1:])
        else:
            raise WireError(f"a connection begins with hello, not {kind!r}")
    except _Refusal as refusal:
        desk.counters.refused += 1
        fields = {"code": refusal.code, "text": refusal.text, **refusal.more}
        header = wire.encode_header(wire.REFUSED, fields)
        stream.send_soon(header)
    except WireError as error:
        said = error.message.partition(": ")[0]  # behind it is what came, which may be anything
        logger.warning("refused a connection: %s", said)
        desk.counters.refused += 1
        desk.trouble(f"refused a connection: {said}")
        stream.send_soon(wire.encode_header(wire.REFUSED, {"code": "wire", "text": error.message}))
    except Exception as error:
        # The session boundary: a fault in serving one client must not end the others'.
        logger.exception("a connection failed")
        desk.trouble(f"a connection failed: {described(error)}")


class _Refusal(Exception):
    def __init__(self, code: str, text: str, **more: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.more = more


async def _first_line(stream: Lines) -> list[bytes]:
    with trio.move_on_after(HELLO_S):
        return await stream.receive_lines()
    raise _Refusal("silent", f"no hello came within {HELLO_S:.0f} s")


def _check_peer(desk: Desk, peer: Peer) -> None:
    uid = peer.uid
    if uid is not None and uid not in {0, os.geteuid(), *desk.config.allow_uids}:
        raise _Refusal(
            "forbidden",
            f"uid {uid} may not use this palace. Its owner can allow it: "
            f"allow_uids = [{uid}] in {desk.owner.paths.settings}",
        )


def _check_version(version: int) -> None:
    if not wire.OLDEST <= version <= wire.VERSION:
        older = "the client" if version < wire.OLDEST else "the broker"
        raise _Refusal(
            "version_mismatch",
            f"the broker ({__version__}) speaks protocol {wire.VERSION}, the client {version}: "
            f"upgrade {older} (pip install --upgrade palace-broker)",
            oldest=str(wire.OLDEST),
            newest=str(wire.VERSION),
        )


def _open_session(desk: Desk, stream: Lines, fields: dict[str, str], *, pid: int) -> Session:
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
    session.where = _whereabouts(desk, fields)
    session.connect(stream)
    desk.lifecycle.active(trio.current_time())
    desk.kernel.trace("A.hello", session=ident)  # before its shim can read the welcome
    session.header(wire.WELCOME, _welcome(desk))
    return session


def _resume(session: Session, fields: dict[str, str]) -> None:
    session.read_only = fields.get("read_only", "") == "1"
    session.client = fields.get("client", session.client)
    session.version = fields.get("version", "")
    session.active_s = trio.current_time()
    session.resend = wire.decode_resend(fields.get("resend", ""))
    session.next_ordinal = _number(fields, "next")
    session.epoch = _number(fields, "epoch")


def _whereabouts(desk: Desk, fields: dict[str, str]) -> Whereabouts:
    """Read where a shim says it is; one that doesn't say is an old one, and a neighbour."""
    place = fields.get("place", "")
    return Whereabouts(
        cwd=fields.get("cwd", ""),
        same_files=place in ("", desk.place),
        resolve=os.path.realpath,
    )


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


async def serve_session(desk: Desk, session: Session, stream: Lines, lines: list[bytes]) -> None:
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


async def _serve_control(desk: Desk, stream: Lines, fields: dict[str, str]) -> None:
    if not isinstance(stream, LineStream):
        raise WireError("guests ask for tools, not for the broker itself: use `palace` on its host")
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
    elif ask == "upgrade":  # a younger palace wants to serve; nothing is lost by it
        stream.send_soon(wire.encode_header(wire.ANSWER, {"epoch": str(desk.owner.epoch)}))
        await stream.flushed()
        desk.stop(Reason.UPGRADE, text="asked by a younger version")
    else:
        raise WireError(f"unknown control question {ask[:40]!r}")
