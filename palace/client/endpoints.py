"""Where a palace's broker may be: named by the user, in its usual place, or as it published.

Rule for this file: light, since every shim imports it.
"""

import os

from palace import __version__
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.errors import ConfigError
from palace.settings.environment import UNIX
from palace.settings.paths import Paths, runtime_dir

TOKEN_DIGITS = 64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from palace.ownership.guest_file import GuestFile
    from palace.protocol.broker_record import BrokerRecord
    from palace.settings.environment import ShimEnvironment
    from palace.settings.site import Site


def socket_candidates(site: "Site") -> "Iterator[str]":
    """Yield the sockets to dial, in order: go on to the next only where nothing listens.

    1. What MEMPALACE_BROKER names, and then nothing else.
    2. The usual place, by the palace's own name here: a container may mount the palace under
       another name than its broker's, so the published path need not exist here.
    3. What a broker of this boot published: it may have had another runtime directory.
    4. The usual place once more where owner.json says that this kernel owns the palace over a
       mount (it is read last, since nearly no palace has one).
    """
    if site.environment.broker:
        named = named_socket(site.environment)
        if named:
            yield named
        return
    known = usual_socket(site)
    yield known
    published = _published_here(site)
    if published and published != known:
        yield published
    is_foreign(site)
    owned = usual_socket(site)
    if owned not in (known, published):
        yield owned


def named_socket(environment: "ShimEnvironment") -> str:
    """Return the socket that MEMPALACE_BROKER names, "" where it names none."""
    given = environment.broker
    return given[len(UNIX) :] if given.startswith(UNIX) else ""


def usual_socket(site: "Site") -> str:
    """Return where a broker listens that this process starts."""
    return site.paths.socket(runtime_dir(site.environment.all))


def published_socket(record: "BrokerRecord | None") -> str:
    """Return the socket that a broker's record names, "" where it names none."""
    for url in record.endpoints if record is not None else ():
        if url.startswith(UNIX):
            return url[len(UNIX) :]
    return ""


def _published_here(site: "Site") -> str:
    """Return the socket in the record, "" where it is one of another boot or machine."""
    from palace.ownership.record import read_record

    record = read_record(site.paths, site.kernel)
    if record is None or record.boot_id != site.kernel.boot_id():
        return ""
    return published_socket(record)


def is_foreign(site: "Site") -> bool:
    """Tell whether another kernel owns the palace; sets `paths.local` where this one does."""
    from palace.ownership.claim import find_foreign

    try:
        return find_foreign(site.paths, site.kernel, site.environment.all) is not None
    except OSError:
        return False  # what is wrong there is told before anything is started


def published_for_guests(record: "BrokerRecord | GuestFile | None") -> "list[str]":
    """Return the addresses that a record, or a guest's directory, names for guests."""
    return [url for url in (record.endpoints if record else ()) if url.startswith("wss://")]


def client_fields(kernel: Kernel, environment: "ShimEnvironment") -> "dict[str, str]":
    """Return what every HELLO says of its client: whose files it sees, from which directory."""
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = ""  # it was removed
    fields = {"version": __version__, "place": kernel.place(), "cwd": cwd}
    if environment.workspace_token_file:
        fields["token"] = workspace_token(kernel, environment.workspace_token_file)
    return fields | {"read_only": "1"} if environment.read_only else fields


def workspace_token(kernel: Kernel, path: str) -> str:
    """Return the token in a file; raises ConfigError where it holds none."""
    where = f"$PALACE_WORKSPACE_TOKEN_FILE names {path}, which"
    remedy = "Make one on the palace's machine: palace token new WORKSPACE --out FILE"
    try:
        data = kernel.read_file(path, 200)
    except OSError as error:
        raise ConfigError(f"{where} can't be read: {error.strerror}. {remedy}") from None
    text = (data or b"").decode(errors="replace").strip()
    if len(text) != TOKEN_DIGITS or text.strip("0123456789abcdef"):
        raise ConfigError(f"{where} holds no token ({TOKEN_DIGITS} digits). {remedy}")
    return text


def probe_hello(kernel: Kernel, paths: Paths, session: str) -> bytes:
    """Return the HELLO of a session that asks for nothing, to see whether a broker answers."""
    fields = {"session": session, "palace_id": expected_palace_id(kernel, paths)}
    return wire.encode_header(wire.HELLO, fields | {"version": __version__, "next": "0"})


def expected_palace_id(kernel: Kernel, paths: Paths) -> str:
    """Return the identity that the palace itself shows, "" where it shows none."""
    found = wire.identity_of(kernel.read_hint(paths.palace_id, 200))
    if found:
        return found
    from palace.ownership.guest_file import read_guest_file

    guest = read_guest_file(paths, kernel)
    return guest.palace_id if guest is not None else ""
