"""Asking a running broker from the command line: status, stop; and whether one runs at all."""

import errno
import json
import os
import select
import socket
from typing import Any

from palace.client.endpoints import named_socket, published_socket, socket_here
from palace.kernel.durations import span
from palace.kernel.kernel import Kernel, peer_of
from palace.kernel.processes import Process
from palace.ownership.claim import find_foreign, read_claim
from palace.protocol import wire
from palace.protocol.broker_record import Record, decode_record
from palace.protocol.errors import BrokerUnreachable, ConfigError, WireError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, runtime_dir

ANSWER_S = 5.0
STATUS_S = 1.5  # for people who wait at a terminal: what is silent longer is told of as such
_NOBODY = (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED)  # what connect(2) says of an absence


class Control:
    """One question to the broker of one palace; close it, or use it in a `with` statement."""

    def __init__(
        self, paths: Paths, environment: ShimEnvironment, *, answer_s: float = ANSWER_S
    ) -> None:
        self._answer_s = answer_s
        self._path = endpoint_path(paths, environment)
        self._buffer = b""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(answer_s)
        try:
            self._sock.connect(self._path)
        except BlockingIOError:  # its backlog is full: it listens, but doesn't accept
            self._sock.close()
            raise BrokerUnreachable(self._stuck("takes no more connections")) from None
        except OSError as error:
            self._sock.close()
            raise _not_connected(paths, self._path, error) from None
        uid = peer_of(self._sock)[1]
        if uid not in (0, os.geteuid()):
            self._sock.close()
            raise BrokerUnreachable(f"{self._path} is served by uid {uid}, not by you.")

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._sock.close()

    def ask(self, question: str, **fields: str) -> dict[str, str]:
        """Send one question; return the fields of the answer's header."""
        try:
            self._sock.sendall(wire.encode_header(wire.CONTROL, {"ask": question, **fields}))
        except OSError:
            raise BrokerUnreachable(self._hung_up()) from None
        _, kind, answer = wire.decode_header(self._line())
        if kind != wire.ANSWER:
            raise WireError(f"the broker answered {kind}: {answer.get('text', '')}")
        return answer

    def status(self) -> dict[str, Any]:
        """Return the broker's status (palace/broker/telemetry/status.py has the shape)."""
        self.ask("status")
        status: dict[str, Any] = json.loads(self._line())
        return status

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait until the broker's process has ended; False when it hasn't in time."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def _stuck(self, sign: str) -> str:
        return (
            f"The broker at {self._path} {sign}: it is stopped or stuck. Its watchdog will end it "
            "if a write is stuck; `kill -CONT` or `kill` its pid otherwise (palace status)."
        )

    def _hung_up(self) -> str:
        return f"What listens at {self._path} hung up: a leaving broker, or none. Ask again."

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            try:
                data = self._sock.recv(65_536)
            except TimeoutError:
                sign = f"accepts but does not answer within {self._answer_s:g} s"
                raise BrokerUnreachable(self._stuck(sign)) from None
            except OSError:
                data = b""
            if not data:
                raise BrokerUnreachable(self._hung_up())
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def ask_to_leave(paths: Paths, environment: ShimEnvironment) -> None:
    """Ask a palace's broker to leave once its calls have ended; return at once, even unheard."""
    try:
        with Control(paths, environment) as control:
            control.ask("stop", now="0")
    except BrokerUnreachable:
        return  # it is about to end by itself, or the lock will show who holds it


def _not_connected(paths: Paths, path: str, error: OSError) -> BrokerUnreachable:
    if error.errno in _NOBODY:
        return BrokerUnreachable(
            f"No broker runs for {paths.root} ({path}: {error.strerror}). "
            "One is started by the next `palace shim` or `palace ensure`.",
            absent=True,
        )
    return BrokerUnreachable(
        f"The broker of {paths.root} can't be reached: {path}: {error.strerror or error}."
    )


def read_record(paths: Paths) -> Record | None:
    return decode_record(Kernel().read_hint(paths.record))


def endpoint_path(paths: Paths, environment: ShimEnvironment) -> str:
    """Return the socket of a palace's broker: named by the user, published, or the usual one."""
    named = named_socket(environment)
    if named:
        return named
    if environment.broker:
        raise ConfigError(
            f"MEMPALACE_BROKER={environment.broker!r}: this command asks a broker on its own "
            "machine. Run it there, or name a socket: unix:PATH."
        )
    kernel = Kernel()
    find_foreign(paths, kernel, environment.all)  # it says where the lock and the socket are
    usual = paths.socket(runtime_dir(environment.all))
    return socket_here(kernel, published_socket(read_record(paths)), usual)


def unanswered(paths: Paths, kernel: Kernel, error: BrokerUnreachable) -> dict[str, Any]:
    """Return what is known of a palace whose broker gave no status; `text` says it to people."""
    absent = bool(error.details.get("absent"))
    pid = kernel.lock_holder(paths.lock)
    holder = None if pid is None else kernel.process_of(pid)
    record = decode_record(kernel.read_hint(paths.record))
    hold = kernel.read_hint(paths.hold, 200)
    lines = _traces(paths, kernel, holder) if kernel.file_id(paths.root) else []
    if record is not None:
        lines.append(_record_text(record, alive=holder is not None or not absent))
    return {
        "palace": paths.root,
        "running": False,
        "text": "\n".join([_first_line(paths, kernel, error, absent=absent), *lines]),
        "on_hold": hold is not None,
        "holder": holder
        and {
            "pid": holder.pid,
            "command": holder.title,
            "user": holder.user,
            "for_s": round(holder.age_s, 3),
            "stopped": holder.stopped,
        },
        "record": record and record.public_dict(),
    }


def _first_line(paths: Paths, kernel: Kernel, error: BrokerUnreachable, *, absent: bool) -> str:
    if not absent:
        return error.message
    first = f"no broker runs for {paths.root}"
    return first if kernel.file_id(paths.root) else f"{first}: the directory does not exist"


def _traces(paths: Paths, kernel: Kernel, holder: Process | None) -> list[str]:
    """Return what the palace's control files tell, one line each."""
    lines = []
    claim = read_claim(paths, kernel)
    if claim is not None:
        lines.append(f"it is owned by {claim.owner}: palace own")
    hold = kernel.read_file(paths.hold)
    if hold is not None:
        lines.append(f"on hold since {hold.decode(errors='replace').strip()}: palace start ends it")
    if holder is not None:
        age = f", started {span(holder.age_s)} ago" if holder.age_s >= 0 else ""
        state = "is halted by a signal: kill -CONT" if holder.stopped else "does not answer: kill"
        lines.append(
            f"its lock is held by pid {holder.pid} ({holder.title}) of {holder.user}{age}, which "
            f"{state} {holder.pid}"
        )
    return lines


def _record_text(record: Record, *, alive: bool) -> str:
    who = (
        f"pid {record.pid} on {record.host_id}, epoch {record.epoch}, palace {record.version}, "
        f"since {record.started_at}"
    )
    if not alive:
        return f"the last one was {who}, and left no word"
    return f"its record says: {who}, at {', '.join(record.endpoints) or 'no address'}"
