"""What plain tools may not write: memories of namespaces, and the wings in which these are filed.

Whoever files into such a wing would have written into a namespace past its rights, and past
redaction and audit.  Calls are refused by what they name, before anything is done; what they don't
name (a directory that `mine` calls a wing, say) is refused where it is about to be stored.
"""

from collections.abc import Iterator, Mapping

from palace.memory.memory import ID_PREFIX, NAMESPACE
from palace.memory.wing import RESERVED, is_reserved_wing

_WING = ("wing",)
_NAMING: Mapping[str, tuple[str, ...]] = {  # which arguments of a tool name a wing to write
    "mempalace_add_drawer": _WING,
    "mempalace_update_drawer": _WING,
    "mempalace_diary_write": _WING,
    "mempalace_mine": _WING,
}
_BY_ID: Mapping[str, str] = {
    "mempalace_update_drawer": "drawer_id",
    "mempalace_delete_drawer": "drawer_id",
    "mempalace_delete_drawers": "drawer_ids",
}
_WHY = f"wings that begin with {RESERVED} are for memories of namespaces"
_USE = "use palace_commit_memory and palace_forget_memory, or choose another wing."
WORDS = f"{_WHY}. Nothing was done; {_USE}"


def refused_write(tool: str, arguments: Mapping[str, object]) -> str:
    """Say why a plain tool may not do what it is asked for, "" where it may."""
    for wing in _wings_in(tool, arguments):
        if is_reserved_wing(wing):
            return f"{tool} may not write {ascii(wing)[:80]}: {WORDS}"
    named = arguments.get(_BY_ID.get(tool, ""))
    for ident in named if isinstance(named, list) else [named]:
        if isinstance(ident, str) and ident.startswith(ID_PREFIX):
            return f"{tool} may not change the memory {ascii(ident)[:80]}: {WORDS}"
    return ""


def _wings_in(tool: str, arguments: Mapping[str, object]) -> Iterator[object]:
    for name in _NAMING.get(tool, ()):
        yield arguments.get(name)
    if tool == "mempalace_checkpoint":
        items = arguments.get("items")
        for part in [*(items if isinstance(items, list) else ()), arguments.get("diary")]:
            if isinstance(part, dict):
                yield part.get("wing")


def refused_record(before: Mapping[str, object] | None, after: Mapping[str, object] | None) -> str:
    """Say why a record may not become what it is to be; both are metadata, None for no record."""
    is_memory = before is not None and NAMESPACE in before
    if after is not None:
        is_memory = is_memory or NAMESPACE in after or is_reserved_wing(after.get("wing"))
    # Of a call that makes many changes those before this one may stay.
    text = f"A change of a memory of a namespace was not made: {_WHY}; {_USE}"
    return text if is_memory else ""
