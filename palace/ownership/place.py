"""B5: taking the place: whose palace the directory is by what is remembered, and the next epoch.

Standard library only, and light: every owner runs through here.
"""

from palace.kernel.kernel import Kernel
from palace.ownership import epoch
from palace.ownership.keys import KeyFile, take_keys
from palace.ownership.lock import check_in_place
from palace.ownership.served import (
    Memory,
    Served,
    copy_of,
    disk_of,
    is_empty,
    keep,
    known_here,
    read_served,
)
from palace.protocol.errors import UnsafePalace
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from palace.ownership.lock import Ownership


def take_place(
    ownership: "Ownership", environ: "Mapping[str, str]", kernel: Kernel, *, serves: bool
) -> Memory:
    """B5, with what is remembered: an identity that no other palace has, and the next epoch.

    The epoch stands above all that were ever served here, whatever an older copy of the files
    says.  A copy of a palace that is still where it was becomes a palace of its own, as soon as it
    is served; maintenance leaves it as it is, and remembers nothing of it.
    A state directory that can't be written is no reason not to serve: the doctor names it.
    Raises LockReplaced where the directory was replaced since its lock was taken.
    """
    paths = ownership.paths
    check_in_place(ownership, kernel)
    known = read_served(paths.root, environ, kernel)
    identity = identity_of(kernel.read_hint(paths.palace_id, 200))
    # stock and people rename the directory at any moment.  Where something was served, one without
    # an identity is not what was locked: it would be served as a new palace, and the memories of
    # the one that was be taken for another palace's.
    may_begin = not identity and (known is None or is_empty(known))
    copied = ""
    if identity and (known is None or known.palace_id != identity):
        other = copy_of(paths, identity, environ, kernel)
        if other is not None and not serves:
            epoch.take_epoch(ownership, kernel, may_begin=False)
            memory = Memory(_to_remember(ownership, known, kernel), environ, kernel)
            memory.keys = _keys(ownership, "", environ, kernel)
            return memory
        if other is not None:
            copied = f"{other.palace_id} at {other.path}"
            kernel.unlink(paths.palace_id)  # the owner of this one makes a new identity
            may_begin = True
    elif identity and known is not None and known.epoch > epoch.last_epoch(paths, kernel):
        kernel.write_durable(paths.epoch, f"{known.epoch}\n".encode())
    epoch.take_epoch(ownership, kernel, may_begin=may_begin)
    check_in_place(ownership, kernel)  # before it is remembered
    served = _to_remember(ownership, known, kernel)
    served.copied_from = copied or served.copied_from
    memory = Memory(served, environ, kernel)
    memory.is_first = known is None and not copied and ownership.epoch == 1 and not served.seq
    origin = copied.partition(" ")[0]
    memory.keys = _keys(ownership, origin, environ, kernel)
    keep(served, environ, kernel, durable=True)
    return memory


def _keys(
    ownership: "Ownership", copied_from: str, environ: "Mapping[str, str]", kernel: Kernel
) -> KeyFile | None:
    """Return the keys of the journal, None where they can't be kept: the doctor names that."""
    former = known_here(ownership.paths.root, environ, kernel)
    try:
        return take_keys(ownership.palace_id, former, copied_from, environ, kernel)
    except (OSError, UnsafePalace):
        return None


def _to_remember(ownership: "Ownership", known: "Served | None", kernel: Kernel) -> Served:
    served = Served(ownership.paths.root, ownership.palace_id)
    if known is not None and known.palace_id == ownership.palace_id:
        served.copied_from, served.former_id = known.copied_from, known.former_id
        served.unjournalled, served.begun = known.unjournalled, known.begun
        served.seq, served.lost_from, served.lost_to = known.seq, known.lost_from, known.lost_to
        served.lost_with = known.lost_with
    elif known is not None and not is_empty(known):
        served.former_id = known.palace_id
    served.saved = known.saved if known is not None else ""  # until it is taken up
    served.seq = max(served.seq, _journalled_seq(ownership.paths, kernel))
    served.epoch = ownership.epoch
    served.disk = disk_of(ownership.paths.root, kernel)
    served.since = kernel.utc_text()
    return served


def _journalled_seq(paths: Paths, kernel: Kernel) -> int:
    from palace.protocol.decoding import decode_json

    try:
        seq = decode_json(kernel.read_hint(paths.journal_head, 400) or b"{}").get("seq", 0)
    except (ValueError, AttributeError, RecursionError):
        return 0
    return seq if isinstance(seq, int) else 0
