"""Signals to the processes of one palace, by seed: whom they hit, when, and how they end.

A victim is found by its command line, and hit through a descriptor of its own (pidfd), so that no
other process is hit that got its number meanwhile.
"""

import heapq
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.faults.killing import POINTS, Failpoints, Stage

OWNER, BROKER, DIRECT, SHIM, POINT = "owner", "broker", "direct", "shim", "at a point"
KINDS = (BROKER, DIRECT, SHIM)  # each has its command line; the owner is one of the first two
AIMS = (OWNER, BROKER, DIRECT, SHIM, POINT)
AIM_WEIGHTS = (4, 2, 2, 4, 4)
STAGES = (*POINTS, *["reply"] * 3)  # there alone a recorded reply is asked for
PASSES_MAX = 3
PATIENCE_S = 1.0  # with which an injection waits for an owner
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
SIGNAL_WEIGHTS = (8, 1, 1)


@dataclass(frozen=True)
class Injection:
    """`after_s` since the one before; a victim that is stopped goes on after `stop_s`.

    Who aims at a point lets the next broker that comes there end itself: no signal from outside
    ever comes between a recorded outcome and its reply.
    """

    aim: str
    number: signal.Signals
    after_s: float
    stop_s: float
    which: float  # of the victims there are, 0..1
    stage: Stage


def plan_injections(seed: int, pace_s: float) -> Iterator[Injection]:
    """Yield the injections that belong to a seed, `pace_s` apart on the average."""
    rng = random.Random(seed)
    while True:
        yield Injection(
            aim=rng.choices(AIMS, AIM_WEIGHTS)[0],
            number=rng.choices(SIGNALS, SIGNAL_WEIGHTS)[0],
            after_s=rng.expovariate(1 / pace_s),
            stop_s=rng.uniform(0, 4 * pace_s),
            which=rng.random(),
            stage=(rng.choice(STAGES), rng.randint(1, PASSES_MAX)),
        )


def victims_of(palace: Path) -> dict[str, list[int]]:
    """Return the processes that serve a palace or relay to it, by kind."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for name in os.listdir("/proc"):
        kind = _kind(name, palace) if name.isdigit() else ""
        if kind:
            found[kind].append(int(name))
    return found


def _kind(name: str, palace: Path) -> str:
    """Return a process's kind, "" of strangers."""
    try:
        words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    if f"--palace={palace}".encode() not in words:
        return ""
    if b"shim" in words:
        return SHIM
    if b"serve" not in words:
        return ""
    return DIRECT if any(word.startswith(b"--direct-fd") for word in words) else BROKER


@dataclass
class Killer:
    """Delivers signals to one palace's processes; `relieve` lets all that are stopped go on."""

    palace: Path
    failpoints: Failpoints
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, signal)
    _armed: bool = False
    owners: int = 0  # of those killed outright
    _stopped: list[tuple[float, int]] = field(default_factory=list)  # (until when, pidfd)

    @property
    def kills(self) -> int:
        """Return how many were killed outright."""
        return sum(n for (_, name), n in self.struck.items() if name == "SIGKILL")

    def deliver(self, injection: Injection) -> bool:
        """Wait and strike; False where there was nobody to strike."""
        self._count_point()
        if injection.aim == POINT:
            return self._await_point(injection)
        if injection.aim == OWNER:
            deadline_s = time.monotonic() + PATIENCE_S
            while not self._owner() and time.monotonic() < deadline_s:
                self._pass_time(0.01)
        self._pass_time(injection.after_s)
        pid = self._victim(injection)
        try:
            pidfd = os.pidfd_open(pid) if pid else -1
        except ProcessLookupError:
            return False
        kind = _kind(str(pid), self.palace)
        owner = self._owner() == pid
        if not kind or not _strike(pidfd, injection.number):
            if pid:
                os.close(pidfd)
            return False
        self.struck[kind, injection.number.name] += 1
        self.owners += owner and injection.number == signal.SIGKILL
        if injection.number == signal.SIGSTOP:
            heapq.heappush(self._stopped, (time.monotonic() + injection.stop_s, pidfd))
        else:
            os.close(pidfd)
        return True

    def _await_point(self, injection: Injection) -> bool:
        if not self._armed:
            self.failpoints.arm(injection.stage)
            self._armed = True
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._count_point() and time.monotonic() < deadline_s:
            self._pass_time(0.01)
        return not self._armed

    def _count_point(self) -> bool:
        """Tell whether the point that was armed has struck, be it later than it was waited for."""
        if not self._armed or self.failpoints.left():
            return False
        self._armed = False
        self.struck[POINT, "SIGKILL"] += 1
        self.owners += 1
        return True

    def _victim(self, injection: Injection) -> int:
        """Return which process an injection hits, 0 for none: brokers stand in for each other."""
        if injection.aim == OWNER and (owner := self._owner()):
            return owner
        found = victims_of(self.palace)
        stand_in = {OWNER: BROKER, BROKER: DIRECT, DIRECT: BROKER, SHIM: SHIM}
        pids = found.get(injection.aim) or found[stand_in[injection.aim]]
        return pids[int(injection.which * len(pids))] if pids else 0

    def _owner(self) -> int:
        """Return the pid of the owner that has published itself and lives, 0 without one."""
        try:
            pid = int(json.loads((self.palace / "broker.json").read_bytes())["pid"])
        except (OSError, ValueError):
            return 0
        return pid if _kind(str(pid), self.palace) else 0

    def _pass_time(self, seconds: float) -> None:
        """Sleep, and let those go on meanwhile whose time has come."""
        end_s = time.monotonic() + seconds
        while self._stopped and self._stopped[0][0] <= end_s:
            until_s, pidfd = heapq.heappop(self._stopped)
            time.sleep(max(0.0, until_s - time.monotonic()))
            _go_on(pidfd)
        time.sleep(max(0.0, end_s - time.monotonic()))

    def relieve(self) -> None:
        while self._stopped:
            _go_on(self._stopped.pop()[1])


def _strike(pidfd: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def _go_on(pidfd: int) -> None:
    _strike(pidfd, signal.SIGCONT)
    os.close(pidfd)
