"""Books of who may come in with a token of its own: a palace's guests, and its shares.

A book lies in the user's state directory, where a container that was lent the palace can't read or
write it, and holds digests of tokens.  A token is 256 random bits, so that a digest of it can't be
guessed backwards and needs no salt.
"""

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Generic, Protocol, TypeVar

import attrs

from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.protocol.errors import ConfigError

SCHEMA = 1
BOOK_BYTES_MAX = 1 << 20


class HasDigest(Protocol):
    """Whoever a token of its own lets in; `digest` is the token's."""

    @property
    def digest(self) -> str: ...


T = TypeVar("T", bound=HasDigest)


def digest_of(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def whose_token(token: str, known: Mapping[str, T]) -> T | None:
    """Return whose token it is, None for nobody's; takes as long, whoever's it is."""
    digest = digest_of(token)
    found = None
    for one in known.values():
        if hmac.compare_digest(digest, one.digest):
            found = one
    return found


def listed(path: str, called: str, palace_id: str, kernel: Kernel) -> list[Any]:
    """Return what a book lists, nothing where there is none, or it is another palace's.

    What can't be understood raises ValueError, KeyError or TypeError, as reading the entries does.
    """
    data = kernel.read_file(path, BOOK_BYTES_MAX)
    if data is None:
        return []
    found = decode_json(data)
    if found["v"] != SCHEMA or found["palace_id"] != palace_id:
        return []
    return list(found[called])


def write_book(
    path: str, called: str, palace_id: str, entries: Sequence[Mapping[str, Any]], kernel: Kernel
) -> None:
    """Keep a book, durably."""
    book = {"v": SCHEMA, "palace_id": palace_id, called: entries}
    kernel.write_durable(path, json.dumps(book, indent=1).encode() + b"\n")


@attrs.define(eq=False, kw_only=True)
class Watched(Generic[T]):
    """A book that a broker looks into; of one that can't be understood nobody is let in.

    `path` is "" where none is kept; `note` is told what is wrong with it.
    """

    path: str
    read: Callable[[], dict[str, T]]
    kernel: Kernel
    note: Callable[[str], None]
    _known: dict[str, T] = attrs.field(factory=dict)
    _signature: object = None  # when it was read

    def look(self) -> dict[str, T]:
        """Return who is in it, read again where it has changed."""
        signature = self.kernel.signature(self.path) if self.path else None
        if signature == self._signature:
            return self._known
        try:
            self._known = self.read()
        except (ConfigError, OSError) as error:
            self._known = {}
            self.note(str(error))
        self._signature = signature
        return self._known
