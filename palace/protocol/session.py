"""One client's session at an owner: which lines came, and what is still owed for them.

Theory of operation.  A session outlives its connections.  Each connection begins with a HELLO that
names the ordinal of the next new line and lists the older ones that are sent again first, each with
the client's word whether it may have run.  Lines are numbered in the order in which they come.  A
line that this owner has already met is not handled twice: its reply goes out again if it found no
connection before, and is on its way otherwise.

A line ends in one of four ways: it is answered; its reply is *kept* for the next connection; it is
handed back as unrun in a goodbye; or the owner dies, and the next one is told.

    OPEN       lines are read
    FINISHING  the connection brings no more of them; what was admitted is still answered
    LEAVING    goodbye was said: no line is read any more, and no connection follows

Rule for this file: pure; no clock, no stream.  The driver is palace/broker/session.py.
"""

import enum
from collections import deque
from collections.abc import Iterable, Mapping

import attrs

from palace.protocol import jsonrpc, wire
from palace.protocol.claims import decode_claims
from palace.protocol.errors import WireError
from palace.protocol.request import Request, ToolCall
from palace.protocol.workspaces import digest_of

LENGTHS = {
    "session": wire.SESSION_MAX,
    "resend": wire.HEADER_BYTES_MAX,
    "elsewhere": wire.HEADER_BYTES_MAX,
}
KEPT_MAX = 1024  # replies without a connection; the journal has those of changes besides
KEPT_BYTES_MAX = 4 << 20  # of them all; what is longer is asked again
SMALL_BYTES = 1024  # kept all the same: what can't be asked again is short


class Phase(enum.Enum):
    OPEN = "open"
    FINISHING = "finishing"
    LEAVING = "leaving"


class Fate(enum.Enum):
    """What is to be done with a line that has just come."""

    HANDLE = "handle"
    REPEAT = "repeat"  # its reply found no connection: send it now
    IGNORE = "ignore"  # under way, or answered on this very connection


@attrs.define(kw_only=True)  # frozen, it would take three times as long to make
class Arrival:
    """A line's number and fate; `payload` is what to repeat, None where stock stays silent."""

    ordinal: int
    maybe_ran: bool = False
    fate: Fate = Fate.HANDLE
    payload: bytes | None = None


@attrs.frozen(kw_only=True)
class Hello:
    """What a shim says of itself.  `client` is None where it doesn't say.

    `epoch` is that of the session's last owner, 0 if unknown.  `is_command`: it is no MCP client's,
    but one of palace's commands, which asks for its user.  `workspace` is whom it acted as at an
    earlier owner, None where it doesn't say.  `is_contract`: it is no shim's at all, but a request
    of the memory contract's; `is_mesh`: one of a peer's, or of the broker's own pulling.  `claims`
    are of tasks for which it stands.  `elsewhere`: lines sent again that went to another palace.
    """

    session: str
    secret: str = attrs.field(default="", repr=False)
    token: str = ""  # the digest of what it has shown
    palace_id: str = ""
    client: str | None = None
    version: str = ""
    read_only: bool = False
    next_ordinal: int = 0
    resend: tuple[tuple[int, bool], ...] = ()
    epoch: int = 0
    cwd: str = ""
    place: str = ""
    is_command: bool = False
    workspace: str | None = None
    is_contract: bool = False
    is_mesh: bool = False
    claims: tuple[str, ...] = ()
    elsewhere: frozenset[int] = frozenset()

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> "Hello":
        """Read the fields of a HELLO; raises WireError."""
        if not fields.get("session"):
            raise WireError("a hello names its session")
        for name, value in fields.items():
            if len(value) > LENGTHS.get(name, wire.TEXT_MAX):
                raise WireError(f"hello's {name[:40]} is too long: {value[:40]!r}")
        return cls(
            session=fields["session"],
            secret=fields.get("secret", ""),
            token=digest_of(fields["token"]) if fields.get("token") else "",
            palace_id=fields.get("palace_id", ""),
            client=fields.get("client"),
            version=fields.get("version", ""),
            read_only=fields.get("read_only", "") == "1",
            resend=tuple(wire.decode_resend(fields.get("resend", ""))),
            next_ordinal=_number(fields, "next"),
            epoch=_number(fields, "epoch"),
            cwd=fields.get("cwd", ""),
            place=fields.get("place", ""),
            is_command=fields.get("command", "") == "1",
            workspace=fields.get("workspace"),
            claims=decode_claims(fields.get("claims", "")),
            elsewhere=frozenset(wire.decode_ordinals(fields.get("elsewhere", ""))),
        )


def _number(fields: Mapping[str, str], name: str) -> int:
    try:
        return wire.whole_number(fields.get(name, "0"))
    except ValueError:
        raise WireError(f"hello's {name} is no number: {fields[name][:40]!r}") from None


@attrs.frozen(kw_only=True)
class Goodbye:
    """The owner's last word: lines after `read_upto`, and those in `unrun`, did not run.

    `away` is another palace, which is to be asked for the next connection, "" for this one.
    """

    reason: str
    read_upto: int
    unrun: tuple[int, ...]
    away: str = ""

    def fields(self) -> dict[str, str]:
        said = {
            "reason": self.reason,
            "read_upto": str(self.read_upto),
            "unrun": wire.encode_ordinals(list(self.unrun)),
        }
        return said | {"away": self.away} if self.away else said


@attrs.define(eq=False)
class Session:
    """One session's state.

    `calls` are those admitted and not answered; `acknowledged`: all lines below are settled at the
    client; `offering` is the line that waits outside of a full queue, if it never ran before.
    `dropped`: a reply found no connection and was too much to be kept.
    """

    phase: Phase = Phase.OPEN
    next_ordinal: int = 0
    acknowledged: int = 0
    offering: int | None = None
    dropped: bool = False
    calls: dict[int, ToolCall] = attrs.field(factory=dict)
    _ordinals: dict[str, int] = attrs.field(factory=dict)  # request id of a call -> its ordinal
    _resend: deque[tuple[int, bool]] = attrs.field(factory=deque)
    _early: dict[int, Request] = attrs.field(factory=dict)
    _kept: dict[int, bytes | None] = attrs.field(factory=dict)
    _answered: set[int] = attrs.field(factory=set)  # while resent lines are still to come

    @property
    def is_settled(self) -> bool:
        """Tell whether no line comes any more and none is owed a reply."""
        return self.phase is not Phase.OPEN and not self.calls

    @property
    def owes_nothing(self) -> bool:
        """Tell whether no reply is to come and none is kept."""
        return not self.calls and not self._kept

    @property
    def is_idle(self) -> bool:
        """Tell whether its client waits for nothing, and nothing waits for its client."""
        return self.owes_nothing and not self._early and self.offering is None

    @property
    def kept_bytes(self) -> int:
        if not self._kept:  # as in nearly all, and all are asked four times a second
            return 0
        return sum(len(payload) for payload in self._kept.values() if payload)

    @property
    def is_acknowledged(self) -> bool:
        """Tell whether the client has settled every line, so that no outcome is asked for again."""
        return self.acknowledged >= self.next_ordinal

    @property
    def awaits_resends(self) -> bool:
        return bool(self._resend)

    # Connections.

    def connect(self, hello: Hello) -> None:
        """Begin a connection; what an older one has not brought comes over this one."""
        self.phase = Phase.OPEN
        self.next_ordinal = hello.next_ordinal
        self.offering = None
        self.dropped = False
        self._resend = deque(hello.resend)
        self._answered.clear()

    def finish(self) -> None:
        """Note that the connection brings no more lines."""
        if self.phase is Phase.OPEN:
            self.phase = Phase.FINISHING

    def leave(self) -> None:
        """Note that the owner leaves: `say_goodbye` follows in the same step."""
        self.phase = Phase.LEAVING

    def say_goodbye(self, reason: str, unrun: Iterable[int], away: str = "") -> Goodbye:
        """Return what the client is told; `unrun` adds to what is known here."""
        self.phase = Phase.LEAVING
        not_begun = {*unrun, *self._early}
        if self.offering is not None:
            not_begun.add(self.offering)
        # Of resent lines that were not read yet only this is known: what was said of them.
        not_begun.update(ordinal for ordinal, maybe_ran in self._resend if not maybe_ran)
        return Goodbye(
            reason=reason,
            read_upto=self.next_ordinal - 1,
            unrun=tuple(sorted(not_begun)),
            away=away,
        )

    # Lines.

    def take_line(self) -> Arrival:
        """Number the line that has just come: resent lines first, then new ones."""
        if not self._resend:
            self.next_ordinal += 1
            return Arrival(ordinal=self.next_ordinal - 1)
        ordinal, maybe_ran = self._resend.popleft()
        if maybe_ran and ordinal in self._kept:
            return Arrival(ordinal=ordinal, fate=Fate.REPEAT, payload=self._kept.pop(ordinal))
        if maybe_ran and (ordinal in self.calls or ordinal in self._answered):
            return Arrival(ordinal=ordinal, fate=Fate.IGNORE)
        return Arrival(ordinal=ordinal, maybe_ran=maybe_ran)

    def acknowledge(self, upto: int) -> None:
        """Note that all lines below `upto` are settled at the client; raises WireError."""
        if upto > self.next_ordinal:  # an outcome forgotten too early lets its line run twice
            raise WireError(f"an ack up to {upto}, but only {self.next_ordinal} lines came")
        self.acknowledged = max(self.acknowledged, upto)

    def answer(self, ordinal: int, payload: bytes | None, *, reachable: bool) -> bool:
        """Note a line's reply; True: send it now, False: it is kept for the next connection."""
        if self._resend:
            self._answered.add(ordinal)
        if reachable:
            return True
        size = len(payload or b"")
        is_small = size <= SMALL_BYTES or self.kept_bytes + size <= KEPT_BYTES_MAX
        if is_small and len(self._kept) < KEPT_MAX:
            self._kept[ordinal] = payload
        else:
            self.dropped = True
        return False

    def drop_kept(self) -> None:
        """Forget the replies that are kept: their lines are sent again if the client returns."""
        self._kept.clear()

    def wait_for_catalogue(self, ordinal: int, request: Request) -> None:
        """Keep a line that can't be answered before the engine has loaded."""
        self._early[ordinal] = request

    def take_early(self) -> list[tuple[int, Request]]:
        """Return the lines that waited for the catalogue, oldest first."""
        early, self._early = list(self._early.items()), {}
        return early

    # Calls.

    def begin_offer(self, arrival: Arrival) -> None:
        """Note that a call waits outside of a full queue; nothing is said of what may have run."""
        assert arrival.ordinal not in self.calls, "a line is offered once"
        self.offering = None if arrival.maybe_ran else arrival.ordinal

    def end_offer(self, ordinal: int) -> None:
        """Note that a call waits no longer; a later connection's offer is left alone."""
        if self.offering == ordinal:
            self.offering = None

    def admit(self, ordinal: int, call: ToolCall) -> None:
        """Note that a call was admitted: from here on it is owed a reply."""
        self.calls[ordinal] = call
        self._ordinals[jsonrpc.id_key(call.id)] = ordinal

    def settle(self, ordinal: int) -> None:
        """Note that an admitted call is about to be answered, or is handed back."""
        key = jsonrpc.id_key(self.calls.pop(ordinal).id)
        if self._ordinals.get(key) == ordinal:  # else a later call has the same id
            del self._ordinals[key]

    def cancelled_call(self, request: Request) -> int | None:
        """Return the ordinal of the call that a `notifications/cancelled` names, if it runs."""
        key = jsonrpc.cancelled_id(request.message)
        return None if key is None else self._ordinals.get(key)
