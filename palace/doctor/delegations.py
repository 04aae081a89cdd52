"""What agents have asked of each other: whether work was given up."""

from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import NOTE, Finding


def check_delegations(found: Diagnostics) -> Iterator[Finding]:
    """Yield what this owner has given up; an older broker doesn't tell."""
    told = (found.status or {}).get("tasks") or {}
    stuck = told.get("stuck", 0)
    if stuck:
        yield Finding(
            level=NOTE,
            code="tasks_stuck",
            text=f"{stuck} tasks of agents were given up since this broker began: their workers "
            "said nothing more, or their time was over. Whoever had asked for them was told.",
            remedy="See which: palace delegations --stuck",
        )
