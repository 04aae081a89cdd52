"""How long each party has had the writer lately, and how far that puts its next change back.

Theory of operation.  Changes are made one at a time, and those that wait go in the order in which
they came.  That alone shares turns, not time: a party whose changes take a hundred times as long
would have nearly all of the writer.  So the moment at which a party is *due* is the one at which it
asked, put back by the seconds for which it has had the writer lately, and who is due first goes
first.  A party that used much is passed by those that used little, as if it had come later; while
nobody else waits it is held up by nothing.

What was used halves every HALF_LIFE_S, and puts back by PUT_BACK_MAX_S at most: whoever comes later
than that is behind, so that no change waits for ever.

Rule for this file: pure; the clock is the caller's, and always the same one.
"""

import attrs

HALF_LIFE_S = 5.0
PUT_BACK_MAX_S = 5.0
FORGOTTEN_S = 0.001  # less than this puts nobody back


@attrs.define(eq=False)
class WriterTime:
    """The seconds of the writer that parties have used lately, by name."""

    _used: dict[str, tuple[float, float]] = attrs.field(factory=dict)  # seconds, and as of when

    def note(self, party: str, seconds: float, now_s: float) -> None:
        """Note that a party has just had the writer for so long; "" is nobody."""
        if party:
            self._used[party] = (self._lately(party, now_s) + seconds, now_s)
        for name in [name for name in self._used if self._lately(name, now_s) < FORGOTTEN_S]:
            del self._used[name]

    def put_back_s(self, party: str, now_s: float) -> float:
        """Return how much later than others a party that asks now is due."""
        return min(self._lately(party, now_s), PUT_BACK_MAX_S)

    def _lately(self, party: str, now_s: float) -> float:
        seconds, as_of_s = self._used.get(party, (0.0, now_s))  # one look: any thread may ask
        return float(seconds * 0.5 ** (max(0.0, now_s - as_of_s) / HALF_LIFE_S))
