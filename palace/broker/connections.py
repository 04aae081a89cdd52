"""A fresh connection: a session's HELLO, a control question, or neither, which is refused."""

import json
import logging
import os
import socket
import sqlite3
from functools import partial

import attrs
import trio

from palace import __version__
from palace.broker.open_connections import OpenConnection
from palace.broker.principals import is_anothers
from palace.broker.reporting.status import status_of
from palace.broker.requests import serve_lines
from palace.broker.session import LiveSession
from palace.broker.state import BrokerState
from palace.broker.telemetry.redaction import redacted
from palace.kernel.kernel import peer_of
from palace.kernel.whose import shares_mounts
from palace.protocol import wire
from palace.protocol.budget import Holder, Use, party_of
from palace.protocol.errors import BrokerFull, PalaceError, WireError
from palace.protocol.lifecycle import EngineState, Reason
from palace.protocol.pathmap import Whereabouts
from palace.protocol.proof import proof_of
from palace.protocol.rights import RIGHTS, Peer, Right, Who, local_peer
from palace.protocol.session import Hello
from palace.settings.installation import command_for
from palace.transport.lines import Connection, Lines
from palace.transport.unix import LineStream

HELLO_S = 5.0
LINGER_S = 2.0  # for one that was refused to read why; the broker may have to wait so long to leave
LINE_MARGIN = 1024
_ADOPTING = trio.CapacityLimiter(1)  # else whoever asks for it often takes all of Trio's threads

logger = logging.getLogger("palace.broker")


def party_of_peer(peer: Peer) -> str:
    return party_of(pid=peer.pid, uid=peer.uid, owner=os.geteuid(), address=peer.address)


def neighbour(state: BrokerState, sock: socket.socket) -> Peer:
    """Return who is at the other end of an accepted AF_UNIX socket, as the kernel says."""
    pid, uid = peer_of(sock)
    return local_peer(
        pid=pid,
        uid=uid,
        owner=os.geteuid(),
        allowed=state.services.config.allow_uids,
        near=shares_mounts(pid),
    )


async def serve_socket(state: BrokerState, sock: socket.socket, *, direct: bool = False) -> None:
    """Serve one accepted AF_UNIX socket to its end and close it."""
    stream = LineStream(sock, line_bytes_max=state.services.config.line_bytes_max + LINE_MARGIN)
    try:
        await serve_connection(state, stream, neighbour(state, sock))
    finally:
        if direct:
            state.leaving.stop(Reason.DIRECT, text="its client has left")


async def serve_connection(state: BrokerState, stream: Lines, peer: Peer) -> None:
    """Serve one connection to its end and close it."""
    state.telemetry.counters.connections += 1
    party = party_of_peer(peer)
    place = state.connections.enter(party, stream.close)
    state.memory.watch(stream, party)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.flush_forever)
            await _serve_stream(state, stream, peer, place)
            await stream.flushed()
            nursery.cancel_scope.cancel()
    finally:
        state.connections.leave(place)
        state.memory.forget(stream)
        stream.close()


async def _serve_stream(
    state: BrokerState, stream: Lines, peer: Peer, place: OpenConnection
) -> None:
    try:
        if state.connections.is_over_reserve:
            raise _Refusal(BrokerFull.name, state.connections.full_text)
        _check_peer(state, peer)
        lines = await _first_line(stream)
        if not lines:
            return
        version, kind, fields = wire.decode_header(lines[0])
        _check_version(version)
        if kind == wire.CONTROL:
            place.use = _idle
            await _serve_control(state, stream, fields, peer)
        elif kind == wire.HELLO:
            if state.connections.is_over:
                raise _Refusal(BrokerFull.name, state.connections.full_text)
            session = _open_session(state, stream, fields, peer)
            place.use = partial(use_of, state, session)
            stream.unread(lines[1:])
            stream.eased = partial(state.scheduler.ease, session)
            await serve_session(state, session, stream)
        else:
            raise WireError(f"a connection begins with hello, not {kind!r}")
    except _Refusal as refusal:
        state.telemetry.counters.refused += 1
        fields = {"code": refusal.code, "text": refusal.text, **refusal.more}
        header = wire.encode_header(wire.REFUSED, fields)
        stream.send_soon(header)
    except WireError as error:
        said = error.message.partition(": ")[0]  # the rest quotes the peer, who may send anything
        logger.warning("refused a connection: %s", said)
        state.telemetry.counters.refused += 1
        state.telemetry.note_error(f"refused a connection: {said}")
        stream.send_soon(wire.encode_header(wire.REFUSED, {"code": "wire", "text": error.message}))
        place.use = _left
        if isinstance(stream, LineStream):
            with trio.move_on_after(LINGER_S):
                await stream.linger()
    except Exception as error:
        # The session boundary: a fault in serving one client must not end the others'.
        logger.exception("a connection failed")
        state.telemetry.note_error(f"a connection failed: {redacted(error)}")


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


def _check_peer(state: BrokerState, peer: Peer) -> None:
    if not RIGHTS[peer.who]:
        uid = peer.uid
        raise _Refusal(
            "forbidden",
            f"uid {uid} may not use this palace. Its owner can allow it (in palace.toml "
            f"allow_uids counts for nothing): palace config set allow_uids={uid} --palace "
            f"{state.services.ownership.paths.root}",
        )


def _check_version(version: int) -> None:
    if not wire.OLDEST <= version <= wire.VERSION:
        older = "the client" if version < wire.OLDEST else f"the broker: {command_for()}"
        raise _Refusal(
            "version_mismatch",
            f"the broker ({__version__}) speaks protocol {wire.VERSION}, the client {version}: "
            f"upgrade {older}",
            oldest=str(wire.OLDEST),
            newest=str(wire.VERSION),
        )


def _open_session(
    state: BrokerState, stream: Lines, fields: dict[str, str], peer: Peer
) -> LiveSession:
    """Check a HELLO, bind the session to this connection, and send WELCOME."""
    services = state.services
    expected = fields.get("palace_id", "")
    if expected and expected != services.ownership.palace_id:
        raise _Refusal(
            "wrong_palace",
            f"this broker serves palace {services.ownership.palace_id}, "
            f"the client wants {expected}",
        )
    if state.lifecycle.drain is not None:
        raise _Refusal("draining", "the broker is leaving")
    hello = Hello.read(fields | {"read_only": "1"} if peer.read_only else fields)
    session = _session_of(state, hello, peer)
    session.peer = peer
    session.where = _whereabouts(hello, peer, services.place)
    session.guest = peer.guest
    session.connect(stream, hello)
    state.scheduler.ease(session)
    state.lifecycle.active(trio.current_time())
    services.kernel.trace("A.hello", session=session.id)  # before its shim can read the welcome
    session.header(wire.WELCOME, _welcome(state))
    return session


def _whereabouts(hello: Hello, peer: Peer, place: str) -> Whereabouts:
    """Return where a client is: a field may say that its files are not ours, never that they are.

    An old shim says nothing; what is a neighbour's, is known all the same.
    """
    may_roam = peer.may(Right.PATHS)
    same_files = hello.place in ("", place) and (may_roam or peer.who is Who.ALLOWED)
    return Whereabouts(
        cwd=hello.cwd,
        same_files=same_files,
        lent_only=not may_roam,
        called=peer.called,
        resolve=os.path.realpath,
    )


def _session_of(state: BrokerState, hello: Hello, peer: Peer) -> LiveSession:
    """Return the session that a HELLO proves to be its own, or else a new one."""
    proof = proof_of(hello.secret) if hello.secret else ""
    session = state.sessions.get(hello.session)
    stranger = wire.wants_proof(hello.session) and hello.session != wire.session_name(proof)
    if (
        session is not None
        and not stranger
        and session.may_go_on(proof, peer.pid)
        and not is_anothers(state.services, session, peer, hello.token)
    ):
        return session
    is_apart = stranger or session is not None
    if is_apart:
        logger.warning("a client named a session that is not its own: it gets another")
    party = party_of_peer(peer)
    if not make_room(state, party):
        raise _Refusal(BrokerFull.name, state.sessions.full_text)
    ident = state.services.kernel.token() if is_apart else hello.session
    session = LiveSession(
        id=ident,
        pid=peer.pid,
        since_s=trio.current_time(),
        party=party,
        proof=proof,
        is_apart=is_apart,
    )
    state.sessions.add(session)
    return session


def _welcome(state: BrokerState) -> dict[str, str]:
    services = state.services
    return {
        "epoch": str(services.ownership.epoch),
        "incarnation": services.ownership.incarnation,
        "palace_id": services.ownership.palace_id,
        "engine": state.lifecycle.engine.value,
        "line_bytes_max": str(services.config.line_bytes_max),
        "mode": services.mode,
        "died": str(services.died),
    }


async def serve_session(state: BrokerState, session: LiveSession, stream: Connection) -> None:
    """Handle a session's lines over one connection; let admitted work end before hanging up."""
    try:
        await serve_lines(state, session, stream)
        if session.stream is not stream:  # the session goes on over another connection
            return
        # A client that has said its last word still gets the replies to what it asked.
        session.machine.finish()
        settled = session.settled
        session.note_settled()
        await settled.wait()
        await stream.flushed()
    finally:
        if session.stream is stream:
            session.disconnect()
            state.scheduler.ease(session)
            if session.machine.owes_nothing:
                forget_session(state, session)


def forget_session(state: BrokerState, session: LiveSession) -> None:
    """Forget a session that has nothing to come; no batch waits for its next call."""
    state.sessions.forget(session)
    state.scheduler.admission.window.came(session.id)


def make_room(state: BrokerState, party: str) -> bool:
    """Return whether a party may open a session; where all are taken, another one gives way."""
    sessions = state.sessions
    while sessions.is_full:
        candidates = [_Candidate.of(state, session) for session in sessions]
        found = sessions.budget.first_to_go(candidates, party)
        if found is None:
            return False
        session = found.session
        logger.info("a session of %s gives way to one of %s", session.party, party)
        state.scheduler.abandon(session)
        if session.stream is not None:
            session.stream.close()
        forget_session(state, session)
        sessions.budget.note_shed(session.party)
    return True


@attrs.frozen(eq=False)
class _Candidate(Holder):
    session: LiveSession

    @classmethod
    def of(cls, state: BrokerState, session: LiveSession) -> "_Candidate":
        return cls(session.party, use_of(state, session), session.active_s, session)


def use_of(state: BrokerState, session: LiveSession) -> Use:
    """Return what a client would lose with its session, or its connection."""
    use = session.use
    if use is Use.LEFT and not state.scheduler.may_abandon(session):
        return Use.BUSY
    if use is Use.BUSY and state.scheduler.may_abandon(session):
        return Use.ASKING
    return use


def _left() -> Use:
    return Use.LEFT


def _idle() -> Use:
    return Use.IDLE


async def adopt(state: BrokerState) -> str:
    """Take over what other programs wrote; return how much, "" where that was not possible now."""
    if state.lifecycle.engine is not EngineState.READY or state.lifecycle.drain is not None:
        return ""  # what is being loaded is compared anyway
    try:
        return str(await trio.to_thread.run_sync(state.services.engine.adopt, limiter=_ADOPTING))
    except (PalaceError, sqlite3.Error) as error:
        logger.warning("what other programs wrote was not taken over: %s", redacted(error))
        return ""


async def _serve_control(
    state: BrokerState, stream: Lines, fields: dict[str, str], peer: Peer
) -> None:
    if not isinstance(stream, LineStream):
        raise WireError("guests ask for tools, not for the broker itself: use `palace` on its host")
    ask = fields.get("ask", "")
    if not peer.may(Right.CONTROL):
        raise _Refusal(
            "forbidden",
            f"{peer.called} may use this palace, and may not ask its broker for {ask[:40]!r}: that "
            "is for its owner and root.",
            admitted="1",
        )
    if ask == "status":
        body = json.dumps(status_of(state)).encode()
        stream.send_soon(wire.encode_header(wire.ANSWER, {}) + body + b"\n")
    elif ask == "stop":
        stream.send_soon(
            wire.encode_header(wire.ANSWER, {"epoch": str(state.services.ownership.epoch)})
        )
        now = fields.get("now", "") == "1"
        await stream.flushed()
        # The process's end is the rest of the answer: the kernel hangs up for it.
        state.leaving.open_to_the_end.append(stream.detach())
        state.leaving.stop(Reason.STOP, grace_s=0.0 if now else None, text="palace stop")
    elif ask == "adopt":  # a backup is about to copy the journal
        stream.send_soon(wire.encode_header(wire.ANSWER, {"adopted": await adopt(state)}))
    elif ask == "upgrade":  # a younger palace wants to serve; nothing is lost by it
        stream.send_soon(
            wire.encode_header(wire.ANSWER, {"epoch": str(state.services.ownership.epoch)})
        )
        await stream.flushed()
        state.leaving.stop(Reason.UPGRADE, text="asked by a younger version")
    else:
        raise WireError(f"unknown control question {ask[:40]!r}")
