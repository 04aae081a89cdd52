"""Becoming the owner: steps B1 to B5 of the protocol, before anything heavy is imported.

The exclusive flock on broker.lock IS the right to open the palace.  It is taken once, held until
the process ends, never unlocked by hand, never stolen; the lock file is never removed.  Lock
order: broker.lock, mempalace's own writer lock, locks on data files outside of the palace.

Standard library only: forty-nine losers of an election run this and nothing else.
"""

import errno
import hashlib
import os
import uuid

from palace import __version__
from palace.broker.ownership import check_again, check_kernel, make_local_directory
from palace.host import Host
from palace.paths import Paths, home_dir
from palace.protocol import wire
from palace.protocol.errors import (
    ForeignWriter,
    LockFailed,
    LockHeld,
    OnHold,
    UnsafePalace,
    VersionMismatch,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from palace.config import Config

VERIFY_TRIES_MAX = 10
POLL_S = 0.1
EPOCH_DIGITS_MAX = 19  # of the epoch file; nobody is elected so often
_NOTE_BYTES_MAX = 400


class Owner:
    """A process that holds the right to open a palace, until it ends.

    `lock_fd` and `other_fds` stay open for life; closing them is the kernel's business.
    """

    __slots__ = ("epoch", "incarnation", "lock_fd", "other_fds", "palace_id", "paths")

    def __init__(self, paths: Paths, lock_fd: int) -> None:
        self.paths = paths
        self.lock_fd = lock_fd
        self.other_fds: list[int] = []
        self.epoch = 0
        self.palace_id = ""
        self.incarnation = uuid.uuid4().hex


def check_directory(paths: Paths, host: Host, environ: "Mapping[str, str]") -> None:
    """Make the palace's directory where that is sane, and refuse one that can't be trusted."""
    root = paths.root
    if host.file_id(root) is None:
        _create(paths, host)
    problem = host.trust_problem(root)
    if problem:
        raise UnsafePalace(
            f"The palace {root} can't be used: {problem}. "
            f"Run as its owner, and take write access from others: chmod go-w {root}"
        )
    if not host.writable(root):
        raise UnsafePalace(
            f"The palace {root} is read-only for this process: its owner must be able to write "
            f"there. Mount it read-write, or chmod u+w {root}"
        )
    check_kernel(paths, host, environ)
    if paths.local:
        make_local_directory(paths, host, environ)


def _create(paths: Paths, host: Host) -> None:
    root = paths.root
    parent = os.path.dirname(root)
    if host.file_id(parent) is None:
        if paths.found_by != "default" and os.path.basename(root) != "palace":
            raise UnsafePalace(
                f"The palace {root} (from {paths.found_by}) does not exist, and neither does "
                f"{parent}. If it is a mount, mount it; if it is new: mkdir -p {root}"
            )
        os.makedirs(parent, 0o700, exist_ok=True)
    try:
        host.make_directory(root)
    except OSError as error:
        raise UnsafePalace(
            f"The palace {root} does not exist and can't be made: {error.strerror}. "
            f"Make it by hand: mkdir -p {root}"
        ) from None


def take_lock(paths: Paths, host: Host) -> Owner:
    """B1 to B3: open, lock, and verify that the name still stands for what was locked."""
    for _ in range(VERIFY_TRIES_MAX):
        fd = _open(paths.lock, host)
        try:
            taken = host.try_lock(fd)
        except OSError as error:
            host.close(fd)
            raise LockFailed(
                f"The kernel won't lock {paths.lock}: {error.strerror} "
                f"({errno.errorcode.get(error.errno or 0, '?')}). The palace must lie on a file "
                "system that supports flock."
            ) from None
        if not taken:
            host.close(fd)
            raise LockHeld(held_text(paths.lock, host))
        if host.same_file(fd, paths.lock):
            host.trace("B2.lock")  # after it: the line before it may be another owner's last
            return Owner(paths, fd)
        host.close(fd)
    raise LockFailed(f"{paths.lock} keeps being replaced: something removes lock files in there.")


def _open(path: str, host: Host) -> int:
    try:
        return host.open_lock(path)
    except OSError as error:
        raise LockFailed(
            f"{path} can't be opened: {error.strerror}. Check the directory and the disk."
        ) from None


def held_text(path: str, host: Host) -> str:
    """Say who holds a lock, as far as the kernel tells, and how to see more."""
    pid = host.lock_holder(path)
    if pid is None:
        return f"{path} is held by another process. See who: palace status"
    title = host.process_title(pid)
    return f"{path} is held by pid {pid} ({title or 'title unknown'}). See more: palace status"


def check_hold(paths: Paths, host: Host) -> None:
    """Refuse while `palace stop --hold` is in force."""
    note = host.read_file(paths.hold)
    if note is not None:
        raise OnHold(
            f"The palace {paths.root} was stopped on hold ({note.decode(errors='replace').strip()})"
            f". Let brokers start again: palace start --palace {paths.root}"
        )


def mempalace_lock_path(paths: Paths, environ: "Mapping[str, str]") -> str:
    """Return stock's writer lock for this palace (mempalace 3.11: palace/palace_lock.py)."""
    key = hashlib.sha256(os.path.normcase(paths.root).encode()).hexdigest()[:16]
    return f"{home_dir(environ)}/.mempalace/locks/mine_palace_{key}.lock"


def take_other_locks(
    owner: Owner, config: "Config", environ: "Mapping[str, str]", host: Host
) -> None:
    """B4: mempalace's own lock, waited for a while, then the data files outside the palace."""
    if "held_lock" not in config.adjustments_off:  # else the engine takes it by itself
        path = mempalace_lock_path(owner.paths, environ)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = _take_in_time(path, config.mempalace_lock_wait_s, host)
        host.write_note(fd, 1, f"{os.getpid()} palace serve {owner.paths.root}".encode())
        owner.other_fds.append(fd)
        host.trace("B4.fence")
    for data_file in outside_files(owner.paths, config):
        _take_data_lock(owner, data_file, host)
    check_again(owner.paths, host, environ)  # as late as can be before anything is written
    host.trace("B4.data")


def _take_in_time(path: str, wait_s: float, host: Host) -> int:
    fd = _open(path, host)
    deadline_s = host.monotonic() + wait_s
    while not host.try_lock(fd):
        if host.monotonic() >= deadline_s:
            note = host.read_at(fd, 1, _NOTE_BYTES_MAX).decode(errors="replace").strip()
            pid = host.lock_holder(path)
            host.close(fd)
            raise ForeignWriter(_foreign_text(path, note, pid, host), holder=note)
        _sleep(POLL_S)
    return fd


def _foreign_text(path: str, note: str, pid: "int | None", host: Host) -> str:
    """Say who holds stock's lock, by its own note and by the kernel, and how to end it."""
    title = host.process_title(pid) if pid else ""
    who = f"pid {pid} ({title or 'title unknown'})" if pid else "another process"
    end = f"end it (kill {pid})" if pid else "end it"
    return (
        f"A stock mempalace process writes to this palace: {who} holds {path}, and wrote "
        f"{note or 'no name'!r} into it. Let it finish, or {end}; its sessions can use "
        "`palace shim` in its place."
    )


def _sleep(pause_s: float) -> None:
    import time

    time.sleep(pause_s)


def outside_files(paths: Paths, config: "Config") -> "list[str]":
    """Return the palace's data files that lie outside of its directory."""
    parent = os.path.dirname(paths.root)
    candidates = [config.graph, f"{parent}/tunnels.json", f"{parent}/hallways.json"]
    inside = paths.root + "/"
    resolved = [os.path.realpath(path) for path in candidates]
    return [path for path in resolved if not path.startswith(inside)]


def _take_data_lock(owner: Owner, data_file: str, host: Host) -> None:
    directory = os.path.dirname(data_file)
    if host.file_id(directory) is None:
        os.makedirs(directory, 0o700, exist_ok=True)
    if not host.writable(directory):
        # Without a writable directory neither we nor anybody of our user can replace the file.
        if host.file_id(data_file) is None or not host.writable(data_file):
            return
        raise ForeignWriter(
            f"{data_file} belongs to this palace, but {directory} is not writable, so it can't be "
            f"locked against other palaces. Make the directory writable or the file read-only."
        )
    lock = f"{data_file}.owner.lock"
    fd = _open(lock, host)
    if not host.try_lock(fd):
        note = host.read_at(fd, 0, _NOTE_BYTES_MAX).decode(errors="replace").strip()
        host.close(fd)
        raise ForeignWriter(
            f"{data_file} is shared with another palace whose broker runs: {note or 'unknown'}. "
            f"Stop that one, or give this palace a parent directory and a graph of its own "
            f"(`graph` in {owner.paths.settings}).",
            file=data_file,
            holder=note,
        )
    host.write_note(fd, 0, f"pid {os.getpid()} serves {owner.paths.root}".encode())
    owner.other_fds.append(fd)


def _published_epoch(paths: Paths, host: Host) -> int:
    """Return the epoch that the last owner left in its record: the epoch file may be lost.

    A record is a hint, so one that isn't ours counts as absent, and so does one whose epoch comes
    so near to the file's limit that a later owner could not write its own.
    """
    from palace.protocol.record import decode_record

    if host.file_owner(paths.record) != os.geteuid():
        return 0
    record = decode_record(host.read_hint(paths.record))
    if record is None or record.epoch >= 10 ** (EPOCH_DIGITS_MAX - 1):
        return 0
    return record.epoch


def _journalled_epoch(paths: Paths, host: Host) -> int:
    """Return the epoch in the journal's HEAD.json, a cache: its records must not be older."""
    import json

    try:
        head = json.loads(host.read_hint(paths.journal_head, _NOTE_BYTES_MAX) or b"{}")
        epoch = int(head.get("epoch", 0))
    except (ValueError, TypeError, AttributeError):
        return 0
    return epoch if 0 < epoch < 10 ** (EPOCH_DIGITS_MAX - 1) else 0


def _keep_protocol(paths: Paths, host: Host) -> None:
    """Refuse to serve where a younger palace has: the two would take turns for ever."""
    text = (host.read_file(paths.protocol, 200) or b"0").split()[:1]
    last = int(text[0]) if text and text[0].isdigit() else 0
    if last > wire.VERSION:
        raise VersionMismatch(
            f"The palace {paths.root} was served with protocol {last}, and palace {__version__} "
            f"speaks {wire.VERSION}. Upgrade it (pip install --upgrade palace-broker), or, to go "
            f"back for good, remove {paths.protocol}."
        )
    if last < wire.VERSION:
        host.write_durable(paths.protocol, f"{wire.VERSION} {__version__}\n".encode())


def _sweep(paths: Paths, host: Host) -> None:
    """Remove what owners that were killed in the middle of a write left beside their files."""
    kept = (paths.record, paths.epoch, paths.palace_id, paths.protocol, paths.catalogue)
    ours = {os.path.basename(path) for path in kept}
    for name in host.list_directory(paths.root):
        base, _, pid = name.removesuffix(".tmp").rpartition(".")
        if name.endswith(".tmp") and pid.isdigit() and base in ours:
            host.unlink(f"{paths.root}/{name}")


def last_epoch(paths: Paths, host: Host) -> int:
    """Return the largest epoch that the palace's files know, 0 for a new palace."""
    last = host.read_file(paths.epoch)
    text = "0" if last is None else last.decode(errors="replace").strip()
    if not text.isascii() or not text.isdigit() or len(text) > EPOCH_DIGITS_MAX:
        raise LockFailed(
            f"{paths.epoch} holds {text[:40]!r}, which is no number. Restore it from a backup, or "
            "write the largest epoch that `palace status` ever showed into it."
        )
    return max(int(text), _published_epoch(paths, host), _journalled_epoch(paths, host))


def take_epoch(owner: Owner, host: Host) -> None:
    """B5: the palace's identity, and the next epoch, durable before the store is opened."""
    paths = owner.paths
    _sweep(paths, host)
    _keep_protocol(paths, host)
    identity = wire.identity_of(host.read_file(paths.palace_id, 200))
    if identity is None:
        raise LockFailed(
            f"{paths.palace_id} does not hold a palace's identity (32 hexadecimal digits). Restore "
            "it from a backup, or remove it: the palace then gets a new one."
        )
    if not identity:
        identity = uuid.uuid4().hex
        host.write_durable(paths.palace_id, identity.encode() + b"\n")
    owner.palace_id = identity
    owner.epoch = last_epoch(paths, host) + 1
    host.write_durable(paths.epoch, f"{owner.epoch}\n".encode())
    host.trace("B5.epoch", epoch=owner.epoch)
