"""Where an owner listens, and what it publishes: steps B6, B7, X1 and X2 of the protocol.

Names are removed only by whoever holds the lock, and on the way out only those that are still
its own.
"""

import os
import socket
from collections.abc import Mapping

import attrs

from palace import __version__
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Owner
from palace.protocol.broker_record import SCHEMA, Record, decode_record
from palace.protocol.errors import LockFailed, UnsafePalace
from palace.settings.paths import runtime_dir

BACKLOG = 512  # fifty shims at once must not meet a full backlog


@attrs.define(eq=False)
class Endpoint:
    """A bound, listening AF_UNIX socket; the broker closes it."""

    path: str
    socket: socket.socket
    file_id: tuple[int, int] | None


@attrs.frozen(kw_only=True)
class Remote:
    """What guests must know: where to dial, with which token, and whom to expect there."""

    urls: tuple[str, ...]
    token: str
    fingerprint: str


def listen(
    owner: Owner, environ: Mapping[str, str], kernel: Kernel, *, shared: bool = False
) -> Endpoint:
    """B6: remove what an earlier owner left, bind, listen.  Call it before any thread.

    The socket is 0600, or 0666 where others may connect (`shared`), whose uids are then checked.
    """
    path = owner.paths.socket(runtime_dir(environ))
    _prepare_directory(os.path.dirname(path), owner.paths.root, kernel)
    kernel.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o111 if shared else 0o177)
    try:
        listener.bind(path)
        kernel.trace("B6.bind")  # between the two: nobody can connect before this line
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise LockFailed(
            f"{path} can't be listened on: {error.strerror}. Clients need a Unix socket there."
        ) from None
    finally:
        os.umask(umask)
    listener.setblocking(False)
    return Endpoint(path=path, socket=listener, file_id=kernel.file_id(path))


def _prepare_directory(directory: str, root: str, kernel: Kernel) -> None:
    if directory == root:
        return
    for path in (os.path.dirname(directory), directory):
        kernel.make_directory(path)
    problem = kernel.trust_problem(directory)
    if problem:
        raise UnsafePalace(f"The socket directory {directory} can't be used: {problem}. Remove it.")


def publish(
    owner: Owner,
    endpoint: Endpoint | None,
    kernel: Kernel,
    *,
    mode: str,
    remote: Remote | None = None,
) -> Record:
    """B7: say where the palace is served, after it listens."""
    record = write_record(owner, endpoint, kernel, mode=mode, remote=remote)
    kernel.trace("B7.publish", epoch=owner.epoch)
    return record


def write_record(
    owner: Owner,
    endpoint: Endpoint | None,
    kernel: Kernel,
    *,
    mode: str,
    remote: Remote | None = None,
) -> Record:
    """Say where the palace is served; for an owner that says so already: where else."""
    urls = remote.urls if remote else ()
    record = Record(
        v=SCHEMA,
        epoch=owner.epoch,
        incarnation=owner.incarnation,
        palace_id=owner.palace_id,
        pid=os.getpid(),
        start_time=kernel.start_time(os.getpid()),
        boot_id=kernel.boot_id(),
        pid_namespace=kernel.pid_namespace(),
        host_id=socket.gethostname(),
        endpoints=[*([f"unix:{endpoint.path}"] if endpoint else []), *urls],
        token=remote.token if remote else "",
        fingerprint=remote.fingerprint if remote else "",
        version=__version__,
        mode=mode,
        started_at=kernel.utc_text(),
    )
    kernel.write_durable(owner.paths.record, record.encode())
    return record


def unpublish(owner: Owner, endpoint: Endpoint | None, kernel: Kernel) -> None:
    """X1 and X2: remove the record and the socket, each only if it is ours."""
    record = decode_record(kernel.read_hint(owner.paths.record))
    if record is not None and record.incarnation == owner.incarnation:
        kernel.unlink(owner.paths.record)
    if endpoint is not None and kernel.file_id(endpoint.path) == endpoint.file_id:
        kernel.unlink(endpoint.path)
