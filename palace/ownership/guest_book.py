"""The guests of a palace: their names, what they may do, and digests of their tokens (book.py).

The book lies beside the certificate that guests pin.
"""

from collections.abc import Mapping

import attrs

from palace.kernel.kernel import Kernel
from palace.ownership.book import listed, write_book
from palace.ownership.directory import prepare_in_state
from palace.protocol.decoding import is_word
from palace.protocol.errors import ConfigError
from palace.settings.paths import Paths, path_key, state_dir

GUESTS_MAX = 256
NAME_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789-_."
NAME_CHARS_MAX = 64


@attrs.frozen(kw_only=True)
class Guest:
    """One guest; `digest` is SHA-256 of its token, in hexadecimal, `since` is UTC."""

    name: str
    digest: str
    read_only: bool
    since: str


def guests_directory(root: str, environ: Mapping[str, str]) -> str:
    """Return where what belongs to a palace's guests is kept on the palace's machine."""
    return f"{state_dir(environ)}/guests/{path_key(root)}"


def book_path(directory: str) -> str:
    return f"{directory}/guests.json"


def check_name(name: str) -> None:
    """Refuse a name that could be no directory's; raises ConfigError."""
    plain = name and len(name) <= NAME_CHARS_MAX and not set(name) - set(NAME_CHARS)
    if not plain or not name[0].isalnum() or name.endswith(".json"):
        raise ConfigError(
            f"{name!r:.100} can't be a guest's name: use up to {NAME_CHARS_MAX} small letters, "
            "digits, and - _ . between them."
        )


def read_guests(directory: str, palace_id: str, kernel: Kernel) -> dict[str, Guest]:
    """Return a palace's guests by name, none where there is no book, or it is another palace's.

    Raises ConfigError for a book that can't be understood: its guests are not to be forgotten.
    """
    path = book_path(directory)
    try:
        found = listed(path, "guests", palace_id, kernel)[:GUESTS_MAX]
        guests = [Guest(**fields) for fields in found]
        texts = [text for one in guests for text in (one.name, one.digest, one.since)]
        if not all(map(is_word, texts)) or any(type(one.read_only) is not bool for one in guests):
            raise ValueError("a guest is none")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} can't be understood ({error!r:.100}): no guest is admitted by it. Remove it, "
            "and give out directories again: palace expose docker NAME"
        ) from None
    return {one.name: one for one in guests}


def write_guests(
    directory: str, palace_id: str, guests: Mapping[str, Guest], kernel: Kernel
) -> None:
    """Keep the book of a palace's guests."""
    entries = [attrs.asdict(guests[name]) for name in sorted(guests)]
    write_book(book_path(directory), "guests", palace_id, entries, kernel)


def prepare_directory(paths: Paths, environ: Mapping[str, str], kernel: Kernel) -> str:
    """Make the directory of a palace's guests, for this user alone, and return it.

    Raises UnsafePalace.
    """
    directory = guests_directory(paths.root, environ)
    called = "The guests' directory"
    prepare_in_state(directory, kernel, called=called, remedy="Correct or remove it.")
    return directory
