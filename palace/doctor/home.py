"""The user's home: can locks be taken there, and can what palace knows of a palace be kept."""

import os
from collections.abc import Iterator

import attrs

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
        other = "" if obstacle.is_file else ", or give palace and stock another home: HOME=DIR"
        yield Finding(
            level=ERROR,
            code="closed_home",
            text=f"{obstacle.problem}, so {directory} can't hold the locks that every writer of "
            "the palace needs, stock as well as palace: no broker can start.",
            remedy=obstacle.remedy + other,
        )
    yield from _check_state(found)


def _check_state(found: Diagnostics) -> Iterator[Finding]:
    directory = state_dir(found.environ)
    obstacle = _obstacle(directory, found.kernel) or _distrust(directory, found.kernel)
    if obstacle is not None:
        yield Finding(
            level=WARNING,
            code="closed_state",
            text=f"{obstacle.problem}, so palace can't keep there what it served where, nor the "
            "keys of the journal: a directory that is put in the palace's place passes for it, and "
            "so do records that somebody else writes.",
            remedy=f"{obstacle.remedy}, or name another directory of yours: XDG_STATE_HOME=DIR",
        )


@attrs.frozen
class _Obstacle:
    """Why nothing can be made in a directory, and what to do; `is_file`: a file is in its place."""

    problem: str
    remedy: str
    is_file: bool = False


def _distrust(directory: str, kernel: Kernel) -> _Obstacle | None:
    problem = kernel.trust_problem(directory) if os.path.isdir(directory) else ""
    if not problem:
        return None
    remedy = f"Make it yours alone (chown {os.geteuid()} {directory}; chmod 700 {directory})"
    return _Obstacle(f"{directory} can't be used: {problem}", remedy)


def _obstacle(directory: str, kernel: Kernel) -> _Obstacle | None:
    """Return what keeps a directory from being made or used, None for nothing."""
    there = directory
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return _Obstacle(
            f"{there} is no directory", f"Move it away: mv {there} {there}.old", is_file=True
        )
    if os.access(there, os.W_OK | os.X_OK):
        return None
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        mount = kernel.mount_of(there).point
        problem = f"{there} is on a file system that is mounted read-only"
        return _Obstacle(problem, f"Mount it read-write (mount -o remount,rw {mount})")
    return _Obstacle(f"{there} can't be written to", f"Make it writable (chmod u+wx {there})")
