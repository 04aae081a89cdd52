"""Places that can be taken back: connections, held by parties of which the heaviest gives way.

Whoever asks gets a place.  Where that is one too many, the party that then holds most loses one:
of those that are only kept for a next request the oldest, else of those that have said nothing yet,
else of all.
"""

from collections.abc import Callable

import attrs

from palace.protocol.budget import Budget


@attrs.define(eq=False)
class Place:
    """One connection.  `send_away` ends it soon; `heard`: its client has begun to speak.

    `is_kept` tells whether it is only open for a next request, for which its client opens another.
    """

    party: str
    send_away: Callable[[], None]
    heard: bool = False
    is_kept: Callable[[], bool] = lambda: False

    def note_heard(self) -> None:
        self.heard = True


@attrs.define(eq=False)
class Places:
    """The places that one budget has."""

    budget: Budget
    _held: dict[Place, None] = attrs.field(factory=dict)  # oldest first

    def enter(self, party: str, send_away: Callable[[], None]) -> Place:
        """Take a place; another client, or this one, may be sent away for it."""
        place = Place(party, send_away)
        self.add(place)
        return place

    def add(self, place: Place) -> None:
        """Take a place, as `enter`."""
        self._held[place] = None
        self.budget.take(place.party)
        while loser := self.budget.loser():
            self._send_away(loser)

    def has(self, place: Place) -> bool:
        """Tell whether a place is still held: neither given back nor sent away."""
        return place in self._held

    def is_full(self) -> bool:
        """Tell whether the next one takes another's place."""
        return self.budget.held >= self.budget.limit

    def leave(self, place: Place) -> None:
        """Give a place back; safe to call twice."""
        if place in self._held:
            del self._held[place]
            self.budget.give_back(place.party)

    def _send_away(self, party: str) -> None:
        theirs = [place for place in self._held if place.party == party]
        # The first, so the oldest, of equals.
        place = min(theirs, key=lambda place: (not place.is_kept(), place.heard))
        self.leave(place)
        self.budget.note_shed(party)
        place.send_away()
