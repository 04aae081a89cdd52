"""Ways to palaces that have the right to write our tables: a guest's file for each, kept here.

Where a database keeps the drawers, another palace may have that right, on another machine.  Its
owner gives out an address, a token and a certificate's fingerprint (`palace expose guest`), and
`palace own --through` keeps them for one palace, in the user's state directory: neither a container
that was lent the palace nor the database reads or writes them.  Agents are carried there while that
one has the right.

Standard library only, and light: shims that are carried load this.
"""

from palace.kernel.kernel import Kernel
from palace.ownership.guest_file import GUEST_BYTES_MAX, GuestFile, decode_guest_file
from palace.protocol.wire import identity_of
from palace.settings.paths import path_key, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def owners_directory(root: str, environ: "Mapping[str, str]") -> str:
    """Return where the ways to those who may own a palace's tables are kept."""
    return f"{state_dir(environ)}/owners/{path_key(root)}"


def way_path(directory: str, palace_id: str) -> str:
    return f"{directory}/{palace_id}.json"


def read_way(directory: str, palace_id: str, kernel: Kernel) -> "GuestFile | None":
    """Return the way to a palace, None where none is kept, or it is another one's.

    `palace_id` may be anybody's word: it names a file only where it is an identity.
    """
    if not directory or not identity_of(palace_id.encode(errors="replace")):
        return None
    path = way_path(directory, palace_id)
    found = decode_guest_file(kernel.read_hint(path, GUEST_BYTES_MAX))
    return found if found is not None and found.palace_id == palace_id else None
