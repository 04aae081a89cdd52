"""Where the keys are kept that authenticate a palace's journal: outside of it, for this user alone.

One small file for each palace, named by its identity, in the user's state directory.  It is made
when this user's first broker meets the palace.  What that found in the journal is trusted once,
since there is nothing to compare it with; what is written later has to have a code of a key that is
in the file.  Losing the file costs that trust and no memory.

Standard library only, and light: every owner runs through here.
"""

import os

from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_private
from palace.protocol.errors import LockFailed
from palace.protocol.keyring import ANYBODYS, SECRET_BYTES, Key, Keyring
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA = 1
FILE_BYTES_MAX = 65_536
ANY_SEQ = 10**20


class KeyFile:
    """The keys of one palace; the first is what its owner writes with.

    `floor` is the last record that was found at the first meeting and could not be sealed,
    since another owner's keys protect it.  `is_settled` says that the first meeting is over, and
    `is_first` that nothing was known of the palace before.
    """

    __slots__ = ("_environ", "_kernel", "is_first", "is_settled", "palace_id", "ring")

    def __init__(self, palace_id: str, environ: "Mapping[str, str]", kernel: Kernel) -> None:
        self.palace_id = palace_id
        self.ring = Keyring()
        self.is_settled = self.is_first = False
        self._environ = environ
        self._kernel = kernel

    @property
    def path(self) -> str:
        return key_path(self.palace_id, self._environ)

    def encode(self) -> bytes:
        import json

        fields = {
            "v": SCHEMA,
            "palace_id": self.palace_id,
            "keys": [{"secret": key.secret.hex(), "since": key.since} for key in self.ring.keys],
            "floor": self.ring.floor,
            "is_first": self.is_first,
            "is_settled": self.is_settled,
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    def save(self) -> None:
        """Write it, durably; raises OSError and UnsafePalace where that can't be."""
        os.makedirs(state_dir(self._environ), 0o700, exist_ok=True)
        called, remedy = "The directory of the journals' keys", "Correct or remove it."
        prepare_private(_directory(self._environ), self._kernel, called=called, remedy=remedy)
        self._kernel.write_durable(self.path, self.encode())

    def settle(self, floor: int = 0) -> None:
        """End the first meeting: from now on what stands above `floor` needs a code."""
        self.ring.floor = floor
        self.is_settled = True
        self.save()


def _directory(environ: "Mapping[str, str]") -> str:
    return f"{state_dir(environ)}/keys"


def key_path(palace_id: str, environ: "Mapping[str, str]") -> str:
    """Return the file that keeps a palace's keys."""
    return f"{_directory(environ)}/{palace_id}.json"


def read_keys(palace_id: str, environ: "Mapping[str, str]", kernel: Kernel) -> "KeyFile | None":
    """Return a palace's keys, None where there are none; raises LockFailed for a damaged file."""
    from palace.protocol.decoding import decode_json, number_in

    keys = KeyFile(palace_id, environ, kernel)
    data = kernel.read_hint(keys.path, FILE_BYTES_MAX)
    if data is None:
        return None
    try:
        found = decode_json(data)
        if found["v"] != SCHEMA or found["palace_id"] != palace_id or not found["keys"]:
            raise ValueError("it is another palace's, or of another version")
        ring = [Key(bytes.fromhex(one["secret"]), str(one["since"])) for one in found["keys"]]
        keys.is_first, keys.is_settled = found["is_first"] is True, found["is_settled"] is True
        floor = number_in(found, "floor")
    except (ValueError, KeyError, TypeError) as error:
        raise LockFailed(
            f"{keys.path} does not hold the keys of the palace's journal ({error!r}). Restore it "
            "from a backup, or remove it: brokers then serve what the stores hold, and set the "
            "journal aside until you say whose it is (palace trust)."
        ) from None
    # Until what was found is settled, all of it counts.
    waits = keys.is_first and not keys.is_settled
    keys.ring = Keyring(ring, ANY_SEQ if waits else floor)
    return keys


def ring_of(palace_id: str, environ: "Mapping[str, str]", kernel: Kernel) -> Keyring:
    """Return what is known of a palace's keys, for those who only look at it."""
    try:
        found = read_keys(palace_id, environ, kernel) if palace_id else None
    except LockFailed:
        return ANYBODYS
    return ANYBODYS if found is None else found.ring


def known_keys(paths: Paths, environ: "Mapping[str, str]", kernel: Kernel) -> Keyring:
    """Return what this user knows of the keys of a palace's journal."""
    identity = identity_of(kernel.read_hint(paths.palace_id, 200))
    return ring_of(identity or "", environ, kernel)


def accept_keys(
    palace_id: str, new: "Sequence[Key]", environ: "Mapping[str, str]", kernel: Kernel
) -> None:
    """Accept what other owners have written with keys of theirs.

    Whoever has none yet writes with the first of these, and has met the palace then.
    """
    found = read_keys(palace_id, environ, kernel)
    if found is None:
        found = KeyFile(palace_id, environ, kernel)
        found.is_settled = True
    known = {key.id for key in found.ring.keys}
    added = [key for key in new if key.id not in known]
    found.ring = Keyring((*found.ring.keys, *added), found.ring.floor)
    found.save()


def take_keys(
    palace_id: str,
    former_id: str,
    copied_from: str,
    environ: "Mapping[str, str]",
    kernel: Kernel,
) -> KeyFile:
    """Return the keys of a palace that this process owns, new ones where there are none.

    `former_id` is the palace that was served at its path, and `copied_from` the one of which it is
    a copy, "" for none.  Raises LockFailed, and OSError and UnsafePalace where they can't be kept.
    """
    found = read_keys(palace_id, environ, kernel)
    if found is not None:
        return found
    keys = KeyFile(palace_id, environ, kernel)
    original = read_keys(copied_from, environ, kernel) if copied_from else None
    inherited = original.ring if original is not None else ANYBODYS
    # Where another palace was served whose keys are known, this one was put there since.  Whoever
    # may write to the directory could do that: its journal isn't trusted for being unknown.
    replaced = former_id not in ("", palace_id)
    keys.is_first = original is None and not (
        replaced and kernel.file_id(key_path(former_id, environ)) is not None
    )
    own = Key(bytes.fromhex(kernel.token(SECRET_BYTES)), kernel.utc_text())
    floor = ANY_SEQ if keys.is_first else inherited.floor
    keys.ring = Keyring((own, *inherited.keys), floor)
    keys.is_settled = not keys.is_first
    keys.save()
    return keys
