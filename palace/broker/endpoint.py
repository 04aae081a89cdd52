"""Where an owner listens: steps B6 and X1 of the protocol.

Names are removed only by whoever holds the lock, and on the way out only those that are still
its own.
"""

import os
import socket
from collections.abc import Mapping

import attrs

from palace.kernel.kernel import Kernel
from palace.ownership.directory import check_above, prepare_private
from palace.ownership.lock import Ownership
from palace.ownership.record import withdraw_record
from palace.protocol.errors import ForeignWriter, LockFailed
from palace.settings.paths import runtime_dir

BACKLOG = 512  # fifty shims at once must not meet a full backlog
CALLED = "The socket directory"
NEW_NAME = "broker.new"  # no longer than the socket's own: a longer one might not fit


@attrs.define(eq=False)
class Endpoint:
    """A bound, listening AF_UNIX socket; the broker closes it.

    `shared`: other users may connect.  `listen_again` changes socket and identity.
    """

    path: str
    socket: socket.socket
    file_id: tuple[int, int] | None
    shared: bool = False


def listen(
    ownership: Ownership, environ: Mapping[str, str], kernel: Kernel, *, shared: bool = False
) -> Endpoint:
    """B6: remove what an earlier owner left, bind, listen.  Call it before any thread.

    The socket is 0600, or 0666 where others may connect (`shared`), whose uids are then checked.
    """
    path = ownership.paths.socket(runtime_dir(environ))
    _prepare_directory(os.path.dirname(path), ownership.paths.root, kernel)
    # Whoever it belonged to is dead, since this process has the lock; and a name that is there,
    # though nothing listens behind it, would make bind fail.
    kernel.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Not chmod after the bind: until then the socket would have whatever mode the umask allows.
    # The umask is the process's, and would also be that of files that other threads create.
    umask = os.umask(0o111 if shared else 0o177)
    try:
        listener.bind(path)
        kernel.trace("B6.bind")  # between the two: no client can connect before this line
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise LockFailed(
            f"{path} can't be listened on: {error.strerror}. Clients need a Unix socket there."
        ) from None
    finally:
        os.umask(umask)
    listener.setblocking(False)
    return Endpoint(path=path, socket=listener, file_id=kernel.file_id(path), shared=shared)


def listen_again(endpoint: Endpoint, root: str, kernel: Kernel) -> socket.socket:
    """Listen again under a name that was removed; return the old socket, for the caller to close.

    The umask can't be set here, where threads run: the new socket refuses everybody until it
    listens, and by then it has its mode.  Raises OSError, or ForeignWriter where another process
    answers at the name.
    """
    path = endpoint.path
    if _answers(path):
        raise ForeignWriter(f"Another process listens at {path}. End it: palace status names it.")
    _prepare_directory(os.path.dirname(path), root, kernel)
    mode = 0o666 if endpoint.shared else 0o600
    listener = listen_at(path, kernel, mode=mode, by_way_of=NEW_NAME)
    old, endpoint.socket = endpoint.socket, listener
    endpoint.file_id = kernel.file_id(path)
    return old


def listen_at(path: str, kernel: Kernel, *, mode: int, by_way_of: str) -> socket.socket:
    """Return a socket that listens under a name, and never had another mode; raises OSError.

    `by_way_of` names it, in the same directory, until it has that mode.
    """
    temporary = f"{os.path.dirname(path)}/{by_way_of}"
    kernel.unlink(temporary)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(temporary)
        os.chmod(temporary, mode)
        listener.setblocking(False)
        listener.listen(BACKLOG)
        kernel.rename(temporary, path)
    except OSError:
        listener.close()
        kernel.unlink(temporary)
        raise
    return listener


def _answers(path: str) -> bool:
    """Tell whether a process accepts connections at a name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # a full backlog is an answer, too
        try:
            sock.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def unpublish(ownership: Ownership, endpoint: Endpoint | None, kernel: Kernel) -> None:
    """X1: remove the record and the socket, each only if it is ours."""
    withdraw_record(ownership, kernel)
    if endpoint is not None and kernel.file_id(endpoint.path) == endpoint.file_id:
        kernel.unlink(endpoint.path)


def _prepare_directory(directory: str, root: str, kernel: Kernel) -> None:
    if directory == root:
        return
    check_above(directory, called=CALLED)  # before anything is made there
    kernel.make_directory(os.path.dirname(directory))
    prepare_private(directory, kernel, called=CALLED, remedy="Remove it.")
