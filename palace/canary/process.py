"""The canary: a process that notices how its owner ends, and records it if that was a death.

It reads the pipe that it was started with (palace/protocol/deaths.py says what comes there), and
nothing else makes it silent.  It touches no lock, ends no process and starts none, holds no
descriptor of the store, and can't be asked anything.  It ends by itself: at once when its owner has
left, else after the grace and the record.

It costs a few milliseconds and megabytes: the standard library only, and of that no `signal`, which
loads `enum`.  palace/canary/watch.py starts it.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` is made of
import os
import select
import time

from palace.canary import forensics
from palace.canary.lifecycle_log import CANARY, OWNER, LifecycleLog
from palace.canary.recording import record_death
from palace.canary.records import Directory, Owner, open_directory
from palace.kernel.kernel import Kernel
from palace.protocol import deaths
from palace.protocol.wire import whole_number

PIPE_FD = 3
DESCRIPTORS = 65_536
LOOK_S = 60.0  # how old the count of killed processes may be that a death is compared with
SIGNALS = {"TERM": _signal.SIGTERM, "HUP": _signal.SIGHUP, "INT": _signal.SIGINT}


class Canary:
    """One canary; `run` returns once its owner has ended."""

    def __init__(self, kernel: Kernel, pipe_fd: int = PIPE_FD) -> None:
        self._kernel = kernel
        self._pipe = pipe_fd
        self._witness = deaths.Witness()
        self._group = forensics.MemoryGroup()
        self._kills = self._group.oom_kills()
        self._evidence = forensics.Evidence("", self._group)
        self._directory: Directory | None = None

    def run(self) -> int:
        for name, number in SIGNALS.items():
            _signal.signal(number, lambda *_, name=name: self._signalled(name))
        self._listen()
        witness = self._witness
        witness.ended(self._kernel.monotonic())
        if witness.is_dismissed or not witness.armed:
            return 0
        armed = witness.armed
        self._evidence.tail = forensics.tail_of(armed["log"]) if armed.get("log") else ""
        kills = self._group.oom_kills() - self._kills
        waited = forensics.stalled()
        time.sleep(deaths.GRACE_S)  # goes on after a signal
        seen = deaths.Seen(
            alive=self._is_alive(),
            oom_kills=kills,
            stalled=waited,
            timed_out=forensics.timed_out(self._evidence.tail, armed.get("pid", "")),
        )
        self._tell(*witness.judge(seen), seen)
        return 0

    def _signalled(self, name: str) -> None:
        self._witness.signalled(name, self._kernel.monotonic())

    def _listen(self) -> None:
        """Take in what is said, to the end of it or of the process."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while not self._witness.is_dismissed:
            if not poll.poll(LOOK_S * 1000):
                if not self._is_alive():
                    return  # its pipe lives on in a child that it has left behind
                self._kills = self._group.oom_kills()
                continue
            data = os.read(self._pipe, 4096)
            if not data:
                return
            self._witness.hear(data)
            if self._witness.armed and not self._evidence.root:
                self._arm()

    def _arm(self) -> None:
        armed = self._witness.armed
        self._evidence.root = armed.get("root", "")
        self._evidence.limits = forensics.read_text(f"/proc/{armed.get('pid')}/limits")
        try:
            self._directory = open_directory(self._evidence.root, self._kernel)
            self._evidence.armed_s = os.fstat(self._directory.fd).st_mtime
        except OSError:
            self._directory = None  # it is looked for again when there is something to record

    def _is_alive(self) -> bool:
        armed = self._witness.armed
        try:
            pid = whole_number(armed.get("pid", ""), most=1 << 31)
        except ValueError:
            return False
        started = self._kernel.start_time(pid)
        return bool(started) and started == armed.get("start_time")

    def _tell(self, verdict: str, cause: str, seen: deaths.Seen) -> None:
        witness, armed = self._witness, self._witness.armed
        if verdict == deaths.SILENT:
            return
        directory = self._directory_now()
        if directory is None:
            return
        known = {
            "server_pid": armed.get("pid", ""),
            "start_time": armed.get("start_time", ""),
            "armed_at": armed.get("armed_at", ""),
            "cause": cause,
            "claimed": witness.claimed,
            "leaving": witness.leaving,
            "signalled": witness.signals,
            "oom_kill": f"+{seen.oom_kills}" if seen.oom_kills else "",
            "stalled": f"{seen.stalled:.0f}%" if seen.stalled >= 1 else "",
        }
        try:
            owner = Owner(whole_number(armed.get("epoch", "")), armed.get("incarnation", ""))
            if verdict == deaths.DEATH:
                record_death(directory, owner, known, self._kernel, look=self._look)
                return
        except (OSError, ValueError):
            return  # a full disk, say: the mark stays, and the next owner tells of it
        log = LifecycleLog("", self._kernel, directory=directory.fd)
        about = {"epoch": str(owner.epoch), "incarnation": owner.incarnation} | known
        if verdict == deaths.LOST:
            log.note(CANARY, {"state": "lost"} | about)
            return
        log.note(OWNER, {"state": "vanished-starting"} | about)
        directory.unmark(owner)

    def _look(self) -> "list[str]":
        return self._evidence.lines(self._kernel)

    def _directory_now(self) -> "Directory | None":
        """Return the directory that was opened at the start, or the one there is in its place."""
        if self._directory is not None and self._directory.is_linked:
            return self._directory
        try:
            return open_directory(self._evidence.root, self._kernel)
        except OSError:
            return None


def main() -> int:
    """Watch the owner at the other end of the pipe; the exit code means nothing to anybody."""
    os.closerange(PIPE_FD + 1, DESCRIPTORS)  # what its owner had inherited is not kept open here
    return Canary(Kernel()).run()
