"""Who may do what: the one table of rights, and who somebody is.

Somebody is what the kernel or a token proves (a uid, the mounts that a process sees, the way by
which it came), never what a field of a message says.  The broker asks this table in two places: for
a control question (connections.py) and for a tool call (requests.py).  docs/security.md shows it.

Pure.
"""

import enum
from collections.abc import Mapping

import attrs

from palace.protocol.request import ToolCall
from palace.protocol.tools import CONTRACT_TOOLS, MESH_TOOLS, OWNER_TOOLS, Kind


class Right(enum.Enum):
    """`CONTROL` is of the broker and of its user's settings; `PATHS` are all of the machine."""

    READ = "read"
    WRITE = "write"
    LENT_PATHS = "lent paths"
    PATHS = "paths"
    CONTROL = "control"


class Who(enum.Enum):
    """What a client has been proven to be."""

    OWNER = "owner"
    ROOT = "root"
    CONTAINER = "container"  # of the owner's uid, or root, with other mounts than the broker's
    ALLOWED = "allow_uids user"
    GUEST = "guest"
    HTTP = "HTTP with the token"
    WORKSPACE = "HTTP with a workspace's token"
    STRANGER = "other user"


_MEMORIES = frozenset({Right.READ, Right.WRITE, Right.LENT_PATHS})
_ALL = _MEMORIES | {Right.PATHS, Right.CONTROL}

RIGHTS: Mapping[Who, frozenset[Right]] = {
    Who.OWNER: _ALL,
    Who.ROOT: _ALL,
    # It has the directory, the lock included: keeping control from it would keep nothing.
    Who.CONTAINER: _MEMORIES | {Right.CONTROL},
    Who.ALLOWED: _MEMORIES,
    Who.GUEST: _MEMORIES,
    # Stock's tools and hooks mine what their user names; only that user can read the token.
    Who.HTTP: _MEMORIES | {Right.PATHS},
    # It may be on any machine, and a workspace has no files.
    Who.WORKSPACE: frozenset({Right.READ, Right.WRITE}),
    Who.STRANGER: frozenset(),
}

# Tools that change what belongs to the broker's user, not to the palace.
SETTINGS = frozenset({"mempalace_hook_settings"})


@attrs.frozen(kw_only=True)
class Peer:
    """The other end of a connection.  `uid` is None, and `pid` 0, where no kernel tells them.

    `address` is a guest's, "" for all others, and `guest` says whose token it has shown; a
    `read_only` one may change nothing, whatever it says.
    """

    who: Who
    pid: int = 0
    uid: int | None = None
    address: str = ""
    guest: str = ""
    read_only: bool = False

    def may(self, right: Right) -> bool:
        return right in RIGHTS[self.who]

    @property
    def called(self) -> str:
        """Return how a message calls it."""
        if self.who is Who.CONTAINER:
            return "a process with other mounts than the broker's"
        return f"uid {self.uid}" if self.uid is not None else self.who.value


GUEST = Peer(who=Who.GUEST)
OVER_HTTP = Peer(who=Who.HTTP)
BY_TOKEN = Peer(who=Who.WORKSPACE)
NOBODY = Peer(who=Who.STRANGER)


def local_peer(*, pid: int, uid: int, owner: int, allowed: tuple[int, ...], near: bool) -> Peer:
    """Return who a process of this kernel is; `near`: the kernel shows it to have our mounts."""
    who = Who.STRANGER
    if uid in (owner, 0):
        who = Who.OWNER if uid == owner else Who.ROOT
        who = who if near else Who.CONTAINER
    elif uid in allowed:
        who = Who.ALLOWED
    return Peer(who=who, pid=pid, uid=uid)


def right_of(call: ToolCall) -> Right:
    """Return the right that a tool call takes, apart from the paths that it names."""
    if call.name in SETTINGS or call.name in OWNER_TOOLS:
        return Right.CONTROL
    return Right.READ if call.tool.kind is Kind.QUERY else Right.WRITE


def is_out_of_place(
    call: ToolCall, *, from_command: bool, from_contract: bool = False, from_mesh: bool = False
) -> bool:
    """Tell whether a call comes the wrong way: the owner's tools are for palace's own commands.

    So are those of the memory contract, and of the mesh, for what serves that, which calls no
    others.

    So an agent that was talked into calling one finds none, though it is of the owner's uid; and a
    command's session, which acts for the owner wherever it was started, is good for nothing else.
    """
    if from_mesh or call.name in MESH_TOOLS:
        return (call.name in MESH_TOOLS) is not from_mesh
    if from_contract or call.name in CONTRACT_TOOLS:
        return (call.name in CONTRACT_TOOLS) is not from_contract
    return (call.name in OWNER_TOOLS) is not from_command
