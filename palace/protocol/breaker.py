"""Whether to ask a server that has not answered lately: a circuit breaker, one for each address.

    closed -- three failures in a row --> open for a minute -- then one call --> closed, or open

While it is open nobody waits for a server that is away: calls fail at once, with how long it will
be so.  When the minute is over one call goes through, the *probe*, and the others still fail: a
herd would keep a server down that is just coming up.

A failure is a server that can't be reached, is late, says 5xx, or answers what nobody can read.  A
4xx is an answer.  A call that its caller has given up says nothing.

An answer to a call that began before the breaker last opened or closed counts for nothing: it tells
of then.  What a breaker knows ends with its process, so that a new owner begins closed.

Rule for this file: pure; times are the caller's, in seconds, and never go back.
"""

import attrs

FAILURES_MAX = 3
OPEN_S = 60.0


@attrs.frozen
class Pass:
    """What a call needs that is let through: give it back to `Breaker`, once."""

    era: int
    probe: bool = False


@attrs.define(eq=False)
class Breaker:
    """One server's.  Not for threads that don't take turns at it."""

    failures_max: int = FAILURES_MAX
    open_s: float = OPEN_S
    failures: int = 0  # in a row
    opened: int = 0  # how often it has opened
    _until_s: float | None = None  # None: it is closed
    _probing: bool = False
    _era: int = 0

    @property
    def is_open(self) -> bool:
        return self._until_s is not None

    def wait_s(self, now_s: float) -> float:
        """Return for how long calls will fail at once, 0 if the next may be let through.

        While a probe is under way nobody knows, and it is what is left of the last minute.
        """
        return 0.0 if self._until_s is None else max(0.0, self._until_s - now_s)

    def enter(self, now_s: float) -> Pass | None:
        """Return a pass for a call, None where it must fail at once."""
        if self._until_s is None:
            return Pass(self._era)
        if self._probing or now_s < self._until_s:
            return None
        self._probing = True
        return Pass(self._era, probe=True)

    def succeeded(self, let: Pass) -> None:
        """Note that the server has answered, whatever it said."""
        if let.era != self._era:
            return
        self.failures = 0
        if let.probe:
            self._until_s = None
            self._probing = False
            self._era += 1

    def failed(self, let: Pass, now_s: float) -> None:
        """Note that it has not."""
        if let.era != self._era:
            return
        self.failures += 1
        if let.probe or self.failures >= self.failures_max:
            self._until_s = now_s + self.open_s
            self._probing = False
            self._era += 1
            self.opened += 1

    def gave_up(self, let: Pass) -> None:
        """Note that nobody waits for the answer any more; another call may be the probe."""
        if let.probe and let.era == self._era:
            self._probing = False
