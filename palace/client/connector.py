"""Reaching an owner: the driver of the election machine, one attempt at a time.

The driver performs what the machine decides and reports what happened.  It never waits by itself,
so that the relay can serve its client meanwhile: poll `fd()` for `timeout_s()`, then `advance()`.
"""

import errno
import os
from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair

from palace import __version__
from palace.client.endpoints import expected_palace_id, named_socket, published_socket
from palace.client.failure import failure_of, older_text
from palace.client.spawn import Child, spawn_broker
from palace.kernel.kernel import Kernel, peer_of
from palace.protocol import election, wire
from palace.protocol.errors import (
    ConfigError,
    ElectionError,
    LockFailed,
    PalaceError,
    VersionMismatch,
    WireError,
)
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, runtime_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from palace.client.guest.fallbacks import Ladder

GREETING_S = 5.0
DIRECT_GREETING_S = 40.0  # a direct broker may wait for mempalace's own lock first
DEADLINE_S = 60.0
COURTESY_S = 2.0
CHILD_END_S = 2.0
SUCCESSION_S = 5.0  # who may not spawn waits so long for others to replace an owner that died

_NOBODY = (errno.ENOENT, errno.ECONNREFUSED, errno.EOPNOTSUPP)
_BUSY = (errno.EAGAIN, errno.ENOTCONN, errno.EINTR)


class Connector:
    """One shim's way to the owner of one palace, for as many attempts as its life takes.

    After `begin`, `state` is SLEEPING or GREETING until it is CONNECTED (then `sock`, `welcome`
    and `rest` are the caller's) or FAILED (then `error` says why).
    """

    IDLE, SLEEPING, GREETING, CONNECTED, FAILED = range(5)

    def __init__(
        self,
        kernel: Kernel,
        paths: Paths,
        environment: ShimEnvironment,
        *,
        deadline_s: float = DEADLINE_S,
        may_direct: bool = True,
    ) -> None:
        self._kernel = kernel
        self._paths = paths
        self._environment = environment
        self._patience_s = deadline_s
        self._may_direct = may_direct
        self._hello: Callable[[], bytes] = bytes
        self._machine: election.Election | None = None
        self._child: Child | None = None
        self._unreaped: list[int] = []
        self._wake_s = 0.0
        self._epoch = 0
        self._older = 0  # epoch of an owner that this attempt has turned away from
        self._ladder: Ladder | None = None
        self._speak = wire.VERSION
        self._asked_to_leave = False
        self._may_spawn = False
        self.direct = False
        self.state = self.IDLE
        self.sock: socket | None = None
        self.welcome: dict[str, str] = {}
        self.rest = b""
        self.error: PalaceError | None = None

    @property
    def epoch(self) -> int:
        """Return the epoch of the last owner that said welcome, 0 before the first."""
        return self._epoch

    def begin(self, hello: "Callable[[], bytes]") -> None:
        """Start an attempt; `hello` makes the first line anew for each connection."""
        self._drop_child()
        self.reap()
        self._hello, self._older = hello, 0
        named = self._environment.broker
        if self._ladder is not None and not named and not self._is_foreign():
            self._ladder.end()  # `palace own` has changed whose palace it is
            self._ladder = None
        if named and not named_socket(self._environment):
            self._become_guest()
        guest = self._ladder is not None
        self._may_spawn = not (self._environment.no_spawn or named or guest)
        now_s = self._kernel.monotonic()
        self._machine = election.Election(
            deadline_s=now_s + self._patience_s,
            random=self._kernel.random,
            may_spawn=self._may_spawn,
            may_direct=self._may_direct and not named and not guest,
            wait_before_spawn_s=self._courtesy_s(),
            nobody_until_s=now_s + SUCCESSION_S if self._epoch or guest else 0.0,
        )
        self.error = None
        self.direct = False
        self._asked_to_leave = False
        self._happened(election.BEGIN)

    def _become_guest(self) -> None:
        """From here on the broker is reached from afar, and never started from here."""
        if self._ladder is None:
            from palace.client.guest.fallbacks import Ladder

            self._ladder = Ladder(self._kernel, self._paths, self._environment)

    def _courtesy_s(self) -> float:
        """Let the host go first where a container shares its palace with it by a mount."""
        if not self._kernel.in_container() or self._kernel.mount_of(self._paths.root).point == "/":
            return 0.0
        return COURTESY_S

    def fd(self) -> int:
        """Return what to poll for reading, -1 where only time will tell."""
        if self.state == self.GREETING and self.sock is not None:
            return self.sock.fileno()
        if self.state == self.SLEEPING and self._child is not None:
            return self._child.report_fd
        return -1

    def timeout_s(self) -> float:
        return max(0.0, self._wake_s - self._kernel.monotonic())

    def advance(self) -> None:
        """Go on: `fd()` became readable, or the time is up."""
        if self.state == self.GREETING:
            self._read_welcome()
        elif self.state == self.SLEEPING:
            self._wake_up()

    def wait(self) -> None:
        """Block until the attempt is over (commands have nothing else to do)."""
        import select

        while self.state in (self.SLEEPING, self.GREETING):
            poll = select.poll()
            if self.fd() >= 0:
                poll.register(self.fd(), select.POLLIN)
            poll.poll(self.timeout_s() * 1000 + 1)
            self.advance()

    def end(self) -> None:
        """Let go of everything; a direct child is given time to close its store."""
        self._close_sock()
        if self._ladder is not None:
            self._ladder.end()
        if self._child is not None and self.direct:
            self._child.wait(DIRECT_GREETING_S)
        self._drop_child()

    # The machine's events and actions.

    def _happened(self, *event: object) -> None:
        assert self._machine is not None
        for action in self._machine.handle(event, self._kernel.monotonic()):
            self._perform(action)

    def _perform(self, action: "tuple[object, ...]") -> None:
        kind = action[0]
        if kind == election.DIAL:
            self._dial()
        elif kind == election.SLEEP:
            self.state = self.SLEEPING
            self._wake_s = self._kernel.monotonic() + float(str(action[1]))
        elif kind == election.SPAWN:
            self._spawn()
        elif kind == election.DIRECT:
            self._go_direct()
        elif kind == election.READY:
            self.state = self.CONNECTED
            if not self.direct:
                self._drop_child()
        else:
            self._fail(str(action[1]), str(action[2]))

    def _wake_up(self) -> None:
        child = self._child
        if child is not None:
            child.read_report()
            status = child.exit_status()
            if status is not None:
                text = child.failure_text()
                self._drop_child()
                self._happened(election.CHILD_EXITED, status, text)
                return
        self._happened(election.WOKE)

    def _drop_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._unreaped.append(self._child.pid)
            self._child = None

    def reap(self) -> bool:
        """Take leave of brokers that this shim once started; True while one of them lives."""
        self._unreaped = [pid for pid in self._unreaped if self._kernel.reap(pid) is None]
        return bool(self._unreaped)

    # Dialling.

    def _endpoint(self) -> str:
        named = named_socket(self._environment)
        return named or self._paths.socket(runtime_dir(self._environment.all))

    def _dial(self) -> None:
        if self._ladder is not None:
            try:
                self._ladder.begin()
            except ConfigError as error:
                self._happened(election.REFUSED, error.name, error.message)
                return
            self._next_rung(self._ladder)
            return
        path = self._endpoint()
        problem = self._connect(path)
        if problem == errno.ENOENT and not self._environment.broker:
            other = self._published_path()
            if other and other != path:
                problem = self._connect(other)
        if problem in _NOBODY and not self._environment.broker:
            if self._is_foreign():
                self._become_guest()
                self.begin(self._hello)
                return
            if self._endpoint() != path:  # it is owned here, over another kernel's mount
                path = self._endpoint()
                problem = self._connect(path)
        if problem in (errno.EACCES, errno.EPERM):
            text = f"{path} belongs to another user, so the palace can't be reached through it."
            self._happened(election.REFUSED, "unsafe_palace", text)
        elif problem:
            why = election.BUSY if problem in _BUSY else election.ABSENT
            self._happened(election.DIAL_FAILED, why)

    def _published_path(self) -> str:
        from palace.protocol.broker_record import decode_record

        record = decode_record(self._kernel.read_hint(self._paths.record))
        if record is None or record.boot_id != self._kernel.boot_id():
            return ""
        return published_socket(record)

    def _is_foreign(self) -> bool:
        from palace.ownership.claim import find_foreign

        try:
            return find_foreign(self._paths, self._kernel, self._environment.all) is not None
        except OSError:
            return False  # what is wrong there is told before anything is started

    # A guest's ways, one after the other.

    def _next_rung(self, ladder: "Ladder") -> None:
        found = ladder.climb()
        if found is None:
            self._happened(election.DIAL_FAILED, election.ABSENT)
            return
        fd, patience_s = found
        sock = socket(fileno=fd)
        sock.setblocking(False)
        if self._greet(sock, patience_s):
            self._led_nowhere(ladder, election.ABSENT)

    def _led_nowhere(self, ladder: "Ladder", why: str) -> None:
        problem = ladder.led_nowhere(silent=why == election.SILENT)
        if problem is not None:
            self._happened(election.REFUSED, problem.name, problem.text)
        else:
            self._next_rung(ladder)

    def _connect(self, path: str) -> int:
        """Connect and say hello; return 0, or the errno that says why not."""
        try:
            sock = socket(AF_UNIX, SOCK_STREAM)
        except OSError as error:  # no descriptor left, for now
            return error.errno or errno.EMFILE
        try:
            sock.setblocking(False)
            sock.connect(path)
        except OSError as error:
            sock.close()
            return error.errno or errno.ENAMETOOLONG
        return self._greet(sock, GREETING_S)

    def _greet(self, sock: socket, patience_s: float) -> int:
        uid = peer_of(sock)[1]
        if uid not in (0, os.geteuid()) and uid != self._palace_owner():
            sock.close()
            return errno.EPERM
        try:
            sock.send(wire.at_version(self._hello(), self._speak))
        except OSError as error:
            sock.close()
            return error.errno or errno.EPIPE
        self.sock = sock
        self.rest = b""
        self.state = self.GREETING
        self._wake_s = self._kernel.monotonic() + patience_s
        return 0

    def _palace_owner(self) -> int:
        try:
            return os.stat(self._paths.root).st_uid
        except OSError:
            return -1

    def _read_welcome(self) -> None:
        assert self.sock is not None
        try:
            data = self.sock.recv(65_536)
        except BlockingIOError:
            if self.timeout_s() <= 0:
                self._not_greeted(election.SILENT)
            return
        except OSError:
            data = b""
        if not data:
            self._not_greeted(election.ABSENT)
            return
        self.rest += data
        line, newline, rest = self.rest.partition(b"\n")
        if newline:
            self.rest = rest
            self._greeted(line)

    def _not_greeted(self, why: str) -> None:
        self._kernel.trace("C3.reset" if why == election.ABSENT else "C3.silent")
        self._close_sock()
        if self.direct and self._child is not None:
            self._child_must_have_ended()
            return
        if self._ladder is not None:
            self._led_nowhere(self._ladder, why)
            return
        self._happened(election.DIAL_FAILED, why)

    def _child_must_have_ended(self) -> None:
        assert self._child is not None
        status = self._child.wait(CHILD_END_S)
        text = self._child.failure_text()
        self._drop_child()
        self.direct = False
        self._happened(election.CHILD_EXITED, -1 if status is None else status, text)

    def _greeted(self, line: bytes) -> None:
        try:
            _, kind, fields = wire.decode_header(line)
            epoch = int(fields.get("epoch", "0"))
        except (WireError, ValueError):
            text = f"what answers at {self._endpoint()} is no palace broker"
            self._happened(election.REFUSED, "version_mismatch", text)
            return
        if kind == wire.WELCOME:
            self._welcomed(fields, epoch)
            return
        self._kernel.trace("C3.refused")
        self._close_sock()
        code = fields.get("code", "")
        if code in ("draining", "silent"):
            self._happened(election.DIAL_FAILED, election.ABSENT)
        elif code == "busy":
            self._happened(election.DIAL_FAILED, election.BUSY)
        elif code == "version_mismatch" and self._agrees(fields):
            return
        else:
            self._happened(election.REFUSED, code, fields.get("text", "the broker refused us"))

    def _agrees(self, fields: "dict[str, str]") -> bool:
        """Go on with a broker of another version, or with its successor, where that can be."""
        from palace.client.versions import after_refusal

        may_replace = self._may_spawn and not self._asked_to_leave
        self._asked_to_leave, version = after_refusal(fields, self._endpoint(), ask=may_replace)
        if self._asked_to_leave:
            self._happened(election.DIAL_FAILED, election.BUSY)  # it is alive until it has left
            return True
        if version in (0, self._speak):
            return False
        self._speak = version
        self._dial()
        return True

    def _welcomed(self, fields: "dict[str, str]", epoch: int) -> None:
        expected = expected_palace_id(self._kernel, self._paths)
        if expected and fields.get("palace_id") != expected:
            self._close_sock()
            text = (
                f"the broker at {self._endpoint()} serves another palace "
                f"({fields.get('palace_id')}) than {self._paths.root} ({expected})"
            )
            self._happened(election.REFUSED, "wrong_palace", text)
        elif epoch < self._epoch:  # an owner that was replaced: its answers are void
            self._kernel.trace("C3.refused")
            self._older = epoch
            self._close_sock()
            self._happened(election.DIAL_FAILED, election.SILENT)
        else:
            self._epoch = epoch
            self._kernel.trace("C2.welcome", epoch=epoch)
            self.welcome = fields
            self._happened(election.WELCOMED)

    def _close_sock(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    # Spawning.

    def _spawn(self) -> None:
        refusal = self._spawn_refusal()
        if refusal is not None:
            self._happened(election.REFUSED, refusal.name, refusal.message)
            return
        self._drop_child()
        try:
            environ = self._environment.for_broker()
            self._child = spawn_broker(self._kernel, self._paths, environ)
        except OSError as error:
            self._happened(election.SPAWN_FAILED, f"{error.strerror}")
            return
        self._happened(election.SPAWNED)

    def _spawn_refusal(self) -> "PalaceError | None":
        """What forbids a broker of ours here, before one is started in vain."""
        from palace.ownership.claim import check_kernel
        from palace.ownership.lock import check_hold
        from palace.protocol.broker_record import decode_record, version_tuple

        try:
            check_kernel(self._paths, self._kernel, self._environment.all)
            check_hold(self._paths, self._kernel)
        except ElectionError as error:
            return error
        except OSError as error:
            return LockFailed(f"{error.filename}: {error.strerror}. Check its permissions.")
        record = decode_record(self._kernel.read_hint(self._paths.record))
        if record is not None and version_tuple(record.version) > version_tuple(__version__):
            return VersionMismatch(
                f"The palace was last served by palace {record.version}; this is {__version__}. "
                "Upgrade it: pip install --upgrade palace-broker"
            )
        return None

    def _go_direct(self) -> None:
        try:
            ours, theirs = socketpair()
        except OSError as error:
            self._happened(election.SPAWN_FAILED, f"{error.strerror}")
            return
        try:
            environ = self._environment.for_broker()
            self._drop_child()
            self._child = spawn_broker(
                self._kernel, self._paths, environ, direct_fd=theirs.fileno()
            )
        except OSError as error:
            ours.close()
            self._happened(election.SPAWN_FAILED, f"{error.strerror}")
            return
        finally:
            theirs.close()
        self.direct = True
        ours.setblocking(False)
        problem = self._greet(ours, DIRECT_GREETING_S)
        if problem:
            self._not_greeted(election.ABSENT)

    # Failing.

    def _fail(self, name: str, text: str) -> None:
        self.state = self.FAILED
        self._close_sock()
        self._drop_child()
        if self._older and text == election.SILENT:
            text = older_text(self._older, self._epoch, self._paths)
        if self._ladder is not None and name in ("broker_unreachable", "no_spawn"):
            self.error = self._ladder.failure(text)
        else:
            place = (self._kernel, self._paths, self._environment)
            self.error = failure_of(name, text, place, patience_s=self._patience_s)
