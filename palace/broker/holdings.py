"""Everything that an owner holds or publishes, for the watch to look after.

What is not here is the store itself, which the engine has open, and what an owner only reads.
`tests/process/test_holdings.py` holds this list against what a running broker has locked, bound and
written.
"""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from palace.broker.endpoint import Endpoint, listen_again
from palace.broker.telemetry.log_file import open_log
from palace.broker.watch import FILE_BYTES_MAX, Holding, Lost, PublishedFile, cannot_renew
from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_private
from palace.ownership.format import decode_served
from palace.ownership.keys import key_path
from palace.ownership.lock import HeldLock, Ownership
from palace.protocol.broker_record import decode_broker_record
from palace.protocol.wire import identity_of, whole_number
from palace.settings.paths import state_dir
from palace.settings.user_settings import user_settings_path

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

STOP_FIRST = "Stop the broker before you move, restore or replace its palace: palace stop"


def held_by(ownership: Ownership, kernel: Kernel) -> Iterator[Holding]:
    """Yield what an owner has by B5: locks and control files; what decides comes first."""
    paths = ownership.paths
    yield Holding(
        name="broker.lock",
        path=paths.lock,
        is_ours=partial(_still_has, ownership.lock_fd, paths.lock, kernel),
        renew=cannot_renew(f"{paths.lock} was removed or replaced. Never remove it."),
    )
    yield PublishedFile(
        path=paths.claim,
        kernel=kernel,
        data=kernel.read_hint(paths.claim, FILE_BYTES_MAX),
        judge=partial(_lost, f"who owns {paths.root} was changed (palace own)"),
    ).holding("owner.json")
    yield from locks_of(ownership, kernel)
    yield from _control_files(ownership, kernel)


def name_of(name: str, path: str, kernel: Kernel, *, text: str) -> Holding:
    """Return a holding that has to stay what it is now; `text` is said where it doesn't."""
    identity = kernel.file_id(path)
    return Holding(
        name=name,
        path=path,
        is_ours=lambda: kernel.file_id(path) == identity,
        renew=cannot_renew(text),
    )


def _still_has(fd: int, path: str, kernel: Kernel) -> bool:
    try:
        return kernel.same_file(fd, path)
    except OSError:  # not even a stat is allowed: this is no place to serve from
        return False


def _is_held(held: HeldLock, kernel: Kernel) -> bool:
    return kernel.same_file(held.fd, held.path)  # whose descriptor changes with each renewal


def locks_of(ownership: Ownership, kernel: Kernel) -> Iterator[Holding]:
    """Yield the locks besides broker.lock; mempalace's may come late (`Fence`)."""
    for held in ownership.others:
        yield Holding(
            name=held.name,
            path=held.path,
            is_ours=partial(_is_held, held, kernel),
            renew=partial(held.take_again, kernel),
        )


def _control_files(ownership: Ownership, kernel: Kernel) -> Iterator[Holding]:
    """Yield the files whose contents the next owner goes by; they hold now what they should."""
    paths = ownership.paths
    judges: dict[str, Callable[[bytes], bytes | None]] = {
        paths.epoch: partial(_judge_epoch, ownership),
        paths.palace_id: partial(_judge_identity, ownership),
        paths.protocol: partial(_judge_format, ownership),
        paths.settings: lambda found: found,  # its user's to edit; the next owner reads it
    }
    for path, judge in judges.items():
        data = kernel.read_hint(path, FILE_BYTES_MAX)
        if data is not None:
            file = PublishedFile(path=path, kernel=kernel, data=data, judge=judge)
            yield file.holding(path.rpartition("/")[2])


def engine_file(ownership: Ownership, kernel: Kernel) -> Iterator[Holding]:
    """Yield the file that keeps older engines away, once the engine has written it."""
    path = ownership.paths.engine
    data = kernel.read_hint(path, FILE_BYTES_MAX)
    if data is not None:
        file = PublishedFile(path=path, kernel=kernel, data=data, judge=lambda _found: data)
        yield file.holding("engine")


def _lost(text: str, _found: bytes) -> bytes | None:
    raise Lost(text)


def _judge_format(ownership: Ownership, found: bytes) -> bytes:
    """Take a higher format: this owner has raised it itself, for its first workspace."""
    try:
        served = decode_served(found)
    except ValueError:
        served = None
    if served is None or served.is_too_new or not served.format:
        raise Lost(f"{ownership.paths.protocol} was changed. {STOP_FIRST}")
    return found


def _judge_epoch(ownership: Ownership, found: bytes) -> bytes:
    try:
        epoch = whole_number(found.strip())
    except ValueError:
        epoch = 0
    if epoch > ownership.epoch:
        raise Lost(f"{ownership.paths.epoch} says {epoch}: a younger owner has been here")
    return f"{ownership.epoch}\n".encode()


def _judge_identity(ownership: Ownership, found: bytes) -> bytes:
    if identity_of(found) not in (None, "", ownership.palace_id):
        raise Lost(f"{ownership.paths.palace_id} names another palace. {STOP_FIRST}")
    return ownership.palace_id.encode() + b"\n"


def record_file(ownership: Ownership, kernel: Kernel) -> PublishedFile:
    """Return the record's; its `data` is set whenever the record is published."""

    def judge(found: bytes) -> bytes | None:
        record = decode_broker_record(found)
        if record is not None and record.epoch > ownership.epoch:
            raise Lost(f"{ownership.paths.record} is that of epoch {record.epoch}, a younger owner")
        return file.data

    file = PublishedFile(path=ownership.paths.record, kernel=kernel, data=None, judge=judge)
    return file


def socket_holding(
    endpoint: Endpoint, root: str, kernel: Kernel, *, retire: "Callable[[socket.socket], None]"
) -> Holding:
    """Return the socket's; `retire` is given the old one when it was bound again."""
    return Holding(
        name="broker.sock",
        path=endpoint.path,
        is_ours=lambda: kernel.file_id(endpoint.path) == endpoint.file_id,
        renew=lambda: retire(listen_again(endpoint, root, kernel)),
    )


def private_holdings(
    ownership: Ownership, environ: "Mapping[str, str]", kernel: Kernel
) -> Iterator[Holding]:
    """Yield the user's own files of this palace: its settings, and the journal's keys.

    Others of the user's commands change them, and the next owner reads them.  One without its keys
    would take this owner's records for somebody else's.
    """
    paths = {
        "keys": key_path(ownership.palace_id, environ),
        "settings": user_settings_path(ownership.paths, environ),
    }
    for name, path in paths.items():
        data = kernel.read_hint(path, FILE_BYTES_MAX)
        if data is not None:
            file = PublishedFile(
                path=path,
                kernel=kernel,
                data=data,
                judge=lambda found: found,
                prepare=partial(_make_private, path, environ, kernel),
            )
            yield file.holding(name, vital=False)


def _make_private(path: str, environ: "Mapping[str, str]", kernel: Kernel) -> None:
    """Make the directory of a file of the user's again; raises OSError and UnsafePalace."""
    os.makedirs(state_dir(environ), 0o700, exist_ok=True)
    prepare_private(
        os.path.dirname(path), kernel, called="The directory", remedy="Correct or remove it."
    )


def log_holding(path: str, kernel: Kernel) -> Holding:
    """Return the log's, which is standard output and standard error of a detached owner."""
    return Holding(
        name="broker.log",
        path=path,
        is_ours=lambda: kernel.same_file(2, path),
        renew=partial(open_log, path),
        vital=False,
    )
