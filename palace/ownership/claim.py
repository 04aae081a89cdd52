"""Which kernel may open a palace: what the mount table says, and what `palace own` wrote down.

flock and AF_UNIX serve the processes of one kernel.  On a mount of another kernel they exclude
no process there, so a palace on one is not opened, unless its user said with `palace own --here`
that this kernel is the only one to use it.  That stands in owner.json in the palace, which every
kernel reads before it opens anything; all others refuse then, the one with the disk included.
Lock and socket of such a palace lie in the owner's own state directory, where they work.

A claim holds for one path: one lock for each name of a palace would be none.

Standard library only, and light: losers of an election and shims that failed to dial load this.
"""

import os

from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_private
from palace.ownership.guest_file import GuestFile, read_guest_file
from palace.protocol.errors import ForeignKernel, LockFailed
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths, path_key, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from palace.kernel.mounts import Mount

SCHEMA = 1
CLAIM_BYTES_MAX = 65_536
SEE = "See: palace doctor --boundary"


class Claim:
    """What owner.json says: `path` is the palace's name on the owner's machine.

    One that can't be read has the id "": another kernel's, for all we know.
    """

    __slots__ = ("host", "id", "path", "since")

    def __init__(self, *, id: str, host: str, path: str, since: str) -> None:  # noqa: A002
        self.id = id
        self.host = host
        self.path = path
        self.since = since

    @property
    def owner(self) -> str:
        """Name the owner for people."""
        return f"{self.host} since {self.since}" if self.id else "an owner that can't be read"

    def encode(self) -> bytes:
        import json

        fields = {name: getattr(self, name) for name in ("id", "host", "path", "since")}
        return json.dumps({"v": SCHEMA} | fields, indent=1).encode() + b"\n"


def decode_claim(data: bytes) -> Claim:
    """Return the claim in a file; a torn one, or one of a later schema, has the id ""."""
    from palace.protocol.decoding import decode_json, is_word

    try:
        found = decode_json(data)
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("v") == SCHEMA:
        fields = {name: found.get(name) for name in ("id", "host", "path", "since")}
        if all(map(is_word, fields.values())) and identity_of(str(fields["id"]).encode()):
            return Claim(**{name: str(value) for name, value in fields.items()})
    return Claim(id="", host="", path="", since="")


def read_claim(paths: Paths, kernel: Kernel) -> Claim | None:
    """Return the claim that `palace own` wrote, None where there is none."""
    data = kernel.read_file(paths.claim, CLAIM_BYTES_MAX)
    return None if data is None else decode_claim(data)


def id_file(environ: "Mapping[str, str]") -> str:
    return f"{state_dir(environ)}/kernel_id"


def own_id(kernel: Kernel, environ: "Mapping[str, str]") -> str:
    """Return this kernel's identity, "" where it has none.

    One on another kernel's mount is none: whoever else sees it would be taken for us.
    """
    found = identity_of(kernel.read_hint(id_file(environ), 200))
    return found if found and kernel.mount_of(state_dir(environ)).is_local else ""


def local_directory(path: str, environ: "Mapping[str, str]") -> str:
    """Return where the lock of a palace lies that this kernel owns by that path."""
    return f"{state_dir(environ)}/{path_key(path)}"


class Foreign:
    """Why a palace is not opened here, and what would help."""

    __slots__ = ("details", "reason", "remedy")

    def __init__(self, reason: str, remedy: str, **details: object) -> None:
        self.reason = reason
        self.remedy = remedy
        self.details = details

    def text(self, tried: str = "") -> str:
        """Say it to people; `tried` is what was done to reach the broker from here."""
        tail = f", and its broker was not reached: {tried}" if tried else ""
        return f"{self.reason}, so it is not opened here{tail}. {self.remedy}"


def find_foreign(paths: Paths, kernel: Kernel, environ: "Mapping[str, str]") -> Foreign | None:
    """Return why this kernel must not open the palace, None where it may.

    Says on the way, in `paths.local`, where the palace's lock and socket are for this kernel.
    """
    claim = read_claim(paths, kernel)
    paths.local = ""
    guest = read_guest_file(paths, kernel) if claim is None else None
    if guest is not None:
        return _of_a_guest(paths, guest)
    if claim is None:
        mount = kernel.mount_of(paths.root)
        return None if mount.is_local else _of_another_kernel(paths, mount)
    if not claim.id or claim.id != own_id(kernel, environ):
        return _owned(paths, claim)
    if claim.path != paths.root:
        return _owned_as(paths, claim)
    # Whatever the mount is: a process that sees the palace through another mount must find the
    # same lock.
    paths.local = local_directory(claim.path, environ)
    return None


def check_kernel(paths: Paths, kernel: Kernel, environ: "Mapping[str, str]") -> None:
    """Refuse a palace whose locks this kernel doesn't serve (docs/design.md)."""
    foreign = find_foreign(paths, kernel, environ)
    if foreign is not None:
        raise ForeignKernel(foreign.text(), **foreign.details)


def check_again(paths: Paths, kernel: Kernel, environ: "Mapping[str, str]") -> None:
    """Refuse, with the lock held, where `palace own` has changed since which lock counts."""
    local = paths.local
    check_kernel(paths, kernel, environ)
    if paths.local != local:
        paths.local = local  # the lock that is held is still that one
        raise LockFailed(
            f"Who owns {paths.root} was changed while a broker started (palace own). Ask again."
        )


def make_local_directory(paths: Paths, kernel: Kernel, environ: "Mapping[str, str]") -> None:
    """Make the directory of an owned palace's lock and socket, for this user alone."""
    os.makedirs(state_dir(environ), 0o700, exist_ok=True)
    prepare_private(
        paths.local, kernel, called="The lock's directory", remedy="Correct or remove it."
    )
    os.chmod(paths.local, 0o700)


def _of_another_kernel(paths: Paths, mount: "Mount") -> Foreign:
    return Foreign(
        f"The palace {paths.root} belongs to another kernel (it lies on {mount.point}, a "
        f"{mount.fs_type} mount, whose locks mean nothing there)",
        "On its own machine: `palace expose docker`, then `palace start`; or name "
        "ssh there, here: `palace config set bridge=ssh://USER@HOST`; or, where no other machine "
        f"uses this palace, let it be served here: palace own --here. {SEE}",
        mount=mount.point,
        fs_type=mount.fs_type,
    )


def _of_a_guest(paths: Paths, guest: GuestFile) -> Foreign:
    return Foreign(
        f"{paths.root} is the directory of guest {guest.name}: it leads to the broker of the "
        f"palace {guest.palace} on another machine, and holds no palace",
        f"On that machine: palace start, and palace expose to see its guests. {SEE}",
        guest=guest.name,
    )


def _owned(paths: Paths, claim: Claim) -> Foreign:
    return Foreign(
        f"The palace {paths.root} is owned by {claim.owner} ({paths.claim})",
        "Use it there, or give it up there: palace own --release. If that machine is gone for "
        f"good: palace own --here --force, or palace own --release --force. {SEE}",
        owner=claim.host,
    )


def _owned_as(paths: Paths, claim: Claim) -> Foreign:
    return Foreign(
        f"The palace {paths.root} is owned by {claim.owner}, which is this machine, by the name "
        f"{claim.path} ({paths.claim})",
        f"Use it by that name (MEMPALACE_PATH={claim.path}), or give it up: palace own --release. "
        f"{SEE}",
        owner=claim.host,
    )
