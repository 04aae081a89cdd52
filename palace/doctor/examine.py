"""All of the doctor's checks, in the order in which one explains the next, and the exit code."""

from functools import partial

from palace.client.control import ask_to_leave
from palace.doctor.diagnostics import Diagnostics, gather
from palace.doctor.finding import DATA_ERROR, ERROR, NOTE, OK, WARNING, Finding
from palace.doctor.hosts import check_hosts
from palace.doctor.journal import inspect_journal
from palace.doctor.locks import check_locks
from palace.doctor.place import check_place
from palace.doctor.serving import check_serving
from palace.doctor.software import check_software
from palace.journal.replay import Progress, no_progress
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

LEVELS = (ERROR, WARNING, NOTE, OK)
EXIT_CODES = {ERROR: DATA_ERROR, WARNING: 1}


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
    findings = [
        *check_place(found),
        *check_serving(found),
        *check_software(found),
        *check_locks(found),
        *_journal(found),
    ]
    if drift:
        leave = partial(ask_to_leave, paths, environment) if stop else None
        from palace.doctor.drift import drifted  # late, since it loads the stores' modules

        findings += drifted(paths, environment, progress, ask_to_leave=leave)
    findings += check_hosts(found)
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def exit_code_of(findings: list[Finding]) -> int:
    """Return the exit code: 65 for an error, 1 for a warning, otherwise 0."""
    return max((EXIT_CODES.get(finding.level, 0) for finding in findings), default=0)


def _journal(found: Diagnostics) -> list[Finding]:
    findings = inspect_journal(found.paths.journal, found.kernel)
    if found.foreign is None:  # local, or claimed with `palace own`
        findings = [one for one in findings if one.code != "network_file_system"]
    if not findings and found.exists:
        text = "in order" if found.kernel.list_directory(found.paths.journal) else "none yet"
        findings.append(Finding(level=OK, code="journal", text=text))
    return findings
