"""`palace own`: claiming a palace for a kernel, and giving the claim up.

Two kernels share neither locks nor a clock here, only the palace's files, which each sees a moment
late.  A claim is therefore written first; then the claimant waits until the write is visible
everywhere, and checks again.  An owner that started in the meantime either saw the claim before it
wrote its epoch, or its epoch is visible to the claimant.
"""

import os
import time
import uuid

import attrs

from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.claim import (
    Claim,
    check_kernel,
    id_file,
    local_directory,
    make_local_directory,
    own_id,
    read_claim,
)
from palace.ownership.directory import check_palace, check_private
from palace.protocol.broker_record import decode_broker_record
from palace.protocol.errors import ConfigError, ForeignKernel, LockFailed, LockHeld, UnsafePalace
from palace.protocol.wire import identity_of
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, state_dir
from palace.settings.stock_config import backend_of

SEEN_S = 3.0  # a replaced file was seen after 0.93 s on virtiofs as it comes, later on 9p


@attrs.frozen(kw_only=True)
class Traces:
    """What shows that the other kernel has an owner: its record, and the last epoch."""

    record: bytes | None
    epoch: bytes | None

    @classmethod
    def of(cls, paths: Paths, kernel: Kernel) -> "Traces":
        return cls(record=kernel.read_file(paths.record), epoch=kernel.read_file(paths.epoch))


def show_owner(paths: Paths, environment: ShimEnvironment) -> str:
    """Return a text that says which machine owns a palace, and whether it is this one."""
    kernel = Kernel()
    claim = read_claim(paths, kernel)
    mount = kernel.mount_of(paths.root)
    whose = "this kernel's own" if mount.is_local else "another kernel's"
    where = f"It is on {mount.point}, a {mount.fs_type} mount: {whose}."
    if claim is None:
        return f"{paths.root} is not claimed. {where}"
    here = bool(claim.id) and claim.id == own_id(kernel, environment.all)
    who = "this machine" if here else "another machine or user"
    name = f", as {claim.path}" if claim.path and claim.path != paths.root else ""
    return f"{paths.root} is owned by {claim.owner}: {who}{name}. {where}"


def keeps_tables(paths: Paths, environment: ShimEnvironment) -> bool:
    """Tell whether a database keeps the drawers, and what asks it is installed here."""
    try:
        config = load_config(paths, environment.all, Kernel())
    except ConfigError:
        return False
    return backend_of(paths.root, config.config_dir, config.environment).can_be_asked


def claim_palace(
    paths: Paths, environment: ShimEnvironment, *, force: bool, wait_s: float = SEEN_S
) -> str:
    """Record that this kernel owns the palace; return what to tell the user."""
    kernel, environ = Kernel(), environment.all
    _check_root(paths, kernel)
    old = read_claim(paths, kernel)
    if old is not None and old.id and old.id == own_id(kernel, environ) and old.path == paths.root:
        check_kernel(paths, kernel, environ)
        make_local_directory(paths, kernel, environ)
        return f"{paths.root} is already owned by this machine, since {old.since}."
    _check_mount(paths, kernel, old)
    if old is not None and old.id and old.id == own_id(kernel, environ):
        raise LockHeld(  # its lock is another one, which a broker of ours may hold
            f"This machine owns {paths.root} under another path, {old.path}. Give that claim up "
            "first: palace own --release"
        )
    before = Traces.of(paths, kernel)
    if not force:
        _check_free(paths, old, before)
    claim = Claim(
        id=_make_id(kernel, environment),
        host=os.uname().nodename,
        path=paths.root,
        since=kernel.utc_text(),
    )
    paths.local = local_directory(paths.root, environ)
    make_local_directory(paths, kernel, environ)
    _write_and_look_again(paths, kernel, claim, (before, wait_s))
    return (
        f"{paths.root} is owned by this machine ({claim.host}) from now on; its lock and its "
        f"socket are in {paths.local}. All other machines refuse it until: palace own --release\n"
        f"Keep {state_dir(environ)} where it outlives this machine's containers: without it this "
        "machine counts as a different one.\n"
        "Stock mempalace does not know about claims: run it on no other machine."
    )


def _check_root(paths: Paths, kernel: Kernel) -> None:
    if kernel.file_id(paths.root) is None:
        raise UnsafePalace(f"The palace {paths.root} does not exist. Mount it first.")
    check_palace(paths, kernel)


def _check_mount(paths: Paths, kernel: Kernel, old: Claim | None) -> None:
    """Refuse to claim a palace on this kernel's own disk, where its locks are enough."""
    mount = kernel.mount_of(paths.root)
    if not mount.is_local:
        return
    taken = (
        f"To take it from {old.owner}, if that machine is gone for good: palace own --release "
        "--force"
        if old
        else "There is nothing to do."
    )
    raise ConfigError(
        f"{paths.root} needs no claim: it is on {mount.point}, a {mount.fs_type} mount of this "
        "kernel. All processes of this kernel share its locks, and other kernels refuse it by "
        f"themselves. {taken}"
    )


def _check_free(paths: Paths, old: Claim | None, before: Traces) -> None:
    """Refuse to take a palace from an owner that may be alive."""
    if old is not None:
        raise ForeignKernel(
            f"{paths.root} is owned by {old.owner} ({paths.claim}). Give it up there: palace own "
            "--release. If that machine is gone for good: palace own --here --force"
        )
    if before.record is not None:
        raise LockHeld(
            f"A broker's record stands in {paths.root}: {_named(before.record)}. Stop it on its "
            "own machine: palace stop. If that broker is gone for good: palace own --here --force"
        )


def _named(data: bytes) -> str:
    record = decode_broker_record(data)
    if record is None:
        return "one that can't be read"
    return f"pid {record.pid} on {record.host_id}, epoch {record.epoch}, since {record.started_at}"


def _make_id(kernel: Kernel, environment: ShimEnvironment) -> str:
    """Return this kernel's identity; create it durably if there is none."""
    directory = state_dir(environment.all)
    mount = kernel.mount_of(directory)
    if not mount.is_local:
        raise ConfigError(
            f"The state directory {directory} is on {mount.point}, a {mount.fs_type} mount of "
            "another kernel, which would be taken for this one. Use a directory of this "
            "machine's own (in a container, a volume): XDG_STATE_HOME=DIR"
        )
    os.makedirs(directory, 0o700, exist_ok=True)
    check_private(
        directory, kernel, called="The state directory", remedy="Use another: XDG_STATE_HOME=DIR"
    )
    path = id_file(environment.all)
    found = identity_of(kernel.read_file(path, 200))
    if found is None:
        raise ConfigError(f"{path} does not hold an identity (32 hexadecimal digits). Remove it.")
    if not found:
        found = uuid.uuid4().hex
        kernel.write_durable(path, found.encode() + b"\n")
    return found


def _write_and_look_again(
    paths: Paths, kernel: Kernel, claim: Claim, looking: tuple[Traces, float]
) -> None:
    before, wait_s = looking
    written = claim.encode()
    settled = False
    try:
        # All users that share the palace must be able to read it.
        kernel.write_durable(paths.claim, written, 0o644)
        time.sleep(wait_s)
        after = Traces.of(paths, kernel)
        settled = after == before
    finally:
        ours = kernel.read_file(paths.claim) == written
        if ours and not settled:
            _remove_claim(paths, kernel)
    if not ours:
        raise LockFailed(f"Another machine claimed {paths.root} at the same time. See: palace own")
    if not settled:
        raise LockHeld(
            f"{paths.root} was not claimed, since a broker started for it in the meantime"
            f"{f' ({_named(after.record)})' if after.record else ''}. "
            "Stop that (palace stop --hold), and try again."
        )


def release_palace(paths: Paths, environment: ShimEnvironment, *, force: bool) -> str:
    """Remove the claim while holding the lock that it stands for; return what to tell the user."""
    kernel, environ = Kernel(), environment.all
    claim = read_claim(paths, kernel)
    if claim is None:
        return f"{paths.root} is not claimed: there is nothing to release."
    ours = bool(claim.id) and claim.id == own_id(kernel, environ)
    if ours:
        paths.local = local_directory(claim.path, environ)
        make_local_directory(paths, kernel, environ)
    elif not force:
        raise ForeignKernel(
            f"{paths.root} is owned by {claim.owner} ({paths.claim}). Release it there. If that "
            "machine is gone for good: palace own --release --force"
        )
    elif not kernel.mount_of(paths.root).is_local:
        _remove_claim(paths, kernel)  # a lock of this kernel means nothing there
        return f"{paths.root} is no longer claimed."
    try:
        ownership = lock.take_lock(paths, kernel)
    except LockHeld as error:
        raise LockHeld(f"{error.message}. Stop it first: palace stop") from None
    try:
        kernel.unlink(
            paths.record
        )  # left by an owner that was killed: this process has its lock now
        _remove_claim(paths, kernel)
    finally:
        kernel.close(ownership.lock_fd)
    return f"{paths.root} is no longer claimed."


def _remove_claim(paths: Paths, kernel: Kernel) -> None:
    kernel.unlink(paths.claim)
    kernel.sync_directory(paths.root)
