"""What becomes of an owner: told to the lifecycle log, to its canary, and by its mark.

The order is the promise.  Before it serves, an owner has a canary and a mark; one of its last acts
is to remove the mark, and the very last to tell the canary that it has left.  Whatever ends it
before that leaves a canary that was told nothing, and if that has ended, too, the mark, which the
next owner finds.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import attrs

from palace.broker.canary import FAILED, Canary
from palace.canary.lifecycle_log import CANARY, MEMORY_SERVER, OWNER, SWEEP, LifecycleLog
from palace.canary.recording import Former
from palace.canary.records import MARK, NAME, Directory, Owner, deaths_in, open_directory
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.protocol import deaths, wire
from palace.protocol.errors import PalaceError

LOOK_S = 1.0

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False, kw_only=True)
class Life:
    """One owner's.  Until `begin` is called all of it does nothing."""

    kernel: Kernel = attrs.field(factory=Kernel)
    canary: Canary = attrs.field(init=False)
    reason: str = ""  # why it leaves
    _root: str = ""
    _owner: Owner = attrs.field(factory=lambda: Owner(0, ""))
    _log: LifecycleLog | None = None
    _directory: Directory | None = None
    _former: Former | None = None
    _root_id: tuple[int, int] | None = None
    _looked_s: float = 0.0
    _armed: dict[str, str] = attrs.field(factory=dict)  # its mark
    _about: dict[str, str] = attrs.field(factory=dict)  # what its canary is told
    _problem: str = ""
    _is_server_away: bool = False

    def __attrs_post_init__(self) -> None:
        self.canary = Canary(kernel=self.kernel, started=self._canary_started)

    # Becoming.

    def begin(self, ownership: Ownership, version: str) -> None:
        """B5: from here on, what becomes of it is logged."""
        self._root = ownership.paths.root
        self._owner = Owner(ownership.epoch, ownership.incarnation)
        self._log = LifecycleLog(self._root, self.kernel)
        self._log.put_aside()
        self._note_vanished(self._log)
        self._note_state("starting", version=version)

    def _note_vanished(self, log: LifecycleLog) -> None:
        """Log that the last owner ended before it had a canary, if it did."""
        last: dict[str, str] = {}
        for line in log.latest():
            last = line if line.get("ev") == OWNER else last
        if last.get("state") != "starting" or last.get("incarnation") in self._marked():
            return
        fields = {"epoch": last.get("epoch", ""), "incarnation": last.get("incarnation", "")}
        log.note(OWNER, {"state": "vanished-starting"} | fields)

    def _marked(self) -> set[str]:
        try:
            directory = open_directory(self._root, self.kernel)
        except OSError:
            return set()
        found = {owner.incarnation for owner in directory.owners(MARK)}
        directory.close()
        return found

    def arm(self, palace_id: str, *, log_path: str) -> None:
        """B6: start the canary, and record the deaths that nobody else will tell of.

        `log_path` is "" where this process doesn't log into a file.
        """
        self._root_id = self.kernel.file_id(self._root)
        self._about = {
            "epoch": str(self._owner.epoch),
            "incarnation": self._owner.incarnation,
            "root": self._root,
            "palace_id": palace_id,
            "log": log_path,
        }
        self._begin_watch()

    def _begin_watch(self) -> None:
        kernel, pid = self.kernel, os.getpid()
        started = kernel.start_time(pid)
        if not started:  # of whom a canary doesn't know this, it would take a living one for dead
            self.canary.fail("the kernel doesn't say when this process was started")
            return
        armed_at = kernel.utc_text()
        self._armed = {
            "server_pid": str(pid),
            "start_time": started,
            "boot_id": kernel.boot_id(),
            "pid_namespace": kernel.pid_namespace(),
            "armed_at": armed_at,
        }
        self._about |= {"pid": str(pid), "start_time": started, "armed_at": armed_at}
        try:
            directory = self._opened()
        except OSError as error:
            self.canary.fail(f"deaths can't be recorded in {self._root}/{NAME}: {error.strerror}")
            return
        self._directory = directory
        self.canary.arm(self._about)
        self._former = Former(directory, self._owner, self.kernel)
        self._look_at_former()

    def skip(self) -> None:
        """B6 without a canary: the setting says so."""
        self._note(CANARY, state="skipped")

    def serving(self) -> None:
        """B7, before the record is published."""
        self.canary.say(wire.SERVING)

    def served(self) -> None:
        self._note_state("served")

    # Serving.

    def tick(self, now_s: float) -> None:
        """Look after canary and mark, and at what former owners' canaries have left to do."""
        self.canary.tick(now_s)
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        if self._directory is None and self.canary.state == FAILED:
            self._begin_watch()
        if self._former is not None:
            self._look_at_former()
        self._look_at_mark()

    def look_at_server(self, told: Mapping[str, Any] | None) -> None:
        """Log that the server that holds namespaces is given up, or answers again.

        `told` is what the status says of it.  One line each, however often it is tried meanwhile.
        """
        if not told or told.get("open", False) == self._is_server_away:
            return
        self._is_server_away = told["open"]
        state = "open" if told["open"] else "closed"
        fields = {"server": told["address"], "opened": str(told["opened"])}
        self._note(MEMORY_SERVER, state=state, **fields)

    def swept(self, forgotten: int) -> None:
        """Log that so many memories that were over are forgotten."""
        self._note(SWEEP, forgotten=str(forgotten))

    def _look_at_mark(self) -> None:
        """Make the mark again where it was removed; what was moved with its palace stays ours."""
        directory = self._directory
        if directory is None or self.kernel.file_id(self._root) != self._root_id:
            return
        try:
            if not directory.is_linked:
                self._directory = directory = self._opened(directory)
            if self._problem or not directory.has(self._owner.named(MARK)):
                self._mark()
        except OSError as error:
            self._problem = f"its mark in {directory.path} can't be written: {error.strerror}"

    def _opened(self, former: Directory | None = None) -> Directory:
        directory = open_directory(self._root, self.kernel, make=True)
        self._log = LifecycleLog(self._root, self.kernel, directory=directory.fd)
        if former is not None:
            former.close()
        return directory

    def _look_at_former(self) -> None:
        assert self._former is not None
        try:
            if not self._former.look():
                self._former = None
        except OSError as error:
            logger.warning("the death of a former broker could not be recorded: %s", error)
            self._former = None

    def _canary_started(self, origin: str) -> None:
        canary = self.canary
        if not origin:
            logger.warning("no canary watches this broker: %s", canary.problem)
            self._note(CANARY, state=FAILED, problem=canary.problem)
        else:
            self._note(CANARY, state="spawned", origin=origin, canary_pid=str(canary.pid))
        if self._directory is None:
            return
        try:
            self._mark()
        except OSError as error:
            self._problem = f"its mark in {self._directory.path} can't be written: {error.strerror}"
            logger.warning("%s", self._problem)

    def _mark(self) -> None:
        assert self._directory is not None
        canary = {"canary_pid": str(self.canary.pid), "canary_start": self.canary.start_time}
        place = {"directory": str(self._directory.inode)}
        self._directory.mark(self._owner, self._armed | canary | place)
        self._problem = ""

    def report(self) -> dict[str, Any]:
        """Return, for `palace status`, the canary and the deaths that are recorded."""
        canary = self.canary
        ever, kept, last = 0, 0, None
        if self._directory is not None:
            try:
                ever, kept, last = deaths_in(self._directory)
            except OSError:
                ever, kept, last = 0, 0, None  # its holder is about to notice
        return {
            "canary": {
                "state": canary.state,
                "pid": canary.pid,
                "lost": canary.lost,
                "problem": canary.problem or self._problem,
            },
            "deaths": {
                "count": kept,
                "ever": ever,
                "last": last and {"epoch": last.owner.epoch, **last.about, "file": last.file},
            },
        }

    # Leaving.

    def leaving(self, reason: str) -> None:
        """X0: it has decided to leave."""
        self.reason = reason
        self.canary.say(deaths.LEAVING, reason=reason)

    def claim(self, cause: str) -> None:
        """Say what is about to end it."""
        self.canary.say(deaths.CLAIM, cause=cause)

    def broke(self, error: BaseException) -> None:
        """Say that an exception ends it: its kind, since its text may quote a memory."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, KeyboardInterrupt):  # the second of two signals
            self.claim(f"{deaths.CRASHED} {type(error).__name__}")

    def refused(self, error: Exception) -> None:
        """End before it has served: its starter is told why."""
        name = error.name if isinstance(error, PalaceError) else type(error).__name__
        self._end("refused", name)

    def left(self, reason: str = "") -> None:
        """X6: its very last act."""
        self._end("left", reason or self.reason)

    def _end(self, state: str, reason: str) -> None:
        if self._directory is not None:
            try:
                self._directory.unmark(self._owner)
            except OSError as error:
                logger.warning("this broker's mark was not removed: %s", error)
        self.canary.say(deaths.LEFT, reason=reason)
        self._note_state(state, reason=reason)

    def _note_state(self, state: str, **fields: str) -> None:
        known = {"epoch": str(self._owner.epoch), "incarnation": self._owner.incarnation}
        self._note(OWNER, state=state, **known, **fields)

    def _note(self, event: str, **fields: str) -> None:
        if self._log is not None:
            self._log.note(event, fields)
