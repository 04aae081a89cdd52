"""How long a batch waits for sessions that are about to ask again.

Theory of operation.  Clients that write one call after the other come back together: a batch's
replies leave at the same moment, and the next calls arrive within a millisecond or two of each
other.  A batch that began with the first of them would hold one call, and the next one the rest.
So the sessions of the last batch are expected for a moment, and what can be stored together waits
for them.  The moment is short beside what the last batch took, and no session is expected after a
batch of one: a lone client never waits.

Rule for this file: pure; times are the caller's, in seconds.
"""

from collections.abc import Iterable

import attrs

REPLY_S = 0.03  # from the end of a call to its reply: an fsync, in most cases
RETURN_S = 0.005  # from the reply to the client's next call
SHARE = 4  # no longer than this part of what the last batch took


@attrs.define(eq=False)
class BatchWindow:
    """The sessions that the next batch waits for; `until_s` says for how long."""

    _expected: dict[str, float] = attrs.field(factory=dict)  # session -> until when
    _running: bool = False
    _told: set[str] = attrs.field(factory=set)  # sessions that had a reply while the batch ran
    _back: set[str] = attrs.field(factory=set)  # sessions that asked again while it ran
    _began_s: float = 0.0
    _taken_s: float = 0.0

    def began(self, now_s: float) -> None:
        """A batch has begun; no session is waited for any more."""
        self._expected.clear()
        self._running = True
        self._began_s = now_s

    def ended(self, sessions: Iterable[str], now_s: float) -> None:
        """A batch has ended; its replies are about to leave, or have left."""
        self._taken_s = now_s - self._began_s
        together = list(sessions)
        if len(together) > 1:
            missing = [session for session in together if session not in self._back]
            self._expected = dict.fromkeys(missing, now_s + min(REPLY_S, self._taken_s))
            for session in self._told.intersection(missing):
                self._expect_soon(session, now_s)
        self._running = False
        self._told.clear()
        self._back.clear()

    def replied(self, session: str, now_s: float) -> None:
        """A reply has left."""
        if self._running:
            self._told.add(session)
        if session in self._expected:
            self._expect_soon(session, now_s)

    def came(self, session: str) -> None:
        """A session has asked for something, or has gone."""
        if self._running:
            self._back.add(session)
        self._expected.pop(session, None)

    def _expect_soon(self, session: str, now_s: float) -> None:
        soon_s = now_s + min(RETURN_S, self._taken_s / SHARE)
        self._expected[session] = min(self._expected[session], soon_s)

    def until_s(self, now_s: float) -> float:
        """Return until when a batch should wait, 0 where no session is expected."""
        return max((until for until in self._expected.values() if until > now_s), default=0.0)
