"""Workspaces: that nobody can know them, and users who are let in past them."""

from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, NOTE, Finding


def check_workspaces(found: Diagnostics) -> Iterator[Finding]:
    """Yield why the palace's workspaces don't count, and for whom they don't."""
    yield from _unmapped(found)
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


def _unmapped(found: Diagnostics) -> Iterator[Finding]:
    """Yield which users act for the owner in a palace whose agents are told apart."""
    told = (found.status or {}).get("workspaces")
    allowed = found.config.allow_uids if found.config is not None else ()
    past = [uid for uid in allowed if told and uid not in told["uids"]]
    if past:
        named = ", ".join(map(str, past))
        yield Finding(
            level=NOTE,
            code="uid_without_workspace",
            text=f"This palace has workspaces, and processes of uid {named}, let in by allow_uids, "
            "are none of them: they act for the owner, and read every memory.",
            remedy=f"To confine them: palace workspace add ID --uid {past[0]}",
        )
