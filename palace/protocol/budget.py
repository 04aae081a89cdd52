"""What one client may hold of that which all share, and from whom it is taken back.

Theory of operation.  A *party* is what the kernel, a token or an address tells apart: a process of
the owner's, another user, a guest's address, whoever shows the same token over HTTP.  Whatever is
limited (sessions, connections, places for those without a token, the slots of a lane, waiting
calls, bytes) is a `Budget`: one limit for all parties together, and what each of them holds.

Nobody has a fixed share, so a party that is alone may use all of it.  Parties are compared only
when nothing is left:

- What can be taken back is taken from the party that holds most (`loser`).
- What can't, such as a call that runs, has a `reserve`.  It is for parties that hold less than half
  of what that party does, so that nobody else has to wait for it to end.

Rule for this file: pure; what is shed, and how, is the driver's affair.
"""

import enum
from collections.abc import Iterable
from typing import TypeVar

import attrs

H = TypeVar("H", bound="Holder")

HTTP = "HTTP"  # all that show the palace's token over HTTP: nothing proven tells them apart


def party_of(*, pid: int, uid: int | None, owner: int, address: str = "") -> str:
    """Return the party of a connection, in words for status and messages.

    Another user is one party, however many processes it starts; `uid` is None where no kernel
    tells it.
    """
    if uid is None:
        return f"guest {address}".rstrip()
    return f"pid {pid}" if uid in (0, owner) else f"uid {uid}"


def party_of_token(digest: str) -> str:
    """Return the party of all clients over HTTP that show one token, by the token's digest."""
    return f"token {digest[:8]}"


class Use(enum.IntEnum):
    """What a holder would lose by giving way, from nothing to its present work."""

    LEFT = 0  # nobody is connected; whoever comes back sends again what was not answered
    UNUSED = 1  # as the next, and its client has called nothing yet
    RENEWED = 2  # idle, and its client begins another one without being asked
    IDLE = 3  # idle, and connected
    ASKING = 4  # its calls under way can be asked again: none is a change that has begun
    BUSY = 5


@attrs.frozen(eq=False)
class Holder:
    """One of the things that a party holds, unused `since_s`."""

    party: str
    use: Use
    since_s: float


@attrs.define(eq=False)
class Budget:
    """One limited thing, counted for each party that holds some of it.

    `shed` counts how often a party had to give some back, `last_shed` names the last one.
    """

    name: str
    limit: int
    reserve: int = 0
    held: int = 0
    shed: int = 0
    last_shed: str = ""
    _by_party: dict[str, int] = attrs.field(factory=dict)

    def of(self, party: str) -> int:
        """Return how much a party holds."""
        return self._by_party.get(party, 0)

    def has_room(self, party: str, amount: int = 1) -> bool:
        """Tell whether a party may have so much more without taking it from another."""
        if self.held + amount <= self.limit:
            return True
        if self.held + amount > self.limit + self.reserve:
            return False
        return 2 * (self.of(party) + amount) <= self.of(self.heaviest())

    def take(self, party: str, amount: int = 1) -> None:
        """Count what a party holds from now on, whether there was room for it or not."""
        held = self._by_party  # each call takes and gives back four times
        held[party] = held.get(party, 0) + amount
        self.held += amount

    def give_back(self, party: str, amount: int = 1) -> None:
        """Count what a party no longer holds."""
        held = self._by_party
        left = held[party] - amount
        self.held -= amount
        if left:
            held[party] = left
        else:
            del held[party]

    def measure(self, held: dict[str, int]) -> None:
        """Replace what is counted by what was measured."""
        self._by_party = held
        self.held = sum(held.values())

    def heaviest(self) -> str:
        """Return the party that holds most, of several the one that has held some for longest."""
        return max(self._by_party, key=self.of, default="")

    def loser(self) -> str:
        """Return the party that has to give some back, "" while the limit is kept."""
        return self.heaviest() if self.held > self.limit else ""

    def first_to_go(self, holders: Iterable[H], party: str) -> H | None:
        """Return what gives way so that a party may have one more, None where nothing does.

        Of the party that holds most the least used; what is connected and has been used only where
        that party holds so much more that the reserve would be for the one that asks.
        """
        wanted = 2 * (self.of(party) + 1)

        def may_go(holder: H) -> bool:
            return holder.use < Use.IDLE or (
                holder.use < Use.BUSY and wanted <= self.of(holder.party)
            )

        return min(
            filter(may_go, holders),
            key=lambda holder: (-self.of(holder.party), holder.use, holder.since_s),
            default=None,
        )

    def note_shed(self, party: str) -> None:
        """Note that a party had to give some back."""
        self.shed += 1
        self.last_shed = party


@attrs.frozen(eq=False)
class Shares:
    """A budget that is counted twice, since one party may have many sessions.

    Whoever holds little has a right to the reserve: as a session beside its party's others, or as a
    party beside others.  What sessions can reach is less than what parties can, since a party that
    opens one session after the other would otherwise leave nothing of it to others.
    """

    parties: Budget
    sessions: Budget

    @classmethod
    def of(cls, name: str, limit: int, *, reserve: int) -> "Shares":
        """Return shares with a reserve for sessions, and half as much again for parties alone."""
        return cls(Budget(name, limit, reserve + (reserve + 1) // 2), Budget(name, limit, reserve))

    def has_room(self, party: str, session: str) -> bool:
        return self.parties.has_room(party) or self.sessions.has_room(session)

    def take(self, party: str, session: str) -> None:
        self.parties.take(party)
        self.sessions.take(session)

    def give_back(self, party: str, session: str) -> None:
        self.parties.give_back(party)
        self.sessions.give_back(session)
