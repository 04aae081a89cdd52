"""The driver of one session: the connection that palace/protocol/session.py doesn't know of."""

import attrs
import trio

from palace.protocol import wire
from palace.protocol.budget import Use
from palace.protocol.pathmap import Whereabouts
from palace.protocol.principals import Principal
from palace.protocol.rights import NOBODY, Peer
from palace.protocol.session import Hello, Phase, Session
from palace.transport.lines import UNSENT_MAX, Connection


@attrs.define(eq=False, kw_only=True)
class LiveSession:
    """One shim life.  `stream` is None between two connections, since `lost_s`.

    `proof` is the digest of the secret that its first HELLO told, "" where it told none; only a
    shim that knows that secret may go on with it.  `is_apart`: its HELLO named another session and
    could not prove it, so nothing is known here of what its lines did before.
    `party` is whose budgets it uses (palace/protocol/budget.py), for all its life.
    `guest` says whose token its connection has shown, "" for neighbours.
    `client` is what its client calls itself, `active_s` when it last asked for something.
    """

    id: str
    pid: int
    since_s: float
    party: str = ""
    proof: str = ""
    is_apart: bool = False
    client: str = ""
    guest: str = ""
    principal: Principal | None = None  # until it is bound (palace/broker/principals.py)
    hello: Hello = attrs.field(init=False)
    peer: Peer = NOBODY  # until its connection says
    where: Whereabouts = attrs.field(factory=Whereabouts)
    machine: Session = attrs.field(factory=Session)
    stream: Connection | None = None
    reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    settled: trio.Event = attrs.field(factory=trio.Event)
    lost_s: float = 0.0
    active_s: float = 0.0
    requests: int = 0
    called: bool = False  # a tool, once
    claims: dict[str, None] = attrs.field(factory=dict)  # of tasks, for which it stands
    is_own: bool = False  # the broker's own work: no client has asked for it
    renews: bool = False  # its client begins another one without being asked

    def __attrs_post_init__(self) -> None:
        self.hello = Hello(session=self.id)

    @property
    def is_leaving(self) -> bool:
        return self.machine.phase is Phase.LEAVING

    @property
    def is_connected(self) -> bool:
        return self.stream is not None and not self.stream.gone

    @property
    def is_choked(self) -> bool:
        """Tell whether its client leaves too many replies unread."""
        return self.stream is not None and self.stream.unsent > UNSENT_MAX

    @property
    def use(self) -> Use:
        """Return what its client would lose if it were forgotten now."""
        if self.stream is None or (self.machine.phase is Phase.FINISHING and self.stream.gone):
            return Use.LEFT
        if not self.machine.is_idle or self.stream.waiting:
            return Use.BUSY
        if not self.renews:
            return Use.IDLE
        return Use.RENEWED if self.called else Use.UNUSED

    def may_go_on(self, proof: str, pid: int) -> bool:
        """Tell whether a HELLO with this proof, from that process, is of this session's shim.

        Older shims tell no secret: theirs goes on from the same process, once that has hung up.
        """
        if self.proof or proof:
            return self.proof == proof
        return self.pid == pid and (self.stream is None or self.machine.phase is Phase.FINISHING)

    def connect(self, stream: Connection, hello: Hello) -> None:
        """Bind the session to a connection; an older one is closed, since a shim has only one."""
        if self.stream is not None:
            self.stream.close()
        # The older connection's reader must take no ordinal of this one's: it is cancelled before
        # the machine goes on counting, and a task that waits for its last reply gives up.
        self.reading.cancel()
        self.settled.set()
        self.machine.connect(hello)
        self.settled = trio.Event()
        self.reading = trio.CancelScope()
        self.hello = hello
        self.client = self.client if hello.client is None else hello.client
        self.claims = self.claims or dict.fromkeys(hello.claims)
        self.active_s = trio.current_time()
        self.stream = stream

    def disconnect(self) -> None:
        """Note that the connection has ended."""
        self.stream = None
        self.lost_s = trio.current_time()

    def reply(self, ordinal: int, payload: bytes | None) -> None:
        """Send a line's reply, or keep it for the session's next connection."""
        stream = self.stream
        reachable = stream is not None and not stream.broken
        if self.machine.answer(ordinal, payload, reachable=reachable):
            self.repeat(ordinal, payload)
            if stream is not None and stream.broken:  # which only sending has shown
                self.machine.answer(ordinal, payload, reachable=False)

    def repeat(self, ordinal: int, payload: bytes | None) -> None:
        """Send a reply over the connection that has asked for it."""
        if self.stream is not None:
            self.stream.send_reply(ordinal, payload)

    def header(self, kind: str, fields: dict[str, str]) -> None:
        if self.stream is not None:
            self.stream.send_header(kind, fields)

    def goodbye(self, reason: str, unrun: list[int], *, away: str = "") -> None:
        """Tell the client's shim to go, and which of its lines did not run; read no more."""
        goodbye = self.machine.say_goodbye(reason, unrun, away)
        self.header(wire.GOODBYE, goodbye.fields())
        self.reading.cancel()
        self.note_settled()

    def note_settled(self) -> None:
        """Wake those who wait for the last reply, if it has gone."""
        if self.machine.is_settled:
            self.settled.set()
