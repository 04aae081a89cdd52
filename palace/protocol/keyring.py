"""The keys with which an owner authenticates the records of its journal, and those that it accepts.

Pure: where keys are kept is up to palace/ownership/keys.py.  A record's code is a keyed hash of its
text, so that whoever may write to the palace's directory, and doesn't know a key, can neither make
a record nor change one.
"""

import hmac
from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SECRET_BYTES = 32
CODE_BYTES = 16
ID_BYTES = 8
_PERSON = b"palace-journal"


class Key:
    """One secret of SECRET_BYTES; `id` names it without telling it."""

    __slots__ = ("id", "secret", "since")

    def __init__(self, secret: bytes, since: str = "") -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a key has {SECRET_BYTES} bytes")
        self.secret = secret
        self.since = since
        self.id = blake2b(secret, digest_size=ID_BYTES, person=b"palace-key-id").hexdigest()

    def code(self, text: bytes) -> str:
        """Return the code of a record's text."""
        return blake2b(text, key=self.secret, digest_size=CODE_BYTES, person=_PERSON).hexdigest()


class Keyring:
    """What an owner writes with, the first key, and what it accepts, all of them.

    Records up to `floor` are accepted whatever key they were written with: those that were there
    when this user's first broker met the palace.  Without a key nothing is authenticated, and
    everything is accepted; but no line of more than `line_bytes_max` bytes, unless that is 0.
    """

    __slots__ = ("_by_id", "floor", "keys", "line_bytes_max")

    def __init__(self, keys: "Sequence[Key]" = (), floor: int = 0, line_bytes_max: int = 0) -> None:
        self.keys = tuple(keys)
        self.floor = floor
        self.line_bytes_max = line_bytes_max
        self._by_id = {key.id: key for key in self.keys}

    @property
    def own(self) -> "Key | None":
        return self.keys[0] if self.keys else None

    def problem(self, by: str, code: str, text: bytes, seq: int) -> str:
        """Return why a record is not this owner's, "" if it is; `by` is "" where it has no code."""
        if not self.keys:
            return ""
        key = self._by_id.get(by)
        if key is not None:
            if hmac.compare_digest(key.code(text), code):
                return ""
            return f"its code is not that of the key {by}: it was changed after it was written"
        if seq <= self.floor:
            return ""
        return f"the key {by}, with which it was written, is not known" if by else "it has no code"


ANYBODYS = Keyring()
# For a journal of which nobody here knows the keys: what its owner, or somebody else, writes into
# it must not cost us our memory.
STRANGERS = Keyring(line_bytes_max=32 << 20)
