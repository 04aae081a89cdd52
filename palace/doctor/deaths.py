"""Which brokers have died lately, and whether the death of the next one would be noticed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from palace.canary.records import Death, deaths_of, open_directory
from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import WARNING, Finding
from palace.protocol.deaths import CRASHED, DIED_LEAVING, MEANINGS, OOM, REBOOT, SWEPT, WATCHDOG

LATELY = timedelta(hours=24)
_REMEDIES = {
    OOM: "Give the machine, or the container, more memory, or end what takes it",
    SWEPT: "Don't end palace's processes by their names (pkill -f): palace stop",
    WATCHDOG: "See which call it was",
    CRASHED: "See what the log says before its end, and report it",
    DIED_LEAVING: "Let it leave in its own time (grace_s), or ask it to hurry: palace stop --now",
    REBOOT: "None needed",
}


def check_deaths(found: Diagnostics) -> Iterator[Finding]:
    """Yield why deaths would go unnoticed, and those of the last day that did not."""
    if not found.exists or found.foreign is not None or found.is_anothers:
        return
    problem = _unsafe(found)
    if problem:
        yield _unwatched(found, problem)
        return  # what lies in there need not be a broker's
    if found.status is not None and (problem := found.status.get("canary", {}).get("problem", "")):
        yield _unwatched(found, problem)
    lately = [death for death in deaths_of(found.paths.root, found.kernel) if _is_late(death)]
    if lately:
        last = lately[-1]
        many = f"{len(lately)} brokers have" if len(lately) > 1 else "A broker has"
        meaning = MEANINGS.get(last.cause, "its record can't be read")
        remedy = _REMEDIES.get(last.cause, "See what is known of it")
        yield Finding(
            level=WARNING,
            code="deaths",
            text=f"{many} died in the last 24 hours, the last one at {last.time} (epoch "
            f"{last.owner.epoch}): {meaning} ({last.cause}).",
            remedy=f"{remedy}: {last.file}. Once you know: "
            f"palace deaths --clear --palace {found.paths.root}",
        )


def _unwatched(found: Diagnostics, problem: str) -> Finding:
    return Finding(
        level=WARNING,
        code="unwatched",
        text=f"If the broker dies, nobody will notice: {problem}.",
        remedy=f"Put that right, or remove {found.paths.deaths}; the broker tries again by itself.",
    )


def _unsafe(found: Diagnostics) -> str:
    """Return why no death can be recorded, "" where nothing is known to be wrong."""
    try:
        open_directory(found.paths.root, found.kernel).close()
    except FileNotFoundError:
        pass  # an owner makes it
    except OSError as error:
        return f"{found.paths.deaths}: {error.strerror}"
    return ""


def _is_late(death: Death) -> bool:
    try:
        at = datetime.fromisoformat(death.time)
    except ValueError:
        return True  # it can't be told, and somebody should look
    return datetime.now(UTC) - (at if at.tzinfo else at.replace(tzinfo=UTC)) <= LATELY
