"""B5: the palace's identity and the next epoch, durable before the store is opened.

The epoch is in three places, of which two may be lost: the epoch file, the last owner's record,
and the journal's head.  The largest counts.

Standard library only, and light: every election runs through here.
"""

import os
import uuid

from palace.kernel.kernel import Kernel
from palace.ownership.format import keep_format
from palace.ownership.lock import Ownership, replaced_meanwhile
from palace.protocol import wire
from palace.protocol.errors import LockFailed
from palace.settings.paths import Paths

EPOCH_DIGITS_MAX = 19  # of the epoch file; a palace is not elected for so often
# The next one has to fit into the record by which an owner is found (63 bits).
EPOCH_MAX = 9 * 10 ** (EPOCH_DIGITS_MAX - 1)
_HEAD_BYTES_MAX = 400


def _published_epoch(paths: Paths, kernel: Kernel) -> int:
    """Return the epoch that the last owner left in its record: the epoch file may be lost.

    A record is a hint, so one that isn't ours counts as absent, and so does one whose epoch comes
    so near to the file's limit that a later owner could not write its own.
    """
    from palace.ownership.record import read_record

    if kernel.file_owner(paths.record) != os.geteuid():
        return 0
    record = read_record(paths, kernel)
    if record is None or record.epoch >= 10 ** (EPOCH_DIGITS_MAX - 1):
        return 0
    return record.epoch


def _journalled_epoch(paths: Paths, kernel: Kernel) -> int:
    """Return the epoch in the journal's HEAD.json, a cache: its records must not be older."""
    from palace.protocol.decoding import decode_json, number_in

    try:
        head = decode_json(kernel.read_hint(paths.journal_head, _HEAD_BYTES_MAX) or b"{}")
    except ValueError:
        return 0
    epoch = number_in(head, "epoch")
    return epoch if 0 < epoch < 10 ** (EPOCH_DIGITS_MAX - 1) else 0


def _sweep(paths: Paths, kernel: Kernel) -> None:
    """Remove what owners that were killed in the middle of a write left beside their files."""
    kept = (paths.record, paths.epoch, paths.palace_id, paths.protocol, paths.catalogue)
    ours = {os.path.basename(path) for path in (*kept, paths.register, paths.candidates)}
    for name in kernel.list_directory(paths.root):
        base, _, pid = name.removesuffix(".tmp").rpartition(".")
        if name.endswith(".tmp") and pid.isdigit() and base in ours:
            kernel.unlink(f"{paths.root}/{name}")


def last_epoch(paths: Paths, kernel: Kernel) -> int:
    """Return the largest epoch that the palace's files know, 0 for a new palace."""
    last = kernel.read_file(paths.epoch)
    text = "0" if last is None else last.decode(errors="replace").strip()
    try:
        number = wire.whole_number(text, most=EPOCH_MAX)
    except ValueError:
        raise LockFailed(
            f"{paths.epoch} holds {text[:40]!r}, which is no number from 0 to {EPOCH_MAX}. Restore "
            "it from a backup, or write the largest epoch that `palace status` ever showed into it."
        ) from None
    return max(number, _published_epoch(paths, kernel), _journalled_epoch(paths, kernel))


def read_identity(paths: Paths, kernel: Kernel) -> str:
    """Return the palace's identity, "" for one that has none; raises LockFailed, OSError."""
    identity = wire.identity_of(kernel.read_file(paths.palace_id, 200))
    if identity is None:
        raise LockFailed(
            f"{paths.palace_id} does not hold a palace's identity (32 hexadecimal digits). Restore "
            "it from a backup, or remove it: the palace then gets a new one."
        )
    return identity


def take_epoch(ownership: Ownership, kernel: Kernel, *, may_begin: bool = True) -> None:
    """B5: the palace's identity, and the next epoch, durable before the store is opened.

    `may_begin`: a directory without an identity is a new palace; else it took the place of one,
    and raises LockReplaced.
    """
    paths = ownership.paths
    _sweep(paths, kernel)
    keep_format(paths, kernel)
    identity = read_identity(paths, kernel)
    if not identity:
        if not may_begin:
            raise replaced_meanwhile(paths)
        identity = uuid.uuid4().hex
        kernel.write_durable(paths.palace_id, identity.encode() + b"\n")
    ownership.palace_id = identity
    ownership.epoch = last_epoch(paths, kernel) + 1
    kernel.write_durable(paths.epoch, f"{ownership.epoch}\n".encode())
    kernel.trace("B5.epoch", epoch=ownership.epoch)
