"""How a client finds an owner, or makes one: the client's half of the protocol.

Theory of operation.  A client dials; when none answers it spawns a broker and dials again, with
jittered, growing pauses.  It takes no lock, removes no file, kills no process and never judges by
a pid: the kernel's lock decides between the brokers, and losers leave with exit code 75.  Only
when spawned brokers keep dying without a word does it ask for direct mode, in which the client's
own child becomes the owner under the very same lock.

`handle(event, now_s)` returns the actions to perform.  Events and actions are tuples whose first
member is one of the names below; times are seconds of a monotonic clock.

Rule for this file: pure, light (the shim imports it); every decision of the client is here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Events.
BEGIN = "begin"
DIAL_FAILED = "dial_failed"  # (DIAL_FAILED, why): why is one of ABSENT, BUSY, SILENT
WELCOMED = "welcomed"
REFUSED = "refused"  # (REFUSED, code, text): the broker, or the caller's checks, won't have us
SPAWNED = "spawned"
SPAWN_FAILED = "spawn_failed"  # (SPAWN_FAILED, text): the kernel refused to start a process
CHILD_EXITED = "child_exited"  # (CHILD_EXITED, exit status, text of its report or "")
WOKE = "woke"

# Why a dial failed.
ABSENT = "absent"  # no socket, no listener, or hung up before WELCOME
BUSY = "busy"  # a full backlog: alive
SILENT = "silent"  # no WELCOME in time: stopped, wedged, or not a broker

# Actions.
DIAL = "dial"
SPAWN = "spawn"
DIRECT = "direct"
SLEEP = "sleep"  # (SLEEP, seconds)
FAIL = "fail"  # (FAIL, error name, text)
READY = "ready"

EXIT_LOST = 75
EXIT_HOLD = 79
# Exit codes of a broker that will not succeed by trying again at once.
FINAL_EXITS = {
    69: "store_unavailable",
    72: "foreign_kernel",
    73: "foreign_writer",
    74: "lock_failed",
    76: "version_mismatch",
    77: "unsafe_palace",
    78: "config",
    79: "on_hold",
    83: "palace_replaced",
}

PAUSE_FIRST_S = 0.02
PAUSE_MAX_S = 0.5
RESPAWN_AFTER_S = 5.0
NEVER_S = -1e9  # of a clock that may have begun just now
SILENT_DEATHS_MAX = 3  # spawned brokers that died without a word before direct mode is tried


class Election:
    """One attempt to reach an owner; make a new one for each attempt."""

    __slots__ = (
        "_child_alive",
        "_deadline_s",
        "_direct",
        "_may_direct",
        "_may_spawn",
        "_others_until_s",
        "_pause_s",
        "_random",
        "_silent_deaths",
        "_spawned_s",
        "_wait_before_spawn_s",
        "over",
        "spawns",
    )

    def __init__(
        self,
        *,
        deadline_s: float,
        random: "Callable[[], float]",
        may_spawn: bool = True,
        may_direct: bool = True,
        wait_before_spawn_s: float = 0.0,
        others_until_s: float = 0.0,
    ) -> None:
        self._deadline_s = deadline_s
        self._random = random
        self._may_spawn = may_spawn
        self._may_direct = may_direct
        self._wait_before_spawn_s = wait_before_spawn_s
        self._others_until_s = others_until_s  # until then another client may start a broker
        self._pause_s = PAUSE_FIRST_S
        self._child_alive = False
        self._spawned_s = NEVER_S
        self._silent_deaths = 0
        self._direct = False
        self.spawns = 0
        self.over = False

    def handle(self, event: "tuple[object, ...]", now_s: float) -> "list[tuple[object, ...]]":
        """Return what to do next; nothing once the attempt is over."""
        if self.over:
            return []
        kind = event[0]
        if kind == WELCOMED:
            return self._end((READY,))
        if kind == REFUSED:
            return self._end((FAIL, event[1], event[2]))
        if kind in (BEGIN, WOKE):
            return [(DIAL,)]
        if kind == SPAWNED:
            self._child_alive = True
            return self._pause()
        if kind == SPAWN_FAILED:
            return self._spawn_refused(str(event[1]))
        if kind == CHILD_EXITED:
            return self._child_exited(event[1], str(event[2]))
        if kind == DIAL_FAILED:
            return self._dial_failed(event[1], now_s)
        raise AssertionError(f"unknown event {event!r}")

    def _end(self, action: "tuple[object, ...]") -> "list[tuple[object, ...]]":
        self.over = True
        return [action]

    def _pause(self) -> "list[tuple[object, ...]]":
        # Jitter of +-50 % keeps fifty shims that lost the same broker from dialling in step.
        pause_s = self._pause_s * (0.5 + self._random())
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        return [(SLEEP, pause_s)]

    def _dial_failed(self, why: object, now_s: float) -> "list[tuple[object, ...]]":
        if now_s >= self._deadline_s:
            return self._end((FAIL, "broker_unreachable", f"{why}"))
        if self._direct:
            return self._end((FAIL, "spawn_failed", "the direct broker did not answer"))
        if why == BUSY:  # busy means alive: another broker could only lose
            return self._pause()
        if not self._may_spawn:
            if now_s < self._others_until_s:
                return self._pause()
            return self._end((FAIL, "no_spawn", f"{why}"))
        if self._wait_before_spawn_s > 0 and self._spawned_s == NEVER_S:
            self._spawned_s = now_s + self._wait_before_spawn_s - RESPAWN_AFTER_S
        due = not self._child_alive and now_s - self._spawned_s >= RESPAWN_AFTER_S
        if due:
            self._spawned_s = now_s
            self.spawns += 1
            return [(SPAWN,)]
        return self._pause()

    def _spawn_refused(self, text: str) -> "list[tuple[object, ...]]":
        if self._direct or not self._may_direct:
            return self._end((FAIL, "spawn_failed", text))
        return self._go_direct()

    def _go_direct(self) -> "list[tuple[object, ...]]":
        self._direct = True
        return [(DIRECT,)]

    def _child_exited(self, status: object, text: str) -> "list[tuple[object, ...]]":
        self._child_alive = False
        if status in FINAL_EXITS:
            return self._end((FAIL, FINAL_EXITS[status], text))
        if self._direct and status != EXIT_LOST:
            return self._end((FAIL, "spawn_failed", text or f"direct broker: exit {status}"))
        if status == EXIT_LOST:
            # There is an owner: keep dialling.  A direct child that loses is none.
            self._direct = False
            return self._pause()
        if text:  # it said why it failed: trying again would say the same
            return self._end((FAIL, "spawn_failed", text))
        self._silent_deaths += 1
        self._spawned_s = NEVER_S
        if self._silent_deaths < SILENT_DEATHS_MAX:
            return self._pause()
        if self._may_direct:
            return self._go_direct()
        return self._end((FAIL, "spawn_failed", f"the broker died at once (status {status})"))
