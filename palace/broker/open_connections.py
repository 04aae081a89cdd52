"""The connections of all clients: one limit, and who gives way where it is reached.

Each takes a descriptor, and more than `limit` would take those that the engine needs.  A new one
gets a place where another one can be taken back: of the party that holds most, a connection that
has said nothing yet, else one that its shim opens again without a loss.  Nothing is taken from a
party that holds hardly more than the one that asks; then that one is refused, in words.
"""

from collections.abc import Callable

import attrs
import trio

from palace.protocol.budget import Budget, Holder, Use

RESERVE = 16


def _silent() -> Use:
    return Use.UNUSED


@attrs.define(eq=False)
class OpenConnection:
    """One connection.  `close` ends it soon; `use` says what its client would lose by that."""

    party: str
    close: Callable[[], None]
    since_s: float
    use: Callable[[], Use] = _silent


@attrs.frozen(eq=False)
class _Candidate(Holder):
    connection: OpenConnection


@attrs.define(eq=False)
class OpenConnections:
    """All of them, HTTP included.

    `reserve` more than the limit may be open for a moment: a broker that is full of clients at work
    can still be looked at and stopped, and says to others that it is full.
    """

    budget: Budget
    reserve: int = RESERVE
    open: int = 0  # those that were told to go included, until they have gone
    _held: dict[OpenConnection, None] = attrs.field(factory=dict)

    @classmethod
    def of(cls, limit: int) -> "OpenConnections":
        return cls(Budget("connections", limit))

    def enter(self, party: str, close: Callable[[], None]) -> OpenConnection:
        """Count a connection; another one may have to go for it.  `leave` comes at its end."""
        if self.is_full():
            self._make_room(party)
        connection = OpenConnection(party, close, trio.current_time())
        self._held[connection] = None
        self.budget.take(party)
        self.open += 1
        return connection

    def leave(self, connection: OpenConnection) -> None:
        """Note that a connection has ended."""
        self.open -= 1
        self._give_back(connection)

    def is_full(self) -> bool:
        """Tell whether another one may have to go for the next."""
        return self.budget.held >= self.budget.limit

    @property
    def is_over(self) -> bool:
        """Tell whether more are open than clients may have: the newest of them gets no session."""
        return self.budget.held > self.budget.limit

    @property
    def is_over_reserve(self) -> bool:
        return self.budget.held > self.budget.limit + self.reserve

    @property
    def full_text(self) -> str:
        return (
            f"{self.budget.limit} connections are open, as many as this broker may have: end an "
            "agent, or allow more open files (ulimit -n) and restart the broker (palace stop)."
        )

    def _make_room(self, party: str) -> None:
        candidates = [
            _Candidate(connection.party, connection.use(), connection.since_s, connection)
            for connection in self._held
        ]
        found = self.budget.first_to_go(candidates, party)
        if found is not None:
            self._give_back(found.connection)
            self.budget.note_shed(found.party)
            found.connection.close()

    def _give_back(self, connection: OpenConnection) -> None:
        if connection in self._held:
            del self._held[connection]
            self.budget.give_back(connection.party)
