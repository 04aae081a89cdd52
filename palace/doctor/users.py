"""A palace of another user, which `allow_uids` lets this one use through its broker."""

from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import WARNING, Finding
from palace.settings.paths import home_dir


def check_users(found: Diagnostics) -> Iterator[Finding]:
    """Yield what doesn't work for a user who isn't the palace's owner."""
    if not found.is_anothers or found.foreign is not None:
        return
    served = "Its broker serves you" if found.is_served else "You may not start its broker"
    yield Finding(
        level=WARNING,
        code="anothers_palace",
        text=f"{found.paths.root} belongs to {found.owner_name}. {served}, and only `palace shim` "
        f"finds it: stock's own tools of yours (mempalace, its hooks, mempalace-mcp) look in "
        f"{home_dir(found.environ)}/.mempalace, and can't use this palace.",
        remedy="Register palace shim in your agents: palace install --list. What only its owner "
        f"may look at (journal, stores), {found.owner_name} sees with: palace doctor",
    )
