"""Who has asked for anything lately, and how many slots of a lane that leaves to each.

Theory of operation.  Queries run beside each other in threads, and what they cost is mostly
Python's, of which one thread at a time has the interpreter: of five that run, each takes five times
as long.  A party with many sessions would have all of them whenever they are free.  So while others
are about, a party has no more readers than its equal part, and one at least; alone it has all of
them.  Others are about who have begun or ended a call within LATELY_S: an agent thinks between its
calls.  Nothing tells that they are no longer: who has to wait for that asks when it will be so
(`next_leaves_s`).

What runs for one party takes the interpreter from all others, and a batch keeps it for long
(decision 49).  So a party that asks for much at once (admission.py says how much that is) rests
after each call for as long as that took: half of the time is the others'.

Rule for this file: pure; the clock is the caller's, and always the same one.
"""

from collections.abc import Hashable

import attrs

LATELY_S = 1.0
REST_MAX_S = 1.0


@attrs.define(eq=False)
class Company:
    """The parties that are about."""

    _seen_s: dict[str, float] = attrs.field(factory=dict)
    _rests_s: dict[tuple[str, Hashable], float] = attrs.field(factory=dict)  # until when

    def note(self, party: str, now_s: float) -> None:
        """Note that a party has begun or ended a call."""
        self._seen_s.pop(party, None)
        self._seen_s[party] = now_s  # the last one is seen last

    def share(self, party: str, width: int, now_s: float) -> int:
        """Return how many of so many slots a party may have now: its equal part, one at least.

        It counts itself, whether or not it is about.
        """
        parties = self.count(now_s) + (party not in self._seen_s)
        return max(1, width // parties)

    def next_leaves_s(self, party: str, now_s: float) -> float:
        """Return when the next of the others will be no longer about; infinity if none is."""
        self.count(now_s)
        others = (seen_s for one, seen_s in self._seen_s.items() if one != party)
        return next(others, float("inf")) + LATELY_S

    def count(self, now_s: float) -> int:
        """Return how many parties are about."""
        while self._seen_s:
            party = next(iter(self._seen_s))
            if now_s < self._seen_s[party] + LATELY_S:  # as `next_leaves_s` says it
                break
            del self._seen_s[party]
        return len(self._seen_s)

    def spent(self, party: str, lane: Hashable, seconds: float, now_s: float) -> None:
        """Note for how long a party has just had a part of a lane; it rests there for as long."""
        self._rests_s = {one: until for one, until in self._rests_s.items() if until > now_s}
        since_s = max(now_s, self._rests_s.get((party, lane), now_s))
        self._rests_s[party, lane] = min(since_s + seconds, now_s + REST_MAX_S)

    def rests_until_s(self, party: str, lane: Hashable, now_s: float) -> float:
        """Return until when a party rests; now for one that doesn't, or is alone."""
        self.count(now_s)
        others = (seen_s for one, seen_s in reversed(self._seen_s.items()) if one != party)
        alone_s = next(others, float("-inf")) + LATELY_S
        return max(now_s, min(alone_s, self._rests_s.get((party, lane), now_s)))
