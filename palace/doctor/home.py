"""The user's home: can locks be taken there, and can what palace knows of a palace be kept."""

import os
from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, WARNING, Finding
from palace.kernel.kernel import Kernel
from palace.ownership.lock import mempalace_lock_path
from palace.settings.paths import state_dir


def check_home(found: Diagnostics) -> Iterator[Finding]:
    """Yield why mempalace's locks can't be taken, and nothing remembered; nothing is made."""
    if found.foreign is not None or found.is_anothers:
        return
    directory = os.path.dirname(mempalace_lock_path(found.paths, found.environ))
    obstacle = _obstacle(directory, found.kernel)
    if obstacle is not None:
        problem, remedy = obstacle
        other = (
            "" if remedy.startswith("Move") else ", or give palace and stock another home: HOME=DIR"
        )
        yield Finding(
            level=ERROR,
            code="closed_home",
            text=f"{problem}, so {directory} can't hold the locks that every writer of the palace "
            "needs, stock as well as palace: no broker can start.",
            remedy=remedy + other,
        )
    yield from _check_state(found)


def _check_state(found: Diagnostics) -> Iterator[Finding]:
    directory = state_dir(found.environ)
    obstacle = _obstacle(directory, found.kernel)
    if obstacle is None and os.path.isdir(directory):
        problem = found.kernel.trust_problem(directory)
        obstacle = (f"{directory} can't be used: {problem}", _make_private(directory))
        obstacle = obstacle if problem else None
    if obstacle is not None:
        problem, remedy = obstacle
        yield Finding(
            level=WARNING,
            code="closed_state",
            text=f"{problem}, so palace can't keep there what it served where, nor the keys of the "
            "journal: a directory that is put in the palace's place passes for it, and so do "
            "records that somebody else writes.",
            remedy=f"{remedy}, or name another directory of yours: XDG_STATE_HOME=DIR",
        )


def _make_private(directory: str) -> str:
    return f"Make it yours alone (chown {os.geteuid()} {directory}; chmod 700 {directory})"


def _obstacle(directory: str, kernel: Kernel) -> tuple[str, str] | None:
    """Return why nothing can be made in a directory, or it itself, and what to do; else None."""
    there = directory
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return f"{there} is no directory", f"Move it away: mv {there} {there}.old"
    if os.access(there, os.W_OK | os.X_OK):
        return None
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        mount = kernel.mount_of(there).point
        problem = f"{there} is on a file system that is mounted read-only"
        return problem, f"Mount it read-write (mount -o remount,rw {mount})"
    return f"{there} can't be written to", f"Make it writable (chmod u+wx {there})"
