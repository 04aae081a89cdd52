"""When an owner leaves: idle, told to, upgraded, or broken.

Theory of operation.  The owner serves until exactly one reason to drain has come; the first one
wins.  "Idle" means that for `idle_s` no request came, none is queued and none runs: connected but
silent clients don't keep an engine in memory, they are told goodbye and come back with their next
request.  The driver performs DRAIN and the unpublishing in one step of its loop.

Rule for this file: pure; every decision to leave is here.
"""

import enum

import attrs


class Phase(enum.Enum):
    SERVING = "serving"
    DRAINING = "draining"


class EngineState(enum.Enum):
    WAITING = "waiting"  # another program has the store
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Reason(enum.Enum):
    """Why an owner says goodbye."""

    IDLE = "idle"
    STOP = "stop"
    UPGRADE = "upgrade"
    FAILED = "failed"
    MOVED = "moved"
    DIRECT = "direct"
    AWAY = "away"  # another palace has what this one would need, and clients are carried there


@attrs.frozen(kw_only=True)
class Drain:
    """No new work from here on; what runs has `grace_s` seconds to end."""

    reason: Reason
    grace_s: float
    text: str = ""
    away: str = ""  # the palace that has it


@attrs.define(eq=False)
class Lifecycle:
    """The owner's life; times are seconds of a monotonic clock."""

    idle_s: float
    grace_s: float
    failed_linger_s: float = 2.0  # a failed engine answers for so long before it makes room
    phase: Phase = Phase.SERVING
    engine: EngineState = EngineState.LOADING
    failure: str = ""
    waiting: str = ""
    drain: Drain | None = None
    _active_s: float = 0.0
    _failed_s: float = 0.0

    def begin(self, now_s: float) -> None:
        self._active_s = now_s

    def waits(self, reason: str, *, refusing: bool = False) -> None:
        """Note what keeps the store from being opened, "" once nothing does.

        `refusing` says that calls no longer wait for that, but are answered with the reason.
        """
        self.engine = EngineState.WAITING if reason else EngineState.LOADING
        self.waiting = reason
        self.failure = reason if refusing else ""

    def loaded(self, now_s: float) -> None:
        self.engine = EngineState.READY
        self._active_s = now_s

    def load_failed(self, text: str, now_s: float) -> None:
        self.engine = EngineState.FAILED
        self.failure = text
        self._failed_s = now_s

    def active(self, now_s: float) -> None:
        """Note a request or a new session."""
        self._active_s = now_s

    def idle_for_s(self, now_s: float) -> float:
        return now_s - self._active_s

    def tick(self, now_s: float, *, busy: bool) -> Drain | None:
        """Decide by the clock; `busy` says that a request is queued or runs."""
        if self.phase is Phase.DRAINING:
            return None
        if self.engine is EngineState.FAILED:
            if now_s - self._failed_s >= self.failed_linger_s:
                return self.stop(Reason.FAILED, text=self.failure)
            return None
        if busy:
            self._active_s = now_s
        elif self.idle_s > 0 and self.idle_for_s(now_s) >= self.idle_s:
            return self.stop(Reason.IDLE)
        return None

    def stop(
        self, reason: Reason, *, grace_s: float | None = None, text: str = "", away: str = ""
    ) -> Drain | None:
        """Begin to drain; None when that has begun before (the first reason stands)."""
        if self.phase is Phase.DRAINING:
            return None
        self.phase = Phase.DRAINING
        grace_s = self.grace_s if grace_s is None else grace_s
        self.drain = Drain(reason=reason, grace_s=grace_s, text=text, away=away)
        return self.drain
