"""Is the directory one that a broker may use: hold, kernel, permissions, settings, disk."""

import os
from collections.abc import Iterator

from palace.doctor.diagnostics import Scene
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.engine.durability.groups import ROOM_BYTES
from palace.ownership.lock import check_hold
from palace.protocol.errors import OnHold

LOW_BYTES = 16 * ROOM_BYTES


def check_place(scene: Scene) -> Iterator[Finding]:
    """Yield what keeps every broker out, whoever starts it."""
    yield from _hold(scene)
    yield from _kernel(scene)
    yield from _directory(scene)
    yield from _settings(scene)
    if scene.exists:
        yield from _disk(scene)


def _hold(scene: Scene) -> Iterator[Finding]:
    try:
        check_hold(scene.paths, scene.kernel)
    except OnHold:
        note = (
            (scene.kernel.read_hint(scene.paths.hold, 200) or b"").decode(errors="replace").strip()
        )
        yield Finding(
            level=ERROR,
            code="on_hold",
            text=f"The palace is on hold since {note or 'an unknown time'}: somebody said `palace "
            "stop --hold`, and no broker starts until that ends.",
            remedy=f"End the hold: palace start --palace {scene.paths.root}",
        )
    except OSError as error:
        text = f"{scene.paths.hold} can't be read: {error.strerror}."
        yield Finding(level=ERROR, code="on_hold", text=text, remedy="Let its owner read it.")


def _kernel(scene: Scene) -> Iterator[Finding]:
    mount = scene.kernel.mount_of(scene.paths.root)
    if scene.foreign is None:
        where = f"{mount.fs_type} on {mount.point}"
        yield Finding(level=OK, code="mount", text=f"{where}: its locks work between all here")
        return
    yield Finding(
        level=ERROR,
        code="foreign_kernel",
        text=f"{scene.foreign.reason}. Whoever is here is a guest: it can't open the palace, and "
        "must reach the broker of that machine.",
        remedy=scene.foreign.remedy,
    )


def _directory(scene: Scene) -> Iterator[Finding]:
    root, kernel = scene.paths.root, scene.kernel
    if not scene.exists:
        parent = os.path.dirname(root)
        made = kernel.file_id(parent) is not None or scene.paths.found_by == "default"
        yield Finding(
            level=NOTE if made else ERROR,
            code="no_palace",
            text=f"{root} does not exist{'' if made else f', and neither does {parent}'} (named "
            f"by {scene.paths.found_by}, HOME={scene.environ.get('HOME', '')}).",
            remedy="The first broker makes it. If your memories are elsewhere, name them: "
            "MEMPALACE_PATH=DIR"
            if made
            else f"Mount it, or make it: mkdir -p {root}",
        )
        return
    problem = kernel.trust_problem(root)
    if problem:
        yield Finding(
            level=ERROR,
            code="unsafe_palace",
            text=f"{root} can't be used: {problem}.",
            remedy=f"Run as its owner, and take write access from others: chmod go-w {root}",
        )
    elif not kernel.writable(root):
        yield _read_only(scene)
    else:
        found_by = scene.paths.found_by
        yield Finding(level=OK, code="directory", text=f"named by {found_by}, yours, writable")


def _read_only(scene: Scene) -> Finding:
    root = scene.paths.root
    mount = scene.kernel.mount_of(root)
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        remedy = f"Mount it read-write: mount -o remount,rw {mount.point}"
        why = f"it lies on {mount.point}, which is mounted read-only"
    else:
        remedy = f"Give its owner write access: chmod u+w {root}"
        why = f"its mode is {os.stat(root).st_mode & 0o7777:04o}"
    return Finding(
        level=ERROR,
        code="read_only",
        text=f"{root} is read-only for this process: {why}. Its broker must be able to write.",
        remedy=remedy,
    )


def _settings(scene: Scene) -> Iterator[Finding]:
    if scene.wrong is not None:
        text, _, remedy = scene.wrong.message.rpartition(". ")
        yield Finding(
            level=ERROR,
            code="settings",
            text=f"{text or scene.wrong.message}.",
            remedy=remedy or f"Correct {scene.paths.settings}",
        )


def _disk(scene: Scene) -> Iterator[Finding]:
    free = scene.kernel.free_bytes(scene.paths.root)
    where = scene.kernel.mount_of(scene.paths.root).point
    text = f"{free / (1 << 20):,.1f} MiB are free on {where}"
    if free < ROOM_BYTES:
        yield Finding(
            level=ERROR,
            code="disk_full",
            text=f"The disk is full: {text}, and every change is refused (-32048) while it is less "
            f"than {ROOM_BYTES >> 20} MiB. Nothing is lost by it.",
            remedy=f"Free some space on {where}; a running broker goes on by itself.",
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
