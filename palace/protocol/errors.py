"""Every way a request or a start can fail, with the code a client sees and what to do next.

Rule for this file: only classes. `wire_code` is stable and never reused; `retry` tells a client
what may help: "never", "same_request" (ask again later), "after_reconnect".
"""


class PalaceError(Exception):
    """Base of all errors that palace raises; its text ends with what to do."""

    wire_code = -32099
    name = "palace_error"
    retry = "never"
    exit_code = 70

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def error_object(self) -> dict[str, object]:
        """Return the JSON-RPC `error` member."""
        data = {"palace": self.name, "retry": self.retry, **self.details}
        return {"code": self.wire_code, "message": self.message, "data": data}


class ConfigError(PalaceError):
    """A setting is wrong; the text names where it was set, its key and its value."""

    wire_code = -32060
    name = "config"
    exit_code = 78


class UnsafePalace(ConfigError):
    """The palace directory can't be trusted: owner, mode or type."""

    wire_code = -32061
    name = "unsafe_palace"
    exit_code = 77


class HostFile(PalaceError):
    """An MCP host's configuration can't be read, or not be changed by a program, as it stands."""

    wire_code = -32065
    name = "host_file"
    exit_code = 65


class HostEntry(PalaceError):
    """An MCP host's configuration has another entry in the place of ours, or ours was changed."""

    wire_code = -32066
    name = "host_entry"
    exit_code = 81


class Unconfirmed(PalaceError):
    """A change was shown and not made: nobody was there to say yes, or somebody said no."""

    wire_code = -32067
    name = "unconfirmed"
    exit_code = 80


class BackupBroken(PalaceError):
    """A backup is damaged or incomplete; nothing was restored from it."""

    wire_code = -32070
    name = "backup_broken"
    exit_code = 65


class NotEmpty(PalaceError):
    """Something stands where a backup, or a restored palace, was to go; nothing was changed."""

    wire_code = -32071
    name = "not_empty"
    exit_code = 82


class ElectionError(PalaceError):
    """Nobody could be found or made to own the palace."""

    wire_code = -32050
    name = "election"
    retry = "same_request"
    exit_code = 69


class LockHeld(ElectionError):
    """Another process holds broker.lock: the election is lost, which is no fault."""

    wire_code = -32051
    name = "lock_held"
    exit_code = 75


class ForeignWriter(ElectionError):
    """Stock mempalace, or another palace, holds what the owner needs besides broker.lock."""

    wire_code = -32052
    name = "foreign_writer"
    exit_code = 73


class BrokerUnreachable(ElectionError):
    """No broker answered within the deadline."""

    wire_code = -32053
    name = "broker_unreachable"


class SpawnFailed(ElectionError):
    """A broker could not be started."""

    wire_code = -32054
    name = "spawn_failed"
    exit_code = 71


class VersionMismatch(ElectionError):
    """The two sides speak different versions."""

    wire_code = -32055
    name = "version_mismatch"
    retry = "never"
    exit_code = 76


class ForeignKernel(ElectionError):
    """The palace lies on a file system whose locks this kernel doesn't serve."""

    wire_code = -32056
    name = "foreign_kernel"
    retry = "never"
    exit_code = 72


class OnHold(ElectionError):
    """`palace stop --hold` forbids brokers until `palace start`."""

    wire_code = -32057
    name = "on_hold"
    exit_code = 79


class LockFailed(ElectionError):
    """The kernel or the disk refused a step of becoming owner."""

    wire_code = -32058
    name = "lock_failed"
    exit_code = 74


class WireError(PalaceError):
    """A peer broke the protocol between shim and broker."""

    wire_code = -32059
    name = "wire"
    exit_code = 76


class RequestError(PalaceError):
    """This one request was refused; nothing was changed by it."""

    wire_code = -32040
    name = "request"


class Busy(RequestError):
    """The queue stayed full for as long as a request may wait."""

    wire_code = -32041
    name = "busy"
    retry = "same_request"


class Draining(RequestError):
    """The broker is leaving."""

    wire_code = -32042
    name = "draining"
    retry = "after_reconnect"


class TooLarge(RequestError):
    """The line exceeds the limit."""

    wire_code = -32043
    name = "too_large"


class DeadlineExceeded(RequestError):
    """The request waited too long for its turn and was not begun."""

    wire_code = -32044
    name = "deadline_exceeded"
    retry = "same_request"


class PathUnknown(RequestError):
    """The request names a file of the client's that has no name where the broker runs."""

    wire_code = -32064
    name = "path_unknown"


class OutcomeUnknown(PalaceError):
    """The request may or may not have been carried out; look before asking again."""

    wire_code = -32045
    name = "outcome_unknown"


class EngineError(PalaceError):
    """The hosted engine can't do its work."""

    wire_code = -32046
    name = "engine"
    exit_code = 70


class StoreUnavailable(EngineError):
    """The engine or its store can't be loaded here."""

    wire_code = -32047
    name = "store_unavailable"
    retry = "after_reconnect"
    exit_code = 69


class JournalFailed(EngineError):
    """The journal could not be written: the change was not made, or was taken back."""

    wire_code = -32048
    name = "journal_failed"
    retry = "same_request"
    exit_code = 74


class JournalBroken(EngineError):
    """The journal can't be read, or says what can't be true; nothing was changed by looking."""

    wire_code = -32062
    name = "journal_broken"
    exit_code = 65


class Quarantined(EngineError):
    """The request ended two brokers while it was carried out, and is not tried again."""

    wire_code = -32063
    name = "quarantined"


class StoreCorrupt(EngineError):
    """The store is damaged; nothing was changed by looking."""

    wire_code = -32049
    name = "store_corrupt"
    exit_code = 70
