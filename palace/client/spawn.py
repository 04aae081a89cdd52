"""Starting a broker, or in direct mode a broker of one's own, and learning how that went."""

import errno
import os
import stat
import sys

from palace import __version__
from palace.kernel.causes import cause_text  # here: without a descriptor nothing is imported
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.errors import (
    ElectionError,
    LockFailed,
    PalaceError,
    SpawnFailed,
    VersionMismatch,
    WireError,
)
from palace.settings.paths import Paths, python_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from palace.settings.site import Site

REPORT_FD = 3
DIRECT_FD = 4


class Child:
    """A started `palace serve`.  `report_fd` becomes readable when it serves or gives up.

    A detached broker leaves us: the process that was started (`pid`) ends at once, and its own
    child serves.  We can't wait for that one, so it holds the other end of the report for its whole
    life: the report's end is the broker's end, and the report says with which status.
    """

    __slots__ = ("_direct", "_kernel", "_report", "_status", "pid", "report_fd")

    def __init__(self, kernel: Kernel, pid: int, report_fd: int, *, direct: bool) -> None:
        self._kernel = kernel
        self._report = b""
        self._direct = direct
        self._status: int | None = None
        self.pid = pid
        self.report_fd = report_fd

    def wait(self, timeout_s: float) -> "int | None":
        """Return the exit status as soon as there is one, None when it takes too long."""
        import time

        deadline_s = self._kernel.monotonic() + timeout_s
        while (status := self.exit_status()) is None and self._kernel.monotonic() < deadline_s:
            time.sleep(0.01)
        return status

    def reap(self) -> "int | None":
        """Return the exit status of the process that was started, None while it runs."""
        if self._status is None:
            self._status = self._kernel.reap(self.pid)
        return self._status

    def exit_status(self) -> "int | None":
        """Return the broker's exit status once it has ended (-1: unknown), None before."""
        self._read_report()
        status = self.reap()
        if status or self._direct:
            return status
        if status is None or self.report_fd >= 0:
            return None
        said = self._failure().get("exit", "")
        try:
            return wire.whole_number(said, most=255)
        except ValueError:
            return -1

    def _read_report(self) -> None:
        """Read what it has said so far; the descriptor is closed at its end."""
        try:
            while self.report_fd >= 0:
                data = os.read(self.report_fd, 65_536)
                self._report += data
                if not data:
                    self.close()
        except BlockingIOError:
            return

    def failure_text(self) -> str:
        """Return the reason it gave for giving up, "" where it gave none."""
        self._read_report()
        return self._failure().get("text", "")

    def _failure(self) -> "dict[str, str]":
        try:
            _, kind, fields = wire.decode_header(self._report.rstrip(b"\n"))
        except WireError:
            return {}
        return fields if kind == wire.FAILED else {}

    def close(self) -> None:
        if self.report_fd >= 0:
            os.close(self.report_fd)
            self.report_fd = -1


def spawn_broker(
    kernel: Kernel, paths: Paths, environ: "Mapping[str, str]", *, direct_fd: int = -1
) -> Child:
    """Start a broker; raises OSError where the kernel won't.

    Without `direct_fd` it is detached: no child of ours, and it logs into the palace.  With it, it
    is an ordinary child that serves the socket behind `direct_fd` and shares our standard error.
    """
    direct = direct_fd >= 0
    argv = [*python_command(), "serve", f"--palace={paths.root}", f"--found-by={paths.found_by}"]
    argv += [f"--direct-fd={DIRECT_FD}"] if direct else ["--detached"]
    argv.append(f"--report-fd={REPORT_FD}")
    log_fd = 2 if direct else _first_log(paths, kernel)
    reading, writing = os.pipe()
    pass_fds = _apart({writing: REPORT_FD} | ({direct_fd: DIRECT_FD} if direct else {}))
    try:
        os.set_blocking(reading, False)
        pid = kernel.spawn(argv, environ, log_fd=log_fd, pass_fds=pass_fds, detached=not direct)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        for fd in pass_fds:
            if fd not in (writing, direct_fd):
                os.close(fd)
        if log_fd != 2:
            os.close(log_fd)
    return Child(kernel, pid, reading, direct=direct)


def spawn_problem(error: "OSError | None" = None) -> str:
    """Say why this process can start no broker, "" where nothing is known to keep it from that.

    What runs here may have been replaced under us: that shows in what the kernel says of a spawn
    ("No such file or directory", of what?), or as a child that dies without a word.
    """
    program, package = sys.executable, os.path.dirname(os.path.dirname(__file__))
    for path, what in ((program, "the Python"), (package, "the palace package")):
        if not os.path.exists(path):
            return (
                f"{what} that this process runs from, {path}, is gone: palace was upgraded, moved "
                "or removed meanwhile. Restart the agent, which then starts what is installed now"
            )
    if error is None:
        return ""
    return f"{error.filename or program}: {error.strerror or error}"


def _apart(wanted: "dict[int, int]") -> "dict[int, int]":
    """Move descriptors away from the numbers that dup2 is about to overwrite."""
    low = max(REPORT_FD, DIRECT_FD)
    moved = {}
    for fd, target in wanted.items():
        if fd <= low:
            import fcntl

            fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, low + 1)  # noqa: PLW2901
        moved[fd] = target
    return moved


def _first_log(paths: Paths, kernel: Kernel) -> int:
    """Open what takes a broker's first words, until it has looked whose the palace is.

    That is its log only if the directory is ours, and the log a file of ours by this name alone:
    somebody else's link would have another file of ours written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = -1 if kernel.trust_problem(paths.root) else os.open(paths.log, flags)
    except OSError:
        fd = -1
    if fd >= 0:
        found = os.fstat(fd)
        plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if plain and found.st_uid == os.geteuid():
            return fd
        os.close(fd)
    return os.open(os.devnull, flags)


def reason_not_to_spawn(site: "Site") -> "PalaceError | None":
    """Return what forbids a broker of ours here, before one is started in vain."""
    gone = spawn_problem()
    if gone:
        return SpawnFailed(f"No broker can be started: {gone}.")
    from palace.ownership.claim import check_kernel
    from palace.ownership.lock import check_hold
    from palace.ownership.record import read_record
    from palace.protocol.broker_record import version_tuple

    try:
        check_kernel(site.paths, site.kernel, site.environment.all)
        check_hold(site.paths, site.kernel)
    except ElectionError as error:
        return error
    except OSError as error:
        scarce = error.errno in (errno.EMFILE, errno.ENFILE)  # here, and not of the palace
        return (SpawnFailed if scarce else LockFailed)(cause_text(error))
    record = read_record(site.paths, site.kernel)
    if record is not None and version_tuple(record.version) > version_tuple(__version__):
        from palace.settings.installation import command_for

        return VersionMismatch(
            f"The palace was last served by palace {record.version}; this is {__version__}. "
            f"Upgrade it: {command_for()}"
        )
    return None
