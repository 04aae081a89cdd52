"""Reaching an owner: the driver of the election machine, one attempt at a time.

The driver performs what the machine decides and reports what happened.  It never waits by itself,
so that the relay can serve its client meanwhile: poll `fd()` for `timeout_s()`, then `advance()`.
"""

import errno
import os
from _socket import AF_UNIX, SOCK_STREAM, socket

from palace import __version__
from palace.env import ShimEnvironment
from palace.host import Host, peer_of
from palace.paths import Paths, runtime_dir
from palace.protocol import election, wire
from palace.protocol.errors import (
    BrokerUnreachable,
    ConfigError,
    ElectionError,
    ForeignKernel,
    ForeignWriter,
    LockFailed,
    OnHold,
    PalaceError,
    SpawnFailed,
    StoreUnavailable,
    UnsafePalace,
    VersionMismatch,
    WireError,
)
from palace.shim.spawn import Child, spawn_broker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from palace.protocol.record import Record

GREETING_S = 5.0
DIRECT_GREETING_S = 40.0  # a direct broker may wait for mempalace's own lock first
DEADLINE_S = 60.0
COURTESY_S = 2.0
SUCCESSION_S = 5.0  # who may not spawn waits so long for others to replace an owner that died

_BUSY = (errno.EAGAIN, errno.ENOTCONN, errno.EINTR)
_ERRORS = {
    kind.name: kind
    for kind in (
        ConfigError,
        ForeignKernel,
        ForeignWriter,
        LockFailed,
        OnHold,
        SpawnFailed,
        StoreUnavailable,
        UnsafePalace,
        VersionMismatch,
    )
}


class Connector:
    """One shim's way to the owner of one palace, for as many attempts as its life takes.

    After `begin`, `state` is SLEEPING or GREETING until it is CONNECTED (then `sock`, `welcome`
    and `rest` are the caller's) or FAILED (then `error` says why).
    """

    IDLE, SLEEPING, GREETING, CONNECTED, FAILED = range(5)

    def __init__(
        self,
        host: Host,
        paths: Paths,
        environment: ShimEnvironment,
        *,
        deadline_s: float = DEADLINE_S,
        may_direct: bool = True,
    ) -> None:
        self._host = host
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
        self._hello = hello
        verbatim = bool(self._environment.broker)
        now_s = self._host.monotonic()
        self._machine = election.Election(
            deadline_s=now_s + self._patience_s,
            random=self._host.random,
            may_spawn=not (self._environment.no_spawn or verbatim),
            may_direct=self._may_direct and not verbatim,
            wait_before_spawn_s=self._courtesy_s(),
            nobody_until_s=now_s + SUCCESSION_S if self._epoch else 0.0,
        )
        self.error = None
        self.direct = False
        self._happened(election.BEGIN)

    def _courtesy_s(self) -> float:
        """Let the host go first where a container shares its palace with it by a mount."""
        if not self._host.in_container() or self._host.mount_of(self._paths.root).point == "/":
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
        return max(0.0, self._wake_s - self._host.monotonic())

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
        if self._child is not None and self.direct:
            deadline_s = self._host.monotonic() + DIRECT_GREETING_S
            import time

            while self._child.exit_status() is None and self._host.monotonic() < deadline_s:
                time.sleep(0.02)
        self._drop_child()

    # The machine's events and actions.

    def _happened(self, *event: object) -> None:
        assert self._machine is not None
        for action in self._machine.handle(event, self._host.monotonic()):
            self._perform(action)

    def _perform(self, action: "tuple[object, ...]") -> None:
        kind = action[0]
        if kind == election.DIAL:
            self._dial()
        elif kind == election.SLEEP:
            self.state = self.SLEEPING
            self._wake_s = self._host.monotonic() + float(str(action[1]))
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
        self._unreaped = [pid for pid in self._unreaped if self._host.reap(pid) is None]
        return bool(self._unreaped)

    # Dialling.

    def _endpoint(self) -> str:
        named = named_endpoint(self._environment)
        if named is not None:
            return named
        return self._paths.socket(runtime_dir(self._environment.all))

    def _dial(self) -> None:
        try:
            path = self._endpoint()
        except ConfigError as error:
            self._happened(election.REFUSED, error.name, error.message)
            return
        problem = self._connect(path)
        if problem == errno.ENOENT and not self._environment.broker:
            other = self._published_path()
            if other and other != path:
                problem = self._connect(other)
        if problem in (errno.EACCES, errno.EPERM):
            text = f"{path} belongs to another user, so the palace can't be reached through it."
            self._happened(election.REFUSED, "unsafe_palace", text)
        elif problem:
            why = election.BUSY if problem in _BUSY else election.ABSENT
            self._happened(election.DIAL_FAILED, why)

    def _published_path(self) -> str:
        from palace.protocol.record import decode_record

        record = decode_record(self._host.read_hint(self._paths.record))
        if record is None or record.boot_id != self._host.boot_id():
            return ""
        return published_endpoint(record)

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
            sock.send(self._hello())
        except OSError as error:
            sock.close()
            return error.errno or errno.EPIPE
        self.sock = sock
        self.rest = b""
        self.state = self.GREETING
        self._wake_s = self._host.monotonic() + patience_s
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
        self._host.trace("C3.reset" if why == election.ABSENT else "C3.silent")
        self._close_sock()
        if self.direct and self._child is not None:
            self._child_must_have_ended()
            return
        self._happened(election.DIAL_FAILED, why)

    def _child_must_have_ended(self) -> None:
        import time

        assert self._child is not None
        for _ in range(200):
            status = self._child.exit_status()
            if status is not None:
                break
            time.sleep(0.01)
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
        self._host.trace("C3.refused")
        self._close_sock()
        code = fields.get("code", "")
        if code in ("draining", "silent"):
            self._happened(election.DIAL_FAILED, election.ABSENT)
        elif code == "busy":
            self._happened(election.DIAL_FAILED, election.BUSY)
        else:
            self._happened(election.REFUSED, code, fields.get("text", "the broker refused us"))

    def _welcomed(self, fields: "dict[str, str]", epoch: int) -> None:
        expected = expected_palace_id(self._host, self._paths)
        if expected and fields.get("palace_id") != expected:
            self._close_sock()
            text = (
                f"the broker at {self._endpoint()} serves another palace "
                f"({fields.get('palace_id')}) than {self._paths.root} ({expected})"
            )
            self._happened(election.REFUSED, "wrong_palace", text)
        elif epoch < self._epoch:  # an owner that was replaced: its answers are void
            self._host.trace("C3.refused")
            self._close_sock()
            self._happened(election.DIAL_FAILED, election.SILENT)
        else:
            self._epoch = epoch
            self._host.trace("C2.welcome", epoch=epoch)
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
            self._child = spawn_broker(self._host, self._paths, environ)
        except OSError as error:
            self._happened(election.SPAWN_FAILED, f"{error.strerror}")
            return
        self._happened(election.SPAWNED)

    def _spawn_refusal(self) -> "PalaceError | None":
        """What forbids a broker of ours here, before one is started in vain."""
        from palace.broker.lock import check_hold, check_kernel
        from palace.protocol.record import decode_record, version_tuple

        try:
            check_kernel(self._paths, self._host)
            check_hold(self._paths, self._host)
        except ElectionError as error:
            return error
        except OSError as error:
            return LockFailed(f"{error.filename}: {error.strerror}. Check its permissions.")
        record = decode_record(self._host.read_hint(self._paths.record))
        if record is not None and version_tuple(record.version) > version_tuple(__version__):
            return VersionMismatch(
                f"The palace was last served by palace {record.version}; this is {__version__}. "
                "Upgrade it: pip install --upgrade palace-broker"
            )
        return None

    def _go_direct(self) -> None:
        from socket import socketpair

        try:
            ours, theirs = socketpair()
        except OSError as error:
            self._happened(election.SPAWN_FAILED, f"{error.strerror}")
            return
        try:
            environ = self._environment.for_broker()
            self._drop_child()
            self._child = spawn_broker(self._host, self._paths, environ, direct_fd=theirs.fileno())
        except OSError as error:
            ours.close()
            self._happened(election.SPAWN_FAILED, f"{error.strerror}")
            return
        finally:
            theirs.close()
        self.direct = True
        ours.setblocking(False)
        problem = self._greet(socket(fileno=ours.detach()), DIRECT_GREETING_S)
        if problem:
            self._not_greeted(election.ABSENT)

    # Failing.

    def _fail(self, name: str, text: str) -> None:
        self.state = self.FAILED
        self._close_sock()
        self._drop_child()
        if name == "broker_unreachable":
            self.error = BrokerUnreachable(self._unreachable_text(text))
        elif name == "no_spawn":
            self.error = BrokerUnreachable(self._no_spawn_text(text))
        else:
            kind = _ERRORS.get(name, ElectionError)
            self.error = kind(f"{text[:1].upper()}{text[1:]}", refused=name)

    def _no_spawn_text(self, why: str) -> str:
        if self._environment.broker:
            return (
                f"No broker answers at MEMPALACE_BROKER={self._environment.broker}, which is used "
                "as it stands. Start the broker there, or unset the variable."
            )
        found = "No broker runs" if why == election.ABSENT else f"The broker is {why}"
        return (
            f"{found} for {self._paths.root}, and PALACE_NO_SPAWN forbids starting one. "
            f"Start it by hand (palace serve --palace {self._paths.root}) or unset PALACE_NO_SPAWN."
        )

    def _unreachable_text(self, why: str) -> str:
        from palace.broker.lock import held_text

        holder = self._host.lock_holder(self._paths.lock)
        who = held_text(self._paths.lock, self._host) if holder else "nobody holds its lock"
        return (
            f"No broker answered for {self._paths.root} within {self._patience_s:.0f} s ({why}); "
            f"{who}. Its log: {self._paths.log}"
        )


def named_endpoint(environment: ShimEnvironment) -> "str | None":
    """Return the socket that MEMPALACE_BROKER names, None where it isn't set."""
    given = environment.broker
    if not given:
        return None
    if not given.startswith("unix:"):
        raise ConfigError(
            f"MEMPALACE_BROKER={given!r}: this version of palace knows unix:PATH only."
        )
    return given.removeprefix("unix:")


def published_endpoint(record: "Record | None") -> str:
    """Return the socket that a broker's record names, "" where it names none."""
    for url in record.endpoints if record is not None else ():
        if url.startswith("unix:"):
            return url.removeprefix("unix:")
    return ""


def expected_palace_id(host: Host, paths: Paths) -> str:
    """Return the identity that the palace itself shows, "" where it shows none."""
    return wire.identity_of(host.read_hint(paths.palace_id, 200)) or ""
