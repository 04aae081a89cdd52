"""Stock's basic tools for confined sessions: the same words, for the memories of namespaces.

Hosts and prompts know stock's tools, so a confined session keeps those that one needs daily.  They
are carried out by the gate, in stock's place: what they reach are the memories of its namespaces
(scopes.py says how stock's words name them), and no other drawer.  Their replies have stock's
shape.

Each memory has an id of its own, so the same text twice is two memories; and one can't be moved.

Pure, as the gate is.
"""

from collections.abc import Callable, Mapping

from palace.memory import consulted
from palace.memory.asked import CONTENT_CHARS_MAX, Arguments, Commit, checked_content, is_id
from palace.memory.consulted import ALIKE, DIARY, PARTS_MAX, agent_in, idents_in, matches
from palace.memory.gate import Gate, Json, Stored
from palace.memory.memory import Memory
from palace.memory.scopes import (
    NAME_CHARS_MAX,
    absent,
    fetched,
    kind_of,
    named,
    number_in,
    target_of,
    wing_called,
)
from palace.protocol.errors import Forbidden, InvalidMemory, WorkspaceRefused

_NO_ROWS: Json = {"deleted_ids": [], "chunks_deleted": 0, "closets_deleted": 0}
_REFUSALS = (Forbidden, InvalidMemory, WorkspaceRefused)  # nothing was done when they are raised


def answer(gate: Gate, tool: str, arguments: Arguments) -> Json:
    """Return what one of stock's basic tools tells a confined session.

    Raises Forbidden, InvalidMemory and WorkspaceRefused, and nothing was done then.
    """
    return _ANSWERS[tool](gate, arguments)


def _commit(gate: Gate, arguments: Arguments) -> Commit:
    return Commit(
        content=checked_content(arguments.get("content")),
        namespace=target_of(gate, arguments.get("wing")),
        kind=kind_of(arguments.get("room")),
    )


def _filed(gate: Gate, stored: Stored) -> Json:
    told: Json = {
        "success": True,
        "drawer_id": stored.memory.id,
        "wing": wing_called(gate, stored.memory.namespace),
        "room": stored.memory.kind,
        "chunks": stored.records,
    }
    return {**told, "redacted": True} if stored.redacted else told


def _add_drawer(gate: Gate, arguments: Arguments) -> Json:
    return _filed(gate, gate.put(_commit(gate, arguments)))


def _diary_write(gate: Gate, arguments: Arguments) -> Json:
    topic = arguments.get("topic") or "general"
    if not isinstance(topic, str) or len(topic) > NAME_CHARS_MAX:
        raise InvalidMemory(f"topic must be a text of up to {NAME_CHARS_MAX} characters")
    entry = arguments.get("entry") or arguments.get("content")
    stored = gate.put(
        Commit(
            content=checked_content(entry),
            namespace=target_of(gate, arguments.get("wing")),
            kind=DIARY,
            topic=topic,
        )
    )
    return {
        "success": True,
        "entry_id": stored.memory.id,
        "agent": agent_in(arguments),
        "topic": stored.memory.topic,
        "timestamp": stored.memory.created_at,
        "chunks": stored.records,
    }


def _update_drawer(gate: Gate, arguments: Arguments) -> Json:
    ident = arguments.get("drawer_id")
    content, wing, room = (arguments.get(name) for name in ("content", "wing", "room"))
    if content is None and wing is None and room is None:
        return {"success": True, "drawer_id": named(ident), "noop": True}
    found = fetched(gate, ident)
    if found is None:
        return {"success": False, "error": absent(gate, ident)}
    if wing is not None and target_of(gate, wing) != found.namespace:
        raise Forbidden(
            f"{found.id} stays in {found.namespace}: a memory can't be moved. Nothing was done; "
            "file it where it should be, and delete this one."
        )
    stored = gate.put(
        Commit(
            content=found.content if content is None else checked_content(content),
            namespace=found.namespace,
            id=found.id,
            kind=found.kind if room is None else kind_of(room),
            until=found.until,
            expires_at=found.expires_at,
            pinned=found.pinned,
            topic=found.topic,
        ),
        instead=found,
    )
    return {**_filed(gate, stored), "closets_deleted": 0}


def _delete_drawer(gate: Gate, arguments: Arguments) -> Json:
    ident = arguments.get("drawer_id")
    found = fetched(gate, ident)
    if found is None:
        if _forgotten_elsewhere(gate, ident):
            return {"success": True, "drawer_id": named(ident), **_NO_ROWS}
        return {"success": False, "error": absent(gate, ident)}
    gate.remove(found)
    return {"success": True, "drawer_id": found.id, **_deleted(found)}


def _forgotten_elsewhere(gate: Gate, ident: object) -> bool:
    return isinstance(ident, str) and is_id(ident) and bool(gate.forget_elsewhere(ident))


def _deleted(found: Memory) -> Json:
    return {
        "deleted_ids": list(found.rows),
        "chunks_deleted": len(found.rows),
        "closets_deleted": 0,
    }


def _delete_drawers(gate: Gate, arguments: Arguments) -> Json:
    slots = [_deleted_slot(gate, ident) for ident in idents_in(arguments)]
    errors = sum("error" in slot for slot in slots)
    deleted = len(slots) - errors
    return {"results": slots, "count": len(slots), "deleted": deleted, "errors": errors}


def _deleted_slot(gate: Gate, ident: object) -> Json:
    found = fetched(gate, ident)
    if found is None:
        if _forgotten_elsewhere(gate, ident):
            return {"drawer_id": named(ident), **_NO_ROWS}
        return {"drawer_id": named(ident), "error": absent(gate, ident)}
    try:
        gate.remove(found)
    except Forbidden as problem:
        return {"drawer_id": named(ident), "error": problem.message}
    return {"drawer_id": named(ident), **_deleted(found)}


def _checkpoint(gate: Gate, arguments: Arguments) -> Json:
    items, diary = arguments.get("items"), arguments.get("diary")
    if not isinstance(items, list):
        raise InvalidMemory("items must be a list of {wing, room, content} objects")
    texts = [item.get("content") for item in items if isinstance(item, dict)]
    chars = sum(len(text) for text in texts if isinstance(text, str))
    if len(items) > PARTS_MAX or chars > CONTENT_CHARS_MAX:
        raise InvalidMemory(
            f"a confined session's checkpoint holds at most {PARTS_MAX} items and "
            f"{CONTENT_CHARS_MAX} characters, not {len(items)} and {chars}. Send it in parts"
        )
    threshold = number_in(arguments, "dedup_threshold", ALIKE)
    filed: dict[str, list[object]] = {"added": [], "duplicates": [], "errors": []}
    for item in items:
        where, what = _filed_item(gate, item, threshold)
        filed[where].append(what)
    told: Json = {**filed}
    if diary is not None:
        wrong = _wrong_with(diary)
        if isinstance(diary, dict) and not wrong:
            told["diary"] = _diary_of(gate, diary)
        else:
            filed["errors"].append({"diary": diary, "error": wrong})
    return told


def _filed_item(gate: Gate, item: object, threshold: float) -> tuple[str, Json]:
    """Return to which list of a checkpoint's reply an item goes, and what is said of it."""
    if not isinstance(item, dict):
        return "errors", {"item": item, "error": "item must be an object"}
    if not _is_text(item.get("content")):
        return "errors", {"item": item, "error": "content must be a non-empty string"}
    try:
        alike = list(matches(gate, item.get("content"), threshold))
        if alike:
            return "duplicates", {"room": kind_of(item.get("room")), "matches": alike}
        return "added", _add_drawer(gate, item)
    except _REFUSALS as problem:
        return "errors", {"success": False, "error": problem.message}


def _wrong_with(diary: object) -> str:
    """Return why a checkpoint's diary can't be one, "" where it can."""
    if not isinstance(diary, dict):
        return "diary must be an object"
    is_text = _is_text(diary.get("entry") or diary.get("content"))
    return "" if is_text else "diary entry must be a non-empty string"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _diary_of(gate: Gate, diary: Arguments) -> Json:
    try:
        return _diary_write(gate, {"topic": "session-checkpoint", **diary})
    except _REFUSALS as problem:
        return {"success": False, "error": problem.message}


_ANSWERS: Mapping[str, Callable[[Gate, Arguments], Json]] = {
    "mempalace_status": consulted.status,
    "mempalace_search": consulted.search,
    "mempalace_check_duplicate": consulted.check_duplicate,
    "mempalace_add_drawer": _add_drawer,
    "mempalace_checkpoint": _checkpoint,
    "mempalace_get_drawer": consulted.get_drawer,
    "mempalace_get_drawers": consulted.get_drawers,
    "mempalace_list_drawers": consulted.list_drawers,
    "mempalace_update_drawer": _update_drawer,
    "mempalace_delete_drawer": _delete_drawer,
    "mempalace_delete_drawers": _delete_drawers,
    "mempalace_diary_write": _diary_write,
    "mempalace_diary_read": consulted.diary_read,
}
