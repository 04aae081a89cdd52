"""Asking a running broker from the command line: status, stop; and whether one runs at all."""

from typing import Any

from palace.client.endpoints import socket_candidates
from palace.client.handshake import ABSENT, Conversation, Response, StrangerError, open_socket
from palace.kernel.durations import span
from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line
from palace.kernel.processes import Process
from palace.ownership.claim import find_foreign, read_claim
from palace.ownership.record import read_record
from palace.protocol import wire
from palace.protocol.broker_record import BrokerRecord
from palace.protocol.decoding import decode_json
from palace.protocol.errors import BrokerUnreachable, ConfigError, WireError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site

ANSWER_S = 5.0
STATUS_S = (
    1.5  # for people who wait at a terminal: a broker that is silent longer is reported as silent
)


class Control:
    """One question to the broker of one palace; close it, or use it in a `with` statement.

    `path` is the socket at which it answers.
    """

    def __init__(
        self, paths: Paths, environment: ShimEnvironment, *, answer_s: float = ANSWER_S
    ) -> None:
        self._answer_s = answer_s
        self.path, self._conversation = _connect(Site(Kernel(), paths, environment))

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._conversation.close()

    def ask(self, question: str, **fields: str) -> dict[str, str]:
        """Send one question; return the fields of the answer's header."""
        header = wire.encode_header(wire.CONTROL, {"ask": question, **fields})
        try:
            response: Response = self._conversation.ask(header, self._answer_s)
        except OSError as error:
            raise self._unanswered(error) from None
        code = response.fields.get("code", "")
        if response.kind == wire.REFUSED and code not in ("version_mismatch", "wire"):
            said = response.fields.get("text", code)
            raise BrokerUnreachable(
                f"The broker at {self.path} refuses to answer: {said}",
                refused=code,
                admitted=bool(response.fields.get("admitted")),
            )
        if response.kind != wire.ANSWER:
            raise WireError(
                f"the broker answered {response.kind}: {response.fields.get('text', '')}"
            )
        return response.fields

    def status(self) -> dict[str, Any]:
        """Return the broker's status (palace/broker/reporting/status.py has the shape)."""
        self.ask("status")
        try:
            line = self._conversation.read_line(self._answer_s)
        except OSError as error:
            raise self._unanswered(error) from None
        status: dict[str, Any] = decode_json(line)
        return status

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait until the broker's process has ended; False when it hasn't in time."""
        return self._conversation.has_more(timeout_s)

    def _unanswered(self, error: OSError) -> BrokerUnreachable:
        if isinstance(error, TimeoutError):
            sign = f"accepts but does not answer within {self._answer_s:g} s"
            return BrokerUnreachable(_stuck_text(self.path, sign), silent=True)
        return BrokerUnreachable(
            f"What listens at {self.path} hung up: a leaving broker, or none. Ask again."
        )


def _connect(site: Site) -> tuple[str, Conversation]:
    """Return the first socket where something listens, and a conversation with it."""
    environment = site.environment
    find_foreign(site.paths, site.kernel, environment.all)  # says where the usual socket is
    absent: list[BrokerUnreachable] = []
    for path in socket_candidates(site):
        try:
            return path, Conversation(open_socket(path), site.paths, site.kernel)
        except OSError as error:
            failure = _not_connected(site.paths, path, error)
            if error.errno not in ABSENT:
                raise failure from None
            absent.append(failure)
    if absent:
        raise absent[0]
    raise ConfigError(
        f"MEMPALACE_BROKER={environment.broker!r}: this command asks a broker on its own "
        "machine. Run it there, or name a socket: unix:PATH."
    )


def _stuck_text(path: str, sign: str) -> str:
    return (
        f"The broker at {path} {sign}: it is stopped or stuck. Its watchdog will end it "
        "if a write is stuck; `kill -CONT` or `kill` its pid otherwise (palace status)."
    )


def ask_to_leave(paths: Paths, environment: ShimEnvironment) -> None:
    """Ask a palace's broker to leave once its calls have ended; return at once, even unheard."""
    try:
        with Control(paths, environment) as control:
            control.ask("stop", now="0")
    except BrokerUnreachable:
        return  # it is about to end by itself, or the lock will show who holds it


def _not_connected(paths: Paths, path: str, error: OSError) -> BrokerUnreachable:
    if isinstance(error, BlockingIOError):  # its backlog is full: it listens, but doesn't accept
        return BrokerUnreachable(_stuck_text(path, "takes no more connections"), silent=True)
    if isinstance(error, StrangerError):
        return BrokerUnreachable(
            f"{path} is served by uid {error.uid}, which is neither you nor the owner of "
            f"{paths.root}, so it is not asked. Let the palace's owner start its broker."
        )
    if error.errno in ABSENT:
        return BrokerUnreachable(
            f"No broker runs for {paths.root} ({path}: {error.strerror}). "
            "One is started by the next `palace shim` or `palace ensure`.",
            absent=True,
        )
    return BrokerUnreachable(
        f"The broker of {paths.root} can't be reached: {path}: {error.strerror or error}."
    )


def known_without_answer(paths: Paths, kernel: Kernel, error: BrokerUnreachable) -> dict[str, Any]:
    """Return what is known of a palace whose broker gave no status; `text` says it to people."""
    absent = bool(error.details.get("absent"))
    pid = kernel.lock_holder(paths.lock)
    holder = None if pid is None else kernel.process_of(pid)
    record = read_record(paths, kernel)
    hold = kernel.read_hint(paths.hold, 200)
    silent = absent or bool(error.details.get("silent"))
    lines = _traces(paths, kernel, holder, silent=silent) if kernel.file_id(paths.root) else []
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


def _traces(paths: Paths, kernel: Kernel, holder: Process | None, *, silent: bool) -> list[str]:
    """Return what the palace's control files tell, one line each.

    What was not asked, or not by us, is not `silent`: ending it is no remedy for that.
    """
    lines = []
    claim = read_claim(paths, kernel)
    if claim is not None:
        lines.append(f"it is owned by {claim.owner}: palace own")
    hold = kernel.read_hint(paths.hold)
    if hold is not None:
        since = one_line(hold.decode(errors="replace").strip(), 200)
        lines.append(f"on hold since {since}: palace start ends it")
    if holder is not None:
        age = f", started {span(holder.age_s)} ago" if holder.age_s >= 0 else ""
        state = ""
        if holder.stopped:
            state = f", which is halted by a signal: kill -CONT {holder.pid}"
        elif silent:
            state = f", which does not answer: kill {holder.pid}"
        lines.append(
            f"its lock is held by pid {holder.pid} ({holder.title}) of {holder.user}{age}{state}"
        )
    return lines


def _record_text(record: BrokerRecord, *, alive: bool) -> str:
    who = (
        f"pid {record.pid} on {record.host_id}, epoch {record.epoch}, palace {record.version}, "
        f"since {record.started_at}"
    )
    if not alive:
        return f"the last one was {who}, and left no word"
    return f"its record says: {who}, at {', '.join(record.endpoints) or 'no address'}"
