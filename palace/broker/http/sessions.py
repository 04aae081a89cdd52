"""Sessions of HTTP clients: the same as a shim's, but for how their lines come.

A session lasts from `initialize` until its client ends it, is silent for long, or the broker
leaves; a request without a session has one of its own.  No client comes back to such a session
after a broker's end: its outcomes are forgotten as soon as they are told, and the next owner knows
nothing of it.
"""

import enum
import logging

import attrs
import trio

from palace.broker.connections import make_room, serve_session
from palace.broker.session import LiveSession
from palace.broker.state import BrokerState
from palace.broker.telemetry.telemetry import HttpCounters
from palace.protocol import wire
from palace.protocol.budget import HTTP, party_of_token
from palace.protocol.errors import Busy, Draining
from palace.protocol.pathmap import Whereabouts
from palace.protocol.proof import proof_of
from palace.protocol.request import Request
from palace.protocol.rights import BY_TOKEN, OVER_HTTP
from palace.protocol.session import Hello
from palace.protocol.tools import Kind
from palace.transport.pending import LEAVING, PendingRequest, PendingRequests

QUIET_S = 3600.0  # a client that comes later is told to initialize again

logger = logging.getLogger("palace.http")


class Use(enum.Enum):
    """What a session is for: `PEER` is a request of the mesh's, `PULL` the broker's own part."""

    ANY = "any"
    CONTRACT = "contract"
    PEER = "peer"
    PULL = "pull"


def name_of(ident: str) -> str:
    """Return a session's name, which stands in the journal: what its client shows does not."""
    return wire.PROVEN + proof_of(ident)


@attrs.define(eq=False, kw_only=True)
class HttpSession:
    """One HTTP client's session.  `lasting` is False where it is for one request alone.

    `ident` is what its client shows to go on with it: a secret, unlike the session's own name.
    `is_task`: its one call has become a task, and what the journal knows of it is kept.
    """

    ident: str
    session: LiveSession
    requests: PendingRequests
    lasting: bool
    is_task: bool = False


@attrs.define(eq=False, kw_only=True)
class HttpSessions:
    """All of them; their tasks run in `nursery`, so that admitted work outlives a connection."""

    state: BrokerState
    counters: HttpCounters
    nursery: trio.Nursery
    _lasting: dict[str, HttpSession] = attrs.field(factory=dict)

    def get(self, ident: str, token: str) -> HttpSession | None:
        """Return a lasting session by the id that its client was given.

        `token` is what that client has shown: its session's id alone makes nobody somebody else.
        """
        found = self._lasting.get(ident)
        return found if found is not None and found.session.hello.token == token else None

    def open(
        self,
        *,
        client: str,
        token: str,
        read_only: bool = False,
        lasting: bool = False,
        use: Use = Use.ANY,
        party: str = HTTP,
    ) -> HttpSession:
        """Open a session; raises Draining or Busy.

        `token` is the digest of a workspace's token, "" for a client that has shown the palace's.
        `use` is what it is for, and nothing else.  `party` is whose it is where no such token says.
        """
        state = self.state
        now_s = trio.current_time()
        if state.lifecycle.drain is not None:
            raise Draining(LEAVING)
        party = party_of_token(token) if token else party
        # The broker's own are short, and none of a client's has to go for them.
        if use is not Use.PULL and not make_room(state, party):
            raise Busy(f"{state.sessions.full_text}. Nothing was done; ask again later.")
        ident = state.services.kernel.token(16)
        # No HELLO can prove that it is an HTTP client's: nobody is told of a secret.
        proof = state.services.kernel.token()
        name = name_of(ident)
        session = LiveSession(id=name, pid=0, since_s=now_s, party=party, proof=proof)
        session.renews = True
        session.is_own = use is Use.PULL
        session.peer = BY_TOKEN if token else OVER_HTTP
        if token:  # it may be anywhere, and names no file of the broker's machine
            session.where = Whereabouts(
                same_files=False, lent_only=True, called=session.peer.called
            )
        requests = PendingRequests(QUIET_S)
        http = HttpSession(ident=ident, session=session, requests=requests, lasting=lasting)
        state.sessions.add(session)
        hello = Hello(
            session=name,
            client=client,
            read_only=read_only,
            token=token,
            is_contract=use is Use.CONTRACT,
            is_mesh=use in (Use.PEER, Use.PULL),
        )
        session.connect(requests, hello)
        if lasting:
            self._lasting[ident] = http
            self.counters.sessions = len(self._lasting)
        self.nursery.start_soon(self._serve, http)
        return http

    def post(self, http: HttpSession, request: Request) -> PendingRequest:
        """Hand in a request; raises Draining where the session has just ended."""
        try:
            pending = http.requests.post(request)
        except trio.ClosedResourceError:
            raise Draining(LEAVING) from None
        if not http.lasting:
            http.requests.end()
        return pending

    def settle(self, http: HttpSession) -> None:
        """Let the engine forget what was told: it is never asked for again."""
        machine = http.session.machine
        # A goodbye answers requests, too, that no ordinal was taken for: nothing is kept of those.
        machine.acknowledge(min(http.requests.settled, machine.next_ordinal))
        self.state.services.engine.acknowledge(http.session.id, machine.acknowledged)

    def give_up(self, http: HttpSession, pending: PendingRequest) -> None:
        """Note that a client hung up: its query ends, a change that was admitted is carried out."""
        call = http.session.machine.calls.get(pending.ordinal)
        if call is not None and call.tool.kind is Kind.QUERY:
            self.state.scheduler.cancel(http.session, pending.ordinal)

    def end(self, http: HttpSession) -> None:
        """End a session; what it has asked is still answered."""
        self._forget(http)
        http.requests.end()

    def _forget(self, http: HttpSession) -> None:
        self._lasting.pop(http.ident, None)
        self.counters.sessions = len(self._lasting)

    async def _serve(self, http: HttpSession) -> None:
        session = http.session
        try:
            await serve_session(self.state, session, http.requests)
            if not http.is_task:
                self.state.services.engine.end_session(session.id)
        except Exception as error:
            # The session boundary: a fault in serving one client must not end the others'.
            logger.exception("an HTTP session failed")
            self.state.telemetry.note_error(f"an HTTP session failed: {type(error).__name__}")
        finally:
            self._forget(http)
            http.requests.close()
