"""All of the doctor's checks, in the order in which one explains the next, and the exit code."""

from collections.abc import Callable, Iterable
from functools import partial

from palace.client.control import ask_to_leave
from palace.doctor.backend import check_backend
from palace.doctor.control import check_control
from palace.doctor.deaths import check_deaths
from palace.doctor.delegations import check_delegations
from palace.doctor.diagnostics import Diagnostics, gather
from palace.doctor.embedder import check_embedder
from palace.doctor.federation import check_candidates
from palace.doctor.finding import DATA_ERROR, ERROR, NOTE, OK, WARNING, Finding
from palace.doctor.home import check_home
from palace.doctor.hosts import check_hosts
from palace.doctor.journal import check_journal
from palace.doctor.locks import check_locks
from palace.doctor.mesh import check_mesh
from palace.doctor.place import check_place
from palace.doctor.plugin import check_plugin
from palace.doctor.provider import check_provider
from palace.doctor.remembered import check_remembered
from palace.doctor.serving import check_serving
from palace.doctor.software import check_software
from palace.doctor.starts import check_starts
from palace.doctor.stock_tools import check_stock_tools
from palace.doctor.stores import check_stores
from palace.doctor.tables import check_tables
from palace.doctor.users import check_users
from palace.doctor.workspaces import check_workspaces
from palace.journal.replay import Progress, no_progress
from palace.kernel.causes import cause_text, remedy_for
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

LEVELS = (ERROR, WARNING, NOTE, OK)
EXIT_CODES = {ERROR: DATA_ERROR, WARNING: 1}

Check = Callable[[Diagnostics], Iterable[Finding]]

# One module a subject.  Of two findings of one level the earlier check's is shown first.
CHECKS: tuple[Check, ...] = (
    check_users,
    check_remembered,
    check_place,
    check_control,
    check_home,
    check_serving,
    check_software,
    check_embedder,
    check_backend,
    check_tables,
    check_locks,
    check_starts,
    check_deaths,
    check_stock_tools,
    check_journal,
    check_workspaces,
    check_candidates,
    check_mesh,
    check_delegations,
    check_provider,
    check_plugin,
    check_stores,
    check_hosts,
)


# What may keep a broker from starting, and takes no longer than people wait for a status.
STARTING: tuple[Check, ...] = (
    check_remembered,
    check_place,
    check_control,
    check_home,
    check_software,
    check_backend,
    check_locks,
    check_starts,
)


def why_no_broker(paths: Paths, environment: ShimEnvironment) -> list[Finding]:
    """Return what keeps brokers from starting, or ended the last one: causes with their remedies.

    Ask it of a palace that no broker answers for; a hold is told by itself.
    """
    found = gather(paths, environment)
    findings = [finding for check in STARTING for finding in _run(check, found)]
    codes = ("last_start", "not_examined")
    wrong = [one for one in findings if one.level == ERROR or one.code in codes]
    return [one for one in wrong if one.code != "on_hold"]


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
    findings = [finding for check in CHECKS for finding in _run(check, found)]
    if drift:
        leave = partial(ask_to_leave, paths, environment) if stop else None
        from palace.doctor.drift import drifted  # late, since it loads the stores' modules

        findings += drifted(paths, environment, progress, ask_to_leave=leave)
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _run(check: Check, found: Diagnostics) -> list[Finding]:
    """Return what a check finds, or why it could not look: no file may end all the others."""
    try:
        return list(check(found))
    except OSError as error:
        subject = check.__name__.removeprefix("check_")
        return [
            Finding(
                level=WARNING,
                code="not_examined",
                text=f"The {subject} could not be examined: {cause_text(error)}",
                remedy=remedy_for(error) or "See what it names",
            )
        ]


def exit_code_of(findings: list[Finding]) -> int:
    """Return the exit code: 65 for an error, 1 for a warning, otherwise 0."""
    return max((EXIT_CODES.get(finding.level, 0) for finding in findings), default=0)
