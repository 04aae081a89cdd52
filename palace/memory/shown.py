"""What stock's own tools show of memories: none that is over, and shared ones marked as such.

Stock knows nothing of namespaces, so its replies are read after it has made them.  A reply without
such a hit is not touched: it stays stock's to the byte.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from palace.memory.memory import ID_PREFIX, NAMESPACE, Memory, memory_of
from palace.memory.wing import RESERVED
from palace.memory.wrap import is_wrapped, wrap
from palace.protocol.decoding import decode_json
from palace.protocol.policy import SHARED
from palace.protocol.workspaces import WORKSPACE

# Returns the memories among drawers by the ids that stock calls them; the others are left out.
Look = Callable[[Sequence[str]], Mapping[str, Memory]]
Json = dict[str, object]
Metadata = Mapping[str, Any]

_TEXTS = ("text", "content", "content_preview")
_MARK = f'"wing": "{RESERVED}'


def shown(text: str, look: Look, now_s: float, which: str = SHARED) -> str:
    """Return a tool's result as it may be shown; `text` is JSON as stock writes it.

    `which` memories are marked is a setting (palace/protocol/policy.py).
    """
    if _MARK not in text:
        return text
    told = decode_json(text)
    memories = look(sorted({_ident(hit) for hit in _hits(told)}))
    if not isinstance(told, dict):
        return text
    found = _Marking(memories, now_s, which).of_dict(told)
    if found is None:
        found = {"error": f"Drawer not found: {_ident(told)}"}
    return json.dumps(found, indent=2, ensure_ascii=False)


def shown_row(
    ident: str, document: str, metadata: Metadata, now_s: float, which: str = SHARED
) -> str | None:
    """Return a record's text as it may be shown, None where it may not."""
    if NAMESPACE not in metadata:
        return document
    memory = memory_of(str(metadata.get("parent_drawer_id") or ident), document, metadata)
    return None if memory.is_expired(now_s) else _marked(memory, document, which)


def _marked(memory: Memory, text: str, which: str) -> str:
    """Return a text of a memory behind its prefix; one workspace's own has none."""
    is_shared = memory.namespace.partition(":")[0] != WORKSPACE
    is_shared = is_shared and is_wrapped(memory.namespace, which)
    return wrap(text, memory.id, memory.namespace) if is_shared else text


def _ident(hit: Mapping[str, object]) -> str:
    found = hit.get("drawer_id", hit.get("id"))
    return found if isinstance(found, str) else ""


def _is_hit(value: object) -> bool:
    if not isinstance(value, dict) or not _ident(value):
        return False
    wing = value.get("wing")
    return isinstance(wing, str) and wing.startswith(RESERVED)


def _hits(value: object) -> Iterator[Json]:
    if isinstance(value, dict):
        if _is_hit(value):
            yield value
        for inner in value.values():
            yield from _hits(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _hits(inner)


class _Marking:
    """One reply's."""

    def __init__(self, memories: Mapping[str, Memory], now_s: float, which: str) -> None:
        self._memories = memories
        self._which = which
        self._now_s = now_s

    def of(self, value: object) -> object:
        if isinstance(value, dict):
            return self.of_dict(value)
        return self._of_list(value) if isinstance(value, list) else value

    def of_dict(self, told: Json) -> Json | None:
        """Return an object without what is over; None where it is over itself."""
        memory = None
        if _is_hit(told):
            memory = self._memories.get(_ident(told))
            # One that was forgotten since stock has read it is over, too.
            if memory is None and _ident(told).startswith(ID_PREFIX):
                return None
            if memory is not None and memory.is_expired(self._now_s):
                return None
        found: Json = {}
        for name, value in told.items():
            if memory is not None and name in _TEXTS and isinstance(value, str):
                found[name] = _marked(memory, value, self._which)
            elif name == "results" and isinstance(value, list) and "errors" in told:
                found[name] = [self._slot(item) for item in value]
            else:
                found[name] = self.of(value)
        _recount(told, found)
        return found

    def _of_list(self, told: list[object]) -> list[object]:
        return [kept for kept in map(self.of, told) if kept is not None or None in told]

    def _slot(self, item: object) -> object:
        """Return an item of a list that names each drawer that was asked for."""
        found = self.of(item)
        if found is None and isinstance(item, dict):
            return {"drawer_id": _ident(item), "error": f"Drawer not found: {_ident(item)}"}
        return found


def _recount(told: Json, found: Json) -> None:
    """Let what stock says of a list's length fit what is left of it."""
    for name, value in told.items():
        left = found[name]
        if not isinstance(value, list) or not isinstance(left, list):
            continue
        if name == "results" and "errors" in told:
            found["errors"] = sum(isinstance(item, dict) and "error" in item for item in left)
        elif len(left) != len(value):
            if found.get("count") == len(value):
                found["count"] = len(left)
            if "is_duplicate" in found:
                found["is_duplicate"] = bool(left)
