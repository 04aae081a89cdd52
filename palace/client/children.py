"""The brokers that one shim has started: the one that is starting, and those to be reaped.

Rule for this file: light, since every shim imports it.
"""

from _socket import socketpair

from palace.client.spawn import Child, spawn_broker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from palace.settings.site import Site


class Children:
    """At most one child is watched: its report and its exit status say why it gave up."""

    __slots__ = ("_site", "_unreaped", "_watched")

    def __init__(self, site: "Site") -> None:
        self._site = site
        self._watched: Child | None = None
        self._unreaped: list[int] = []

    @property
    def report_fd(self) -> int:
        """Return what becomes readable with the watched child's report, -1 without one."""
        return self._watched.report_fd if self._watched is not None else -1

    @property
    def watches(self) -> bool:
        return self._watched is not None

    def start(self) -> None:
        """Start a detached broker and watch it; raises OSError."""
        self._start(direct_fd=-1)

    def start_direct(self) -> "socket":
        """Start a broker that serves the other end of the socket returned; raises OSError."""
        ours, theirs = socketpair()
        try:
            self._start(direct_fd=theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def _start(self, *, direct_fd: int) -> None:
        self.drop()
        site = self._site
        environ = site.environment.for_broker()
        self._watched = spawn_broker(site.kernel, site.paths, environ, direct_fd=direct_fd)

    def ended(self) -> "tuple[int, str] | None":
        """Return the exit status and the reason of a watched child that has ended, and drop it."""
        child = self._watched
        if child is None:
            return None
        status = child.exit_status()
        if status is None:
            return None
        text = child.failure_text()
        self.drop()
        return status, text

    def wait_for_end(self, timeout_s: float) -> "tuple[int, str]":
        """Wait for the watched child's end, and drop it; the status is -1 where it lives on."""
        assert self._watched is not None
        status = self._watched.wait(timeout_s)
        text = self._watched.failure_text()
        self.drop()
        return -1 if status is None else status, text

    def drop(self) -> None:
        """Stop watching; the process lives on, and is reaped when it has ended."""
        if self._watched is not None:
            self._watched.close()
            if self._watched.reap() is None:
                self._unreaped.append(self._watched.pid)
            self._watched = None

    def reap(self) -> bool:
        """Reap children that have ended; True while one of them lives."""
        if not self._unreaped:  # asked twice a request
            return False
        reap = self._site.kernel.reap
        self._unreaped = [pid for pid in self._unreaped if reap(pid) is None]
        return bool(self._unreaped)
