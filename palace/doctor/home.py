"""The user's home: can the locks be taken there that keep stock and palace apart."""

import os
from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, Finding
from palace.ownership.lock import mempalace_lock_path


def check_home(found: Diagnostics) -> Iterator[Finding]:
    """Yield why mempalace's locks can't be taken; nothing is made to find out."""
    if found.foreign is not None or found.is_anothers:
        return
    directory = os.path.dirname(mempalace_lock_path(found.paths, found.environ))
    there = directory
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        yield Finding(
            level=ERROR,
            code="closed_home",
            text=f"{there} is no directory, so {directory} can't hold the locks that every writer "
            "of the palace needs, stock as well as palace: no broker can start.",
            remedy=f"Move it away: mv {there} {there}.old",
        )
        return
    if os.access(there, os.W_OK | os.X_OK):
        return
    read_only = bool(os.statvfs(there).f_flag & os.ST_RDONLY)
    why = "is on a file system that is mounted read-only" if read_only else "can't be written to"
    mount = found.kernel.mount_of(there).point
    yield Finding(
        level=ERROR,
        code="closed_home",
        text=f"{there} {why}, so {directory} can't hold the locks that every writer of the palace "
        "needs, stock as well as palace: no broker can start.",
        remedy=f"Mount it read-write (mount -o remount,rw {mount}), or give palace and stock "
        "another home: HOME=DIR"
        if read_only
        else f"Make it writable (chmod u+wx {there}), or give palace and stock another home: "
        "HOME=DIR",
    )
