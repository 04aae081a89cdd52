"""What stock's words name for a confined session: wings its namespaces, rooms kinds of memories.

- A *wing* names a namespace: LOCAL (one's own, also where none is named), TEAM, GLOBAL (the
  organisation's), or any by its name, by its wing's, or by its last part, one's own before the
  team's before the organisation's.  A namespace that isn't theirs is refused, or holds nothing.
  Every other wing is one's own: agents call wings as they like.
- A *room* is a memory's kind, in lower case and with hyphens.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from palace.memory.asked import Arguments, is_id
from palace.memory.expiry import written
from palace.memory.gate import Gate
from palace.memory.memory import Memory
from palace.memory.redact import redact
from palace.memory.wing import is_reserved_wing, wing_of
from palace.protocol.errors import Forbidden, InvalidMemory
from palace.protocol.resolver import readable
from palace.protocol.workspaces import CUSTOM, ORG, TEAM, WORKSPACE

LOCAL, OURS, GLOBAL = "LOCAL", "TEAM", "GLOBAL"
NO_KIND = "memory"
KIND_CHARS_MAX = 40
NAME_CHARS_MAX = 200
_NOT_FOR_KINDS = re.compile(r"[^a-z0-9]++")
_KINDS = tuple(f"{kind}:" for kind in (WORKSPACE, TEAM, ORG, CUSTOM))


def _by_name(gate: Gate) -> Mapping[str, str]:
    namespaces = readable(gate.tree, gate.principal.workspace)
    return dict(zip((LOCAL, OURS, GLOBAL), namespaces, strict=False))


def target_of(gate: Gate, wing: object) -> str:
    """Return the namespace that a wing names; raises Forbidden for one that isn't theirs."""
    if wing is not None and not isinstance(wing, str):
        raise InvalidMemory("wing must be a text")
    name = (wing or "").strip()
    named = _by_name(gate)
    if not name or name in named:
        return named[name or LOCAL]
    for namespace in readable(gate.tree, gate.principal.workspace):
        if name in (namespace, wing_of(namespace), namespace.partition(":")[2]):
            return namespace
    if name.startswith(_KINDS) or is_reserved_wing(name):
        raise Forbidden(
            f"{gate.principal.called} has no namespace {ascii(redact(name))[:80]}. Nothing was "
            "done; palace_list_readable_namespaces says which it has."
        )
    return named[LOCAL]


def sought(gate: Gate, wing: object) -> tuple[str, ...]:
    """Return which namespaces a query is about; () for all.  Foreign ones hold nothing."""
    if wing is None or wing == "":
        return ()
    try:
        return (target_of(gate, wing),)
    except Forbidden:
        return ("",)  # which nobody may read


def wing_called(gate: Gate, namespace: str) -> str:
    """Return what a namespace is called among wings."""
    names = {named: name for name, named in _by_name(gate).items()}
    return names.get(namespace, namespace)


def kind_of(room: object) -> str:
    """Return the kind that a room stands for."""
    if room is None or room == "":
        return NO_KIND
    if not isinstance(room, str) or len(room) > NAME_CHARS_MAX or redact(room) != room:
        raise InvalidMemory(f"room must be a text of up to {NAME_CHARS_MAX} characters, no secret")
    kind = _NOT_FOR_KINDS.sub("-", room.casefold()).strip("-")
    if kind[:1].isdigit():
        kind = f"r-{kind}"
    return kind[:KIND_CHARS_MAX].strip("-") or NO_KIND


def kinds_of(room: object) -> tuple[str, ...]:
    return (kind_of(room),) if room else ()


# What else is asked.


def fetched(gate: Gate, ident: object) -> Memory | None:
    """Return a memory by what stock calls its id; a part of a long one is nobody's to name."""
    return gate.fetch(ident) if isinstance(ident, str) and is_id(ident) else None


def named(ident: object) -> str:
    """Return an id as it may be repeated in a reply, which is journalled where it changed much."""
    return redact(ident[:NAME_CHARS_MAX]) if isinstance(ident, str) else ""


def absent(gate: Gate, ident: object) -> str:
    """Say that there is no such drawer; of one that is elsewhere, how it is reached."""
    where = gate.left_in(ident) if isinstance(ident, str) and is_id(ident) else ""
    if not where:
        return lacking(ident)
    return (
        f"{lacking(ident)}. What {where} holds is at a memory server now, where searching alone "
        "finds it: mempalace_search. To change it, file it anew and delete the one that was found."
    )


def lacking(ident: object) -> str:
    """Say as stock does that there is no such drawer."""
    return f"Drawer not found: {named(ident)}"


def whole_in(arguments: Arguments, name: str, default: int) -> int:
    value = arguments.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise InvalidMemory(f"{name} must be a whole number")
    return value


def number_in(arguments: Arguments, name: str, default: float) -> float:
    value = arguments.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not abs(float(str(value))) <= 1e6:
        raise InvalidMemory(f"{name} must be a number")
    return float(str(value))


def moment_in(arguments: Arguments, name: str) -> str:
    """Return a bound as memories carry instants; a day, or a time without a zone, is in UTC."""
    text = arguments.get(name)
    if text is None or text == "":
        return ""
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "")
        return written(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise InvalidMemory(
            f"{name} must be a date or a time as ISO 8601: 2027-01-31 or 2027-01-31T18:00:00Z"
        ) from None
