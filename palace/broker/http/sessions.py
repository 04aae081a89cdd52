"""Sessions of HTTP clients: the same as a shim's at the desk, but for how their lines come.

A session lasts from `initialize` until its client ends it, is silent for long, or the broker
leaves; a line without a session has one of its own.  Nobody comes back to such a session: its
outcomes are forgotten as soon as they are told, and the next owner knows nothing of it.
"""

import logging
import os

import attrs
import trio

from palace.broker.connections import serve_session
from palace.broker.desk import Desk
from palace.broker.session import Session
from palace.protocol.errors import Busy, Draining
from palace.protocol.pathmap import Whereabouts
from palace.protocol.tools import Kind
from palace.transport.pending import LEAVING, Posted, PostedLines

QUIET_S = 3600.0  # a client that comes later is told to begin anew

logger = logging.getLogger("palace.http")


@attrs.define(eq=False, kw_only=True)
class Visitor:
    """One HTTP client's session.  `lasting` is False where it is for one line alone."""

    session: Session
    lines: PostedLines
    lasting: bool
    used_s: float = 0.0


@attrs.define(eq=False, kw_only=True)
class HttpSessions:
    """All of them; their tasks run in `nursery`, so that admitted work outlives a connection."""

    desk: Desk
    nursery: trio.Nursery
    lasting: dict[str, Visitor] = attrs.field(factory=dict)

    def open(self, *, client: str, read_only: bool, lasting: bool) -> Visitor:
        """Open a session; raises Draining or Busy."""
        desk = self.desk
        now_s = trio.current_time()
        if desk.lifecycle.drain is not None:
            raise Draining(LEAVING)
        if len(desk.sessions) >= desk.config.sessions_max and not self._end_idle():
            raise Busy(
                f"{desk.config.sessions_max} sessions are open (sessions_max in palace.toml). "
                "Nothing was done; ask again later."
            )
        session = Session(
            id=desk.kernel.token(16), pid=0, read_only=read_only, client=client, since_s=now_s
        )
        session.where = Whereabouts(resolve=os.path.realpath)
        visitor = Visitor(session=session, lines=PostedLines(QUIET_S), lasting=lasting)
        visitor.used_s = now_s
        desk.sessions[session.id] = session
        session.connect(visitor.lines)
        if lasting:
            self.lasting[session.id] = visitor
        self.nursery.start_soon(self._serve, visitor)
        return visitor

    def post(self, visitor: Visitor, line: bytes) -> Posted:
        """Hand in a line; raises Draining where the session has just ended."""
        visitor.used_s = trio.current_time()
        try:
            posted = visitor.lines.post(line)
        except trio.ClosedResourceError:
            raise Draining(LEAVING) from None
        if not visitor.lasting:
            visitor.lines.end()
        return posted

    def settle(self, visitor: Visitor) -> None:
        """Let the engine forget what was told: it is never asked for again."""
        session = visitor.session
        session.acknowledged = visitor.lines.settled
        self.desk.engine.acknowledge(session.id, session.acknowledged)

    def give_up(self, visitor: Visitor, posted: Posted) -> None:
        """Note that nobody waits any more: a query ends, a change that was admitted is made."""
        job = visitor.session.jobs.get(posted.ordinal)
        if job is not None and job.tool.kind is Kind.QUERY:
            self.desk.cancel(visitor.session, posted.ordinal)

    def end(self, visitor: Visitor) -> None:
        """End a session; what it has asked is still answered."""
        self.lasting.pop(visitor.session.id, None)
        visitor.lines.end()

    def _end_idle(self) -> bool:
        """Make room: end the session that was silent for longest, if any waits for nothing."""
        idle = [v for v in self.lasting.values() if not v.lines.waiting]
        if not idle:
            return False
        oldest = min(idle, key=lambda visitor: visitor.used_s)
        self.end(oldest)
        self.desk.leave(oldest.session)
        return True

    async def _serve(self, visitor: Visitor) -> None:
        session = visitor.session
        try:
            await serve_session(self.desk, session, visitor.lines, [])
            self.desk.engine.end_session(session.id)
        except Exception as error:
            # The session boundary: a fault in serving one client must not end the others'.
            logger.exception("an HTTP session failed")
            self.desk.trouble(f"an HTTP session failed: {type(error).__name__}")
        finally:
            self.lasting.pop(session.id, None)
            visitor.lines.close()
