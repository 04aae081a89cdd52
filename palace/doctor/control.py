"""Can what a broker keeps in the palace be read and written: its control files, and its data."""

import errno
import os
from collections.abc import Callable, Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, Finding
from palace.journal.segment import list_segments
from palace.kernel.causes import cause_text, why_closed
from palace.ownership.data_locks import ENDING, outside_files
from palace.ownership.directory import check_no_links
from palace.ownership.epoch import last_epoch, read_identity
from palace.ownership.format import read_format
from palace.ownership.lock import mempalace_lock_path
from palace.protocol.errors import PalaceError


def check_control(found: Diagnostics) -> Iterator[Finding]:
    """Yield what no broker could start with; they look at it by the same functions."""
    if not found.exists or found.foreign is not None or found.is_anothers:
        return
    problem = _kinds(found) or _locks(found) or _contents(found)
    if problem:
        what, _, remedy = problem.removesuffix(".").partition(". ")
        yield Finding(
            level=ERROR,
            code="control_file",
            text=f"{what}. No broker can start with it.",
            remedy=remedy or "See what it names",
        )
    yield from _closed(found)


def _closed(found: Diagnostics) -> Iterator[Finding]:
    """Yield the first of the palace's data that this user can't write, though it is there."""
    paths, kernel = found.paths, found.kernel
    segments = list_segments(paths.journal, kernel)
    graph = found.config.graph if found.config is not None else ""
    data = (paths.store, graph, paths.journal, *(segment.path for segment in segments[-1:]))
    if not kernel.writable(paths.root):  # palace/doctor/place.py
        return
    for path in data:
        if os.path.exists(path) and not kernel.writable(path):
            why, remedy = why_closed(path)
            yield Finding(
                level=ERROR,
                code="closed_file",
                text=f"{path} can't be written by this user: {why}. Changes fail, and where it is "
                "the store or the journal, no broker can serve.",
                remedy=remedy,
            )
            return


def _kinds(found: Diagnostics) -> str:
    """Return what stands where a file, or the journal's directory, belongs; "" for nothing."""
    paths = found.paths
    files = (
        *(paths.lock, paths.record, paths.log, paths.epoch, paths.palace_id, paths.protocol),
        *(paths.engine, paths.claim, paths.settings, paths.hold),
    )
    for path in (*files, f"{paths.root}/broker.sock"):
        if os.path.isdir(path):
            return cause_text(OSError(errno.EISDIR, os.strerror(errno.EISDIR), path))
    if os.path.lexists(paths.journal) and not os.path.isdir(paths.journal):
        return cause_text(OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), paths.journal))
    return ""


def _locks(found: Diagnostics) -> str:
    """Return what stands where a lock outside of the palace belongs; "" for nothing."""
    outside = outside_files(found.paths, found.config) if found.config is not None else []
    locks = [
        mempalace_lock_path(found.paths, found.environ),
        *(f"{path}{ENDING}" for path in outside),
    ]
    for path in locks:
        for wrong, number in ((os.path.islink, errno.ELOOP), (os.path.isdir, errno.EISDIR)):
            if wrong(path):
                return cause_text(OSError(number, os.strerror(number), path))
    return ""


def _contents(found: Diagnostics) -> str:
    """Return why what is written there can't be understood, "" where it can."""
    looks: tuple[Callable[..., object], ...] = (
        check_no_links,
        read_identity,
        last_epoch,
        read_format,
    )
    for look in looks:
        try:
            look(found.paths, found.kernel)
        except PalaceError as error:
            return error.message
        except OSError as error:
            return cause_text(error)
    return ""
