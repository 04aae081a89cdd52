"""Recording a death: once, whoever notices it, and with what its noticer knows.

Standard library only: the canary loads this.
"""

import os

from palace.canary.lifecycle_log import SERVER_EXIT, LifecycleLog
from palace.canary.records import KEPT_MAX, MARK, RECORD, Directory, Owner
from palace.kernel.logline import log_line
from palace.protocol.deaths import unwitnessed_cause
from palace.protocol.wire import whole_number

PATIENCE_S = 10.0  # for a canary that is still at work
PID_DIGITS = 10
PAUSE_S = 5.0  # of a flood of deaths, one in so many seconds is looked into

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from palace.kernel.kernel import Kernel

    Look = Callable[[], "list[str]"]


def record_death(
    directory: Directory,
    owner: Owner,
    known: "Mapping[str, str]",
    kernel: "Kernel",
    *,
    look: "Look | None" = None,
) -> bool:
    """Record one death, log it, and remove its owner's mark; False where that was done before.

    `look` returns the lines of what the machine looks like, and is asked last: what is known of the
    death is on the disk before anything that may take long.  Raises OSError.
    """
    number, before_s = directory.count() + 1, directory.last_recorded_s()
    fd = directory.create(owner)
    if fd is None:
        return False
    try:
        fields = _first_line(owner, known, number, kernel)
        os.write(fd, log_line(fields).encode() + b"\n")
        _log(directory, owner, fields, kernel)
        directory.unmark(owner)
        directory.prune()
        is_flood = 0 <= os.fstat(fd).st_mtime - before_s < PAUSE_S  # both by the disk's clock
        if look is not None and not is_flood:
            os.write(fd, "\n".join(["", *look(), ""]).encode(errors="backslashreplace"))
    finally:
        os.close(fd)
    return True


def _first_line(
    owner: Owner, known: "Mapping[str, str]", number: int, kernel: "Kernel"
) -> "dict[str, str]":
    return {
        "time": kernel.utc_text(),
        "ev": SERVER_EXIT,
        "epoch": str(owner.epoch),
        "incarnation": owner.incarnation,
        **known,
        "number": str(number),
    }


def _log(directory: Directory, owner: Owner, fields: "Mapping[str, str]", kernel: "Kernel") -> None:
    """Write the one line of a death, from its record's first line."""
    about = {key: value for key, value in fields.items() if key not in ("time", "ev", "pid")}
    about["file"] = f"{directory.path}/{owner.named(RECORD)}"
    LifecycleLog("", kernel, directory=directory.fd).note(SERVER_EXIT, about)


class Former:
    """The owners before this one that left a mark: each is recorded unless its canary does it.

    `look` is to be called at the start, under the lock, and once a second until it returns False.
    """

    __slots__ = ("_directory", "_kernel", "_own", "_since_s")

    def __init__(self, directory: Directory, own: Owner, kernel: "Kernel") -> None:
        self._directory = directory
        self._own = own
        self._kernel = kernel
        self._since_s = kernel.monotonic()

    def look(self) -> bool:
        """Record those whose canaries are gone; True while there are others.  Raises OSError."""
        marked = self._directory.owners(MARK)
        former = [owner for owner in marked if owner.incarnation != self._own.incarnation]
        for owner in former[:-KEPT_MAX]:  # owners don't leave so many, but whoever may write here
            self._directory.unmark(owner)
        settled = [self._settle(owner) for owner in former[-KEPT_MAX:]]
        return not all(settled)

    def _settle(self, owner: Owner) -> bool:
        directory, kernel = self._directory, self._kernel
        armed = directory.fields(owner.named(MARK))
        if armed.get("directory", "") not in ("", str(directory.inode)):
            directory.unmark(owner)  # it has come with a copy of another palace
            return True
        is_late = kernel.monotonic() - self._since_s >= PATIENCE_S
        if self._runs(armed) and not is_late:
            return False
        known = {
            "server_pid": armed.get("server_pid", ""),
            "start_time": armed.get("start_time", ""),
            "armed_at": armed.get("armed_at", ""),
            "cause": unwitnessed_cause(armed.get("boot_id", ""), now=kernel.boot_id()),
            "canary_pid": armed.get("canary_pid", ""),
            "noticed_by": f"epoch {self._own.epoch}",
        }
        if not record_death(directory, owner, known, kernel):
            self._complete(owner, known)
        return True

    def _runs(self, armed: "Mapping[str, str]") -> bool:
        """Tell whether an owner's canary still runs, as far as that can be seen from here."""
        kernel, pid = self._kernel, armed.get("canary_pid", "")
        if armed.get("boot_id") != kernel.boot_id() or not pid.isdecimal() or len(pid) > PID_DIGITS:
            return False
        if armed.get("pid_namespace") != kernel.pid_namespace():
            return True  # unless it takes too long
        started = kernel.start_time(whole_number(pid))
        return bool(started) and started == armed.get("canary_start")

    def _complete(self, owner: Owner, known: "Mapping[str, str]") -> None:
        """Do what a recorder had left to do that was killed after it had made its file."""
        directory, name = self._directory, owner.named(RECORD)
        fields = directory.fields(name)
        if not fields:
            fields = _first_line(owner, known, directory.count(), self._kernel)
            directory.append(name, log_line(fields))
        if not any(
            line.get("ev") == SERVER_EXIT and line.get("incarnation") == owner.incarnation
            for line in LifecycleLog(os.path.dirname(directory.path), self._kernel).latest()
        ):
            _log(directory, owner, fields, self._kernel)
        directory.unmark(owner)
