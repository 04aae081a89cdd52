"""All of the doctor's checks, in the order in which one explains the next, and the exit code."""

from collections.abc import Callable, Iterable
from functools import partial

from palace.client.control import ask_to_leave
from palace.doctor.diagnostics import Diagnostics, gather
from palace.doctor.finding import DATA_ERROR, ERROR, NOTE, OK, WARNING, Finding
from palace.doctor.hosts import check_hosts
from palace.doctor.journal import check_journal
from palace.doctor.locks import check_locks
from palace.doctor.place import check_place
from palace.doctor.serving import check_serving
from palace.doctor.software import check_software
from palace.journal.replay import Progress, no_progress
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

LEVELS = (ERROR, WARNING, NOTE, OK)
EXIT_CODES = {ERROR: DATA_ERROR, WARNING: 1}

Check = Callable[[Diagnostics], Iterable[Finding]]

# One module a subject.  Of two findings of one level the earlier check's is shown first.
CHECKS: tuple[Check, ...] = (
    check_place,
    check_serving,
    check_software,
    check_locks,
    check_journal,
    check_hosts,
)


def examine_palace(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    drift: bool = False,
    stop: bool = False,
    progress: Progress = no_progress,
) -> list[Finding]:
    """Return all findings, the worst first.  Looking for `drift` needs the lock.

    With `stop`, a running broker is asked to leave for that; without, this raises LockHeld.
    """
    found = gather(paths, environment)
    findings = [finding for check in CHECKS for finding in check(found)]
    if drift:
        leave = partial(ask_to_leave, paths, environment) if stop else None
        from palace.doctor.drift import drifted  # late, since it loads the stores' modules

        findings += drifted(paths, environment, progress, ask_to_leave=leave)
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def exit_code_of(findings: list[Finding]) -> int:
    """Return the exit code: 65 for an error, 1 for a warning, otherwise 0."""
    return max((EXIT_CODES.get(finding.level, 0) for finding in findings), default=0)
