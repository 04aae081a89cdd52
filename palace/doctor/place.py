"""Can a broker use the directory: hold, kernel, permissions, settings, disk."""

import os
import stat
from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, Fix
from palace.engine.durability.groups import ROOM_BYTES
from palace.kernel.whose import above_problem
from palace.ownership.lock import check_hold
from palace.protocol.errors import OnHold
from palace.settings.config import ignored_text

LOW_BYTES = 16 * ROOM_BYTES
LOW_FILES = 16


def check_place(found: Diagnostics) -> Iterator[Finding]:
    """Yield what keeps every broker from starting."""
    yield from _hold(found)
    yield from _kernel(found)
    yield from _directory(found)
    yield from _settings(found)
    if found.exists:
        yield from _disk(found)


def _hold(found: Diagnostics) -> Iterator[Finding]:
    try:
        check_hold(found.paths, found.kernel)
    except OnHold:
        note = (
            (found.kernel.read_hint(found.paths.hold, 200) or b"").decode(errors="replace").strip()
        )
        yield Finding(
            level=ERROR,
            code="on_hold",
            text=f"The palace has been on hold since {note or 'an unknown time'}: `palace stop "
            "--hold` was run, and no broker starts until the hold ends.",
            remedy=f"End the hold: palace start --palace {found.paths.root}",
        )
    except OSError as error:
        text = f"{found.paths.hold} can't be read: {error.strerror}."
        yield Finding(
            level=ERROR,
            code="on_hold",
            text=text,
            remedy="Give the palace's owner read access to it.",
        )


def _kernel(found: Diagnostics) -> Iterator[Finding]:
    mount = found.kernel.mount_of(found.paths.root)
    if found.foreign is None:
        where = f"{mount.fs_type} on {mount.point}"
        yield Finding(
            level=OK, code="mount", text=f"{where}: its locks work between all processes here"
        )
        return
    yield Finding(
        level=ERROR,
        code="foreign_kernel",
        text=f"{found.foreign.reason}. Processes here are guests: they can't open the palace, and "
        "must reach the broker of that machine.",
        remedy=found.foreign.remedy,
    )


def _directory(found: Diagnostics) -> Iterator[Finding]:
    root, kernel = found.paths.root, found.kernel
    if not found.exists:
        parent = os.path.dirname(root)
        made = kernel.file_id(parent) is not None or found.paths.found_by == "default"
        yield Finding(
            level=NOTE if made else ERROR,
            code="no_palace",
            text=f"{root} does not exist{'' if made else f', and neither does {parent}'} (named "
            f"by {found.paths.found_by}, HOME={found.environ.get('HOME', '')}).",
            remedy="The first broker creates it. If your memories are elsewhere, name their "
            "directory: MEMPALACE_PATH=DIR"
            if made
            else f"Mount it, or create it: mkdir -p {root}",
        )
        return
    problem = kernel.trust_problem(root)
    if found.is_anothers and found.is_served:
        return  # palace/doctor/users.py
    if problem and not os.path.isdir(root):
        yield Finding(
            level=ERROR,
            code="unsafe_palace",
            text=f"{root} can't be used: {problem}.",
            remedy=f"It is named by {found.paths.found_by}. Name the palace's directory: --palace "
            "DIR or MEMPALACE_PATH=DIR",
        )
    elif problem:
        remedy = f"Take write access from others: chmod go-w {root}"
        yield Finding(
            level=ERROR,
            code="unsafe_palace",
            text=f"{root} can't be used: {problem}.",
            remedy=f"Run as its owner, {found.owner_name}" if found.is_anothers else remedy,
            fix=None if found.is_anothers else _close(root),
        )
    elif above := above_problem(root):
        yield Finding(
            level=ERROR,
            code="unsafe_palace",
            text=f"{root} can't be used: {above}, so that others could put another one in its "
            "place.",
            remedy="Move it below a directory that only you and root may write to",
        )
    elif not kernel.writable(root):
        yield _read_only(found)
    else:
        found_by = found.paths.found_by
        yield Finding(level=OK, code="directory", text=f"named by {found_by}, yours, writable")


def _close(root: str) -> Fix | None:
    """Return what takes a directory of ours from others; None where it is something else."""
    if not os.path.isdir(root):
        return None
    mode = stat.S_IMODE(os.stat(root).st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH)
    text = f"take write access to {root} from group and others (chmod go-w)"
    return Fix(text=text, act=lambda: os.chmod(root, mode))


def _read_only(found: Diagnostics) -> Finding:
    root = found.paths.root
    mount = found.kernel.mount_of(root)
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        remedy = f"Mount it read-write: mount -o remount,rw {mount.point}"
        why = f"it is on {mount.point}, which is mounted read-only"
    else:
        remedy = f"Give its owner write access: chmod u+w {root}"
        why = f"its mode is {os.stat(root).st_mode & 0o7777:04o}"
    return Finding(
        level=ERROR,
        code="read_only",
        text=f"{root} is read-only for this process: {why}. Its broker must be able to write.",
        remedy=remedy,
    )


def _settings(found: Diagnostics) -> Iterator[Finding]:
    if found.wrong is not None:
        text, _, remedy = found.wrong.message.rpartition(". ")
        yield Finding(
            level=ERROR,
            code="settings",
            text=f"{text or found.wrong.message}.",
            remedy=remedy or f"Correct {found.paths.settings}",
        )
    if found.ignored:
        text, _, remedy = ignored_text(found.ignored, found.paths).rpartition(": ")
        yield Finding(level=WARNING, code="ignored_settings", text=f"{text}:", remedy=remedy)


def _inodes(found: Diagnostics) -> Iterator[Finding]:
    """Yield that a file system with space takes no more files; some count none (btrfs)."""
    of = os.statvfs(found.paths.root)
    if of.f_files and of.f_favail < LOW_FILES:
        where = found.kernel.mount_of(found.paths.root).point
        yield Finding(
            level=ERROR,
            code="no_inodes",
            text=f"The disk takes no more files: {of.f_favail} of {of.f_files} can still be made "
            f"on {where}, whatever space is free there, and a broker needs some.",
            remedy=f"Remove files there that nobody needs. See how many there are: df -i {where}",
        )


def _disk(found: Diagnostics) -> Iterator[Finding]:
    yield from _inodes(found)
    free = found.kernel.free_bytes(found.paths.root)
    where = found.kernel.mount_of(found.paths.root).point
    text = f"{free / (1 << 20):,.1f} MiB are free on {where}"
    if free < ROOM_BYTES:
        yield Finding(
            level=ERROR,
            code="disk_full",
            text=f"The disk is full: {text}, and every change is refused (-31048) while it is less "
            f"than {ROOM_BYTES >> 20} MiB. Nothing has been lost.",
            remedy=f"Free some space on {where}; a running broker recovers by itself.",
        )
    elif free < LOW_BYTES:
        yield Finding(
            level=WARNING,
            code="disk_low",
            text=f"The disk is nearly full: {text}; changes are refused below "
            f"{ROOM_BYTES >> 20} MiB.",
            remedy=f"Free some space on {where}.",
        )
    else:
        yield Finding(level=OK, code="disk", text=text)
