"""Every way in which a request or a start can fail, with its codes and what a client may retry.

Rule for this file: only classes. A `wire_code` is stable and never reused, and outside of -32768 to
-32000, which JSON-RPC and MCP reserve; `retry` tells a client what may help: "never",
"same_request" (send it again later), "after_reconnect".
"""


class PalaceError(Exception):
    """Base of all errors that palace raises; the text ends with what to do."""

    wire_code = -31099
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
    """A setting is invalid; the text names the file or variable, the key and the value."""

    wire_code = -31060
    name = "config"
    exit_code = 78


class UnsafePalace(ConfigError):
    """The palace directory can't be trusted, because of its owner, mode or type."""

    wire_code = -31061
    name = "unsafe_palace"
    exit_code = 77


class HostFile(PalaceError):
    """An MCP host's configuration can't be read, or can't be edited by a program."""

    wire_code = -31065
    name = "host_file"
    exit_code = 65


class HostEntry(PalaceError):
    """An entry of an MCP host is not palace's, has been edited, or can't be taken over."""

    wire_code = -31066
    name = "host_entry"
    exit_code = 81


class Unconfirmed(PalaceError):
    """A change was shown and not made, since it was declined or there was no terminal to ask."""

    wire_code = -31067
    name = "unconfirmed"
    exit_code = 80


class BackupBroken(PalaceError):
    """A backup is damaged or incomplete; nothing was restored from it."""

    wire_code = -31070
    name = "backup_broken"
    exit_code = 65


class NotEmpty(PalaceError):
    """A backup or a restored palace would overwrite existing files; nothing was changed."""

    wire_code = -31071
    name = "not_empty"
    exit_code = 82


class ElectionError(PalaceError):
    """No owner of the palace could be found or started."""

    wire_code = -31050
    name = "election"
    retry = "same_request"
    exit_code = 69


class LockHeld(ElectionError):
    """Another process holds broker.lock: this one lost the election, which is not a fault."""

    wire_code = -31051
    name = "lock_held"
    exit_code = 75


class ForeignWriter(ElectionError):
    """Stock mempalace or another palace holds a lock that the owner needs besides broker.lock."""

    wire_code = -31052
    name = "foreign_writer"
    exit_code = 73


class BrokerUnreachable(ElectionError):
    """No broker answered within the deadline."""

    wire_code = -31053
    name = "broker_unreachable"


class BrokerFull(ElectionError):
    """The broker serves as many clients as it may; the text says how many."""

    wire_code = -31074
    name = "broker_full"


class SpawnFailed(ElectionError):
    """A broker could not be started."""

    wire_code = -31054
    name = "spawn_failed"
    exit_code = 71


class VersionMismatch(ElectionError):
    """The two sides speak different versions."""

    wire_code = -31055
    name = "version_mismatch"
    retry = "never"
    exit_code = 76


class ForeignKernel(ElectionError):
    """The palace is on a file system whose locks this kernel does not handle."""

    wire_code = -31056
    name = "foreign_kernel"
    retry = "never"
    exit_code = 72


class OnHold(ElectionError):
    """After `palace stop --hold`, no broker starts until `palace start`."""

    wire_code = -31057
    name = "on_hold"
    exit_code = 79


class LockFailed(ElectionError):
    """A step of becoming the owner failed in the kernel or on the disk."""

    wire_code = -31058
    name = "lock_failed"
    exit_code = 74


class PalaceReplaced(ElectionError):
    """Another program moved, removed or replaced the directory of a palace that was served."""

    wire_code = -31072
    name = "palace_replaced"
    exit_code = 83


class WireError(PalaceError):
    """A peer broke the protocol between shim and broker."""

    wire_code = -31059
    name = "wire"
    exit_code = 76


class RequestError(PalaceError):
    """This request was refused; it changed nothing."""

    wire_code = -31040
    name = "request"


class Busy(RequestError):
    """The queue was full for as long as a request may wait."""

    wire_code = -31041
    name = "busy"
    retry = "same_request"


class Draining(RequestError):
    """The broker is shutting down."""

    wire_code = -31042
    name = "draining"
    retry = "after_reconnect"


class TooLarge(RequestError):
    """The request's line is longer than the limit."""

    wire_code = -31043
    name = "too_large"


class DeadlineExceeded(RequestError):
    """The request waited too long for its turn and was not started."""

    wire_code = -31044
    name = "deadline_exceeded"
    retry = "same_request"


class PathUnknown(RequestError):
    """The request names a file of the client's that has no path on the broker's machine."""

    wire_code = -31064
    name = "path_unknown"


class Forbidden(RequestError):
    """The client may not ask for this; the text names the right that it lacks."""

    wire_code = -31075
    name = "forbidden"


class InvalidMemory(RequestError):
    """A memory's id, content or end is not what it must be; nothing was stored."""

    wire_code = -31077
    name = "invalid_memory"


class OutcomeUnknown(PalaceError):
    """The request may or may not have been carried out; check before sending it again."""

    wire_code = -31045
    name = "outcome_unknown"


class WorkspaceRefused(PalaceError):
    """A workspace, a token or a namespace can't be what was asked for; nothing was changed."""

    wire_code = -31068
    name = "workspace_refused"
    exit_code = 84


class RemoteRefused(PalaceError):
    """Another palace, or what it says, can't be taken as it is; nothing was changed."""

    wire_code = -31069
    name = "remote_refused"
    exit_code = 88


class EngineError(PalaceError):
    """The hosted engine can't do its work."""

    wire_code = -31046
    name = "engine"
    exit_code = 70


class StoreUnavailable(EngineError):
    """The engine or its store can't be loaded on this machine."""

    wire_code = -31047
    name = "store_unavailable"
    retry = "after_reconnect"
    exit_code = 69


class StoreOwned(StoreUnavailable):
    """Another palace has the right to write the tables of a database; `owner` says which."""

    wire_code = -31083
    name = "store_owned"
    retry = "same_request"
    exit_code = 73

    @property
    def palace(self) -> str:
        """Return the identity of that palace, "" where it is not known."""
        owner = self.details.get("owner")
        return str(owner.get("palace", "")) if isinstance(owner, dict) else ""


class StoreElsewhere(ElectionError):
    """The palace that has the right to write our tables was not reached."""

    wire_code = -31084
    name = "store_elsewhere"
    exit_code = 73


class EngineOlder(EngineError):
    """The installed engine is older than one that has served the palace."""

    wire_code = -31076
    name = "engine_older"
    exit_code = 76


class JournalFailed(EngineError):
    """The journal could not be written; the change was not made, or was rolled back."""

    wire_code = -31048
    name = "journal_failed"
    retry = "same_request"
    exit_code = 74


class JournalBroken(EngineError):
    """The journal can't be read or contradicts itself; reading it changed nothing."""

    wire_code = -31062
    name = "journal_broken"
    exit_code = 65


class Quarantined(EngineError):
    """Two brokers died while they carried out the request; it is not tried again."""

    wire_code = -31063
    name = "quarantined"


class StoreCorrupt(EngineError):
    """The store is damaged; reading it changed nothing."""

    wire_code = -31049
    name = "store_corrupt"
    exit_code = 70


class UnknownPeer(PalaceError):
    """An agent, or a program that agents run as, that palace does not know; nothing was changed."""

    wire_code = -31078
    name = "unknown_peer"
    exit_code = 85


class EmptySlot(PalaceError):
    """No provider of memory is declared, so there is none to ask."""

    wire_code = -31079
    name = "empty_slot"
    exit_code = 86


class SlotTaken(PalaceError):
    """Another provider of memory is declared in a slot; it was left alone."""

    wire_code = -31080
    name = "slot_taken"
    exit_code = 87


class PluginUnavailable(RequestError):
    """The server that holds a namespace elsewhere can't be asked; nothing was kept here instead."""

    wire_code = -31081
    name = "plugin_unavailable"
    retry = "same_request"


class MemoriesDiffer(PalaceError):
    """Memories that were copied to a server are not there, or not as they are here."""

    wire_code = -31082
    name = "memories_differ"
    exit_code = 65
