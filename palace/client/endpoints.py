"""Where a palace's broker may be: named by the user, published by the broker, or the usual place.

Rule for this file: light, since every shim imports it.
"""

import os

from palace import __version__
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.settings.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.protocol.broker_record import Record
    from palace.settings.environment import ShimEnvironment

UNIX = "unix:"


def named_socket(environment: "ShimEnvironment") -> str:
    """Return the socket that MEMPALACE_BROKER names, "" where it names none."""
    given = environment.broker
    return given[len(UNIX) :] if given.startswith(UNIX) else ""


def published_socket(record: "Record | None") -> str:
    """Return the socket that a broker's record names, "" where it names none."""
    for url in record.endpoints if record is not None else ():
        if url.startswith(UNIX):
            return url[len(UNIX) :]
    return ""


def socket_here(kernel: Kernel, published: str, usual: str) -> str:
    """Return which name of a broker's socket to dial: `published` (may be "") or `usual`.

    A container may mount the palace under another name than its broker's, and sees the socket
    where it usually is, not under the published name.
    """
    if not _is_there(kernel, published) and _is_there(kernel, usual):
        return usual
    return published or usual


def _is_there(kernel: Kernel, path: str) -> bool:
    try:
        return kernel.file_id(path) is not None
    except PermissionError:  # the same name is another directory here, of somebody else
        return False


def published_for_guests(record: "Record | None") -> "list[str]":
    """Return the addresses that a broker's record names for clients behind another kernel."""
    return [url for url in (record.endpoints if record else ()) if url.startswith("wss://")]


def about_client(kernel: Kernel, environment: "ShimEnvironment") -> "dict[str, str]":
    """Return what every HELLO says of its client: whose files it sees, from which directory."""
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = ""  # it was removed
    about = {"version": __version__, "place": kernel.place(), "cwd": cwd}
    return about | {"read_only": "1"} if environment.read_only else about


def probe_hello(kernel: Kernel, paths: Paths, session: str) -> bytes:
    """Return the HELLO of a session that asks for nothing, to see whether a broker answers."""
    fields = {"session": session, "palace_id": expected_palace_id(kernel, paths)}
    return wire.encode_header(wire.HELLO, fields | {"version": __version__, "next": "0"})


def expected_palace_id(kernel: Kernel, paths: Paths) -> str:
    """Return the identity that the palace itself shows, "" where it shows none."""
    return wire.identity_of(kernel.read_hint(paths.palace_id, 200)) or ""
