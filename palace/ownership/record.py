"""The record (broker.json): an owner's own entry, written once it listens: B7, and half of X1.

A record is a hint; it is only ever removed by the owner that wrote it, or under the lock.

Standard library only, and light: losers of an election and shims that failed to dial load this.
"""

import os

from palace import __version__
from palace.kernel.kernel import Kernel
from palace.protocol.broker_record import SCHEMA, BrokerRecord, decode_broker_record
from palace.settings.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.ownership.lock import Ownership


class Remote:
    """What guests must know: where to dial, with which token, and whom to expect there."""

    __slots__ = ("fingerprint", "token", "urls")

    def __init__(self, *, urls: "tuple[str, ...]", token: str, fingerprint: str) -> None:
        self.urls = urls
        self.token = token
        self.fingerprint = fingerprint


def read_record(paths: Paths, kernel: Kernel) -> "BrokerRecord | None":
    """Return what the palace's last owner published, None where that can't be read."""
    return decode_broker_record(kernel.read_hint(paths.record))


def publish(
    ownership: "Ownership",
    socket_path: str,
    kernel: Kernel,
    *,
    mode: str,
    remote: "Remote | None" = None,
    again: bool = False,
) -> BrokerRecord:
    """B7: say where the palace is served, after it listens; `socket_path` is "" for nowhere.

    `again`: the owner has published before, and now listens elsewhere as well; that is no step.
    """
    urls = remote.urls if remote else ()
    record = BrokerRecord(
        v=SCHEMA,
        epoch=ownership.epoch,
        incarnation=ownership.incarnation,
        palace_id=ownership.palace_id,
        pid=os.getpid(),
        start_time=kernel.start_time(os.getpid()),
        boot_id=kernel.boot_id(),
        pid_namespace=kernel.pid_namespace(),
        host_id=kernel.host_name(),
        endpoints=[*([f"unix:{socket_path}"] if socket_path else []), *urls],
        token=remote.token if remote else "",
        fingerprint=remote.fingerprint if remote else "",
        version=__version__,
        mode=mode,
        started_at=kernel.utc_text(),
    )
    kernel.write_durable(ownership.paths.record, record.encode())
    if not again:
        kernel.trace("B7.publish", epoch=ownership.epoch)
    return record


def withdraw_record(ownership: "Ownership", kernel: Kernel) -> None:
    """X1: remove the record, if it is ours: a fenced owner must not remove its successor's."""
    record = read_record(ownership.paths, kernel)
    if record is not None and record.incarnation == ownership.incarnation:
        kernel.unlink(ownership.paths.record)
