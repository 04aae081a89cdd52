"""Which ends of an owner were deaths, and of what: what a canary decides by.

Theory of operation.  An owner starts a process of its own, the canary, and holds the other end of
its pipe.  What it says there and the pipe's end are ordered by the kernel, so that a word written
before a death is read before the end:

    armed PID START ...   whom to watch, said before anything else
    serving               its record is published: from here on its end is worth a record
    leaving REASON        it has decided to leave (X0)
    claim CAUSE           it is about to end itself, or to break: the watchdog, an exception
    left REASON           its very last act (X6): it came to its own end

`left` alone makes an end deliberate.  No signal to the canary does, no exit code and no name: those
are evidence at most.  The pipe's end is no proof either (a descriptor can be lost), so the canary
looks once more after a moment of grace whether that very process still runs.

Rule for this file: pure, and light: the canary is a process of four megabytes.
"""

from palace.protocol import wire
from palace.protocol.errors import WireError

ARMED = "armed"
LEAVING = "leaving"
CLAIM = "claim"
LEFT = "left"

GRACE_S = 2.0
SWEPT_S = 60.0  # a signal to the canary belongs to a death that came so soon after it
STALL_MAX = 50.0  # percent of the last ten seconds in which everything waited for memory
HEARD_MAX = 65_536  # bytes without a newline

# Verdicts.
SILENT = "silent"  # it came to its own end, or was never announced
LOST = "lost"  # it lives: its pipe has ended, and it will start another canary
UNSERVED = "unserved"  # it died before it served
DEATH = "death"

# Causes.
WATCHDOG = "watchdog"
CRASHED = "crashed"
OOM = "oom"
SWEPT = "swept"
DIED_LEAVING = "died-leaving"
VANISHED = "vanished"
UNWITNESSED = "unwitnessed"
REBOOT = "reboot"

# What each cause is called to people.
MEANINGS = {
    WATCHDOG: "its watchdog ended it, since a write, or its start, made no progress",
    CRASHED: "an error of its own ended it",
    OOM: "it was killed for want of memory",
    SWEPT: "it was killed together with others: its canary had just been sent a signal",
    DIED_LEAVING: "it was killed while it was leaving",
    VANISHED: "it was killed, and nothing tells by what",
    UNWITNESSED: "it was killed together with its canary",
    REBOOT: "the machine went down",
}
CAUSES = tuple(MEANINGS)


class Seen:
    """What the canary saw once the pipe had ended.

    `alive`: that very process runs, by its number and its start time.  `oom_kills`: by how many the
    kernel's count of killed processes has risen; `stalled`: PSI's `full avg10` of memory, in
    percent; `timed_out`: the log ends with the stacks of the watchdog's second clock.
    """

    __slots__ = ("alive", "oom_kills", "stalled", "timed_out")

    def __init__(
        self,
        *,
        alive: bool,
        oom_kills: int = 0,
        stalled: float = 0.0,
        timed_out: bool = False,
    ) -> None:
        self.alive = alive
        self.oom_kills = oom_kills
        self.stalled = stalled
        self.timed_out = timed_out


class Witness:
    """One canary's knowledge; times are seconds of a clock that never goes back.

    `armed` holds the owner's fields once they were said; `leaving`, `claimed` and `left` are what
    it said, "" for nothing.
    """

    __slots__ = ("_ended_s", "_rest", "_signals", "armed", "claimed", "leaving", "left", "serving")

    def __init__(self) -> None:
        self.armed: dict[str, str] = {}
        self.serving = False
        self.leaving = ""
        self.claimed = ""
        self.left = ""
        self._rest = b""
        self._signals: list[tuple[str, float]] = []
        self._ended_s = 0.0

    def hear(self, data: bytes) -> None:
        """Take in what was read from the pipe; a line without its newline is not believed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-HEARD_MAX:]
        for line in lines:
            self._hear_line(line)

    def _hear_line(self, line: bytes) -> None:
        try:
            _, kind, fields = wire.decode_header(line)
        except WireError:
            return  # of a younger owner, say: what it doesn't know ends no canary
        if kind == ARMED:
            self.armed = fields
        elif kind == wire.SERVING:
            self.serving = True
        elif kind == LEAVING:
            self.leaving = fields.get("reason", "?")
        elif kind == CLAIM:
            self.claimed = self.claimed or fields.get("cause", "?")
        elif kind == LEFT:
            self.left = fields.get("reason", "?")

    def signalled(self, name: str, now_s: float) -> None:
        """Note a signal to the canary; it dismisses nothing."""
        if not self._ended_s:  # what is sent to those who are left over is no part of the death
            self._signals = [*self._signals[-9:], (name, now_s)]

    def ended(self, now_s: float) -> None:
        """Note that the pipe has ended, or that the process is gone."""
        self._ended_s = self._ended_s or now_s

    @property
    def is_dismissed(self) -> bool:
        """Tell whether nothing can come any more that would be worth a word."""
        return bool(self.left)

    @property
    def signals(self) -> str:
        """Return the signals to the canary, and how long before the end they came."""
        return ",".join(f"{name}:{self._ended_s - at_s:.1f}s" for name, at_s in self._signals)

    def judge(self, seen: Seen) -> "tuple[str, str]":
        """Return the verdict and, of a death, the cause."""
        if self.left or not self.armed:
            return SILENT, ""
        if seen.alive:
            return LOST, ""
        return (DEATH if self.serving else UNSERVED), self._cause(seen)

    def _cause(self, seen: Seen) -> str:
        claimed = self.claimed.partition(" ")[0]
        if claimed in (WATCHDOG, CRASHED):
            return claimed
        if seen.timed_out:
            return WATCHDOG
        if seen.oom_kills > 0 or seen.stalled > STALL_MAX:
            return OOM
        if any(self._ended_s - at_s <= SWEPT_S for _, at_s in self._signals):
            return SWEPT  # whatever it did about a signal of its own
        return DIED_LEAVING if self.leaving else VANISHED


def unwitnessed_cause(boot_id: str, *, now: str) -> str:
    """Return the cause of a death that no canary told of; boot ids may be unknown ("")."""
    return REBOOT if boot_id and now and boot_id != now else UNWITNESSED
