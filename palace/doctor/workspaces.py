"""Workspaces that nobody can know: their agents are refused, whatever they ask for."""

from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, Finding


def check_workspaces(found: Diagnostics) -> Iterator[Finding]:
    """Yield why the palace's workspaces don't count."""
    config = found.config
    if config is None or config.journal != "off" or not found.kernel.file_id(found.paths.register):
        return
    yield Finding(
        level=ERROR,
        code="workspaces_unknown",
        text="This palace has workspaces, and its journal is off: who they are is kept there, so "
        "that no broker knows whom an agent acts as. All calls of agents are refused.",
        remedy="Switch the journal on again: palace config set journal=on; palace stop",
    )
