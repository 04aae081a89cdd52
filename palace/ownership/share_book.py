"""The shares of a palace: what others may pull over https, each with a token of its own.

The book lies beside the guests' (guest_book.py), where nobody else can read or write it, and holds
digests of tokens.  A share's token opens its feed and nothing else.
"""

from collections.abc import Mapping

import attrs

from palace.kernel.kernel import Kernel
from palace.ownership.book import listed, write_book
from palace.protocol.decoding import is_word
from palace.protocol.errors import ConfigError

SHARES_MAX = 64
WINGS_MAX = 100


@attrs.frozen(kw_only=True)
class Share:
    """What whoever has its token may pull: drawers of these wings (none: of all), facts, or both.

    `digest` is SHA-256 of the token, in hexadecimal, `since` is UTC.
    """

    name: str
    digest: str
    wings: tuple[str, ...]
    kinds: tuple[str, ...]
    since: str


def shares_path(directory: str) -> str:
    return f"{directory}/shares.json"


def read_shares(directory: str, palace_id: str, kernel: Kernel) -> dict[str, Share]:
    """Return a palace's shares by name, none where there is no book, or it is another palace's.

    Raises ConfigError for a book that can't be understood.
    """
    path = shares_path(directory)
    try:
        shares = [_share(one) for one in listed(path, "shares", palace_id, kernel)[:SHARES_MAX]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} can't be understood ({error!r:.100}): nothing is shared by it. Remove it, and "
            "share again: palace share new NAME"
        ) from None
    return {one.name: one for one in shares}


def _share(fields: Mapping[str, object]) -> Share:
    texts = [fields[name] for name in ("name", "digest", "since")]
    lists = [fields[name] for name in ("wings", "kinds")]
    if not all(isinstance(one, list) and len(one) <= WINGS_MAX for one in lists):
        raise ValueError("a share's scope is none")
    wings, kinds = (tuple(one) for one in lists if isinstance(one, list))
    if not all(map(is_word, (*texts, *wings, *kinds))):
        raise ValueError("a share is none")
    name, digest, since = map(str, texts)
    return Share(name=name, digest=digest, wings=wings, kinds=kinds, since=since)


def write_shares(
    directory: str, palace_id: str, shares: Mapping[str, Share], kernel: Kernel
) -> None:
    """Keep the book of a palace's shares."""
    entries = [attrs.asdict(shares[name]) for name in sorted(shares)]
    write_book(shares_path(directory), "shares", palace_id, entries, kernel)
